"""Scenes to pictures, with Pillow."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from captioner.scenes.outlines import mask_image
from captioner.scenes.world import Scene, SceneObject

IMAGE_SIZE = 224
_OVERSAMPLING = 2


def render(scene: Scene, size: int = IMAGE_SIZE) -> Image.Image:
    """Paint a scene on a square of ``size`` pixels; the same scene gives the same pixels."""
    look = scene.look
    ramp = np.linspace(0.0, 1.0, size)[:, None, None]
    ground = np.array(look.top) * (1 - ramp) + np.array(look.bottom) * ramp  # (size, 1, 3)
    image = Image.fromarray(np.broadcast_to(ground, (size, size, 3)).astype(np.uint8))
    for thing in scene.objects:
        _paint(image, thing, size)
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur * size))
    if look.noise or look.contrast != 1:
        pixels = np.asarray(image, np.float32)
        pixels = 128 + (pixels - 128) * look.contrast
        if look.noise:
            rng = np.random.default_rng((scene.seed, 1))
            pixels += look.noise * rng.standard_normal((size, size, 1), np.float32)
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return image


def _paint(image: Image.Image, thing: SceneObject, size: int) -> None:
    """Paint one object over what is there, at twice the resolution and then reduced."""
    reach = math.ceil(thing.extent * size * 0.75) + 1  # Half the side of the patch it is drawn on.
    left, top = round(thing.x * size) - reach, round(thing.y * size) - reach
    side = 2 * reach
    shape = mask_image(
        thing.shape,
        thing.rotation,
        (thing.x * size - left) / side,
        (thing.y * size - top) / side,
        thing.extent * size / side,
        side * _OVERSAMPLING,
    ).reduce(_OVERSAMPLING)
    colours = Image.new("RGB", (side, side), thing.tint)
    if thing.texture != "solid":
        pattern = _pattern(thing, side * _OVERSAMPLING, size * _OVERSAMPLING)
        colours.paste(thing.second_tint, (0, 0), pattern.reduce(_OVERSAMPLING))
    image.paste(colours, (left, top), shape)


def _pattern(thing: SceneObject, side: int, size: int) -> Image.Image:
    """Draw stripes or dots as a mask; ``size`` is what a length of 1 measures."""
    pattern = Image.new("L", (side, side))
    draw = ImageDraw.Draw(pattern)
    turn = math.radians(thing.pattern_angle)
    cos, sin = math.cos(turn), math.sin(turn)
    middle = side / 2
    extent = thing.extent * size
    if thing.texture == "striped":
        period = max(0.046 * size, 0.2 * extent)
        count = math.ceil(middle / period) + 1
        for i in range(-count, count + 1):
            x, y = middle + i * period * cos, middle + i * period * sin
            ends = ((x - side * sin, y + side * cos), (x + side * sin, y - side * cos))
            draw.line(ends, fill=255, width=max(1, round(period * 0.48)))
    else:
        period = max(0.052 * size, 0.22 * extent)
        radius = period * 0.31
        count = math.ceil(middle / period)
        for i in range(-count, count + 1):
            for j in range(-count, count + 1):
                x = middle + (i * cos - j * sin) * period
                y = middle + (i * sin + j * cos) * period
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return pattern
