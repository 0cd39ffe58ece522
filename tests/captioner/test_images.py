import io
import random
import resource
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageChops, PngImagePlugin

from captioner import images
from captioner.images import DecodedImage, ImageError, Limits, decode
from schemas.kinds import FailureKind

FORMATS = {
    "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "jpeg-progressive": ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 95}),
    "webp-lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff-jpeg": ("TIFF", {"compression": "jpeg", "quality": 95}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "avif": ("AVIF", {"quality": 95}),
}
MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "WEBP": ["L", "RGB", "RGBA"],
    "GIF": ["1", "L", "P", "RGB", "RGBA"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"],
    "AVIF": ["L", "RGB", "RGBA"],
}


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """Return a smooth picture whose corners differ, so that a turn shows."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray(np.uint8(np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], 2)))


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255)
    return image.convert(mode)


def difference(first: Image.Image, second: Image.Image) -> float:
    assert first.size == second.size
    return float(np.asarray(ImageChops.difference(first, second), np.float32).mean())


def kind_of(data: bytes, limits: Limits | None = None) -> FailureKind:
    with pytest.raises(ImageError) as caught:
        decode(data, limits or Limits())
    assert str(caught.value) == caught.value.message != ""
    return caught.value.kind


@pytest.mark.parametrize(
    ("format_", "mode"), [(format_, mode) for format_, modes in MODES.items() for mode in modes]
)
def test_every_format_and_mode_becomes_the_same_rgb(format_: str, mode: str) -> None:
    source = in_mode(scene(), mode)
    decoded = decode(encoded(source, format_))
    expected = source if mode not in ("I;16", "F") else in_mode(scene(), "L")
    assert decoded.format == format_
    assert (decoded.width, decoded.height) == (96, 64) == decoded.image.size
    assert decoded.image.mode == "RGB"
    assert difference(decoded.image, expected.convert("RGB")) < 8
    assert len(decoded.phash) == 16
    assert int(decoded.phash, 16) >= 0


def test_several_pictures_of_a_phone_are_a_jpeg() -> None:
    data = encoded(scene(), "MPO", save_all=True, append_images=[scene().rotate(180)])
    with Image.open(io.BytesIO(data)) as file:
        assert file.format == "MPO"
    decoded = decode(data)
    assert decoded.format == "JPEG"
    assert difference(decoded.image, scene()) < 8


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_taken(format_: str) -> None:
    first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    decoded = decode(encoded(first, format_, save_all=True, append_images=[second]))
    red, _, blue = decoded.image.getpixel((16, 16))
    assert red > 200
    assert blue < 50


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_what_is_transparent_is_white(format_: str) -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 16, 32))
    decoded = decode(encoded(image, format_)).image
    assert all(channel > 250 for channel in decoded.getpixel((28, 16)))
    assert decoded.getpixel((4, 16))[0] < 30


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert decode(encoded(image, "PNG")).image.getpixel((4, 4)) == (127, 127, 127)
    grey = Image.new("LA", (8, 8), (0, 128))
    assert decode(encoded(grey, "PNG")).image.getpixel((4, 4)) == (127, 127, 127)


def test_a_transparent_palette_entry_and_colour_are_white() -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 1)
    decoded = decode(encoded(palette, "PNG", transparency=0)).image
    assert (decoded.getpixel((4, 4)), decoded.getpixel((0, 0))) == ((255,) * 3, (0, 0, 255))
    red = Image.new("RGB", (8, 8), "red")
    decoded = decode(encoded(red, "PNG", transparency=(255, 0, 0))).image
    assert decoded.getpixel((4, 4)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    for format_ in ("PNG", "TIFF"):
        grey = np.asarray(decode(encoded(Image.fromarray(values), format_)).image)[..., 0]
        assert np.array_equal(grey.ravel(), np.arange(256))


def test_big_endian_sixteen_bits() -> None:
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 0x0100, 0xFF00))
    decoded = decode(encoded(image, "TIFF")).image
    assert [decoded.getpixel((x, 0))[0] for x in range(2)] == [1, 254]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 255.0], [0, 128, 255]),
        ([0.0, 32768.0, 65535.0], [0, 128, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([float("nan"), 0.5, 1.0], [0, 128, 255]),
        ([3e9, 3e9, 3e9], [0, 0, 0]),
    ],
)
def test_numbers_without_a_range_are_scaled_by_what_they_are(
    values: list[float], expected: list[int]
) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert [decode(data).image.getpixel((x, 0))[0] for x in range(3)] == expected


def test_inverted_cmyk_of_adobe_shows_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(red, "JPEG", quality=95)
    assert b"Adobe" in data  # Pillow writes what Adobe does: inverted
    pixel = decode(data).image.getpixel((8, 8))
    assert pixel[0] > 240
    assert max(pixel[1:]) < 15


# --- orientation --------------------------------------------------------------------------------

TURNED = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.rotate(180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(90, expand=True),
    6: lambda image: image.rotate(-90, expand=True),
    7: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(-90, expand=True),
    8: lambda image: image.rotate(90, expand=True),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_images_are_turned_upright(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(scene(), format_, exif=exif))
    expected = TURNED[orientation](scene())
    assert (decoded.width, decoded.height) == expected.size
    assert difference(decoded.image, expected) < 8


def test_a_draft_of_a_turned_image_keeps_the_size_of_the_original() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(960, 640), "JPEG", exif=exif)
    full, draft = decode(data), decode(data, draft_size=(150, 230))
    assert (draft.width, draft.height) == (full.width, full.height) == (640, 960)
    assert draft.image.size == (160, 240)
    assert difference(draft.image, full.image.resize((160, 240), Image.Resampling.BOX)) < 3


def bits_apart(one: DecodedImage, other: DecodedImage) -> int:
    return (int(one.phash, 16) ^ int(other.phash, 16)).bit_count()


@pytest.mark.parametrize("broken", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0??"])
def test_broken_exif_does_not_cost_the_image(broken: bytes) -> None:
    plain = encoded(scene(), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken
    decoded = decode(plain[:2] + segment + plain[2:])
    assert decoded.image.tobytes() == decode(plain).image.tobytes()


# --- draft and hash -----------------------------------------------------------------------------


@pytest.mark.parametrize("draft_size", [(8, 8), (100, 100), (224, 224), (299, 350), (5000, 5000)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_draft_has_nearly_the_same_hash(draft_size: tuple[int, int], progressive: bool) -> None:
    generator = np.random.default_rng(0)
    noise = generator.random((30, 40, 3)).repeat(20, 0).repeat(20, 1)
    image = Image.fromarray(np.uint8(noise * 255))
    data = encoded(image, "JPEG", progressive=progressive)
    draft, full = decode(data, draft_size=draft_size), decode(data)
    assert bits_apart(draft, full) <= 2
    assert full.image.size == (800, 600)
    assert draft.image.width >= min(draft_size[0], 800)


def test_only_a_jpeg_has_drafts() -> None:
    data = encoded(scene(960, 640), "PNG")
    assert decode(data, draft_size=(96, 64)).image.tobytes() == decode(data).image.tobytes()


def test_hashes_tell_pictures_apart_and_near_copies_together() -> None:
    generator = np.random.default_rng(1)
    pictures = [
        Image.fromarray(np.uint8(generator.random((8, 8, 3)) * 255)).resize(
            (400, 300), Image.Resampling.BICUBIC
        )
        for _ in range(5)
    ]
    hashes = [int(decode(encoded(picture, "PNG")).phash, 16) for picture in pictures]
    near = [int(decode(encoded(p.resize((320, 240)), "JPEG")).phash, 16) for p in pictures]
    assert max((a ^ b).bit_count() for a, b in zip(hashes, near, strict=True)) <= 6
    assert min((a ^ b).bit_count() for a in hashes for b in hashes if a != b) >= 12


# --- broken bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_never_becomes_an_image_with_missing_pixels(name: str) -> None:
    format_, options = FORMATS[name]
    noise = np.random.default_rng(2).integers(0, 255, (48, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format_, **options)
    whole = decode(data).image.tobytes()
    lengths = {
        *range(64),
        *(len(data) * n // 60 for n in range(60)),
        *range(len(data) - 40, len(data)),
    }
    kinds = {n: outcome(data[:n], whole) for n in sorted(lengths & set(range(len(data))))}
    assert "missing pixels" not in kinds.values()
    assert {kind for n, kind in kinds.items() if n >= 16} <= {"whole", FailureKind.TRUNCATED}
    assert sum(kind == FailureKind.TRUNCATED for kind in kinds.values()) > 100


def outcome(data: bytes, whole: bytes) -> str:
    """Return the kind of failure, or whether all pixels are there."""
    try:
        return "whole" if decode(data).image.tobytes() == whole else "missing pixels"
    except ImageError as error:
        return error.kind


def rle_bitmap() -> bytes:
    """Return an 8-bit BMP with run-length encoding, which Pillow does not write."""
    runs = b"".join(bytes([16, row % 2, 16, 1 - row % 2, 0, 0]) for row in range(32)) + b"\0\1"
    palette = bytes([0, 0, 255, 0, 255, 255, 255, 0])
    info = struct.pack("<IiiHHIIiiII", 40, 32, 32, 1, 8, 1, len(runs), 0, 0, 2, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + palette + runs


def test_a_truncated_run_length_bitmap_fails() -> None:
    data = rle_bitmap()
    whole = decode(data).image
    assert whole.getpixel((0, 31)) == (255, 0, 0)
    kinds = [outcome(data[:length], whole.tobytes()) for length in range(len(data))]
    assert "missing pixels" not in kinds
    assert kinds.count(FailureKind.TRUNCATED) > 100


@pytest.mark.parametrize("name", FORMATS)
def test_of_flipped_bytes_only_image_errors_come(name: str) -> None:
    format_, options = FORMATS[name]
    data = encoded(scene(40, 30), format_, **options)
    random_ = random.Random(3)
    outcomes = set()
    for _ in range(250):
        broken = bytearray(data)
        for _ in range(random_.randint(1, 8)):
            broken[random_.randrange(min(len(data), random_.choice([64, len(data)])))] = (
                random_.randrange(256)
            )
        try:
            decode(bytes(broken))
            outcomes.add("image")
        except ImageError as error:
            outcomes.add(error.kind)
    assert len(outcomes) > 1


def test_any_error_of_a_decoder_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene(), "PNG")
    kinds = {
        SyntaxError("broken PNG file"): FailureKind.TRUNCATED,
        struct.error("unpack requires"): FailureKind.TRUNCATED,
        OverflowError(): FailureKind.TRUNCATED,
        ZeroDivisionError("division by zero"): FailureKind.TRUNCATED,
        RecursionError("maximum recursion"): FailureKind.TRUNCATED,
        NotImplementedError(): FailureKind.UNSUPPORTED,
        OSError("unsupported BMP compression (7)"): FailureKind.UNSUPPORTED,
        MemoryError(): FailureKind.OUT_OF_MEMORY,
        Image.DecompressionBombError("pixels"): FailureKind.TOO_MANY_PIXELS,
    }
    for error, kind in kinds.items():

        def broken(self: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", broken)
        assert kind_of(data) is kind, error


def test_a_fault_of_ours_is_not_laid_on_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_TURNS", None)
    with pytest.raises(ImageError, match="fault of the decoder.*NoneType.*_upright") as caught:
        decode(encoded(scene(), "PNG"))
    assert caught.value.kind is FailureKind.CRASHED


def test_a_stop_is_no_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", stopped)
    with pytest.raises(KeyboardInterrupt):
        decode(encoded(scene(), "PNG"))


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"hello, world", b"%PDF-1.7 ...", b"PK\3\4" + bytes(60), bytes(4096)]
)
def test_what_is_no_image_is_called_so(data: bytes) -> None:
    assert kind_of(data) is FailureKind.NOT_AN_IMAGE


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "SVG"),
        (b"8BPS\0\1" + bytes(40), "PSD"),
        (b"\0\0\1\0\1\0" + bytes(40), "ICO"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "JPEG 2000"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"P6\n1 1\n255\nabc", "PNM"),
        (b"qoif" + bytes(40), "QOI"),
    ],
)
def test_an_image_of_a_kind_that_is_not_decoded_is_named(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=name) as caught:
        decode(data)
    assert caught.value.kind is FailureKind.UNSUPPORTED


# --- limits -------------------------------------------------------------------------------------


def test_limits_hold_to_the_byte_and_the_pixel() -> None:
    data = encoded(scene(), "PNG")
    exact = Limits(max_bytes=len(data), max_pixels=96 * 64)
    assert decode(data, exact).width == 96
    assert kind_of(data, Limits(max_bytes=len(data) - 1)) is FailureKind.TOO_LARGE
    assert kind_of(data, Limits(max_pixels=96 * 64 - 1)) is FailureKind.TOO_MANY_PIXELS


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1 << 20)))


def bombs() -> dict[str, bytes]:
    """Return small files that say they are huge, by format."""
    made = {"png": png_bomb(60_000, 60_000), "png-at-the-border": png_bomb(10_001, 10_000)}
    small = bytearray(encoded(scene(), "JPEG"))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    made["jpeg"] = bytes(small)
    gif = bytearray(encoded(scene(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    made["gif"] = bytes(gif)
    webp = bytearray(encoded(scene().convert("RGBA"), "WEBP", lossless=True))
    webp[21:25] = struct.pack("<I", 0x0FFFFFFF)
    made["webp-lossless"] = bytes(webp)
    frame = encoded(scene(), "WEBP")[12:]
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\0" * 2
    made["webp"] = (
        b"RIFF" + struct.pack("<I", 4 + len(extended + frame)) + b"WEBP" + extended + frame
    )
    bitmap = bytearray(encoded(scene(), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 60_000, 60_000)
    made["bmp"] = bytes(bitmap)
    return made


@pytest.mark.parametrize("name", bombs())
def test_pixel_bombs_are_refused(name: str) -> None:
    assert kind_of(bombs()[name]) is FailureKind.TOO_MANY_PIXELS


@pytest.mark.parametrize("tag", [b"zTXt", b"iTXt"])
def test_text_bombs_of_png_are_refused(tag: bytes) -> None:
    packed = zlib.compress(bytes(200 << 20), 9)
    text = b"a\0\0" + packed if tag == b"zTXt" else b"a\0\1\0\0\0" + packed
    plain = encoded(scene(), "PNG")
    assert kind_of(plain[:33] + png_chunk(tag, text) + plain[33:]) is FailureKind.TOO_LARGE


def test_profile_bombs_of_png_are_refused() -> None:
    plain = encoded(scene(), "PNG")
    profile = b"a\0\0" + zlib.compress(bytes(200 << 20), 9)
    assert kind_of(plain[:33] + png_chunk(b"iCCP", profile) + plain[33:]) is FailureKind.TOO_LARGE


def test_bombs_take_no_memory() -> None:
    """All bombs in a process of their own, whose address space has little left to give."""
    program = f"""
import resource
from tests.captioner.test_images import bombs, decode, encoded, scene, ImageError
for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
    decode(encoded(scene(), format_))
files = bombs()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {100 << 20}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, data in files.items():
    try:
        decode(data)
        raise SystemExit(name + " was decoded")
    except ImageError as error:
        assert error.kind == "too_many_pixels", (name, error)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert after - before < {20 << 10}, (before, after)
"""
    assert resource.RLIMIT_AS
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def tiled_tiff(tile: int) -> bytes:
    """Return a grey 64 x 64 TIFF with LZW, which says that its one tile has this side."""
    packed = encoded(Image.new("L", (64, 64)), "TIFF", compression="tiff_lzw")[-200:]
    tags = {256: 64, 257: 64, 258: 8, 259: 5, 262: 1, 277: 1, 322: tile, 323: tile}
    entries = {**tags, 324: 8 + 2 + 12 * 10 + 4, 325: len(packed)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, 10) + directory + bytes(4) + packed


def test_tiles_of_a_tiff_count_too() -> None:
    assert kind_of(tiled_tiff(60_000)) is FailureKind.TOO_MANY_PIXELS
    assert kind_of(tiled_tiff(64)) is FailureKind.TRUNCATED  # since its data are made up


def test_decoding_on_many_threads_gives_the_same() -> None:
    files = [encoded(scene(200 + n, 150), f, **o) for n, (f, o) in enumerate(FORMATS.values())] * 4
    alone = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, files))
    for one, other in zip(alone, together, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.phash == other.phash


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (129, 128)])
def test_the_smallest_and_the_longest_images(size: tuple[int, int]) -> None:
    decoded = decode(encoded(Image.new("RGB", size, "red"), "PNG"))
    assert decoded.image.size == size
    assert len(decoded.phash) == 16
