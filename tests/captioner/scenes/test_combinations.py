from captioner.scenes import HELD_OUT, TEST, captions, parse, samples, samples_with, samples_without
from captioner.scenes.combinations import names_held_out, shows_held_out
from captioner.scenes.grammar import describe, named_first
from captioner.scenes.world import COLOURS, SHAPES

SCENES = list(samples(TEST, 150))


def pairs(scene):
    return {(thing.colour, thing.shape) for thing in scene.objects}


def test_no_colour_and_no_shape_is_held_out_twice():
    assert len(HELD_OUT) == 4
    colours, shapes = zip(*HELD_OUT, strict=True)
    assert len(set(colours)) == len(set(shapes)) == 4
    assert set(colours) <= set(COLOURS)
    assert set(shapes) <= set(SHAPES)


def test_scenes_without_what_is_held_out_come_in_the_order_of_their_seeds():
    kept = [scene for scene in SCENES if not pairs(scene) & set(HELD_OUT)]
    assert 0.6 * len(SCENES) < len(kept) < 0.95 * len(SCENES)
    assert list(samples_without(TEST, len(kept))) == kept
    assert not any(shows_held_out(scene) for scene in kept)


def test_scenes_with_it_name_it():
    found = list(samples_with(TEST, 8))
    wanted = []
    for scene in SCENES:
        facts = parse(captions(scene)[0])
        if {(named[2], named[3]) for named in (facts.first, facts.second)} & set(HELD_OUT):
            wanted.append(scene)
    assert found == wanted[:8]
    assert any(shows_held_out(scene) and not names_held_out(scene) for scene in SCENES)


def test_captions_name_those_two_first():
    for scene in SCENES:
        assert named_first(scene) == describe(scene)[0].objects
