"""From an image file's bytes to pixels, with every limit checked before memory is taken."""

import io
import struct
import traceback
import warnings
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from schemas.kinds import FailureKind

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What Pillow may try: its other decoders are rarely wanted and rarely looked at.

Their plugins are imported above, since Pillow otherwise imports all it has. MPO, the JPEG of
several pictures that phones make, is recognised by JPEG's.
"""

_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

HASHED_SIZE = 64
"""Shortest side, at least, of the reduced copy that the perceptual hash is made from."""

_ORIENTATION = 0x0112
_TILE_SIZE = (322, 323)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EIGHT_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)

# Our limit on pixels stands in place of Pillow's warning; its error, at twice as many, stays.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Remarks on broken metadata: what cannot be decoded is an ImageError, the rest is no matter.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class Limits:
    """What an image file may cost.

    Attributes:
        max_bytes: largest file.
        max_pixels: most pixels, by the header; an RGB pixel takes three bytes once decoded.
            Pillow itself refuses more than 178,956,970.
    """

    max_bytes: int = 64 * 1024 * 1024
    max_pixels: int = 100_000_000


@dataclass(frozen=True)
class DecodedImage:
    """An image as its viewer sees it.

    Attributes:
        image: RGB, upright, at full size (or smaller, where a draft was asked for).
        width: of the original after EXIF orientation, whatever the draft.
        height: likewise.
        format: as Pillow names it: JPEG, PNG, ...
        phash: 64-bit perceptual hash in hexadecimal; a draft's may differ in a few bits.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    phash: str


class ImageError(Exception):
    """Bytes that cannot become an image: which kind of failure, and why."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


def decode(
    data: bytes, limits: Limits = Limits(), draft_size: tuple[int, int] | None = None
) -> DecodedImage:
    """Decode an image file: its first frame, upright, over white where it is transparent.

    Args:
        data: the file's bytes.
        limits: what the file may cost.
        draft_size: width and height that suffice; a JPEG is then decoded at the smallest of its
            reduced scales (1/2, 1/4, 1/8) that is at least as large. None decodes all pixels.

    Raises:
        ImageError: if the bytes are not an image, or one that is broken, too large or of a kind
            that is not decoded; ``crashed`` if the fault is this module's. No other exception
            comes of what the bytes are.
    """
    if len(data) > limits.max_bytes:
        raise ImageError(
            FailureKind.TOO_LARGE, f"{len(data):,} bytes; the limit is {limits.max_bytes:,}"
        )
    try:
        image, width, height, format_ = _decode(data, limits, draft_size)
    except ImageError:
        raise
    except Exception as error:
        raise (_fault(error) or _failure(data, error)) from error
    return DecodedImage(image, width, height, format_, _phash(image))


def _decode(
    data: bytes, limits: Limits, draft_size: tuple[int, int] | None
) -> tuple[Image.Image, int, int, str]:
    """Return the image, the width and height of the original, and its format."""
    file = _open(data, limits)
    format_ = "JPEG" if file.format == "MPO" else str(file.format)
    turned = _orientation(file) >= 5
    width, height = file.size
    if draft_size is not None and format_ == "JPEG":
        file.draft(None, draft_size[::-1] if turned else draft_size)
    # Pillow turns a TIFF upright as it loads it, and its size is that of the upright image.
    image = _upright(file)
    if turned and format_ != "TIFF":
        width, height = height, width
    return image, width, height, format_


def _open(data: bytes, limits: Limits) -> Image.Image:
    """Read the header, and check the number of pixels before any is decoded."""
    canvas = _webp_size(data)  # Pillow takes memory for a WebP's pixels when it opens it
    if canvas:
        _check_pixels(*canvas, limits)
    file = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_pixels(*file.size, limits)
    if file.format == "TIFF":
        _check_pixels(*_tile_size(file), limits)
    return file


def _tile_size(file: Image.Image) -> tuple[int, int]:
    """Return the width and height of a TIFF's tiles, which take memory whole; 1 without any."""
    width, height = (file.tag_v2.get(tag, 1) for tag in _TILE_SIZE)  # type: ignore[attr-defined]
    if not isinstance(width, int) or not isinstance(height, int):
        raise ImageError(FailureKind.TRUNCATED, f"broken: its tiles are {width!r} x {height!r}")
    return width, height


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width < 1 or height < 1:
        raise ImageError(FailureKind.NOT_AN_IMAGE, f"it has {width} x {height} pixels")
    if width * height > limits.max_pixels:
        message = f"{width:,} x {height:,} pixels; the limit is {limits.max_pixels:,} in all"
        raise ImageError(FailureKind.TOO_MANY_PIXELS, message)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        width, height = data[24:27], data[27:30]
        return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width_16, height_16 = struct.unpack("<HH", data[26:30])
    return width_16 & 0x3FFF, height_16 & 0x3FFF


