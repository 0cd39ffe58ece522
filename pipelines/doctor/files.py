"""Whether inputs can be read and the output be written, and for how much there is room."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import islice

from captioner.images import ImageError, Limits, decode
from pipelines import storage
from pipelines.doctor.checks import Check, Finding, failed, ok, refused, warning
from pipelines.listing import ImageRef, ListingCounts, ListingError, list_images
from pipelines.output import Output, is_gone, new_run_id, read_lease
from pipelines.report.terminal import ignored
from pipelines.storage import StorageError
from schemas.kinds import FailureKind
from schemas.uris import redact

CAPTION_BYTES = 1_000
"""Of a row of captions, about, where an output holds too few to tell; with masks it is more."""
IMAGE_BYTES = 300
"""Of a line about an image in the list that a local run keeps in the temporary folder, about."""
TIGHT_BYTES = 2_000_000_000
FULL_BYTES = 200_000_000

_TRIED = 3
_ROWS_TO_TELL = 1_000


def input_check(text: str, found: "Future[str | None]") -> Check:
    """Return the check of an input.

    Args:
        text: what the user named.
        found: gets the uri of an image that can be read, or None.
    """

    def look() -> Finding:
        uri = None
        try:
            uri, finding = first_image(text)
        except ListingError as error:  # which names the input once more
            finding = refused(ListingError(str(error).partition("': ")[2] or str(error)))
        finally:
            found.set_result(uri)
        return finding

    return Check(f"input {redact(text)}", look)


def first_image(text: str) -> tuple[str | None, Finding]:
    """List the first images of an input, never all of it, and read and decode one.

    Args:
        text: what the user named.

    Returns:
        The image's uri, None if none of them can be read, and what was found.

    Raises:
        ListingError: if it cannot be listed: missing, no bucket, nobody to log in as.
    """
    counts = ListingCounts()
    images = list_images([text], counts=counts)
    first = list(islice(images, _TRIED))
    del images  # which ends the listing
    if not first:
        others = f"; {ignored(counts.ignored)}" if counts.ignored else ""
        return None, failed(f"no image is in it{others}", "name the folder that holds the images")
    refusals: list[StorageError | ImageError] = []
    for image in first:
        try:
            said = _read(image)
        except (StorageError, ImageError) as error:
            refusals.append(error)
            continue
        if not refusals:
            return image.uri, ok(said)
        return image.uri, warning(
            f"{said}; but not the {len(refusals)} before it: {refusals[0]}",
            "such an image costs itself alone: a run writes it to failures/, with the reason",
        )
    finding = refused(refusals[0])
    found = f"none of the first {len(first)} images can be read: {finding.found}"
    return None, failed(found, finding.remedy)


def _read(image: ImageRef) -> str:
    if image.kind is not None:
        raise StorageError(FailureKind(image.kind), image.message or image.kind)
    started = time.monotonic()
    limits = Limits()
    data = storage.read_bytes(image.uri, limits.max_bytes, image.num_bytes, image.uri_version)
    decoded = decode(data, limits)
    return (
        f"{redact(image.uri)}: {decoded.format}, {decoded.width} x {decoded.height}, "
        f"{len(data):,} bytes, read and decoded in {time.monotonic() - started:.2f} s"
    )


def output_checks(output: Output) -> list[list[Check]]:
    """Return the checks of an output, in chains: writing to it, who writes, and what is there."""
    there = [Check("current.json", lambda: live_files(output))]
    if storage.protocol_of(output.uri) == "file":
        there.append(Check("output's disk", lambda: room_for_captions(output)))
    writing = [
        Check("output", lambda: takes_files(output), gate=True),
        Check("create-if-absent", lambda: creates_once(output)),
    ]
    return [writing, [Check("lease", lambda: held(output))], there]


@contextmanager
def _probe(output: Output) -> Iterator[str]:
    """Give the uri of a file to try things with; afterwards it is gone, and folders made for it.

    Raises:
        StorageError: if it cannot be removed.
    """
    uri = output.path(f"doctor-{new_run_id()}")
    folders = _missing(storage.local_path(output.uri)) if uri.startswith("file://") else []
    try:
        yield uri
    except BaseException:
        with suppress(StorageError):
            storage.remove(uri)
        raise
    else:
        storage.remove(uri)
    finally:
        for folder in folders:
            with suppress(OSError):
                os.rmdir(folder)


def _missing(folder: str) -> list[str]:
    """Return the folders that are not there, a folder before the one that it is in."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


