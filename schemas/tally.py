"""Counting rows by key, so that two sets of rows can be proved equal without holding them."""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.identity import KEY_BYTES

_MODULUS = 1 << (8 * KEY_BYTES)


@dataclass(frozen=True)
class Tally:
    """A number of keys and their sum modulo 2**128.

    Sums do not depend on order and add up over parts, so ``listed == captioned + failed`` holds
    as tallies only if the very same keys stand on both sides: one row lost and another doubled
    changes the sum though the number stays the same.
    """

    count: int = 0
    checksum: int = 0

    @classmethod
    def of(cls, keys: Iterable[bytes]) -> "Tally":
        """Return the tally of ``keys``, each counted as often as it comes."""
        count = checksum = 0
        for key in keys:
            count += 1
            checksum += int.from_bytes(key, "little")
        return cls(count, checksum % _MODULUS)

    def __add__(self, other: "Tally") -> "Tally":
        """Return the tally of both sides' keys together."""
        return Tally(self.count + other.count, (self.checksum + other.checksum) % _MODULUS)
