"""Uris as text: secrets in them, and members of archives.

The project's uris are absolute, with their protocol, and unescaped, as fsspec's
``unstrip_protocol`` writes them: ``file:///data/a b.jpg``, ``gs://bucket/x.jpg``. An http uri is
the exception: it is the address as the server knows it.
"""

import re
from typing import NamedTuple

ARCHIVE_PROTOCOLS = ("zip", "tar")

SECRET = "***"
"""Stands where a secret stood."""

_SECRET_PARAMETERS = frozenset(
    """
    x-amz-signature x-amz-credential x-amz-security-token x-goog-signature x-goog-credential
    awsaccesskeyid googleaccessid signature sig sv_sig token access_token id_token refresh_token
    auth_token oauth_token sas_token sastoken session_token security_token auth authorization
    api_key apikey api-key key access_key accesskey secret_key secret client_secret
    secret_access_key password passwd pwd policy hmac jwt
    """.split()
)

_PROTOCOL = r"[A-Za-z][A-Za-z0-9+.\-]*"
_USERINFO = re.compile(rf"({_PROTOCOL}://)([^\s/?#@]+(?:@[^\s/?#@]+)*)@")
_PARAMETER = re.compile(r"([?&;])([A-Za-z0-9_.\-]+)(=)([^&;#\s\"'<>]+)")
_CHAIN = re.compile(rf"::(?={_PROTOCOL}://)")


class ArchiveMember(NamedTuple):
    """A file in an archive: ``zip://member::file:///a.zip``, taken apart."""

    protocol: str
    member: str
    archive: str


def credentials_in(uri: str) -> str | None:
    """Name the secret that a uri carries, without showing it.

    A query counts on an object store too: a signed address pasted with ``gs://`` in front is
    still one. Names on a disk, in memory or in an archive may hold ``?key=``.

    Returns:
        What was found, e.g. ``a user name or password`` or ``the parameter X-Amz-Signature``; or
        None.
    """
    while uri.partition("://")[0] in ARCHIVE_PROTOCOLS and (found := _CHAIN.search(uri)):
        uri = uri[found.end() :]
    if uri.startswith(("file://", "memory://")):
        return None
    if _USERINFO.match(uri):
        return "a user name or password"
    for _, name, _, _ in _PARAMETER.findall(uri):
        if name.lower() in _SECRET_PARAMETERS:
            return f"the parameter {name}"
    return None


def redact(text: str) -> str:
    """Replace user names, passwords and the values of secret parameters in any text by ``***``."""
    return _PARAMETER.sub(_redacted_parameter, _USERINFO.sub(rf"\1{SECRET}@", text))


def _redacted_parameter(found: re.Match[str]) -> str:
    before, name, equals, _ = found.groups()
    if name.lower() not in _SECRET_PARAMETERS:
        return found.group()
    return f"{before}{name}{equals}{SECRET}"


def split_archive(uri: str) -> ArchiveMember | None:
    """Take the uri of a file in an archive apart; None if it is no such uri.

    Only ``zip://`` and ``tar://`` uris are taken apart, and only at the first ``::`` before a
    protocol, so ``::`` may stand in the name of any file: in ``file:///a::b.jpg``, in
    ``zip://a::b.jpg::file:///c::d.zip``.

    Raises:
        ValueError: if the uri is of an archive's protocol but does not say which archive.
    """
    protocol, found, rest = uri.partition("://")
    if not found or protocol not in ARCHIVE_PROTOCOLS:
        return None
    parts = _CHAIN.split(rest, maxsplit=1)
    if len(parts) != 2:
        raise ValueError(
            f"{redact(uri)!r} names no archive; write {protocol}://MEMBER::file:///ARCHIVE"
        )
    return ArchiveMember(protocol, parts[0], parts[1])


def join_archive(protocol: str, member: str, archive: str) -> str:
    """Return the uri of a member of an archive; the opposite of `split_archive`."""
    return f"{protocol}://{member}::{archive}"
