"""What goes wrong in stores: of which kind it is, what to do, and whether to try again."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipelines.storage.uris import protocol_of
from schemas.kinds import FailureKind
from schemas.uris import redact

Result = TypeVar("Result")

TRIES = 3
FIRST_PAUSE_SECONDS = 0.5

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


def with_retries(action: Callable[[], Result], uri: str, verb: str) -> Result:
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
        verb: what was tried: read, write, list or remove.
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


def s3_code(error: BaseException) -> str:
    """Return S3's own code of an error, e.g. ``PreconditionFailed``; empty if there is none."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def changed(uri: str, detail: str) -> StorageError:
    """Return the failure of a file that is not the one that was listed."""
    message = f"{redact(uri)!r} changed since it was listed: {detail}; run again"
    return StorageError(FailureKind.CHANGED, message)


def too_large(uri: str, num_bytes: int | None, max_bytes: int) -> StorageError:
    """Return the failure of a file beyond the limit; None is a size that nobody knows."""
    size = "more" if num_bytes is None else f"{num_bytes:,} bytes"
    message = f"{redact(uri)!r} has {size}; the limit is {max_bytes:,} bytes"
    return StorageError(FailureKind.TOO_LARGE, message)
