"""Reading files, pinned to the version that was listed, and listing a folder."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

from fsspec.asyn import sync

from pipelines.storage import filesystems
from pipelines.storage.failures import StorageError, changed, s3_code, too_large, with_retries
from pipelines.storage.uris import bucket_and_key, local_path, protocol_of
from pipelines.storage.versions import (
    StoredFile,
    archive_version_in,
    http_version,
    local_version,
    version_from_info,
)
from schemas.kinds import FailureKind


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
        raise too_large(uri, expected_bytes, max_bytes)
    limit = min((n for n in (max_bytes, expected_bytes) if n is not None), default=None)
    data = with_retries(lambda: _read(uri, limit, expected_version or ""), uri, "read")
    if expected_bytes is not None and len(data) != expected_bytes:
        raise changed(uri, f"it had {expected_bytes:,} bytes and has {_more_or(data, limit)}")
    if max_bytes is not None and len(data) > max_bytes:
        raise too_large(uri, None, max_bytes)
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
            raise changed(uri, "its time of change or size differs")
        return file.read(size)


def _read_gcs(uri: str, size: int, version: str) -> bytes:
    """Read an object of Google Cloud Storage, pinned to its generation.

    A generation never changes, so its size is that of the listing and needs no range.
    """
    filesystem, path = filesystems.resolve(uri)
    kind, _, generation = version.partition(":")
    if kind != "generation" and size < 0:
        return filesystem.cat_file(path)
    if kind != "generation":
        now = filesystems.stat_once(uri)
        if now.num_bytes is not None and now.num_bytes >= size:
            return filesystem.cat_file(path, start=0, end=size)
        generation = now.version.removeprefix("generation:")
    try:
        return filesystem.cat_file(path, generation=generation)
    except FileNotFoundError:
        filesystems.stat_once(uri)  # raises if it is gone altogether
        raise changed(uri, f"generation {generation} was replaced") from None


def _read_s3(uri: str, size: int, version: str) -> bytes:
    filesystem = filesystems.filesystem_of(uri)
    return sync(filesystem.loop, _read_s3_object, filesystem, uri, size, version)


async def _read_s3_object(filesystem: Any, uri: str, size: int, version: str) -> bytes:
    bucket, key = bucket_and_key(uri)
    kind, _, etag = version.partition(":")
    condition = {"IfMatch": f'"{etag}"'} if kind == "etag" else {}
    try:
        response = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, **condition)
    except OSError as error:
        if condition and s3_code(error) in ("PreconditionFailed", "412"):
            raise changed(uri, f"ETag {etag} was replaced") from None
        raise
    with contextlib.closing(response["Body"]) as body:
        if size < 0:
            return await body.read()
        return await _read_up_to(body.read, size)


def _read_http(uri: str, size: int, version: str) -> bytes:
    filesystem = filesystems.filesystem_of(uri)
    return sync(filesystem.loop, _read_http_file, filesystem, uri, size, version)


async def _read_http_file(filesystem: Any, uri: str, size: int, version: str) -> bytes:
    session = await filesystem.set_session()
    async with session.get(filesystem.encode_url(uri), headers=filesystems.IDENTITY) as response:
        filesystem._raise_not_found_for_status(response, uri)
        now = http_version(response.headers)
        if version and now and version != now:
            raise changed(uri, f"it was {version} and is {now}")
        if size < 0:
            return await response.read()
        return await _read_up_to(response.content.read, size)


async def _read_up_to(read: Callable[[int], Any], size: int) -> bytes:
    """Read ``size`` bytes of a stream whose reads may return less than was asked for."""
    blocks, missing = [], size
    while missing and (block := await read(missing)):
        blocks.append(block)
        missing -= len(block)
    return b"".join(blocks)


def _read_archive(uri: str, size: int, version: str) -> bytes:
    member = filesystems.member_of(uri)
    wanted = archive_version_in(version)
    archive = filesystems.open_archive(member.protocol, member.archive, wanted)
    if wanted and archive.version != wanted:
        raise changed(uri, "the archive was replaced")
    return archive.read(member.member, size)


def _read_other(uri: str, size: int, version: str) -> bytes:
    filesystem, path = filesystems.resolve(uri)
    with filesystem.open(path, "rb") as file:
        if version and version != version_from_info(protocol_of(uri), filesystem.info(path)):
            raise changed(uri, "it was replaced")
        file.seek(0)
        return file.read(size)


def list_files(uri: str) -> list[StoredFile]:
    """List the files right in a folder as they are now; none if there is no such folder.

    Hidden files are left out: names that begin with a dot are those of files being written.
    """
    from pipelines import folders

    try:
        entries = with_retries(lambda: [*folders.scan(uri)], uri, "list")
    except StorageError as error:
        if error.kind is FailureKind.NOT_FOUND:
            return []
        raise
    files = [entry.file for entry in entries if entry.file is not None]
    return [file for file in files if not file.uri.rpartition("/")[2].startswith(".")]
