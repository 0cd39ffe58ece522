"""Uris as users type them and as stores take them.

What a uri is, and how secrets and members of archives stand in it, says `schemas.uris`.
"""

import os
import re

from pipelines.storage import archives
from schemas.uris import join_archive, split_archive

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_ALIASES = {"gcs": "gs", "s3a": "s3", "local": "file"}


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
