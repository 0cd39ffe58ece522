"""Zip and tar archives: their members, and their content under many threads."""

import io
import shutil
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from fsspec import AbstractFileSystem
from fsspec.implementations.tar import TarFileSystem
from fsspec.implementations.zip import ZipFileSystem

EXTENSIONS = {
    ".zip": "zip",
    ".tar": "tar",
    ".tar.gz": "tar",
    ".tgz": "tar",
    ".tar.bz2": "tar",
    ".tar.xz": "tar",
}
"""How an archive's name ends, and its protocol."""

_COMPRESSED = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}
_ENCRYPTED = 1


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: with its folders.
        num_bytes: its size.
        checksum: changes when the content does, as far as the archive knows.
        problem: why it cannot be read, or None.
    """

    name: str
    num_bytes: int
    checksum: str
    problem: str | None = None


class Archive:
    """An open archive.

    Attributes:
        filesystem: fsspec's.
        version: of the file that holds the archive.
        lock: to be held while a member is opened and read. Members of a tar share one position
            in its file; so do those of a zip on a remote store, under a lock of its own.
    """

    def __init__(self, protocol: str, handle: IO[bytes], version: str) -> None:
        self.version = version
        self.lock = threading.RLock()
        self.filesystem = _open_zip(handle) if protocol == "zip" else _open_tar(handle)

    def members(self) -> Iterator[Member]:
        """Iterate over the files in the order of the archive, the last of each name."""
        if isinstance(self.filesystem, ZipFileSystem):
            return _zip_members(self.filesystem.zip)
        return _tar_members(self.filesystem.tar)

    def member(self, name: str) -> Member:
        """Return the last file of that name.

        Raises:
            FileNotFoundError: if there is none.
        """
        try:
            if isinstance(self.filesystem, ZipFileSystem):
                return _zip_member(self.filesystem.zip.getinfo(name))
            return _tar_member(self.filesystem.tar, self.filesystem.tar.getmember(name))
        except KeyError as error:
            raise FileNotFoundError(f"{name!r} is not in the archive") from error

    def read(self, name: str, size: int) -> bytes:
        """Return at most ``size`` first bytes of a member, or all if ``size`` is negative.

        Names go to ``zipfile`` and ``tarfile`` as they are; fsspec takes a slash off their start.

        Raises:
            FileNotFoundError: if there is no such member.
        """
        try:
            if isinstance(self.filesystem, ZipFileSystem):
                with self.filesystem.zip.open(name) as file:
                    return bytes(file.read(size))
            with self.lock, self.filesystem.tar.extractfile(name) as file:
                return bytes(file.read(size))
        except KeyError as error:
            raise FileNotFoundError(f"{name!r} is not in the archive") from error


def protocol_of(name: str) -> str | None:
    """Return ``zip`` or ``tar`` if a file's name says that it is such an archive, or None."""
    lower = name.lower()
    for extension, protocol in EXTENSIONS.items():
        if lower.endswith(extension):
            return protocol
    return None


def _open_zip(handle: IO[bytes]) -> AbstractFileSystem:
    return ZipFileSystem(fo=handle)


def _open_tar(handle: IO[bytes]) -> AbstractFileSystem:
    handle = _uncompressed(handle)
    # fsspec guesses a compression from the name unless this says otherwise.
    handle.original = "archive.tar"  # type: ignore[attr-defined]
    return TarFileSystem(fo=handle)


def _uncompressed(handle: IO[bytes]) -> IO[bytes]:
    """Unpack a compressed tar once: seeking back in a compressed stream starts it over again.

    Raises:
        OSError: if that would take more than half of the free disk.
    """
    start = handle.read(6)
    handle.seek(0)
    kind = next((k for magic, k in _COMPRESSED.items() if start.startswith(magic)), None)
    if kind is None:
        return handle
    limit = shutil.disk_usage(tempfile.gettempdir()).free // 2
    unpacked = tempfile.TemporaryFile()
    with _decompressor(kind, handle) as stream:
        while block := stream.read(1 << 20):
            unpacked.write(block)
            if unpacked.tell() > limit:
                raise OSError(
                    f"unpacked it takes more than {limit:,} bytes, half of the free disk in "
                    f"{tempfile.gettempdir()}; unpack it and name the folder, or set TMPDIR"
                )
    unpacked.seek(0)
    return unpacked


def _decompressor(kind: str, handle: IO[bytes]) -> io.BufferedIOBase:
    if kind == "gz":
        import gzip

        return gzip.GzipFile(fileobj=handle)
    if kind == "bz2":
        import bz2

        return bz2.BZ2File(handle)
    import lzma

    return lzma.LZMAFile(handle)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    last = archive.NameToInfo
    for info in archive.infolist():
        if info.is_dir() or last.get(info.filename) is not info:
            continue
        yield _zip_member(info)


def _zip_member(info: zipfile.ZipInfo) -> Member:
    problem = "it is encrypted" if info.flag_bits & _ENCRYPTED else None
    return Member(info.filename, info.file_size, f"{info.CRC:08x}", problem)


def _tar_members(archive: tarfile.TarFile) -> Iterator[Member]:
    infos = archive.getmembers()
    last = {info.name: info for info in infos}
    for info in infos:
        if last[info.name] is not info or not (info.isfile() or info.islnk() or info.issym()):
            continue
        yield _tar_member(archive, info)


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    """Describe a file, or what a link in the archive leads to.

    A tar keeps no checksum of a member's content; the archive's own version says when it changed.
    """
    target, seen = info, set()
    while target.islnk() or target.issym():
        seen.add(target.name)
        try:
            target = archive._find_link_target(target)  # type: ignore[attr-defined]
        except KeyError:
            return Member(info.name, 0, "", "it is a link to a file that is not in the archive")
        if target.name in seen:
            return Member(info.name, 0, "", "it is a link to itself")
    checksum = f"{target.offset_data}-{target.size}-{int(target.mtime)}"
    return Member(info.name, target.size, checksum)
