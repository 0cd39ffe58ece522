"""Files wherever they are: every access to anything outside goes through here, over fsspec.

A uri is absolute, with its protocol, and not escaped (see `schemas.uris`). Object stores are
spoken to without fsspec's cache of listings, so what is read or listed is what is there.
"""

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from pipelines import archives
from schemas.kinds import FailureKind
from schemas.uris import join_archive, redact, split_archive

Result = TypeVar("Result")

TRIES = 3
FIRST_PAUSE_SECONDS = 0.5
CONNECT_SECONDS = 15
READ_SECONDS = 60
CONNECTIONS = 64
OPEN_ARCHIVES = 8

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_ALIASES = {"gcs": "gs", "s3a": "s3", "local": "file"}
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}
_NOT_RETRIED = (FailureKind.NOT_FOUND, FailureKind.PERMISSION, FailureKind.UNSUPPORTED)

_REMEDIES = {
    (FailureKind.PERMISSION, "file"): "check who may read and write it with `ls -ld`",
    (FailureKind.PERMISSION, "gs"): (
        "run `gcloud auth application-default login`, or give the service account the role "
        "Storage Object User on the bucket"
    ),
    (FailureKind.PERMISSION, "s3"): (
        "check `aws sts get-caller-identity` and the bucket's policy; for a public bucket set "
        "FSSPEC_S3_ANON=true"
    ),
    (FailureKind.PERMISSION, "http"): "the server wants a login, which is not supported",
    (FailureKind.NOT_FOUND, ""): "check the spelling",
    (FailureKind.TIMEOUT, ""): "run again; only what failed is done anew",
    (FailureKind.STORAGE_ERROR, ""): "run again; only what failed is done anew",
}


class StorageError(Exception):
    """A file that cannot be reached: which kind of failure, and what to do."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class StoredFile:
    """A file: its uri, size, and version as in the ``uri_version`` column."""

    uri: str
    num_bytes: int | None
    version: str


# --- uris ---------------------------------------------------------------------------------------


def absolute_uri(user_input: str) -> str:
    """Return the uri of what a user typed: a path, an archive, or a uri.

    A relative path is taken from the working folder; an archive stands for the folder in it, so
    ``a.zip`` becomes ``zip://::file:///.../a.zip``. Slashes at the end go, save in http.
    """
    found = _URI.fullmatch(user_input)
    if not found:
        return _as_archive("file://" + os.path.abspath(os.path.expanduser(user_input)))
    protocol = found[1].lower()
    protocol = _ALIASES.get(protocol, protocol)
    uri = f"{protocol}://{found[2]}"
    member = split_archive(uri)
    if member:
        inner = absolute_uri(member.archive)
        whole = split_archive(inner)
        if whole and not whole.member:
            inner = whole.archive
        return join_archive(protocol, member.member.strip("/"), inner)
    return _as_archive(_plain_uri(protocol, found[2]))


def _plain_uri(protocol: str, rest: str) -> str:
    if protocol in ("http", "https"):
        return f"{protocol}://{rest}"
    if protocol == "file":
        return "file://" + os.path.abspath(rest)
    if protocol == "memory":
        return "memory:///" + rest.strip("/")
    return f"{protocol}://" + rest.rstrip("/")


def _as_archive(uri: str) -> str:
    protocol = archives.protocol_of(uri)
    if protocol is None or (uri.startswith("file://") and os.path.isdir(local_path(uri))):
        return uri
    return join_archive(protocol, "", uri)


def protocol_of(uri: str) -> str:
    """Return the protocol of a uri; ``http`` for https too, and ``file`` for a bare path."""
    protocol = uri.partition("://")[0] if "://" in uri else "file"
    return "http" if protocol == "https" else protocol


def local_path(uri: str) -> str:
    """Return the path of a ``file://`` uri."""
    return uri.removeprefix("file://")