def takes_files(output: Output) -> Finding:
    """Write a file into an output, read it and remove it."""
    started, data = time.monotonic(), os.urandom(64)
    with _probe(output) as uri:
        storage.write_bytes_atomically(uri, data)
        same = storage.read_fresh(uri) == data
    seconds = time.monotonic() - started
    if not same:
        return failed(
            "what was written reads back as something else",
            "look for a cache between here and the store, or choose another --output",
        )
    return ok(f"{output.uri}: a file was written, read and removed in {seconds:.2f} s")


def creates_once(output: Output) -> Finding:
    """Create a file twice: what keeps two runs apart is that only one of them can."""
    with _probe(output) as uri:
        created = [storage.create_exclusively(uri, data) for data in (b"first", b"second")]
        left = storage.read_fresh(uri)
    if created != [True, False] or left != b"first":
        return failed(
            "a file was created twice, so two runs could write at the same time",
            "choose an --output on a store that creates an object only where there is none",
        )
    return ok("of two that create a file one does, so one run writes at a time")


def held(output: Output) -> Finding:
    """Say who writes to an output now."""
    holder = read_lease(output)
    if not holder:
        return ok("nobody writes to the output")
    who = f"run {holder.get('run_id')} (process {holder.get('pid')} on {holder.get('host')})"
    if is_gone(holder):
        return ok(f"{who} is gone; the next run takes over")
    age = time.time() - float(holder.get("renewed_at", 0))
    return warning(
        f"{who} writes to the output, last seen {age:.0f} s ago",
        "wait for it to end: until then another run stops at once",
    )


def live_files(output: Output) -> Finding:
    """See that the files are there that ``current.json`` names, as large as it says."""
    current = output.current()
    live = {table: files for table, files in current.files.items() if files}
    if not live:
        return ok("nothing is in the output yet")
    sizes = {
        file.uri: file.num_bytes
        for table in live
        for file in storage.list_files(output.path(table))
    }
    named = [file for files in live.values() for file in files]
    lost = [f.path for f in named if sizes.get(output.path(*f.path.split("/"))) != f.bytes]
    if lost:
        return failed(
            f"{len(lost)} of the {len(named)} files that it names are gone or of another size, "
            f"such as {lost[0]}",
            "put back a copy of them, or choose another --output",
        )
    rows = {table: sum(file.rows for file in files) for table, files in live.items()}
    return ok("rows: " + ", ".join(f"{table} {count:,}" for table, count in rows.items()))


def room_for_captions(output: Output) -> Finding:
    """Say how many captions there is room for where the output is, on this machine."""
    files = output.current().of("captions")
    rows = sum(file.rows for file in files)
    known = rows >= _ROWS_TO_TELL
    each = sum(file.bytes for file in files) / rows if known else CAPTION_BYTES
    return _room(storage.local_path(output.uri), each, "captions", "choose another --output")


def room_for_list() -> Finding:
    """Say how many images there is room to list in the temporary folder."""
    other = "set TMPDIR to a folder with more"
    return _room(tempfile.gettempdir(), IMAGE_BYTES, "images to list", other)


def _room(folder: str, each: float, what: str, other: str) -> Finding:
    free = _free_bytes(folder)
    count = float(f"{free / each:.1e}")
    found = f"{free / 1e9:,.1f} GB free in {folder}, enough for about {count:,.0f} {what}"
    if free < FULL_BYTES:
        return failed(found, f"free some of it, or {other}")
    return warning(found, f"free some of it, or {other}") if free < TIGHT_BYTES else ok(found)


def _free_bytes(folder: str) -> int:
    missing = _missing(folder)
    return shutil.disk_usage(os.path.dirname(missing[-1]) if missing else folder).free
