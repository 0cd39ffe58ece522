import io
import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from PIL import Image

from captioner.scenes import (
    TEST,
    Relation,
    captions,
    judge,
    parse,
    render,
    sample,
    samples,
    write_folder,
)
from captioner.scenes.grammar import CAPTIONS_A_SCENE, PHRASES, describe
from captioner.scenes.outlines import half_sides, mask
from captioner.scenes.world import COLOURS, MAX_OCCLUSION, SHAPES, SIZES, TEXTURES

SCENES = list(samples(TEST, 300))


class TestSample:
    def test_the_same_seed_gives_the_same_scene(self):
        assert sample(7) == sample(7)
        assert sample(7) != sample(8)

    def test_two_to_five_objects_of_every_kind(self):
        counts = {len(scene.objects) for scene in SCENES}
        assert counts == {2, 3, 4, 5}
        things = [thing for scene in SCENES for thing in scene.objects]
        assert {thing.shape for thing in things} == set(SHAPES)
        assert {thing.colour for thing in things} == set(COLOURS)
        assert {thing.size for thing in things} == set(SIZES)
        assert {thing.texture for thing in things} == set(TEXTURES)

    def test_objects_hide_each_other_but_never_too_much(self):
        shares = [thing.visible_share for scene in SCENES for thing in scene.objects]
        assert min(shares) >= 1 - MAX_OCCLUSION
        assert min(shares) < 0.8
        assert sum(share < 1 for share in shares) > 0.1 * len(shares)

    def test_objects_lie_within_the_image(self):
        for scene in SCENES:
            for thing in scene.objects:
                left, top, right, bottom = thing.box
                assert 0 <= left < right <= 1
                assert 0 <= top < bottom <= 1

    def test_the_noise_blur_and_contrast_vary(self):
        looks = [scene.look for scene in SCENES]
        assert {look.noise > 0 for look in looks} == {True, False}
        assert {look.blur > 0 for look in looks} == {True, False}
        assert {look.contrast < 1 for look in looks} == {True, False}

    def test_the_box_is_that_of_the_painted_mask(self):
        for scene in SCENES[:40]:
            for thing in scene.objects:
                area = mask(thing.shape, thing.rotation, thing.x, thing.y, thing.extent, 512)
                down, across = np.nonzero(area)
                found = np.array([across.min(), down.min(), across.max() + 1, down.max() + 1]) / 512
                assert np.abs(found - thing.box).max() < 0.005, thing

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_longer_side_of_an_outline_is_its_extent(self, shape):
        assert max(half_sides(shape, 20.0)) == pytest.approx(0.5, abs=0.01)

    def test_what_covers_is_what_hides(self):
        for scene in SCENES:
            for back, thing in enumerate(scene.objects):
                covered = sum(row[back] for row in scene.covers)
                assert covered == pytest.approx(1 - thing.visible_share)


class TestRender:
    def test_the_same_scene_gives_the_same_pixels(self):
        assert render(sample(11)).tobytes() == render(sample(11)).tobytes()

    @pytest.mark.parametrize("size", [64, 224, 301])
    def test_any_size(self, size):
        image = render(sample(3), size)
        assert (image.mode, image.size) == ("RGB", (size, size))

    def test_objects_are_painted_where_they_are_said_to_be(self):
        for scene in SCENES[:60]:
            plain = replace(scene, look=replace(scene.look, contrast=1.0, blur=0.0, noise=0.0))
            pixels = np.asarray(render(plain), int)
            thing = plain.objects[-1]  # Nothing hides it.
            area = mask(thing.shape, thing.rotation, thing.x, thing.y, thing.extent, 224)
            inside = pixels[area]
            near = [
                np.abs(inside - colour).max(1) <= 40 for colour in (thing.tint, thing.second_tint)
            ]
            assert (near[0] | near[1]).mean() > 0.75, thing
            assert near[1].any() == (thing.texture != "solid"), thing


