"""Which images there are: folders, globs, list files and archives, on any store.

`list_images` tells apart what each input is, before anything is listed, and then walks through
it. Folders are walked several at a time, yet found in the same order every time.
"""

import os
import posixpath
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice

from pipelines import folders, storage
from pipelines.folders import Entry
from pipelines.inputs import (
    Files,
    Folder,
    ListFile,
    ListingError,
    Pattern,
    Source,
    path_in,
    source_of,
)
from pipelines.list_files import line_uri, lines
from pipelines.storage import StorageError, StoredFile
from schemas.identity import row_key
from schemas.kinds import FailureKind
from schemas.uris import credentials_in, join_archive, redact, split_archive

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .avif".split()
)
HIDDEN = "hidden"
EMPTY_ROW = "empty row"
PAGE = 1000
"""Entries of a folder that are held at a time; a page of an object store's listing."""

_EXTENSION = re.compile(r"\.(?=[0-9_+-]*[a-z])[a-z0-9_+-]{1,10}$")


@dataclass(frozen=True)
class ImageRef:
    """An image to caption, by reference.

    Attributes:
        uri: absolute, with protocol, unescaped.
        uri_version: what the store knows of the version: ``KIND:VALUE``; empty if unknown.
        num_bytes: size of the file, where the listing says.
        kind: set when listing found that the image cannot be had, a FailureKind: it counts as
            listed and becomes a failure row.
        message: why, when ``kind`` is set.
        attempt: 1 for the first attempt at this image.
        replaces: whether an earlier row of this image is to be replaced.
    """

    uri: str
    uri_version: str
    num_bytes: int | None = None
    kind: str | None = None
    message: str | None = None
    attempt: int = 1
    replaces: bool = False


@dataclass
class ListingCounts:
    """What a listing left out, filled while it runs.

    Attributes:
        ignored: files left out, by extension (``.txt``); hidden files and folders as ``hidden``.
        duplicates: images that an earlier input had listed already.
        not_matched: files that ``glob`` left out, in the folders that it leads to.
    """

    ignored: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    not_matched: int = 0


def list_images(
    inputs: Sequence[str],
    glob: str | None = None,
    threads: int = 16,
    counts: ListingCounts | None = None,
) -> Iterator[ImageRef]:
    """List the images of all inputs, each once, as they are found.

    Args:
        inputs: folders, images, globs, list files (``.txt``, ``.csv``, ``.parquet``) and
            archives, as paths or uris.
        glob: which files to take, by their path within the input: ``**/*.png``, ``2024/*``.
        threads: how many folders, or files of a list, to look at in one moment.
        counts: where to count what was left out.

    Raises:
        ListingError: if an input is missing, cannot be read or carries credentials; at the call,
            before anything is listed, except for what only reading on can show.
    """
    counts = ListingCounts() if counts is None else counts
    listing = _Listing(Pattern(glob) if glob else None, threads, counts)
    sources = [source_of(text) for text in inputs]
    may_overlap = len(sources) > 1 or any(isinstance(source, ListFile) for source in sources)
    return _closing_pool(listing, sources, may_overlap)


def _closing_pool(
    listing: "_Listing", sources: Sequence[Source], may_overlap: bool
) -> Iterator[ImageRef]:
    with ThreadPoolExecutor(listing.threads, "list") as pool:
        listing.pool = pool
        found = chain.from_iterable(map(listing.refs, sources))
        try:
            yield from _once(found, listing.counts) if may_overlap else found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _once(refs: Iterable[ImageRef], counts: ListingCounts) -> Iterator[ImageRef]:
    """Pass each uri on once, remembering 16 bytes of each."""
    seen: set[bytes] = set()
    for ref in refs:
        key = row_key(ref.uri)
        if key in seen:
            counts.duplicates += 1
            continue
        seen.add(key)
        yield ref


# --- walking through it -------------------------------------------------------------------------


