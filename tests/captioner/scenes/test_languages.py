import hashlib
from dataclasses import replace
from itertools import permutations

import pytest

from captioner.scenes import TEST, Relation, captions, judge, parse, samples
from captioner.scenes.grammar import CAPTIONS_A_SCENE, describe
from captioner.scenes.languages import ATTRIBUTES, CHINESE, LANGUAGES

SCENES = list(samples(TEST, 200))


@pytest.mark.parametrize("language", LANGUAGES)
class TestEveryLanguage:
    def test_every_caption_is_true(self, language):
        for scene in SCENES:
            said = captions(scene, language)
            assert len(said) == CAPTIONS_A_SCENE
            assert all(judge(caption, scene).true for caption in said), said

    def test_spans_hold_the_names_of_the_objects(self, language):
        for scene in SCENES:
            for description in describe(scene, language):
                names = [description.text[start:end] for start, end in description.spans]
                things = [scene.objects[index].attributes for index in description.objects]
                assert names == [LANGUAGES[language].name(thing) for thing in things]

    def test_the_relation_is_where_it_is_said_to_be(self, language):
        for scene in SCENES:
            for description in describe(scene, language):
                start, end = description.relation
                relation = parse(description.text).relation
                assert description.text[start:end] in LANGUAGES[language].phrases[relation]
                assert start >= description.spans[0][1]

    def test_it_is_read_as_no_other(self, language):
        (other,) = set(LANGUAGES) - {language}
        for scene in SCENES[:20]:
            for caption in captions(scene, language):
                assert parse(caption, language) == parse(caption)
                assert parse(caption, other) is None
                assert judge(caption, scene, language).true
                assert judge(caption, scene, other).problems == ("not a sentence of the grammar",)

    def test_an_object_and_its_twin_have_spans_of_their_own(self, language):
        for scene in SCENES[:20]:
            size, texture, colour, shape = scene.objects[0].attributes
            named = {"size": size, "texture": texture, "colour": colour, "shape": shape}
            twins = replace(scene, objects=tuple(replace(one, **named) for one in scene.objects))
            name = LANGUAGES[language].name((size, texture, colour, shape))
            for description in describe(twins, language):
                (start, end), (second_start, second_end) = description.spans
                assert start == description.text.index(name)
                assert second_start == description.text.rindex(name) > end
                assert end - start == second_end - second_start == len(name)

    def test_no_word_means_two_things(self, language):
        words = [LANGUAGES[language].words[name] for names in ATTRIBUTES for name in names]
        assert len(set(words)) == len(words)


class TestEnglish:
    def test_captions_are_those_that_models_were_trained_on(self):
        """The hash is of what the grammar wrote when it knew English only."""
        said = hashlib.sha256()
        for scene in SCENES:
            for caption in captions(scene):
                said.update(caption.encode() + b"\n")
        assert said.hexdigest() == (
            "56ccabdbde77e4b09db651f305e6974a15b1e4d82eb385ee5fb73e184b6e54c6"
        )


class TestChinese:
    def test_a_scene_is_told_in_chinese_characters_alone(self):
        for scene in SCENES:
            for caption in captions(scene, "zh"):
                assert all("\u4e00" <= letter <= "\u9fff" for letter in caption), caption

    def test_it_says_what_english_says(self):
        for scene in SCENES:
            for english, chinese in zip(captions(scene), captions(scene, "zh"), strict=True):
                assert parse(chinese) == parse(english)

    def test_it_says_all_it_can(self):
        said = "".join(text for scene in SCENES for text in captions(scene, "zh"))
        phrases = [phrase for several in CHINESE.phrases.values() for phrase in several]
        for word in (*CHINESE.words.values(), *CHINESE.numbers[2:], *phrases, "还有", "图中有"):
            assert word in said, word

    @pytest.mark.parametrize(
        "caption",
        [
            "三个物体中有一个大的条纹红色圆形在一个小的纯色蓝色方形的左边",
            "三 个 物体 中 有 一 个 大 的 条纹 红色 圆形 在 一个 小的 纯色 蓝色 方形 的 左侧 ",
        ],
    )
    def test_parse_reads_every_part_with_spaces_or_without(self, caption):
        facts = parse(caption)
        assert facts.first == ("large", "striped", "red", "circle")
        assert facts.second == ("small", "solid", "blue", "square")
        assert (facts.relation, facts.count, len(facts)) == (Relation.LEFT, 3, 10)

    def test_what_is_false_is_found_to_be(self):
        scene = next(s for s in SCENES if len({t.attributes for t in s.objects}) == len(s.objects))
        count = len(scene.objects)
        for first, second in permutations(range(count), 2):
            one, other = (CHINESE.name(scene.objects[i].attributes) for i in (first, second))
            for word, relation in (("左边", Relation.LEFT), ("上方", Relation.ABOVE)):
                caption = f"一个{one}在一个{other}的{word}"
                assert judge(caption, scene).true == scene.holds(relation, first, second)
        wrong = CHINESE.numbers[2 if count != 2 else 3] + captions(scene, "zh")[3][1:]
        assert judge(wrong, scene).problems[-1].startswith(f"{count} objects, not ")

    @pytest.mark.parametrize(
        "caption",
        [
            "一只狗",
            "一个大的条纹红色圆形",
            "一个大的条纹红色圆形在一个小的纯色蓝色方形的左边和一只狗",
            "九个物体中有一个大的条纹红色圆形在一个小的纯色蓝色方形的左边",
            "一个大的 striped red circle 在一个小的纯色蓝色方形的左边",
        ],
    )
    def test_what_is_no_sentence_states_nothing(self, caption):
        judgement = judge(caption, SCENES[0])
        assert (judgement.true, judgement.stated_facts) == (False, 0)


class TestUnknownLanguage:
    def test_it_is_refused_and_the_known_ones_are_named(self):
        for write in (captions, describe):
            with pytest.raises(ValueError, match="language is 'fr'; use one of: en, zh"):
                write(SCENES[0], "fr")
