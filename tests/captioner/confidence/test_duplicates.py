"""Groups of near-duplicates, held against comparing each hash with each."""

import time

import imagehash
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy.sparse.csgraph import connected_components

from captioner.confidence.duplicates import group_ids
from captioner.images import _phash
from captioner.scenes import render, samples

Hashes = npt.NDArray[np.uint64]


def groups(hashes: Hashes | list[int | None], image_ids: list[str] | None = None) -> list[str]:
    names = image_ids or [f"{number:08}" for number in range(len(hashes))]
    written = [None if value is None else f"{int(value):016x}" for value in hashes]
    return group_ids(pa.array(names), pa.array(written, pa.string())).to_pylist()


def each_with_each(hashes: Hashes) -> list[str]:
    """Return the smallest image of each one's group, the slow way."""
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 4
    _, group = connected_components(near, directed=False)
    return [f"{np.flatnonzero(group == one)[0]:08}" for one in group]


def random_hashes(count: int, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def flipped(hashes: Hashes, bits: int, seed: int) -> Hashes:
    """Change so many bits of each."""
    rng = np.random.default_rng(seed)
    which = rng.permuted(np.tile(np.arange(64, dtype=np.uint64), (len(hashes), 1)), axis=1)
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << which[:, :bits], axis=1)


def few_bits(count: int, bits: int) -> Hashes:
    return flipped(np.zeros(count, np.uint64), bits, seed=bits)


@pytest.mark.parametrize(
    "hashes",
    [
        np.concatenate([flipped(random_hashes(100), bits, seed=bits) for bits in range(8)]),
        few_bits(1500, 3),
        few_bits(1500, 8),
        np.uint64(0xABCDEF1234 << 24) | (random_hashes(1500) >> np.uint64(40)),
        np.uint64(0x3BCDE1234 << 30) | (random_hashes(1500) >> np.uint64(34)),
    ],
    ids=["clusters", "all near", "few bits", "24 bits vary", "30 bits vary"],
)
def test_they_are_those_of_comparing_each_with_each(hashes: Hashes):
    assert groups(hashes) == each_with_each(hashes)


def test_four_bits_are_near_and_five_are_not():
    one = random_hashes(1)
    assert groups([one[0], flipped(one, 4, seed=1)[0]]) == ["00000000"] * 2
    assert groups([one[0], flipped(one, 5, seed=1)[0]]) == ["00000000", "00000001"]


def test_a_chain_of_near_ones_is_one_group():
    chain = [0, 0xF, 0xFF, 0xFFF, 0xFFFF]
    assert groups(chain[::-1]) == ["00000000"] * 5
    assert groups([chain[0], chain[2], chain[4]]) == ["00000000", "00000001", "00000002"]


def test_equal_bytes_are_one_group_whatever_their_hash():
    assert groups([1, 2**63 - 1, None, None], ["b", "b", "b", "c"]) == ["b", "b", "b", "c"]
    assert groups([None, None], ["d", "a"]) == ["d", "a"]
    assert groups([7, 7], ["d", "a"]) == ["a", "a"]


def test_none():
    assert groups([]) == []


def test_a_hash_that_is_none_is_named():
    with pytest.raises(ValueError, match="phash is 'xyz'; a perceptual hash is 16 hexadecimal"):
        group_ids(pa.array(["a", "b"]), pa.array(["0" * 16, "xyz"]))


def test_pictures():
    """A smaller copy of a scene is near to it, another scene is not."""
    first, second = (render(scene) for scene in samples(0, 2))
    copy = first.resize((first.width * 2 // 3, first.height * 2 // 3))
    hashes = [imagehash.hex_to_hash(_phash(image)) for image in (first, copy, second)]
    found = group_ids(pa.array(["a", "b", "c"]), pa.array([str(one) for one in hashes]))
    assert found.to_pylist() == ["a", "a", "c"]


def test_time_does_not_grow_with_the_square():
    """100,000 blank pictures, as many different ones, and as many that share half of their bits.

    Comparing each with each would take minutes.
    """
    blank = np.full(100_000, 1 << 63, np.uint64)
    halves = np.uint64(0x3BCDE123 << 32) | (random_hashes(20_000, 2) >> np.uint64(32))
    hashes = np.concatenate([blank, random_hashes(100_000), halves])
    started = time.perf_counter()
    found = groups(hashes)
    assert time.perf_counter() - started < 30
    assert set(found[: len(blank)]) == {"00000000"}
    assert len(set(found)) > 100_000
