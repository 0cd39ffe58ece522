"""Arithmetic of boxes: overlap, anchors, matching, suppression.

Boxes are left, top, right and bottom in the last dimension, as shares of the picture's sides.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BACKGROUND = -1
"""What ``match`` says of an anchor without an object."""

_FARTHEST = 4.0
"""No box is more than e to this power as large as its anchor: beyond, numbers run over."""
_SMALLEST = 1e-9


def area(boxes: Tensor) -> Tensor:
    """Return the areas [...] of boxes [... x 4]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Return area in common over area of both, of boxes that fit by broadcasting: [...]."""
    common, both = _common(first, second)
    return common / both.clamp_min(_SMALLEST)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalised overlap, from -1 to 1 (1902.09630, algorithm 1), as ``iou``.

    It still tells how far boxes are that have nothing in common.
    """
    common, both = _common(first, second)
    corner = torch.minimum(first[..., :2], second[..., :2])
    across = torch.maximum(first[..., 2:], second[..., 2:]) - corner
    around = across.prod(-1).clamp_min(_SMALLEST)
    return common / both.clamp_min(_SMALLEST) - (around - both) / around


def _common(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the area in common and that of both together."""
    corner = torch.maximum(first[..., :2], second[..., :2])
    across = (torch.minimum(first[..., 2:], second[..., 2:]) - corner).clamp_min(0)
    common = across.prod(-1)
    return common, area(first) + area(second) - common


def anchors(
    grid: tuple[int, int],
    sizes: Sequence[float],
    ratios: Sequence[float],
    device: torch.device | None = None,
) -> Tensor:
    """Return the boxes that are refined, centred on the cells of a grid (1512.02325, 2.2).

    Args:
        grid: height and width.
        sizes: roots of areas, as shares of the side.
        ratios: of width to height.
        device: where they are wanted.

    Returns:
        [(height * width * sizes * ratios) x 4]: row by row, in each cell size by size.
    """
    height, width = grid
    shapes = [(size * math.sqrt(r), size / math.sqrt(r)) for size in sizes for r in ratios]
    half = torch.tensor(shapes, device=device) / 2  # (shapes, 2)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack((columns, rows), 2).view(-1, 1, 2)
    return torch.cat((centres - half, centres + half), 2).view(-1, 4)


def to_offsets(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Say how boxes lie to their anchors (1512.02325, equation 2): [... x 4].

    Both are [... x 4]: the shift of the centre in widths and heights of the anchor, then the
    logarithms of how many times as wide and as high the box is.
    """
    centres, sizes = _centres(boxes)
    anchor_centres, anchor_sizes = _centres(anchors)
    shift = (centres - anchor_centres) / anchor_sizes
    return torch.cat((shift, (sizes / anchor_sizes).clamp_min(_SMALLEST).log()), -1)


def from_offsets(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Undo ``to_offsets``; boxes may reach beyond the picture."""
    anchor_centres, anchor_sizes = _centres(anchors)
    centres = anchor_centres + offsets[..., :2] * anchor_sizes
    half = offsets[..., 2:].clamp(-_FARTHEST, _FARTHEST).exp() * anchor_sizes / 2
    return torch.cat((centres - half, centres + half), -1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres and sizes, both [... x 2]."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


@torch.no_grad()
def match(boxes: Tensor, present: Tensor, anchors: Tensor, matched_iou: float) -> Tensor:
    """Say which object each anchor is to find (1512.02325, section 2.2).

    An anchor is for the object that it overlaps most, if by ``matched_iou``. Before that each
    object has an anchor of its own: the pair that overlaps most first, and whoever comes later
    takes the best anchor that is left, or the nearest if it overlaps none.

    Args:
        boxes: [b x m x 4].
        present: whether there is such an object, [b x m].
        anchors: [a x 4].
        matched_iou: see above.

    Returns:
        The object's number, or ``BACKGROUND``, [b x a].
    """
    if not boxes.shape[1]:
        return torch.full((len(boxes), len(anchors)), BACKGROUND, device=boxes.device)
    overlaps = iou(boxes.unsqueeze(2), anchors)  # (b, m, a)
    overlaps = overlaps.masked_fill(~present.unsqueeze(2), 0.0)
    best, matched = overlaps.max(1)
    matched = matched.masked_fill((best < matched_iou) | (best == 0), BACKGROUND)
    owner = _own_anchors(boxes, present, anchors, overlaps)
    return torch.where(owner >= 0, owner, matched)


def _own_anchors(boxes: Tensor, present: Tensor, anchors: Tensor, overlaps: Tensor) -> Tensor:
    """Give each object an anchor, best pair first: which object owns each, -1 for none, [b x a]."""
    nearness = -(_centres(boxes)[0].unsqueeze(2) - _centres(anchors)[0]).square().sum(3)
    gone = float("-inf")
    scores = torch.where(overlaps > 0, overlaps, nearness)  # (b, m, a)
    scores = scores.masked_fill(~present.unsqueeze(2), gone)
    batch = torch.arange(len(boxes), device=boxes.device)
    owner = torch.full_like(overlaps[:, 0], -1, dtype=torch.int64)
    for _ in range(min(boxes.shape[1], len(anchors))):
        best, pair = scores.flatten(1).max(1)
        thing, anchor = pair // len(anchors), pair % len(anchors)
        owner[batch, anchor] = torch.where(best > gone, thing, owner[batch, anchor])
        scores[batch, thing] = gone
        scores[batch, :, anchor] = gone
    return owner


@torch.no_grad()
def kept(boxes: Tensor, classes: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Leave out boxes that say again what a surer one says: non-maximum suppression.

    The surest box stays and those of its class that overlap it by more than the threshold go; then
    the surest of the rest, and so on. All images are done at once: whether a box stays depends on
    surer ones only, so that after n rounds the first n are settled, and mostly all (2005.03572).

    Args:
        boxes: the surest first, [b x k x 4].
        classes: [b x k].
        valid: whether there is such a box, [b x k].
        iou_threshold: see above.

    Returns:
        Whether each box stays, [b x k].
    """
    rivals = iou(boxes.unsqueeze(2), boxes.unsqueeze(1)) > iou_threshold
    rivals &= classes.unsqueeze(2) == classes.unsqueeze(1)
    rivals = rivals.triu(1)  # (b, surer, less sure)
    stays = valid
    for _ in range(boxes.shape[1]):
        before = stays
        stays = valid & ~(rivals & stays.unsqueeze(2)).any(1)
        if torch.equal(stays, before):
            break
    return stays
