"""What a user names as input: a folder, files, a glob, a list file or an archive."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from fsspec.utils import glob_translate

from pipelines import folders, storage
from pipelines.storage import StorageError
from schemas.kinds import FailureKind
from schemas.uris import credentials_in, join_archive, redact, split_archive

LIST_EXTENSIONS = (".txt", ".csv", ".parquet")

_MAGIC = re.compile(r"[*?\[]")


class ListingError(Exception):
    """An input that cannot be listed: which, why, and what to do."""


class Pattern:
    """A glob over paths relative to a folder: ``*`` within a name, ``**`` over folders."""

    def __init__(self, glob: str) -> None:
        self._whole = re.compile(glob_translate(glob), re.DOTALL)
        self._parts = glob.split("/")
        self._names = [re.compile(glob_translate(part), re.DOTALL) for part in self._parts]

    def matches(self, path: str) -> bool:
        """Say whether a file is meant."""
        return self._whole.match(path) is not None

    def leads_to(self, folder: str) -> bool:
        """Say whether a folder may hold files that are meant."""
        for number, name in enumerate(folder.split("/")):
            if "**" in self._parts[number]:
                return True
            if number == len(self._parts) - 1 or not self._names[number].match(name):
                return False
        return True


@dataclass(frozen=True)
class Folder:
    """A folder, and which of its files an input's own glob means."""

    uri: str
    pattern: Pattern | None = None


@dataclass(frozen=True)
class Files:
    """Files that the user named, so that nothing about their names matters."""

    uris: tuple[str, ...]


@dataclass(frozen=True)
class ListFile:
    """A file that names images."""

    uri: str


Source = Folder | Files | ListFile


def source_of(text: str) -> Source:
    """Tell what an input is.

    Raises:
        ListingError: if it is nothing that can be listed.
    """
    found = credentials_in(text)
    if found:
        raise ListingError(
            f"input {redact(text)!r} carries {found}, which would be written down with every row; "
            "name the file without it, and let the environment log in"
        )
    try:
        uri = storage.absolute_uri(text)
        return _http_source(uri) if storage.protocol_of(uri) == "http" else _stored_source(uri)
    except (StorageError, ValueError) as error:
        raise ListingError(f"input {redact(text)!r}: {error}") from error


def _http_source(uri: str) -> Source:
    """Tell by the address alone; a query is not a glob."""
    if uri.endswith("/"):
        return _checked_folder(uri.rstrip("/"))
    if "*" in uri:
        return _glob_source(uri)
    return _file_source(uri)


def _stored_source(uri: str) -> Source:
    if _is_folder(uri):
        return Folder(uri)
    try:
        storage.stat(uri)
        return _file_source(uri)
    except StorageError as error:
        if error.kind is not FailureKind.NOT_FOUND:
            raise
        if _MAGIC.search(path_in(uri)):
            return _glob_source(uri)
        what = "no such file or folder"
        raise ListingError(
            f"input {redact(uri)!r}: {what}; check the spelling"
            + (", the bucket and who may list it" if uri.startswith(("gs://", "s3://")) else "")
        ) from error


def _is_folder(uri: str) -> bool:
    """Say whether there is a folder; in a bucket, whether anything begins with its name."""
    protocol = storage.protocol_of(uri)
    if protocol == "file":
        return os.path.isdir(storage.local_path(uri))
    if protocol in ("zip", "tar"):
        return _archive_has_folder(uri)
    if protocol in ("gs", "s3"):
        return _bucket_has_folder(uri)
    filesystem, path = storage.resolve(uri)
    return bool(filesystem.isdir(path))


def _bucket_has_folder(uri: str) -> bool:
    bucket, key = storage.bucket_and_key(uri)
    try:
        first = next(folders.scan(uri), None)
    except FileNotFoundError as error:
        raise ListingError(
            f"input {uri!r}: there is no bucket {bucket!r}; check the spelling and who may list it"
        ) from error
    except Exception as error:
        raise storage.failure(uri, error, "list") from error
    return first is not None or not key


def _archive_has_folder(uri: str) -> bool:
    archive = split_archive(uri)
    assert archive is not None
    members = storage.open_archive(archive.protocol, archive.archive).members()
    prefix = archive.member + "/"
    return not archive.member or any(member.name.startswith(prefix) for member in members)


def _checked_folder(uri: str) -> Folder:
    try:
        next(iter(folders.scan(uri)), None)
    except Exception as error:
        raise storage.failure(uri, error, "list") from error
    return Folder(uri)


def _file_source(uri: str) -> Source:
    path = path_in(uri)
    is_list = path.lower().endswith(LIST_EXTENSIONS) and not split_archive(uri)
    return ListFile(uri) if is_list else Files((uri,))


def path_in(uri: str) -> str:
    """Return the part of a uri in which a glob may stand."""
    archive = split_archive(uri)
    if archive:
        return archive.member
    if storage.protocol_of(uri) == "http":
        return re.split(r"[?#]", uri, maxsplit=1)[0]
    return uri.partition("://")[2]


def _glob_source(uri: str) -> Folder:
    """Split ``gs://b/a*/x.jpg`` into the folder ``gs://b`` and the pattern ``a*/x.jpg``."""
    archive = split_archive(uri)
    if archive:
        return Folder(join_archive(archive.protocol, "", archive.archive), Pattern(archive.member))
    root, parts = uri.partition("://")[0] + "://", uri.partition("://")[2].split("/")
    taken = 0
    while taken < len(parts) - 1 and _is_literal(root, parts[: taken + 1]):
        taken += 1
    if taken == 0:
        raise ListingError(f"input {redact(uri)!r}: a glob cannot stand for buckets or servers")
    folder = root + "/".join(parts[:taken])
    return Folder(_checked_root(folder), Pattern("/".join(parts[taken:])))


def _is_literal(root: str, parts: Sequence[str]) -> bool:
    """Say whether the last part is a name; on a disk, one that exists is, whatever is in it."""
    if not _MAGIC.search(parts[-1]):
        return True
    return root == "file://" and os.path.lexists("/".join(parts))


def _checked_root(folder: str) -> str:
    if storage.protocol_of(folder) != "http" and not _is_folder(folder or "/"):
        raise ListingError(f"input {redact(folder)!r}: no such folder; check the spelling")
    return folder
