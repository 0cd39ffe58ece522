"""The truth that is told, held against what is painted."""

from dataclasses import replace

import numpy as np
import pycocotools.mask
import pytest

from captioner.scenes import TEST, render, sample, samples
from captioner.scenes.truth import BOXES, LABELS, annotations, mirrored_boxes
from captioner.scenes.world import COLOURS, SHAPES, TEXTURES, Look
from captioner.training.scenes import MIRRORS

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
PLAIN = Look(top=BLACK, bottom=BLACK, contrast=1.0, blur=0.0, noise=0.0)
SCENES = list(samples(TEST, 25))
SIZES = pytest.mark.parametrize("size", [224, 96, 75])


def only(scene, *objects):
    return replace(scene, objects=tuple(objects))


def painted_white(scene, size, white):
    """How much of each pixel is covered by what is seen of such objects, 0 to 255."""
    tints = [WHITE if white(thing) else BLACK for thing in scene.objects]
    things = (
        replace(thing, tint=tint, second_tint=tint)
        for thing, tint in zip(scene.objects, tints, strict=True)
    )
    return np.asarray(render(replace(only(scene, *things), look=PLAIN), size))[:, :, 0]


def decoded(mask):
    area = pycocotools.mask.decode({"size": list(mask.size), "counts": mask.counts.encode()})
    return area.astype(bool)


def masks(scene, size):
    """Every shape's mask; of a shape that is not seen nothing is true."""
    found = {mask.name: decoded(mask) for mask in annotations(scene, size).masks}
    return {shape: found.get(shape, np.zeros((size, size), bool)) for shape in SHAPES}


def ends(area):
    down, across = np.nonzero(area)
    return np.array([across.min(), down.min(), across.max() + 1, down.max() + 1])


def sides(box):
    return np.array([box.x, box.y, box.x + box.width, box.y + box.height])


class TestMasks:
    @SIZES
    def test_an_object_alone_has_the_pixels_of_which_it_covers_half(self, size):
        things = [(scene, thing) for scene in SCENES for thing in scene.objects]
        assert {thing.shape for _, thing in things} == set(SHAPES)
        unlike = 0
        for scene, thing in things:
            alone = only(scene, thing)
            covered = painted_white(alone, size, lambda _: True)
            area = masks(alone, size)[thing.shape]
            different = area != (covered >= 128)
            # An edge just between two pixels of twice the resolution is rounded to either side.
            assert np.isin(covered[different], (64, 127, 128, 191)).all()
            unlike += different.any()
        assert unlike < 0.05 * len(things)

    @SIZES
    def test_what_is_in_front_hides_what_is_behind(self, size):
        for scene in SCENES:
            for shape, area in masks(scene, size).items():
                covered = painted_white(scene, size, lambda thing, name=shape: thing.shape == name)
                assert area[covered == 255].all()
                assert not area[covered == 0].any()

    def test_together_they_are_where_the_picture_differs_from_the_ground(self):
        for scene in SCENES:
            scene = replace(scene, look=replace(scene.look, noise=0.0, blur=0.0, contrast=1.0))
            picture, ground = (np.asarray(render(s)).astype(int) for s in (scene, only(scene)))
            differs = np.abs(picture - ground).max(2) > 0
            area = np.any(list(masks(scene, 224).values()), 0)
            assert differs[area].all()
            beside = np.zeros_like(area)  # Pixels of an edge, of which less than half is covered.
            for down, across in np.ndindex(3, 3):
                beside |= np.roll(area, (down - 1, across - 1), (0, 1))
            assert not differs[~beside].any()

    def test_no_pixel_is_of_two_shapes(self):
        for scene in SCENES:
            assert sum(area.astype(int) for area in masks(scene, 96).values()).max() == 1


