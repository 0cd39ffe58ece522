"""Files wherever they are: every access to anything outside goes through here, over fsspec.

A uri is absolute, with its protocol, and not escaped (see `schemas.uris`). Object stores are
spoken to without fsspec's cache of listings, so what is read or listed is what is there.

From the bottom up; each module imports only from those above it:

- `archives`: zip and tar archives under many threads.
- `uris`: what a user typed as a uri, and the parts of a uri.
- `versions`: a stored file, and its version on each store.
- `failures`: what an exception of a store means, and trying again.
- `filesystems`: the file system that holds a uri, open archives, and a look at one file.
- `reading`: reading a file at the version that was listed; the files in a folder.
- `writing`: writing, creating and removing.

Callers use the names below as ``storage.read_bytes(...)``.
"""

from pipelines.storage.failures import StorageError, failure
from pipelines.storage.filesystems import exists, filesystem_of, open_archive, resolve, stat
from pipelines.storage.reading import list_files, read_bytes, read_fresh
from pipelines.storage.uris import absolute_uri, bucket_and_key, join, local_path, protocol_of
from pipelines.storage.versions import (
    StoredFile,
    archive_member_version,
    local_version,
    version_from_info,
)
from pipelines.storage.writing import (
    create_exclusively,
    remove,
    write_bytes_atomically,
)

__all__ = [
    "StorageError",
    "StoredFile",
    "absolute_uri",
    "archive_member_version",
    "bucket_and_key",
    "create_exclusively",
    "exists",
    "failure",
    "filesystem_of",
    "join",
    "list_files",
    "local_path",
    "local_version",
    "open_archive",
    "protocol_of",
    "read_bytes",
    "read_fresh",
    "remove",
    "resolve",
    "stat",
    "version_from_info",
    "write_bytes_atomically",
]
