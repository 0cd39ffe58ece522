"""The file system that holds a uri, archives that are open, and a look at one file.

They are one module because they need each other: a file in an archive is found through the open
archive, which is opened and checked through the file that it is, itself perhaps in an archive.
"""

import os
import threading
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from pipelines.storage import archives
from pipelines.storage.failures import StorageError, with_retries
from pipelines.storage.uris import local_path, protocol_of
from pipelines.storage.versions import (
    StoredFile,
    archive_member_version,
    http_version,
    local_version,
    version_from_info,
)
from schemas.kinds import FailureKind
from schemas.uris import redact, split_archive

CONNECT_SECONDS = 15
READ_SECONDS = 60
CONNECTIONS = 64
OPEN_ARCHIVES = 8

IDENTITY = {"Accept-Encoding": "identity"}
"""Headers that ask an http server for a file as it is, so that its size is that of its bytes."""

_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}

_archives: dict[tuple[int, str, str], archives.Archive] = {}
_archives_lock = threading.RLock()


def resolve(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system that holds a uri and the path there.

    Paths are safe to give to the file system's methods for single files (``info``, ``open``,
    ``cat_file``, ``pipe_file``, ``rm_file``); those for many (``cat``, ``rm``, ``glob``) read
    patterns into names.

    Raises:
        StorageError: if the protocol is unknown or its package is not installed, or an archive
            cannot be opened.
    """
    member = member_of(uri)
    if member:
        return open_archive(member.protocol, member.archive).filesystem, member.member
    filesystem, protocol = filesystem_of(uri), protocol_of(uri)
    if protocol == "http":
        return filesystem, uri
    if protocol in ("file", "memory", "gs", "s3"):
        return filesystem, uri.partition("://")[2]
    return filesystem, filesystem._strip_protocol(uri)


def filesystem_of(uri: str) -> AbstractFileSystem:
    """Return fsspec's file system for a uri that is not in an archive.

    Raises:
        StorageError: if the protocol is unknown or its package is not installed.
    """
    protocol = uri.partition("://")[0]
    try:
        return fsspec.filesystem(protocol, **_options(protocol))
    except ImportError as error:
        package = _PACKAGES.get(protocol, str(error))
        message = f"{redact(uri)!r} needs a package for {protocol}://: pip install {package}"
        raise StorageError(FailureKind.UNSUPPORTED, message) from error
    except ValueError as error:
        message = f"{redact(uri)!r}: {protocol}:// is unknown; use file, gs, s3, http, zip or tar"
        raise StorageError(FailureKind.UNSUPPORTED, message) from error


def _options(protocol: str) -> dict[str, Any]:
    if protocol == "gs":
        return {"use_listings_cache": False, "requests_timeout": READ_SECONDS}
    if protocol == "s3":
        config = {
            "max_pool_connections": CONNECTIONS,
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
        }
        return {"use_listings_cache": False, "config_kwargs": config}
    if protocol in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        return {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    return {}


def member_of(uri: str) -> Any:
    """Take the uri of a file in an archive apart, as `schemas.uris.split_archive` does.

    Raises:
        StorageError: if the uri does not say which archive.
    """
    try:
        return split_archive(uri)
    except ValueError as error:
        raise StorageError(FailureKind.UNSUPPORTED, str(error)) from error


def open_archive(protocol: str, uri: str, version: str | None = None) -> archives.Archive:
    """Return the open archive, opened anew if it is not of that version any more.

    Args:
        protocol: ``zip`` or ``tar``.
        uri: of the file that is the archive.
        version: the archive's that is wanted; None takes what is open. On a local disk the file
            is looked at every time.

    Raises:
        StorageError: if it cannot be opened.
    """
    key = (os.getpid(), protocol, uri)
    with _archives_lock:
        archive = _archives.get(key)
        if archive is None or _is_stale(archive, uri, version):
            archive = _open_archive(protocol, uri)
            _archives.pop(key, None)
            while len(_archives) >= OPEN_ARCHIVES:
                _archives.pop(next(iter(_archives)))  # closed when its last reader is done
            _archives[key] = archive
        return archive


def _is_stale(archive: archives.Archive, uri: str, version: str | None) -> bool:
    if uri.startswith("file://"):
        version = stat(uri).version
    return version is not None and version != archive.version


def _open_archive(protocol: str, uri: str) -> archives.Archive:
    def once() -> archives.Archive:
        filesystem, path = resolve(uri)
        return archives.Archive(protocol, filesystem.open(path, "rb"), stat(uri).version)

    return with_retries(once, uri, "read")


def stat(uri: str) -> StoredFile:
    """Look at one file; for many, list their folder.

    Raises:
        StorageError: if there is no such file, or it cannot be looked at.
    """
    return with_retries(lambda: stat_once(uri), uri, "read")


def stat_once(uri: str) -> StoredFile:
    """Look at one file in a single try; raises what the store's client raises."""
    protocol = protocol_of(uri)
    if protocol == "file":
        found = os.stat(local_path(uri))
        if not os.path.isfile(local_path(uri)):
            raise FileNotFoundError(f"{uri} is not a file")
        return StoredFile(uri, found.st_size, local_version(found))
    if protocol == "http":
        filesystem = filesystem_of(uri)
        return sync(filesystem.loop, _http_stat, filesystem, uri)
    member = member_of(uri)
    if member:
        archive = open_archive(member.protocol, member.archive)
        found_member = archive.member(member.member)
        version = archive_member_version(protocol, archive.version, found_member.checksum)
        return StoredFile(uri, found_member.num_bytes, version)
    filesystem, path = resolve(uri)
    info = filesystem.info(path)
    if info["type"] != "file":
        raise FileNotFoundError(f"{uri} is not a file")
    return StoredFile(uri, info["size"], version_from_info(protocol, info))


async def _http_stat(filesystem: Any, uri: str) -> StoredFile:
    """Ask for the headers, with GET where the server does not answer HEAD."""
    session = await filesystem.set_session()
    for method in ("HEAD", "GET"):
        address = filesystem.encode_url(uri)
        call = session.request(method, address, headers=IDENTITY, allow_redirects=True)
        async with call as response:
            if method == "HEAD" and response.status in (400, 403, 405, 501):
                continue
            filesystem._raise_not_found_for_status(response, uri)
            length = response.headers.get("Content-Length")
            size = int(length) if length and length.isdigit() else None
            return StoredFile(uri, size, http_version(response.headers))
    raise AssertionError("GET either returns or raises")


def exists(uri: str) -> bool:
    """Say whether there is a file or folder.

    Raises:
        StorageError: if the store does not say.
    """
    filesystem, path = resolve(uri)
    try:
        with_retries(lambda: filesystem.info(path), uri, "read")
    except StorageError as error:
        if error.kind is FailureKind.NOT_FOUND:
            return False
        raise
    return True