class TestMirrored:
    def test_left_becomes_right_and_above_becomes_below(self):
        scene = SCENES[0]
        mirror = scene.mirrored(horizontally=True, vertically=True)
        pairs = [(a, b) for a in range(len(scene.objects)) for b in range(len(scene.objects))]
        for a, b in pairs:
            assert mirror.holds(Relation.LEFT, a, b) == scene.holds(Relation.RIGHT, a, b)
            assert mirror.holds(Relation.ABOVE, a, b) == scene.holds(Relation.BELOW, a, b)
            assert mirror.holds(Relation.FRONT, a, b) == scene.holds(Relation.FRONT, a, b)

    def test_transposed_left_becomes_above(self):
        scene = next(scene for scene in SCENES if len(scene.objects) > 3)
        turned = scene.mirrored(horizontally=False, vertically=False, transposed=True)
        for a, b in permutations(range(len(scene.objects)), 2):
            assert turned.holds(Relation.ABOVE, a, b) == scene.holds(Relation.LEFT, a, b)
            assert turned.holds(Relation.LEFT, a, b) == scene.holds(Relation.ABOVE, a, b)
        for before, after in zip(scene.objects, turned.objects, strict=True):
            left, top, right, bottom = before.box
            assert after.box == (top, left, bottom, right)
            assert (after.x, after.y) == (before.y, before.x)


class TestJudge:
    def test_every_caption_of_the_grammar_is_true(self):
        for scene in SCENES:
            said = captions(scene)
            assert len(said) == CAPTIONS_A_SCENE
            for caption in said:
                judgement = judge(caption, scene)
                assert judgement.true, (caption, judgement)
                assert judgement.stated_facts == 9 + ("objects with" in caption)

    def test_a_description_tells_which_objects_it_names(self):
        for scene in SCENES:
            said = describe(scene)
            assert [description.text for description in said] == captions(scene)
            for description in said:
                facts = parse(description.text)
                named = [scene.objects[index].attributes for index in description.objects]
                assert named == [facts.first, facts.second]

    def test_only_what_is_said_also_is_not_of_the_objects_seen_best(self):
        for scene in SCENES:
            *main, other = describe(scene)
            (pair,) = {description.objects for description in main}
            best = max(range(len(scene.objects)), key=lambda i: scene.objects[i].visible_area)
            assert pair[0] == best
            assert other.objects != pair
            assert other.text.startswith("there is also a ")
            assert not any("also" in description.text for description in main)

    def test_captions_of_mirror_images_are_true_of_those(self):
        for scene in SCENES[:50]:
            mirror = scene.mirrored(horizontally=True, vertically=False)
            assert all(judge(caption, mirror).true for caption in captions(mirror))

    def test_the_grammar_says_all_it_can(self):
        said = [captions(scene) for scene in SCENES]
        relations = {parse(caption).relation for texts in said for caption in texts}
        assert relations == set(Relation)
        assert len(set(said[0])) >= CAPTIONS_A_SCENE - 1

    @pytest.mark.parametrize("words", [tuple(COLOURS), SHAPES, tuple(SIZES), TEXTURES])
    def test_one_wrong_attribute_makes_a_caption_false(self, words):
        wrong = 0
        for scene in SCENES:
            caption = captions(scene)[0]
            first = next(word for word in caption.split() if word in words)
            other = words[(words.index(first) + 1) % len(words)]
            changed = caption.replace(first, other, 1)
            named = parse(changed).first
            if all(thing.attributes != named for thing in scene.objects):
                judgement = judge(changed, scene)
                assert not judgement.true, (changed, scene.seed)
                assert judgement.problems == (f"no {' '.join(named)}",)
                assert judgement.stated_facts == 9
                wrong += 1
        assert wrong > 280

    @pytest.mark.parametrize("relation", list(Relation)[:4])
    def test_the_opposite_relation_is_false(self, relation):
        phrase, opposite = PHRASES[relation][0], PHRASES[relation.inverse][0]
        wrong = 0
        for scene in SCENES:
            for caption in captions(scene):
                facts = parse(caption)
                twins = len({facts.first, facts.second}) == 1
                if f" {phrase} " in caption and not twins:
                    changed = caption.replace(f" {phrase} ", f" {opposite} ")
                    if not any_other_pair(scene, facts):
                        assert not judge(changed, scene).true, (changed, scene.seed)
                        wrong += 1
        assert wrong > 50

    def test_swapped_objects_are_false(self):
        for scene in SCENES:
            facts = parse(captions(scene)[0])
            if facts.first != facts.second and not any_other_pair(scene, facts):
                first, second = (f"a {' '.join(named)}" for named in (facts.first, facts.second))
                caption = f"{second} {PHRASES[facts.relation][0]} {first}"
                assert not judge(caption, scene).true

    def test_a_wrong_count_is_false(self):
        for scene in SCENES:
            caption = captions(scene)[3]
            number, rest = caption.split(" ", 1)
            other = "two" if number != "two" else "three"
            judgement = judge(f"{other} {rest}", scene)
            assert not judgement.true
            assert judgement.stated_facts == 10

    def test_one_object_is_not_beside_itself(self):
        scene = next(s for s in SCENES if len({t.attributes for t in s.objects}) == len(s.objects))
        name = " ".join(scene.objects[0].attributes)
        judgement = judge(f"a {name} above a {name}", scene)
        assert judgement.problems == (f"only one {name}",)

    @pytest.mark.parametrize(
        "caption",
        [
            "",
            "a dog",
            "a large solid red circle",
            "a large solid red circle above a small solid blue",
            "a large solid red circle above above a small solid blue star",
            "a large solid red circle above a small solid blue star and a dog",
            "nine objects with a large solid red circle above a small solid blue star",
        ],
    )
    def test_what_is_no_sentence_is_false_and_states_nothing(self, caption):
        judgement = judge(caption, SCENES[0])
        assert (judgement.true, judgement.stated_facts) == (False, 0)

    def test_parse_reads_every_part(self):
        facts = parse(
            "Four objects with a large dotted red ring is  to the left of a small solid blue star"
        )
        assert facts.first == ("large", "dotted", "red", "ring")
        assert facts.second == ("small", "solid", "blue", "star")
        assert (facts.relation, facts.count, len(facts)) == (Relation.LEFT, 4, 10)


