"""Writing files whole, creating them exclusively, moving and removing them."""

import contextlib
import os
import threading

from fsspec import AbstractFileSystem

from pipelines.storage.failures import StorageError, s3_code, with_retries
from pipelines.storage.filesystems import resolve
from pipelines.storage.reading import read_fresh
from pipelines.storage.uris import local_path, protocol_of
from schemas.kinds import FailureKind
from schemas.uris import redact

_memory_lock = threading.Lock()


def write_bytes_atomically(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    On a disk a hidden file is written through to the disk and renamed; folders are made. An
    object store shows an object once it is whole.

    Raises:
        StorageError: if it cannot be written.
    """
    if protocol_of(uri) == "file":
        with_retries(lambda: _replace_local(local_path(uri), data), uri, "write")
        return
    filesystem, path = _writable(uri)
    with_retries(lambda: filesystem.pipe_file(path, data), uri, "write")


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

    return with_retries(once, uri, "write")


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
        if s3_code(error) in ("PreconditionFailed", "412"):
            raise FileExistsError(uri) from error
        raise


def remove(uri: str) -> None:
    """Remove a file; no error if there is none.

    Raises:
        StorageError: if it cannot be removed.
    """
    filesystem, path = _writable(uri)
    try:
        with_retries(lambda: filesystem.rm_file(path), uri, "remove")
    except StorageError as error:
        if error.kind is not FailureKind.NOT_FOUND:
            raise


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
    temporary = os.path.join(folder, f".{os.urandom(12).hex()}.tmp")  # hidden: it is not listed
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