class _Scan:
    """A folder being listed: its pages are fetched on the pool, one ahead of what is used."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.subfolders: list[str] = []
        self._entries: Iterator[Entry] | None = None
        self._page: Future[list[Entry]] | None = None

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Fetch the next page, unless that is under way."""
        if self._page is None:
            self._page = pool.submit(self._fetch)

    def next_page(self, pool: ThreadPoolExecutor) -> list[Entry]:
        """Return a page, empty after the last one."""
        self.start(pool)
        assert self._page is not None
        page, self._page = self._page.result(), None
        if page:
            self.start(pool)
        return page

    def _fetch(self) -> list[Entry]:
        if self._entries is None:
            self._entries = iter(folders.scan(self.uri))
        return [*islice(self._entries, PAGE)]


@dataclass
class _Listing:
    """One listing under way: how to go through each kind of input."""

    glob: Pattern | None
    threads: int
    counts: ListingCounts
    pool: ThreadPoolExecutor = field(init=False)

    def refs(self, source: Source) -> Iterator[ImageRef]:
        """List an input."""
        if isinstance(source, Files):
            return self._looked_at(source.uris)
        if isinstance(source, ListFile):
            return self._looked_at(self._named_in(source.uri))
        if split_archive(source.uri):
            return self._in_archive(source)
        found = self._in_folder(source)
        if storage.protocol_of(source.uri) == "http":
            return self._looked_at(file.uri for file in found if isinstance(file, StoredFile))
        return (file if isinstance(file, ImageRef) else _ref(file) for file in found)

    # Folders: those next in line are fetched together, and used in order.

    def _in_folder(self, source: Folder) -> Iterator[StoredFile | ImageRef]:
        followed: set[str] = set()
        stack = [_Scan(source.uri)]
        while stack:
            for scan in stack[-self.threads :]:
                scan.start(self.pool)
            scan = stack[-1]
            try:
                page = scan.next_page(self.pool)
            except Exception as error:
                stack.pop()
                yield self._unlisted(source, scan.uri, error)
                page = []
            else:
                yield from self._page(source, scan, page)
                if not page:
                    stack.pop()
            if not page:
                inner = [uri for uri in scan.subfolders if _is_new(uri, followed)]
                stack.extend(_Scan(uri) for uri in reversed(inner))

    def _page(self, source: Folder, scan: _Scan, page: list[Entry]) -> Iterator[StoredFile]:
        for entry in page:
            if entry.folder is not None and self._may_enter(source, scan, entry.folder):
                scan.subfolders.append(entry.folder)
            if entry.file is not None and self._is_wanted(source, entry.file.uri):
                yield entry.file

    def _may_enter(self, source: Folder, scan: _Scan, folder: str) -> bool:
        path = _relative(folder.removesuffix("/"), source.uri)
        if len(folder) <= len(scan.uri) or not self._lead_to(source, path):
            return False
        return not self._count_hidden(path.rpartition("/")[2])

    def _lead_to(self, source: Folder, path: str) -> bool:
        patterns = [pattern for pattern in (source.pattern, self.glob) if pattern]
        return all(pattern.leads_to(path) for pattern in patterns)

    def _is_wanted(self, source: Folder, uri: str) -> bool:
        path = _relative(uri, source.uri)
        if source.pattern and not source.pattern.matches(path):
            return False
        if self.glob and not self.glob.matches(path):
            self.counts.not_matched += 1
            return False
        name = path.rpartition("/")[2]
        return not self._count_hidden(name) and not self._count_other(name)

    def _count_hidden(self, name: str) -> bool:
        hidden = name.startswith(".") or name == "__MACOSX"
        if hidden:
            self.counts.ignored[HIDDEN] += 1
        return hidden

    def _count_other(self, name: str) -> bool:
        """Count a file whose extension is that of something else; without one, bytes decide."""
        found = _EXTENSION.search(name.lower())
        other = found is not None and found[0] not in IMAGE_EXTENSIONS
        if found and other:
            self.counts.ignored[found[0]] += 1
        return other

    def _unlisted(self, source: Folder, folder: str, error: Exception) -> ImageRef:
        """Return the failure that stands for the images of a folder that cannot be listed.

        Raises:
            ListingError: if it is the input itself.
        """
        failure = storage.failure(folder, error, "list")
        if folder == source.uri:
            raise ListingError(f"input {redact(folder)!r}: {failure}") from error
        return _bad(folder, failure.kind, f"{failure} (its images were not listed)")

    # Archives: the list of members is in the archive.

    def _in_archive(self, source: Folder) -> Iterator[ImageRef]:
        root = split_archive(source.uri)
        assert root is not None
        archive = storage.open_archive(root.protocol, root.archive)
        prefix = root.member + "/" if root.member else ""
        for member in archive.members():
            if not member.name.startswith(prefix):
                continue
            path = posixpath.normpath(member.name.removeprefix(prefix)).lstrip("/")
            folders_hidden = any(self._count_hidden(part) for part in path.split("/")[:-1])
            if folders_hidden or not self._is_wanted(Folder("", source.pattern), path):
                continue
            uri = join_archive(root.protocol, member.name, root.archive)
            version = storage.archive_member_version(
                root.protocol, archive.version, member.checksum
            )
            if member.problem or _split_name(uri) != member.name:
                problem = member.problem or "its name reads as a uri"
                yield _bad(uri, FailureKind.UNSUPPORTED, f"{uri!r}: {problem}", version)
            else:
                yield _ref(StoredFile(uri, member.num_bytes, version))

    # List files, and files named one by one: each is looked at.

    def _looked_at(self, uris: Iterable[str]) -> Iterator[ImageRef]:
        """Look at files, many at a time, in order."""
        window: deque[Future[ImageRef]] = deque()
        for uri in uris:
            window.append(self.pool.submit(_look_at, uri))
            if len(window) >= 4 * self.threads:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()

    def _named_in(self, list_uri: str) -> Iterator[str]:
        """Iterate over the uris that a list file names.

        Raises:
            ListingError: if it names none, or has no column ``uri``.
        """
        folder = list_uri.rpartition("/")[0]
        named = 0
        for line in lines(list_uri):
            if not line:
                self.counts.ignored[EMPTY_ROW] += 1
                continue
            named += 1
            uri = line_uri(line, folder)
            if self.glob and not self.glob.matches(_relative(uri, folder)):
                self.counts.not_matched += 1
                continue
            yield uri
        if not named:
            raise ListingError(f"list file {redact(list_uri)!r} names no image")