def any_other_pair(scene, facts):
    """Whether other objects of the scene go by the same names."""
    names = [thing.attributes for thing in scene.objects]
    return names.count(facts.first) > 1 or names.count(facts.second) > 1


class TestWriteFolder:
    def test_an_image_folder_with_the_truth(self, tmp_path):
        write_folder(str(tmp_path / "made"), count=66, seed=3)
        lines = (tmp_path / "made" / "metadata.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        files = sorted(path.name for path in (tmp_path / "made").glob("*.jpg"))
        assert [row["file_name"] for row in rows] == files
        assert len(rows) == 66
        scene = sample(rows[65]["scene"]["seed"])
        assert json.loads(json.dumps(scene.as_dict())) == rows[65]["scene"]
        assert rows[65]["captions"] == captions(scene)
        with Image.open(tmp_path / "made" / files[65]) as image:
            difference = np.asarray(image, int) - np.asarray(render(scene), int)
        assert np.abs(difference).mean() < 8

    def test_the_same_seed_gives_the_same_bytes_and_another_none_of_them(self, tmp_path):
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            write_folder(str(tmp_path / name), count=3, seed=seed)
        made = {
            name: {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
            for name in "abc"
        }
        assert made["a"] == made["b"]
        assert not set(made["a"].values()) & set(made["c"].values())

    def test_captions_of_another_language(self, tmp_path):
        write_folder(str(tmp_path / "zh"), count=2, language="zh", image_size=64)
        write_folder(str(tmp_path / "en"), count=2, image_size=64)
        written = (tmp_path / "zh" / "metadata.jsonl").read_text(encoding="utf-8")
        row = json.loads(written.splitlines()[1])
        assert row["captions"] == captions(sample(row["scene"]["seed"]), "zh")
        assert row["captions"][0] in written
        pictures = [(tmp_path / name / "scene-000001.jpg").read_bytes() for name in ("zh", "en")]
        assert pictures[0] == pictures[1]

    def test_any_file_system(self):
        import fsspec

        write_folder("memory://scenes/made", count=1, image_size=64)
        data = fsspec.filesystem("memory").cat_file("/scenes/made/scene-000000.jpg")
        assert Image.open(io.BytesIO(data)).size == (64, 64)

    def test_a_folder_with_scenes_is_left_alone(self, tmp_path):
        write_folder(str(tmp_path), count=1)
        with pytest.raises(FileExistsError, match="metadata.jsonl"):
            write_folder(str(tmp_path), count=1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"count": 0}, "count is 0"),
            ({"count": 1, "seed": -1}, "seed is -1"),
            ({"count": 1, "image_size": 5}, "image_size is 5"),
            ({"count": 1, "language": "fr"}, "language is 'fr'; use one of: en, zh"),
        ],
    )
    def test_arguments_out_of_range(self, tmp_path, arguments, message):
        with pytest.raises(ValueError, match=message):
            write_folder(str(tmp_path), **arguments)