def bucket_and_key(uri: str) -> tuple[str, str]:
    """Return the bucket and key of a ``gs://`` or ``s3://`` uri."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def join(folder: str, *names: str) -> str:
    """Return the uri of something in a folder: ``join("gs://b/out", "runs", "a.json")``."""
    return "/".join([folder.rstrip("/") if not folder.endswith("://") else folder, *names])


# --- file systems -------------------------------------------------------------------------------


def resolve(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system that holds a uri and the path there.

    Paths are safe to give to the file system's methods for single files (``info``, ``open``,
    ``cat_file``, ``pipe_file``, ``rm_file``); those for many (``cat``, ``rm``, ``glob``) read
    patterns into names.

    Raises:
        StorageError: if the protocol is unknown or its package is not installed, or an archive
            cannot be opened.
    """
    member = _split(uri)
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


def _split(uri: str) -> Any:
    try:
        return split_archive(uri)
    except ValueError as error:
        raise StorageError(FailureKind.UNSUPPORTED, str(error)) from error


_archives: dict[tuple[int, str, str], archives.Archive] = {}
_archives_lock = threading.RLock()


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

    return _with_retries(once, uri, "read")


# --- reading ------------------------------------------------------------------------------------


def stat(uri: str) -> StoredFile:
    """Look at one file; for many, list their folder.

    Raises:
        StorageError: if there is no such file, or it cannot be looked at.
    """
    return _with_retries(lambda: _stat(uri), uri, "read")


def _stat(uri: str) -> StoredFile:
    protocol = protocol_of(uri)
    if protocol == "file":
        found = os.stat(local_path(uri))
        if not os.path.isfile(local_path(uri)):
            raise FileNotFoundError(f"{uri} is not a file")
        return StoredFile(uri, found.st_size, local_version(found))
    if protocol == "http":
        filesystem = filesystem_of(uri)
        return sync(filesystem.loop, _http_stat, filesystem, uri)
    member = _split(uri)
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


def local_version(found: os.stat_result) -> str:
    """Return the version of a local file; fsspec's ``mtime`` is a float and loses nanoseconds."""
    return f"mtime:{found.st_mtime_ns}-{found.st_size}"


def version_from_info(protocol: str, info: dict[str, Any]) -> str:
    """Return the version that a store's listing gives for a file; empty if it gives none."""
    if protocol == "gs" and info.get("generation"):
        return f"generation:{info['generation']}"
    etag = info.get("ETag") or info.get("etag")
    if protocol in ("gs", "s3") and etag:
        return "etag:" + etag.strip('"')
    if info.get("created") is not None:
        created = info["created"]
        seconds = created if isinstance(created, int | float) else created.timestamp()
        return f"created:{int(seconds * 1_000_000)}"
    return ""


def read_bytes(
    uri: str,
    max_bytes: int | None = None,
    expected_bytes: int | None = None,
    expected_version: str | None = None,
) -> bytes:
    """Read a file, with three tries where trying again can help.

    Args:
        uri: what to read.
        max_bytes: a larger file is refused; at most one byte more is ever read of it.
        expected_bytes: the size that the listing gave.
        expected_version: the version that the listing gave.

    Raises:
        StorageError: not_found, permission, timeout, too_large, changed (the file is not the one
            that was listed), unsupported or storage_error.
    """
    if max_bytes is not None and expected_bytes is not None and expected_bytes > max_bytes:
        raise _too_large(uri, expected_bytes, max_bytes)
    limit = min((n for n in (max_bytes, expected_bytes) if n is not None), default=None)
    data = _with_retries(lambda: _read(uri, limit, expected_version or ""), uri, "read")
    if expected_bytes is not None and len(data) != expected_bytes:
        raise _changed(uri, f"it had {expected_bytes:,} bytes and has {_more_or(data, limit)}")
    if max_bytes is not None and len(data) > max_bytes:
        raise _too_large(uri, None, max_bytes)
    return data


def read_fresh(uri: str) -> bytes:
    """Read a file as it is now, whatever its size; nothing between here and the store caches."""
    return read_bytes(uri)


def _more_or(data: bytes, limit: int | None) -> str:
    return "more" if limit is not None and len(data) > limit else f"{len(data):,}"


def _read(uri: str, limit: int | None, version: str) -> bytes:
    """Read a file, at most ``limit`` + 1 bytes, if it still is of this version."""
    size = -1 if limit is None else limit + 1
    readers: dict[str, Callable[[str, int, str], bytes]] = {
        "file": _read_local,
        "gs": _read_gcs,
        "s3": _read_s3,
        "http": _read_http,
        "zip": _read_archive,
        "tar": _read_archive,
    }
    return readers.get(protocol_of(uri), _read_other)(uri, size, version)


