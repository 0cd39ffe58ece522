"""Content-derived identities. The same input gives the same identity on every machine."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY_BYTES = 16
"""Length of a row key: 128 bits make a collision among a billion rows less likely than 1e-20."""


def image_id(data: bytes) -> str:
    """Return the SHA-256 of an image's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def row_key(*parts: str) -> bytes:
    """Return the 16-byte key of a row, e.g. of ``(uri, uri_version)``.

    Parts are length-prefixed, so ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.digest()


def config_id(config: Mapping[str, Any]) -> str:
    """Return a short hash of a JSON-like configuration, independent of the order of its keys."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