class TestBoxes:
    def test_they_are_those_of_the_outlines_where_nothing_is_hidden(self):
        things = [t for scene in SCENES for t in scene.objects if t.visible_share == 1]
        alone = [only(SCENES[0], thing) for thing in things]
        found = [annotations(scene, 200).boxes[0] for scene in alone]
        assert [box.name for box in found] == [thing.shape for thing in things]
        wanted = np.array([thing.box for thing in things]) * 200
        np.testing.assert_allclose([sides(box) for box in found], wanted, atol=1e-9)

    def test_they_go_round_what_is_seen(self):
        """Within a pixel, or three at the fine tips that masks lose."""
        smaller = 0
        for scene in SCENES:
            every = annotations(scene).boxes
            assert [box.name for box in every] == [thing.shape for thing in scene.objects]
            for box, thing in zip(every, scene.objects, strict=True):
                white = painted_white(scene, 224, lambda other, one=thing: other is one)
                np.testing.assert_allclose(sides(box), ends(white >= 128), atol=3)
                smaller += box.width * box.height < 0.9 * 224**2 * np.prod(extents(thing.box))
        assert smaller > 0

    def test_a_side_that_is_covered_moves_to_where_the_cover_ends(self):
        behind = replace(
            square(SCENES[0], 0.3), box=(0.2, 0.4, 0.4, 0.6), colour="red", texture="dotted"
        )
        before = square(SCENES[0], 0.4)
        first, second = annotations(only(SCENES[0], behind, before), 100).boxes
        np.testing.assert_allclose(sides(first), [20, 40, 30, 60], atol=1)
        np.testing.assert_allclose(sides(second), [30, 40, 50, 60], atol=1e-9)

    def test_an_object_that_leaves_the_picture_ends_at_its_edge(self):
        (box,) = annotations(only(SCENES[0], square(SCENES[0], 0.95)), 100).boxes
        np.testing.assert_allclose(sides(box), [85, 40, 100, 60], atol=1)
        assert sides(box).max() <= 100


def square(scene, x):
    """Return an upright square with sides of 0.2, half way down."""
    return replace(
        scene.objects[0],
        shape="square",
        rotation=0.0,
        x=x,
        y=0.5,
        extent=0.2,
        box=(x - 0.1, 0.4, x + 0.1, 0.6),
    )


def extents(box):
    left, top, right, bottom = box
    return right - left, bottom - top


class TestLabels:
    def test_they_name_shapes_colours_and_textures(self):
        assert LABELS == (*SHAPES, *COLOURS, *TEXTURES)
        assert set(BOXES) == set(SHAPES)
        for scene in SCENES:
            names = [label.name for label in annotations(scene, 32).labels]
            wanted = {n for t in scene.objects for n in (t.shape, t.colour, t.texture)}
            assert names == [name for name in LABELS if name in wanted]

    def test_nothing_is_told_of_what_is_hidden_wholly(self):
        hidden = replace(square(SCENES[0], 0.5), extent=0.05, colour="red", texture="dotted")
        cover = replace(square(SCENES[0], 0.5), shape="circle", extent=0.3, colour="blue")
        found = annotations(only(SCENES[0], hidden, replace(cover, texture="solid")))
        assert [label.name for label in found.labels] == ["circle", "blue", "solid"]
        assert [box.name for box in found.boxes] == ["circle"]
        assert [mask.name for mask in found.masks] == ["circle"]

    def test_an_empty_scene_is_known_to_be_empty(self):
        found = annotations(only(SCENES[0]))
        assert (found.labels, found.boxes, found.masks) == ((), (), ())


class TestMirrors:
    @pytest.mark.parametrize(("across", "down", "turn"), MIRRORS)
    def test_boxes_are_those_of_mirrored_pixels(self, across, down, turn):
        for scene in SCENES[:8]:
            areas = [area for area in masks(scene, 96).values() if area.any()]
            boxes = np.array([ends(area) for area in areas]) / 96
            pixels = np.stack(areas)
            if across:
                pixels = pixels[:, :, ::-1]
            if down:
                pixels = pixels[:, ::-1]
            if turn:
                pixels = pixels.swapaxes(1, 2)
            found = mirrored_boxes(boxes, horizontally=across, vertically=down, transposed=turn)
            np.testing.assert_allclose(found, [ends(area) / 96 for area in pixels], atol=1e-12)

    @pytest.mark.parametrize(("across", "down", "turn"), MIRRORS)
    def test_boxes_are_those_of_mirrored_scenes(self, across, down, turn):
        how = {"horizontally": across, "vertically": down, "transposed": turn}
        boxes = np.array([thing.box for thing in SCENES[0].objects])
        wanted = [thing.box for thing in SCENES[0].mirrored(**how).objects]
        np.testing.assert_allclose(mirrored_boxes(boxes, **how), wanted, atol=1e-12)

    def test_any_shape_keeps_its_type_and_what_is_missing(self):
        boxes = np.full((2, 3, 4), np.nan, np.float32)
        boxes[1, 2] = 0.1, 0.2, 0.4, 0.9
        found = mirrored_boxes(boxes, horizontally=True, vertically=False, transposed=True)
        assert found.dtype == np.float32
        assert np.isnan(found).sum() == 5 * 4
        np.testing.assert_allclose(found[1, 2], [0.2, 0.6, 0.9, 0.9], rtol=1e-6)


def test_a_picture_has_a_size():
    with pytest.raises(ValueError, match="size is 0; give at least 1"):
        annotations(sample(TEST), 0)