def _read_local(uri: str, size: int, version: str) -> bytes:
    with open(local_path(uri), "rb") as file:
        now = local_version(os.fstat(file.fileno()))
        if version.startswith("mtime:") and now != version:
            raise _changed(uri, "its time of change or size differs")
        return file.read(size)


def _read_gcs(uri: str, size: int, version: str) -> bytes:
    """Read an object of Google Cloud Storage, pinned to its generation.

    A generation never changes, so its size is that of the listing and needs no range.
    """
    filesystem, path = resolve(uri)
    kind, _, generation = version.partition(":")
    if kind != "generation" and size < 0:
        return filesystem.cat_file(path)
    if kind != "generation":
        now = _stat(uri)
        if now.num_bytes is not None and now.num_bytes >= size:
            return filesystem.cat_file(path, start=0, end=size)
        generation = now.version.removeprefix("generation:")
    try:
        return filesystem.cat_file(path, generation=generation)
    except FileNotFoundError:
        _stat(uri)  # raises if it is gone altogether
        raise _changed(uri, f"generation {generation} was replaced") from None


def _read_s3(uri: str, size: int, version: str) -> bytes:
    filesystem = filesystem_of(uri)
    return sync(filesystem.loop, _read_s3_object, filesystem, uri, size, version)


async def _read_s3_object(filesystem: Any, uri: str, size: int, version: str) -> bytes:
    bucket, key = bucket_and_key(uri)
    kind, _, etag = version.partition(":")
    condition = {"IfMatch": f'"{etag}"'} if kind == "etag" else {}
    try:
        response = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, **condition)
    except OSError as error:
        if condition and _s3_code(error) in ("PreconditionFailed", "412"):
            raise _changed(uri, f"ETag {etag} was replaced") from None
        raise
    with contextlib.closing(response["Body"]) as body:
        if size < 0:
            return await body.read()
        return await _read_up_to(body.read, size)


def _s3_code(error: BaseException) -> str:
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


async def _read_up_to(read: Callable[[int], Any], size: int) -> bytes:
    """Read ``size`` bytes of a stream whose reads may return less than was asked for."""
    blocks, missing = [], size
    while missing and (block := await read(missing)):
        blocks.append(block)
        missing -= len(block)
    return b"".join(blocks)


_IDENTITY = {"Accept-Encoding": "identity"}


def _read_http(uri: str, size: int, version: str) -> bytes:
    filesystem = filesystem_of(uri)
    return sync(filesystem.loop, _read_http_file, filesystem, uri, size, version)


async def _read_http_file(filesystem: Any, uri: str, size: int, version: str) -> bytes:
    session = await filesystem.set_session()
    async with session.get(filesystem.encode_url(uri), headers=_IDENTITY) as response:
        filesystem._raise_not_found_for_status(response, uri)
        now = _http_version(response.headers)
        if version and now and version != now:
            raise _changed(uri, f"it was {version} and is {now}")
        if size < 0:
            return await response.read()
        return await _read_up_to(response.content.read, size)


async def _http_stat(filesystem: Any, uri: str) -> StoredFile:
    """Ask for the headers, with GET where the server does not answer HEAD."""
    session = await filesystem.set_session()
    for method in ("HEAD", "GET"):
        address = filesystem.encode_url(uri)
        call = session.request(method, address, headers=_IDENTITY, allow_redirects=True)
        async with call as response:
            if method == "HEAD" and response.status in (400, 403, 405, 501):
                continue
            filesystem._raise_not_found_for_status(response, uri)
            length = response.headers.get("Content-Length")
            size = int(length) if length and length.isdigit() else None
            return StoredFile(uri, size, _http_version(response.headers))
    raise AssertionError("GET either returns or raises")


def _http_version(headers: Any) -> str:
    etag = headers.get("ETag", "").removeprefix("W/").strip('"')
    if etag:
        return f"etag:{etag}"
    if headers.get("Last-Modified"):
        return f"modified:{headers['Last-Modified']}"
    length = headers.get("Content-Length")
    return f"size:{length}" if length else ""


