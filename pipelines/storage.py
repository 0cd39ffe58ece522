"""Files wherever they are: every access to anything outside goes through here, over fsspec."""

from dataclasses import dataclass

from fsspec import AbstractFileSystem

from schemas.kinds import FailureKind


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
    """A file in a folder: its uri, size, and version as in the ``uri_version`` column."""

    uri: str
    num_bytes: int
    version: str


def absolute_uri(user_input: str) -> str:
    """Return the uri of what a user typed: a path, an archive, or a uri."""
    raise NotImplementedError


def join(folder: str, *names: str) -> str:
    """Return the uri of something in a folder (of an output; not in an archive)."""
    raise NotImplementedError


def resolve(uri: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system that holds a uri and the path there."""
    raise NotImplementedError


def read_bytes(
    uri: str,
    max_bytes: int | None = None,
    expected_bytes: int | None = None,
    expected_version: str | None = None,
) -> bytes:
    """Read a file; StorageError with its kind if that fails."""
    raise NotImplementedError


def read_fresh(uri: str) -> bytes:
    """Read a file as it is now, past every cache."""
    raise NotImplementedError


def write_bytes_atomically(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    raise NotImplementedError


def create_exclusively(uri: str, data: bytes) -> bool:
    """Write a file unless it exists; False if it does."""
    raise NotImplementedError


def list_files(uri: str) -> list[StoredFile]:
    """List the files right in a folder as they are now; none if there is no such folder."""
    raise NotImplementedError


def exists(uri: str) -> bool:
    """Say whether there is a file or folder."""
    raise NotImplementedError


def remove(uri: str) -> None:
    """Remove a file; no error if there is none."""
    raise NotImplementedError


def move(source: str, target: str) -> None:
    """Move a file within a store, replacing the target."""
    raise NotImplementedError


def make_folder(uri: str) -> None:
    """Make a folder and its parents where the store has folders."""
    raise NotImplementedError
