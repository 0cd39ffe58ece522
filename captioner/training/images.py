"""Images of examples: read, decoded and checked on threads, ahead of who wants them."""

from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from PIL import Image
from tqdm import tqdm

from captioner.images import DecodedImage, ImageError, Limits, decode
from captioner.training.sources import DataError, Example, load_annotations
from captioner.training.sources.files import read_patiently
from schemas.identity import image_id
from schemas.uris import redact

Item = TypeVar("Item")
Result = TypeVar("Result")


def load_image(
    uri: str, draft_size: tuple[int, int] | None = None, *, tries: int = 3
) -> Image.Image:
    """Read and decode an image, as ``load_decoded``."""
    return load_decoded(uri, draft_size, tries=tries).image


def load_decoded(
    uri: str, draft_size: tuple[int, int] | None = None, *, tries: int = 3
) -> DecodedImage:
    """Read and decode an image; besides its pixels the size of the original is told.

    Args:
        uri: of the image.
        draft_size: width and height that suffice, as of `captioner.images.decode`.
        tries: how often it is read before it counts as lost.

    Raises:
        DataError: if it cannot be read or decoded.
    """
    return _decoded(uri, read_patiently(uri, Limits().max_bytes, tries), draft_size)


def _decoded(uri: str, data: bytes, draft_size: tuple[int, int] | None) -> DecodedImage:
    try:
        return decode(data, draft_size=draft_size)
    except ImageError as error:
        raise DataError(f"{redact(uri)} cannot be decoded: {error}") from error


def check(
    examples: Sequence[Example], *, threads: int = 4, spared: Collection[str] = ()
) -> tuple[list[Example], dict[str, str]]:
    """Read every image once, at the smallest scale, to know before training which ones work.

    What is known of it is checked against its size, and its file of masks read. One that was
    reviewed must still have the bytes that people saw.

    Args:
        examples: the images, and what is known of them.
        threads: that read and decode.
        spared: ids of images that must not be among them, wherever they lie.

    Returns:
        The examples whose images can be used, and what is wrong with the others, by uri.
    """

    def problem(example: Example) -> str | None:
        try:
            data = read_patiently(example.uri, Limits().max_bytes, tries=1)
            _check_bytes(example, data, spared)
            decoded = _decoded(example.uri, data, draft_size=(1, 1))
            load_annotations(example, (decoded.height, decoded.width), tries=1)
        except DataError as error:
            return str(error)
        return None

    good: list[Example] = []
    bad: dict[str, str] = {}
    with closing(in_order(problem, examples, threads=threads, ahead=16 * threads)) as problems:
        progress = tqdm(
            problems, "checking images", len(examples), unit=" images", leave=False, disable=None
        )
        for example, message in zip(examples, progress, strict=True):
            if message is None:
                good.append(example)
            else:
                bad[example.uri] = message
    return good, bad


def _check_bytes(example: Example, data: bytes, spared: Collection[str]) -> None:
    """Check an image's bytes, where something depends on which they are."""
    if example.image_id is None and not spared:
        return
    found = image_id(data)
    if found in spared:
        raise DataError(f"{redact(example.uri)} was drawn for an audit, from which nothing learns")
    if example.image_id not in (None, found):
        raise DataError(f"{redact(example.uri)} has changed since it was reviewed")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result]:
    """Yield a function's results in order, computed on threads, at most ``ahead`` beforehand.

    What is under way when the iterator is closed is waited for; the rest is dropped.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="loader")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