def _read_archive(uri: str, size: int, version: str) -> bytes:
    member = _split(uri)
    wanted = archive_version_in(version)
    archive = open_archive(member.protocol, member.archive, wanted)
    if wanted and archive.version != wanted:
        raise _changed(uri, "the archive was replaced")
    return archive.read(member.member, size)


def archive_member_version(protocol: str, archive_version: str, checksum: str) -> str:
    """Return the ``uri_version`` of a member of an archive."""
    return f"{protocol}:{archive_version}/{checksum}"


def archive_version_in(version: str) -> str | None:
    """Return the archive's version in that of a member."""
    kind, _, rest = version.partition(":")
    return rest.rpartition("/")[0] if kind in ("zip", "tar") else None


def _read_other(uri: str, size: int, version: str) -> bytes:
    filesystem, path = resolve(uri)
    with filesystem.open(path, "rb") as file:
        if version and version != version_from_info(protocol_of(uri), filesystem.info(path)):
            raise _changed(uri, "it was replaced")
        file.seek(0)
        return file.read(size)


def exists(uri: str) -> bool:
    """Say whether there is a file or folder.

    Raises:
        StorageError: if the store does not say.
    """
    filesystem, path = resolve(uri)
    try:
        _with_retries(lambda: filesystem.info(path), uri, "read")
    except StorageError as error:
        if error.kind is FailureKind.NOT_FOUND:
            return False
        raise
    return True


def list_files(uri: str) -> list[StoredFile]:
    """List the files right in a folder as they are now; none if there is no such folder.

    Hidden files are left out: names that begin with a dot are those of files being written.
    """
    from pipelines import folders

    try:
        entries = _with_retries(lambda: [*folders.scan(uri)], uri, "list")
    except StorageError as error:
        if error.kind is FailureKind.NOT_FOUND:
            return []
        raise
    files = [entry.file for entry in entries if entry.file is not None]
    return [file for file in files if not file.uri.rpartition("/")[2].startswith(".")]


# --- writing ------------------------------------------------------------------------------------

_memory_lock = threading.Lock()


