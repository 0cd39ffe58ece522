"""Attention that one can watch while it is learned."""

from collections.abc import Sequence

from PIL import Image

from captioner.contract import Captioner
from captioner.explain import NoAttentionError, explain


def attention_picture(captioner: Captioner, images: Sequence[Image.Image]) -> Image.Image | None:
    """Draw images with their captions over what was looked at, one below the other.

    Returns:
        None if the model does not tell where it looks.
    """
    try:
        sheets = [explain(captioner, image).draw() for image in images]
    except NoAttentionError:
        return None
    width, height = max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)
    whole, top = Image.new("RGB", (width, height), "white"), 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole
