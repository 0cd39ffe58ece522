"""Near-duplicates: images whose perceptual hashes differ in few bits, so that one is reviewed.

Two hashes of 64 bits that differ in at most 4 agree in at least 2 of 6 bands of bits (a bit that
differs spoils one band), so only hashes that share two bands are compared: of a million random
ones some four million pairs, not five hundred billion. Where too many share two bands, bands of
their other bits tell them apart.
"""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_BITS = 64
MOST_BITS = 4
"""Hashes that differ in no more bits are near-duplicates."""
_BANDS, _AGREEING = MOST_BITS + 2, 2
_SMALL = 256  # hashes in a bucket that are compared each with each

_Hashes = npt.NDArray[np.uint64]
_Numbers = npt.NDArray[np.int64]


def group_ids(image_ids: pa.Array, phashes: pa.Array) -> pa.Array:
    """Return the group of each image: the smallest image id in it.

    Images are in one group if their hashes differ in at most 4 bits, or if a chain of images
    joins them whose neighbours do. Rows of one image id are always in one group. An image without
    a hash is near to none. Pictures of a single colour all have nearly the same hash, whatever the
    colour: they are one group.

    Args:
        image_ids: SHA-256 of the images' bytes [n].
        phashes: 64-bit perceptual hashes in hexadecimal, or null [n].

    Raises:
        ValueError: if a hash is not 16 hexadecimal digits.
    """
    names, image_of_row = np.unique(image_ids.to_numpy(zero_copy_only=False), return_inverse=True)
    hashed = np.flatnonzero(phashes.is_valid().to_numpy(zero_copy_only=False))
    hashes, hash_of_row = np.unique(_parse(phashes.drop_null()), return_inverse=True)
    near = _components(hashes)
    # Images and groups of hashes are the nodes of one graph, rows its edges.
    count = len(names) + len(hashes)
    edges = (image_of_row[hashed], len(names) + near[hash_of_row])
    group_of_image = _connected(*edges, count)[: len(names)]
    # The names are sorted, so the first of a group is its smallest.
    _, first, group = np.unique(group_of_image, return_index=True, return_inverse=True)
    return pa.array(names[first[group]][image_of_row], pa.string())


def _parse(phashes: pa.Array) -> _Hashes:
    good = pc.match_substring_regex(phashes, "^[0-9a-fA-F]{16}$")
    if not pc.all(good, min_count=0).as_py():
        wrong = phashes.filter(pc.invert(good))[0].as_py()
        raise ValueError(f"phash is {wrong!r}; a perceptual hash is 16 hexadecimal digits")
    digits = bytes.fromhex("".join(phashes.to_pylist()))
    return np.frombuffer(digits, ">u8").astype(np.uint64)


def _components(hashes: _Hashes) -> _Numbers:
    """Return the group of each hash, as a number; ``hashes`` are distinct."""
    return _join(hashes, np.arange(len(hashes)))


def _join(hashes: _Hashes, group: _Numbers) -> _Numbers:
    """Join the groups of near hashes, which are distinct."""
    if len(hashes) <= _SMALL:
        return _merge(group, *_compare(hashes, np.array([0]), np.array([len(hashes)])))
    bits = np.uint64(1) << np.arange(HASH_BITS, dtype=np.uint64)
    varying = bits[(bits & np.bitwise_or.reduce(hashes ^ hashes[0])) > 0]
    for bands in combinations(np.array_split(varying, _BANDS), _AGREEING):
        keys = hashes & np.bitwise_or.reduce(np.concatenate(bands))
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        lengths = np.diff(starts, append=len(hashes))
        # A bucket that is one group already has nothing to say: so dense data stay affordable.
        ours = group[order]
        news = np.minimum.reduceat(ours, starts) < np.maximum.reduceat(ours, starts)
        small = news & (lengths <= _SMALL)
        edges = [_compare(hashes[order], starts[small], lengths[small])]
        for start, length in zip(starts[news & ~small], lengths[news & ~small], strict=True):
            run = order[start : start + length]
            known = np.unique(group[run], return_inverse=True)[1]
            joined = _join(hashes[run], known)
            _, first, which = np.unique(joined, return_index=True, return_inverse=True)
            edges.append((start + first[which], np.arange(start, start + length)))
        left, right = (order[np.concatenate(ends)] for ends in zip(*edges, strict=True))
        group = _merge(group, left, right)
    return group


def _compare(hashes: _Hashes, starts: _Numbers, lengths: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Return the places of near pairs within runs of ``hashes``, each run compared within."""
    place = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    end = np.repeat(starts + lengths, lengths)
    left, right = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for offset in range(1, int(lengths.max(initial=0))):
        inside = place + offset < end
        place, end = place[inside], end[inside]
        near = np.bitwise_count(hashes[place] ^ hashes[place + offset]) <= MOST_BITS
        left.append(place[near])
        right.append(place[near] + offset)
    return np.concatenate(left), np.concatenate(right)


def _merge(group: _Numbers, left: _Numbers, right: _Numbers) -> _Numbers:
    """Return the groups of all, with those of ``left`` and ``right`` joined pairwise."""
    return _connected(group[left], group[right], len(group))[group]


def _connected(left: _Numbers, right: _Numbers, count: int) -> _Numbers:
    """Return the component of each of ``count`` nodes in the graph of these edges."""
    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    found: _Numbers = connected_components(edges, directed=False)[1].astype(np.int64)
    return found