def write_bytes_atomically(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    On a disk a hidden file is written through to the disk and renamed; folders are made. An
    object store shows an object once it is whole.

    Raises:
        StorageError: if it cannot be written.
    """
    if protocol_of(uri) == "file":
        _with_retries(lambda: _replace_local(local_path(uri), data), uri, "write")
        return
    filesystem, path = _writable(uri)
    _with_retries(lambda: filesystem.pipe_file(path, data), uri, "write")


def create_exclusively(uri: str, data: bytes) -> bool:
    """Write a file unless it exists; False if it does. Of several callers one gets True.

    Raises:
        StorageError: if it cannot be written.
    """
    tries = 0

    def once() -> bool:
        nonlocal tries
        tries += 1
        try:
            _create(uri, data)
        except FileExistsError:
            # The answer to an earlier try may have been lost on its way.
            return tries > 1 and read_fresh(uri) == data
        return True

    return _with_retries(once, uri, "write")


def _create(uri: str, data: bytes) -> None:
    if protocol_of(uri) == "file":
        _create_local(local_path(uri), data)
        return
    filesystem, path = _writable(uri)
    if protocol_of(uri) == "memory":
        with _memory_lock:
            filesystem.pipe_file(path, data, mode="create")
        return
    try:
        filesystem.pipe_file(path, data, mode="create")
    except OSError as error:
        if _s3_code(error) in ("PreconditionFailed", "412"):
            raise FileExistsError(uri) from error
        raise


def remove(uri: str) -> None:
    """Remove a file; no error if there is none.

    Raises:
        StorageError: if it cannot be removed.
    """
    filesystem, path = _writable(uri)
    try:
        _with_retries(lambda: filesystem.rm_file(path), uri, "remove")
    except StorageError as error:
        if error.kind is not FailureKind.NOT_FOUND:
            raise


def move(source: str, target: str) -> None:
    """Move a file within a store, replacing the target; by copy and removal in object stores.

    Raises:
        StorageError: if it cannot be moved.
    """
    if protocol_of(source) == "file":
        _with_retries(lambda: _rename_local(local_path(source), local_path(target)), source, "move")
        return
    filesystem, path = _writable(source)
    _, target_path = _writable(target)
    _with_retries(lambda: filesystem.cp_file(path, target_path), source, "move")
    remove(source)


def make_folder(uri: str) -> None:
    """Make a folder and its parents where the store has folders.

    Raises:
        StorageError: if it cannot be made.
    """
    if protocol_of(uri) == "file":
        _with_retries(lambda: os.makedirs(local_path(uri), exist_ok=True), uri, "write")
    else:
        _writable(uri)


def _writable(uri: str) -> tuple[AbstractFileSystem, str]:
    protocol = protocol_of(uri)
    if protocol in ("zip", "tar", "http"):
        message = f"{redact(uri)!r}: nothing can be written there; use a folder on file, gs or s3"
        raise StorageError(FailureKind.UNSUPPORTED, message)
    return resolve(uri)


def _replace_local(path: str, data: bytes) -> None:
    temporary = _write_temporary(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _create_local(path: str, data: bytes) -> None:
    """Create a file by a hard link to one that is whole, so that nobody reads a part of it."""
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with open(path, "xb") as file:
            file.write(data)
    finally:
        os.unlink(temporary)


def _write_temporary(path: str, data: bytes) -> str:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, archives.temporary_name())
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def _rename_local(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.replace(source, target)


# --- failures -----------------------------------------------------------------------------------


def _with_retries(action: Callable[[], Result], uri: str, verb: str) -> Result:
    """Run an action, again after a pause if it failed in a way that may pass.

    Raises:
        StorageError: of the last try.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except StorageError:
            raise
        except Exception as error:
            if attempt == TRIES or not _may_pass(error):
                raise failure(uri, error, verb) from error
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
    raise AssertionError("the last try returns or raises")


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status in (408, 429)
    if _kind(error) in _NOT_RETRIED or isinstance(error, IsADirectoryError | FileExistsError):
        return False
    return status is not None or isinstance(error, OSError) or _is_timeout(error) or _is_net(error)


def failure(uri: str, error: Exception, verb: str = "read") -> StorageError:
    """Return the failure that an exception of a store means.

    Args:
        uri: what was wanted; secrets in it and in the exception's text are not repeated.
        error: what was raised.
        verb: what was tried: read, write, list, remove, move.
    """
    if isinstance(error, StorageError):
        return error
    kind = _kind(error)
    protocol = protocol_of(uri)
    remedy = _REMEDIES.get((kind, protocol), _REMEDIES.get((kind, ""), ""))
    detail = redact(str(error).strip()) or type(error).__name__
    message = f"cannot {verb} {redact(uri)!r}: {detail}"
    return StorageError(kind, f"{message}; {remedy}" if remedy else message)


def _kind(error: Exception) -> FailureKind:
    status = _status(error)
    missing = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
    if missing or status in (404, 410):
        return FailureKind.NOT_FOUND
    if status in (401, 403, 407) or _is_permission(error):
        return FailureKind.PERMISSION
    if status in (408, 504) or _is_timeout(error):
        return FailureKind.TIMEOUT
    if isinstance(error, NotImplementedError):
        return FailureKind.UNSUPPORTED
    return FailureKind.STORAGE_ERROR


def _status(error: Exception) -> int | None:
    """Return the HTTP status in an exception of aiohttp (``status``) or gcsfs (``code``)."""
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int | str) and str(value).isdigit():
            return int(value)
    return None


def _is_permission(error: Exception) -> bool:
    names = {ancestor.__name__ for ancestor in type(error).__mro__}
    return (
        isinstance(error, PermissionError)
        or str(error).startswith("Forbidden")  # gcsfs raises a bare OSError
        or not names.isdisjoint({"NoCredentialsError", "PartialCredentialsError"})  # botocore
        or ("GoogleAuthError" in names and "TransportError" not in names)
    )


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or "Timeout" in type(error).__name__


def _is_net(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "requests")


def _changed(uri: str, detail: str) -> StorageError:
    message = f"{redact(uri)!r} changed since it was listed: {detail}; run again"
    return StorageError(FailureKind.CHANGED, message)


def _too_large(uri: str, num_bytes: int | None, max_bytes: int) -> StorageError:
    size = "more" if num_bytes is None else f"{num_bytes:,} bytes"
    message = f"{redact(uri)!r} has {size}; the limit is {max_bytes:,} bytes"
    return StorageError(FailureKind.TOO_LARGE, message)
