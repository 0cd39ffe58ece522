"""A stored file and its version: what changes whenever its content does, on each store."""

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredFile:
    """A file: its uri, size, and version as in the ``uri_version`` column."""

    uri: str
    num_bytes: int | None
    version: str


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


def http_version(headers: Any) -> str:
    """Return the version that the headers of an http answer give; empty if they give none."""
    etag = headers.get("ETag", "").removeprefix("W/").strip('"')
    if etag:
        return f"etag:{etag}"
    if headers.get("Last-Modified"):
        return f"modified:{headers['Last-Modified']}"
    length = headers.get("Content-Length")
    return f"size:{length}" if length else ""


def archive_member_version(protocol: str, archive_version: str, checksum: str) -> str:
    """Return the ``uri_version`` of a member of an archive."""
    return f"{protocol}:{archive_version}/{checksum}"


def archive_version_in(version: str) -> str | None:
    """Return the archive's version in that of a member."""
    kind, _, rest = version.partition(":")
    return rest.rpartition("/")[0] if kind in ("zip", "tar") else None
