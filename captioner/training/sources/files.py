"""Files of a data set on any store, over fsspec; no name in the data leads out of its folder."""

import os
import re
import threading
import time
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from captioner.training.sources.examples import DataError
from schemas.uris import ARCHIVE_PROTOCOLS, credentials_in, join_archive, redact, split_archive

MAX_TEXT_BYTES = 1 << 30
"""Largest file of captions; those of COCO are a tenth of it."""

_WHOLE_PATHS = ("file", "memory", "gs", "s3")
_VERSION_FIELDS = ("ETag", "etag", "generation", "CRC", "mtime", "created")
_PAUSE_SECONDS = 1.0
_archive_lock = threading.RLock()


def absolute_uri(data: str) -> str:
    """Return the uri of what a user typed: a path, a zip or tar archive, or a uri.

    Raises:
        DataError: if it carries a password or the like.
    """
    secret = credentials_in(data)
    if secret:
        raise DataError(
            f"{redact(data)} carries {secret}, which would end up in logs; give credentials in "
            "the way of the store's own tools"
        )
    protocol, found, rest = data.partition("://")
    if not found:
        uri = "file://" + os.path.abspath(os.path.expanduser(data))
    elif protocol == "file":
        uri = "file://" + os.path.abspath(rest)
    elif protocol == "memory":
        uri = "memory:///" + rest.strip("/")
    else:
        uri = f"{protocol}://{rest.rstrip('/')}"
    archive = uri.lower().rpartition(".")[2]
    is_archive = archive in ARCHIVE_PROTOCOLS and protocol not in ARCHIVE_PROTOCOLS
    return join_archive(archive, "", uri) if is_archive else uri


def join(folder: str, name: str) -> str:
    """Return the uri of something in a folder, which may lie in an archive."""
    member = split_archive(folder)
    if member:
        path = f"{member.member.strip('/')}/{name}".lstrip("/")
        return join_archive(member.protocol, path, member.archive)
    return f"{folder}{name}" if folder.endswith("/") else f"{folder}/{name}"


def parent(uri: str) -> str:
    """Return the folder that holds a file or folder; the topmost holds itself."""
    member = split_archive(uri)
    if member:
        path = member.member.strip("/").rpartition("/")[0]
        return join_archive(member.protocol, path, member.archive)
    protocol, _, rest = uri.partition("://")
    folder, found, _ = rest.rstrip("/").rpartition("/")
    return f"{protocol}://{folder or ('/' if found else rest)}"


def inside(folder: str, name: str, where: str) -> str:
    """Return the uri of a file that the data names; it must lie in the folder.

    Args:
        folder: uri of the folder that the name starts from.
        name: relative path, with slashes.
        where: what names it, for the message.

    Raises:
        DataError: if the name is empty, absolute, a uri, or leads upwards.
    """
    parts = [part for part in re.split(r"[/\\]", name) if part != "."]
    absolute = not parts or not parts[0] or re.match(r"[A-Za-z]:[/\\]", name)
    if absolute or "://" in name or ".." in parts or "\0" in name or not parts[-1]:
        raise DataError(
            f"{where} names the image {redact(name)!r}; use a path of a file below "
            f"{redact(folder)}, such as 'images/1.jpg'"
        )
    return join(folder, "/".join(part for part in name.split("/") if part not in ("", ".")))


