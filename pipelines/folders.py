"""What is right in one folder, page by page, with size and version from the listing itself."""

import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines import storage
from pipelines.storage import StoredFile

SORTED_ENTRIES = 100_000
"""Names of a local folder that are sorted together: the order repeats, and memory is bounded."""


@dataclass(frozen=True)
class Entry:
    """A file, or the uri of a folder within the folder; neither for the folder's own marker."""

    file: StoredFile | None = None
    folder: str | None = None


def scan(uri: str) -> Iterator[Entry]:
    """List a folder, not what is in its folders.

    Object stores are asked page by page and by their own calls: fsspec's ``ls`` holds a whole
    folder in memory, and loses the slashes of a key like ``a//b.jpg``. Local folders are read by
    ``os.scandir``, since fsspec's times of change are floats that lose nanoseconds.

    Raises:
        OSError: or what else the store's client raises; see `storage.failure`.
    """
    scanners = {"file": _scan_local, "gs": _scan_gcs, "s3": _scan_s3, "http": _scan_http}
    return scanners.get(storage.protocol_of(uri), _scan_other)(uri)


def _scan_local(uri: str) -> Iterator[Entry]:
    with os.scandir(storage.local_path(uri) or "/") as found:
        while chunk := [*itertools.islice(found, SORTED_ENTRIES)]:
            for item in sorted(chunk, key=lambda item: item.name):
                yield from _local_entry(uri, item)


def _local_entry(uri: str, item: "os.DirEntry[str]") -> Iterator[Entry]:
    name = storage.join(uri, item.name)
    try:
        status = item.stat()
    except OSError:  # a link to nothing or to itself, say: reading it tells
        yield Entry(StoredFile(name, None, ""))
        return
    if stat.S_ISDIR(status.st_mode):
        yield Entry(folder=name)
    elif stat.S_ISREG(status.st_mode):
        yield Entry(StoredFile(name, status.st_size, storage.local_version(status)))


def _prefix(key: str) -> str:
    return key.rstrip("/") + "/" if key.rstrip("/") else ""


def _scan_gcs(uri: str) -> Iterator[Entry]:
    bucket, key = storage.bucket_and_key(uri)
    filesystem = storage.filesystem_of(uri)
    query: dict[str, Any] = {
        "delimiter": "/",
        "prefix": key if key.endswith("/") else _prefix(key),
        "maxResults": 1000,
        "fields": "items(name,size,generation,etag),prefixes,nextPageToken",
    }
    while True:
        page = filesystem.call("GET", "b/{}/o", bucket, json_out=True, **query)
        for prefix in page.get("prefixes", []):
            yield _folder("gs", bucket, prefix)
        for item in page.get("items", []):
            yield from _object("gs", bucket, item["name"], int(item.get("size", 0)), item)
        if not page.get("nextPageToken"):
            return
        query["pageToken"] = page["nextPageToken"]


def _scan_s3(uri: str) -> Iterator[Entry]:
    bucket, key = storage.bucket_and_key(uri)
    filesystem = storage.filesystem_of(uri)
    prefix = key if key.endswith("/") else _prefix(key)
    query: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}
    while True:
        page = filesystem.call_s3("list_objects_v2", **query)
        for found in page.get("CommonPrefixes", []):
            yield _folder("s3", bucket, found["Prefix"])
        for item in page.get("Contents", []):
            yield from _object("s3", bucket, item["Key"], int(item["Size"]), item)
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page["NextContinuationToken"]


def _folder(protocol: str, bucket: str, prefix: str) -> Entry:
    """Return a folder, with a slash at its end only where the key has two of them."""
    name = prefix.removesuffix("/")
    return Entry(folder=f"{protocol}://{bucket}/{prefix if name.endswith('/') else name}")


def _object(protocol: str, bucket: str, key: str, size: int, info: dict[str, Any]) -> list[Entry]:
    if key.endswith("/"):  # an object that stands for the folder
        return [Entry()]
    version = storage.version_from_info(protocol, info)
    return [Entry(StoredFile(f"{protocol}://{bucket}/{key}", size, version))]


def _scan_http(uri: str) -> Iterator[Entry]:
    """List the links on a server's page of a folder, without their sizes and versions."""
    filesystem = storage.filesystem_of(uri)
    folder = uri.rstrip("/") + "/"
    for info in sorted(filesystem.ls(folder, detail=True), key=lambda info: info["name"]):
        name = info["name"]
        if not name.startswith(folder) or "?" in name or "#" in name or "/../" in name:
            continue  # links to other places and to orders of the same list
        if name.endswith("/"):
            yield Entry(folder=name)
        else:
            yield Entry(StoredFile(name, None, ""))


def _scan_other(uri: str) -> Iterator[Entry]:
    filesystem, path = storage.resolve(uri)
    protocol = storage.protocol_of(uri)
    for info in sorted(filesystem.ls(path, detail=True), key=lambda info: info["name"]):
        name = f"{protocol}://{info['name']}"
        if info["type"] == "directory":
            yield Entry(folder=name)
        elif info["name"] != path:
            yield Entry(StoredFile(name, info["size"], storage.version_from_info(protocol, info)))
