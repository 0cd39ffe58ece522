"""Fonts that can write a text: the one that comes with Pillow knows English letters only."""

from functools import cache

from PIL import ImageFont

_FILES = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",  # macOS, like the next three.
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Medium.ttc",
    "msyh.ttc",  # Windows, like the next.
    "simsun.ttc",
)
"""Looked for where the system keeps its fonts. All but the first know Chinese."""
_PLACEHOLDER = "?"
_NO_LETTER = "\U0010ffff"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_for(text: str, size: int) -> tuple[Font, str]:
    """Return a font that writes most of a text, and the text as it can be written.

    Letters that it lacks become question marks.
    """
    font: Font = ImageFont.load_default(size)
    if _lacking(font, text):
        installed = (_installed(name, size) for name in _FILES)
        fonts = [font, *(found for found in installed if found is not None)]
        font = min(fonts, key=lambda one: len(_lacking(one, text)))
    lacking = _lacking(font, text)
    return font, "".join(_PLACEHOLDER if letter in lacking else letter for letter in text)


@cache
def _installed(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _lacking(font: Font, text: str) -> set[str]:
    """Return the letters that a font draws in the same way as one that does not exist."""
    if isinstance(font, ImageFont.ImageFont):  # Pillow without FreeType: a font of 256 letters.
        return {letter for letter in text if ord(letter) > 255}
    none = _drawn(font, _NO_LETTER)
    return {letter for letter in text if not letter.isspace() and _drawn(font, letter) == none}


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