def _is_new(folder: str, followed: set[str]) -> bool:
    """Say whether to enter a folder: a link to a folder above it, or followed before, is not."""
    if not folder.startswith("file://") or not os.path.islink(storage.local_path(folder)):
        return True
    path = storage.local_path(folder)
    target = os.path.realpath(path)
    above = os.path.realpath(os.path.dirname(path))
    if target in followed or f"{above}/".startswith(f"{target.rstrip('/')}/"):
        return False
    followed.add(target)
    return True


def _relative(uri: str, folder: str) -> str:
    prefix = folder.rstrip("/") + "/" if folder else ""
    if uri.startswith(prefix):
        return uri.removeprefix(prefix).lstrip("/")
    return path_in(uri).lstrip("/")


def _split_name(uri: str) -> str:
    found = split_archive(uri)
    return found.member if found else ""


def _ref(file: StoredFile) -> ImageRef:
    """Return a file as an image to caption; a name that Parquet cannot hold becomes a failure."""
    try:
        file.uri.encode()
    except UnicodeEncodeError:
        message = f"the name of {_readable(file.uri)!r} is not valid UTF-8; rename the file"
        return _bad(file.uri, FailureKind.UNSUPPORTED, message, file.version)
    return ImageRef(file.uri, file.version, file.num_bytes)


def _bad(uri: str, kind: FailureKind, message: str, version: str = "") -> ImageRef:
    readable = _readable(redact(uri) if credentials_in(uri) else uri)
    return ImageRef(readable, version, None, kind.value, _readable(message))


def _readable(text: str) -> str:
    """Write the bytes of a name that are not UTF-8 as escapes, so that names stay different."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _look_at(uri: str) -> ImageRef:
    found = credentials_in(uri)
    if found:
        message = f"{redact(uri)!r} carries {found}; name the file without it"
        return _bad(uri, FailureKind.UNSUPPORTED, message)
    try:
        return _ref(storage.stat(uri))
    except StorageError as error:
        return _bad(uri, error.kind, str(error))
