"""Whether captions name what heads see, sentence by sentence."""

import pytest

from captioner.agreement import heads_disagree
from captioner.annotations import Annotations, Box, Label, Mask
from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig, SegmenterConfig

NOTHING = Annotations(labels=(), boxes=(), masks=())


def saying(*names: str) -> HeadsConfig:
    return HeadsConfig(labels=ClassifierConfig(classes=names))


def seeing(*names: str) -> Annotations:
    return Annotations(labels=tuple(map(Label, names)))


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

    @pytest.mark.parametrize(
        "found",
        [
            Annotations(labels=(), boxes=(Box("dog", 0, 0, 1, 1),), masks=()),
            Annotations(labels=(), boxes=(), masks=(Mask("dog", (1, 1), "1"),)),
        ],
    )
    def test_one_head_that_sees_it_is_enough(self, found):
        config = HeadsConfig(
            labels=ClassifierConfig(classes=("dog",)),
            boxes=DetectorConfig(classes=("dog",)),
            masks=SegmenterConfig(classes=("dog",)),
        )
        assert heads_disagree("a dog", found, config) == 0.0
        assert heads_disagree("a dog", NOTHING, config) == 1.0

    @pytest.mark.parametrize("part", ["labels", "boxes", "masks"])
    def test_classes_of_every_head_are_looked_for(self, part):
        kinds = {"labels": ClassifierConfig, "boxes": DetectorConfig, "masks": SegmenterConfig}
        config = HeadsConfig(**{part: kinds[part](classes=("dog",))})
        assert heads_disagree("a dog", Annotations(**{part: ()}), config) == 1.0

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
