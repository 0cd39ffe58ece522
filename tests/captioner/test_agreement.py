"""How much heads doubt what captions name, sentence by sentence."""

import pytest

from captioner.agreement import heads_disagree
from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig, SegmenterConfig


def saying(*names: str) -> HeadsConfig:
    return HeadsConfig(labels=ClassifierConfig(classes=names))


def seeing(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, 1.0)


class TestHeadsDisagree:
    @pytest.mark.parametrize(
        ("caption", "seen", "wanted"),
        [
            ("a dog on a lawn", ["dog"], 0.0),
            ("a dog on a lawn", [], 1.0),
            ("a dog on a lawn", ["cat"], 1.0),
            ("a dog and a cat", ["dog"], 1.0),
            ("a dog and a cat", ["cat", "dog"], 0.0),
            ("a lawn", [], 0.0),
            ("a lawn", ["dog"], 0.0),
            ("", ["dog"], 0.0),
        ],
    )
    def test_what_is_named_must_be_seen(self, caption, seen, wanted):
        assert heads_disagree(caption, seeing(*seen), saying("dog", "cat")) == wanted

    def test_one_head_that_sees_it_is_enough(self):
        config = HeadsConfig(
            labels=ClassifierConfig(classes=("dog",)),
            boxes=DetectorConfig(classes=("Dog",)),
            masks=SegmenterConfig(classes=("DOG",)),
        )
        for surest, wanted in (("dog", 0.0), ("Dog", 0.0), ("DOG", 0.0), (None, 1.0)):
            likely = {name: float(name == surest) for name in ("dog", "Dog", "DOG")}
            assert heads_disagree("a dog", likely, config) == wanted

    def test_it_is_what_is_doubted_most(self):
        likely = {"dog": 0.75, "cat": 0.125, "bird": 0.0}
        config = saying("dog", "cat", "bird")
        assert heads_disagree("a dog", likely, config) == 0.25
        assert heads_disagree("a dog and a cat", likely, config) == 0.875

    def test_the_last_digits_of_a_probability_change_only_its_own(self):
        config, below = saying("dog"), 0.5 - 1e-7  # of the threshold
        assert config.labels.threshold == 0.5
        one, other = (heads_disagree("a dog", {"dog": p}, config) for p in (below, 0.5))
        assert 0 < one - other < 2e-7

    @pytest.mark.parametrize("part", ["labels", "boxes", "masks"])
    def test_classes_of_every_head_are_looked_for(self, part):
        kinds = {"labels": ClassifierConfig, "boxes": DetectorConfig, "masks": SegmenterConfig}
        config = HeadsConfig(**{part: kinds[part](classes=("dog",))})
        assert heads_disagree("a dog", {}, config) == 1.0

    @pytest.mark.parametrize("caption", ["two dogs", "DOGS run", "Dog.", "a dog's bone", "(dog)"])
    def test_plural_case_and_marks_make_no_difference(self, caption):
        assert heads_disagree(caption, seeing(), saying("dog")) == 1.0
        assert heads_disagree(caption, seeing("dog"), saying("dog")) == 0.0

    def test_a_plural_with_an_e(self):
        assert heads_disagree("two buses", seeing(), saying("bus")) == 1.0

    def test_names_may_be_written_in_any_case(self):
        assert (
            heads_disagree("a fire  hydrant", seeing("Fire Hydrant"), saying("Fire Hydrant")) == 0
        )
        assert heads_disagree("a fire  hydrant", seeing(), saying("Fire Hydrant")) == 1

    def test_the_longest_of_names_that_hold_each_other_counts(self):
        config = saying("bear", "teddy bear")
        assert heads_disagree("a teddy bear", seeing("teddy bear"), config) == 0.0
        assert heads_disagree("a teddy bear", seeing("bear"), config) == 1.0
        assert heads_disagree("two teddy bears and a bear", seeing("teddy bear"), config) == 1.0

    @pytest.mark.parametrize("caption", ["a doghouse", "a hotdog", "dog_2", "doggy"])
    def test_a_part_of_a_word_is_no_name(self, caption):
        assert heads_disagree(caption, seeing(), saying("dog")) == 0.0

    @pytest.mark.parametrize("name", ["c++", "who?", "a.b", "[x]", "(left", "a|b", "\\d"])
    def test_marks_in_names_stand_for_themselves(self, name):
        assert heads_disagree(f"see {name} here", seeing(), saying(name)) == 1.0
        assert heads_disagree(f"see {name} here", seeing(name), saying(name)) == 0.0
        assert heads_disagree("see axb, a, b, 7 and who here", seeing(), saying(name)) == 0.0