def _orientation(file: Image.Image) -> int:
    """Return the EXIF orientation; 1, which is upright, if there is none that can be read."""
    try:
        return int(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's EXIF reader raises nearly anything on broken bytes
        return 1


def _upright(file: Image.Image) -> Image.Image:
    """Decode the pixels, and return them as RGB in the orientation that EXIF says."""
    file.load()
    image = _rgb(file)
    turn = _TURNS.get(_orientation(file))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bits(image)
    if image.mode in ("I", "F"):
        return _from_numbers(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    background = Image.new("RGB", image.size, "white")
    background.paste(image, mask=image.getchannel("A"))
    return background


def _from_16_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits to 8; Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(image)
    grey = _EIGHT_BITS[values]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    """Scale 32-bit numbers, which come without a range, by the smallest usual one they fit in.

    These are 0 to 1, 0 to 255 and 0 to 65,535; others are stretched from lowest to highest.
    """
    values = np.asarray(image, np.float32)
    finite = np.isfinite(values)
    values = np.where(finite, values, 0)
    low, high = float(values.min()), float(values.max())
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    if top is None:
        values, top = values - low, max(high - low, 1e-30)
    grey = np.rint(values * np.float32(255 / top)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _phash(image: Image.Image) -> str:
    """Return the perceptual hash, made from a small copy.

    A copy that is the same bits with and without a draft would take a second pass through the
    file, which nearly doubles the time that a large JPEG takes.
    """
    shortest = min(image.size)
    if shortest >= 2 * HASHED_SIZE:
        image = image.reduce(shortest // HASHED_SIZE)
    return str(imagehash.phash(image))


# --- what broken bytes are ----------------------------------------------------------------------

_UNSUPPORTED_WORDS = ("unsupported", "not supported", "unknown", "not available", "unrecogni")

_DECODED: tuple[tuple[str, bytes], ...] = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG"),
    ("GIF", b"GIF8"),
    ("BMP", b"BM"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
)
_OTHER_IMAGES: tuple[tuple[str, bytes], ...] = (
    ("a Photoshop document (PSD)", b"8BPS"),
    ("an icon (ICO)", b"\0\0\1\0"),
    ("a cursor (CUR)", b"\0\0\2\0"),
    ("an icon (ICNS)", b"icns"),
    ("JPEG 2000", b"\0\0\0\x0cjP  "),
    ("JPEG 2000", b"\xff\x4f\xff\x51"),
    ("JPEG XL", b"\0\0\0\x0cJXL "),
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XR", b"II\xbc"),
    ("OpenEXR", b"\x76\x2f\x31\x01"),
    ("Radiance HDR", b"#?RADIANCE"),
    ("DirectDraw (DDS)", b"DDS "),
    ("QOI", b"qoif"),
    ("a GIMP image (XCF)", b"gimp xcf"),
    ("BPG", b"BPG\xfb"),
    ("a raw photograph (RAF)", b"FUJIFILMCCD-RAW"),
    *(("a portable anymap (PNM)", b"P%d%c" % (n, c)) for n in range(1, 7) for c in b" \n\r\t"),
)
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


def _fault(error: Exception) -> ImageError | None:
    """Return what an exception of our own making means: no file is to blame for it."""
    trace = traceback.extract_tb(error.__traceback__)
    if trace[-1].filename != __file__ or isinstance(error, MemoryError):
        return None  # raised by Pillow, for what it met in the bytes
    message = f"a fault of the decoder, not of the file; please report it: {error!r} in {trace[-1]}"
    return ImageError(FailureKind.CRASHED, message)


def _failure(data: bytes, error: Exception) -> ImageError:
    """Return the failure that an exception of Pillow means for these bytes."""
    if isinstance(error, MemoryError):
        return ImageError(FailureKind.OUT_OF_MEMORY, "not enough memory to decode it")
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(FailureKind.TOO_MANY_PIXELS, str(error))
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(data)
    text = str(error).strip() or type(error).__name__
    if "too large" in text.lower() or "memory limit" in text.lower():
        return ImageError(FailureKind.TOO_LARGE, f"what is packed in it is too large: {text}")
    unsupported = any(word in text.lower() for word in _UNSUPPORTED_WORDS)
    if unsupported or isinstance(error, NotImplementedError):
        return ImageError(FailureKind.UNSUPPORTED, f"a variant that is not decoded: {text}")
    return ImageError(FailureKind.TRUNCATED, f"broken or cut off: {text}")


def _unidentified(data: bytes) -> ImageError:
    if not data:
        return ImageError(FailureKind.NOT_AN_IMAGE, "the file is empty")
    name = _decoded_kind(data)
    if name:
        return ImageError(FailureKind.TRUNCATED, f"a {name} that is broken or cut off")
    name = _other_kind(data)
    if name:
        message = f"{name} is not decoded; convert it to JPEG or PNG"
        return ImageError(FailureKind.UNSUPPORTED, message)
    return ImageError(FailureKind.NOT_AN_IMAGE, f"no image: it begins with {data[:8]!r}")


def _decoded_kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and b"WEBP".startswith(data[8:12]):
        return "WebP"
    if data[4:8] == b"ftyp" and {b"avif", b"avis"} & _brands(data):
        return "AVIF"
    return _kind_by_start(data, _DECODED)


def _other_kind(data: bytes) -> str | None:
    if data[4:8] == b"ftyp" and _HEIF_BRANDS & _brands(data):
        return "HEIC/HEIF"
    if data[4:12] == b"ftypcrx ":
        return "a raw photograph (CR3)"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<svg") or (
        head.startswith((b"<?xml", b"<!--", b"<!doc")) and b"<svg" in head
    ):
        return "SVG"
    return _kind_by_start(data, _OTHER_IMAGES)


def _kind_by_start(data: bytes, kinds: tuple[tuple[str, bytes], ...]) -> str | None:
    return next((name for name, start in kinds if data.startswith(start)), None)


def _brands(data: bytes) -> set[bytes]:
    """Return the brands in the first box of an ISO media file."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