def resolve(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system that holds a uri, and the path there.

    Not by fsspec's own reading of uris: that takes ``::`` in any name for a chain of stores.

    Raises:
        DataError: if the protocol is unknown, or its package is not installed.
    """
    protocol = uri.partition("://")[0]
    try:
        member = split_archive(uri)
        if member:
            return _archive(member.protocol, member.archive), member.member
        filesystem = fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise DataError(f"cannot read {redact(uri)}: {redact(str(error))}") from error
    if protocol in _WHOLE_PATHS:
        return filesystem, uri.partition("://")[2]
    return filesystem, filesystem._strip_protocol(uri)


@lru_cache(maxsize=8)
def _archive(protocol: str, uri: str) -> AbstractFileSystem:
    """Open an archive and keep it open: its table of contents is long to read."""
    filesystem, path = resolve(uri)
    return fsspec.filesystem(protocol, fo=filesystem.open(path, "rb"))


def read(uri: str, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a file.

    Raises:
        DataError: if it cannot be read, or is larger than ``max_bytes``.
    """
    data = start(uri, max_bytes + 1)
    if len(data) > max_bytes:
        raise DataError(f"{redact(uri)} is larger than {max_bytes:,} bytes, the most that is read")
    return data


def read_patiently(uri: str, max_bytes: int, tries: int = 3) -> bytes:
    """Read a file, again after a pause if that fails.

    A training of days should not end because a store once did not answer.

    Args:
        uri: of the file.
        max_bytes: most that it may have.
        tries: how often it is read before it counts as lost.

    Raises:
        DataError: as ``read``.
    """
    for number in range(1, tries):
        try:
            return read(uri, max_bytes)
        except DataError:
            time.sleep(_PAUSE_SECONDS * number)
    return read(uri, max_bytes)


def start(uri: str, num_bytes: int) -> bytes:
    """Read the first bytes of a file, or all where it has fewer.

    Raises:
        DataError: if it cannot be read.
    """
    filesystem, path = resolve(uri)
    in_archive = uri.partition("://")[0] in ARCHIVE_PROTOCOLS
    try:
        # All threads share the one position in an archive's file.
        with _archive_lock if in_archive else nullcontext():
            data: bytes = filesystem.cat_file(path, start=0, end=num_bytes)
    except Exception as error:  # the clients of stores raise nearly anything
        raise DataError(f"cannot read {redact(uri)}: {_text(error)}") from error
    return data


def read_text(uri: str) -> str:
    """Read a text file, in UTF-8 with or without a mark.

    Raises:
        DataError: if it cannot be read, is too large or is not UTF-8.
    """
    try:
        return read(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{redact(uri)} is not text in UTF-8 ({error}); convert it") from error


def info(uri: str) -> dict[str, Any]:
    """Look at a file or folder: ``type`` is ``file`` or ``directory``.

    Raises:
        DataError: if there is none, or it cannot be looked at.
    """
    filesystem, path = resolve(uri)
    try:
        found: dict[str, Any] = filesystem.info(path)
    except FileNotFoundError as error:
        raise DataError(f"there is no file or folder {redact(uri)}; check the spelling") from error
    except Exception as error:
        raise DataError(f"cannot look at {redact(uri)}: {_text(error)}") from error
    return found


def version(uri: str) -> str:
    """Return what changes when a file does: its size, and the store's version or its time.

    Raises:
        DataError: if there is no such file.
    """
    found = info(uri)
    known = next((key for key in _VERSION_FIELDS if found.get(key) is not None), "size")
    return f"{known}:{found.get(known)}-{found.get('size')}"


def exists(uri: str) -> bool:
    """Say whether there is a file or folder, as far as the store tells."""
    filesystem, path = resolve(uri)
    return bool(filesystem.exists(path))


def names(folder: str) -> dict[str, str]:
    """Return the names of what is right in a folder, sorted, with their types as in `info`.

    Raises:
        DataError: if it cannot be listed.
    """
    filesystem, path = resolve(folder)
    try:
        entries = filesystem.ls(path, detail=True)
    except Exception as error:
        raise DataError(f"cannot list {redact(folder)}: {_text(error)}") from error
    found = {entry["name"].rstrip("/").rpartition("/")[2]: entry["type"] for entry in entries}
    return dict(sorted(found.items()))


def images_folder(
    given: str | None, candidates: tuple[str, ...], image_names: list[str], where: str
) -> str:
    """Return the folder in which images lie, found by looking for the first of them.

    Args:
        given: the folder that the user named, if any; then no other is tried.
        candidates: folders to try.
        image_names: of images that should be there.
        where: what names them, for the message.

    Raises:
        DataError: if none of the folders holds any of the first images.
    """
    tried = (absolute_uri(given),) if given is not None else tuple(dict.fromkeys(candidates))
    first = image_names[:5]
    for folder in tried:
        if any(exists(inside(folder, name, where)) for name in first):
            return folder
    folders = ", ".join(redact(folder) for folder in tried)
    raise DataError(
        f"the images of {where} were not found: looked for {first[0] if first else 'none'!r} in "
        f"{folders}; name their folder with `images`"
    )


def _text(error: Exception) -> str:
    return redact(str(error).strip()) or type(error).__name__
