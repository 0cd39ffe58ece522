"""From what is known of images to the tensors that heads learn from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from captioner.annotations import Annotations, Box, Mask
from captioner.heads.segmenter import IGNORED_PIXEL

NO_OBJECT = -1

Size = tuple[int, int]
"""Width and height of an original, in pixels, after EXIF orientation."""


@dataclass(frozen=True, kw_only=True)
class HeadTargets:
    """What is known of a batch; b images, m objects in that which has most.

    Attributes:
        labels: how sure it is that each class is seen, NaN where it is unknown, [b x classes].
        boxes: left, top, right and bottom as shares of the picture, 0 where there is no object,
            [b x m x 4].
        classes: of the objects, -1 where there is none, int64, [b x m].
        boxes_known: whether the objects of an image are known, bool, [b].
        masks: the class of each pixel of the model's picture, 0 for the background, 255 where it
            is unknown, int64, [b x h x w].
    """

    labels: Tensor
    boxes: Tensor
    classes: Tensor
    boxes_known: Tensor
    masks: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> "HeadTargets":
        """Change every tensor alike."""
        return HeadTargets(
            **{field.name: change(getattr(self, field.name)) for field in fields(self)}
        )

    def to(self, device: torch.device | str) -> "HeadTargets":
        """Bring all to a device."""
        return self.each(lambda rows: rows.to(device))

    @classmethod
    def joined(cls, parts: Sequence["HeadTargets"]) -> "HeadTargets":
        """Join the targets of some images and of others, for the same classes and picture size."""
        most = max(part.classes.shape[1] for part in parts)
        missing = [most - part.classes.shape[1] for part in parts]
        pad = functional.pad
        padded = {
            "boxes": [pad(p.boxes, (0, 0, 0, n)) for p, n in zip(parts, missing, strict=True)],
            "classes": [
                pad(p.classes, (0, n), value=NO_OBJECT) for p, n in zip(parts, missing, strict=True)
            ],
        }
        return cls(
            **{
                field.name: torch.cat(
                    padded.get(field.name) or [getattr(part, field.name) for part in parts]
                )
                for field in fields(cls)
            }
        )

    @classmethod
    def of(
        cls,
        annotations: Sequence[Annotations],
        sizes: Sequence[Size],
        *,
        labels: Sequence[str] = (),
        boxes: Sequence[str] = (),
        masks: Sequence[str] = (),
        image_size: int,
    ) -> "HeadTargets":
        """Make targets of what is known of images whose sides' ratio the model does not keep.

        Boxes that reach over the image's edge end there.

        Args:
            annotations: of each image.
            sizes: of each original.
            labels: classes of the classifier; without any, labels are not looked at.
            boxes: classes of the detector, likewise.
            masks: classes of the segmenter, likewise.
            image_size: side of the model's picture, in pixels.

        Raises:
            ValueError: if a class is not among them, a box has no area or none within its image,
                or a mask is not of its image's size or cannot be read.
        """
        objects = [
            _objects(known.boxes, boxes, size, n)
            for n, (known, size) in enumerate(zip(annotations, sizes, strict=True))
        ]
        most = max((len(rows) for rows in objects), default=0)
        padded = np.zeros((len(objects), most, 4), np.float32)
        classes = np.full((len(objects), most), NO_OBJECT, np.int64)
        for n, rows in enumerate(objects):
            for m, (kind, place) in enumerate(rows):
                padded[n, m], classes[n, m] = place, kind
        pixels = np.full((len(objects), image_size, image_size), IGNORED_PIXEL, np.int64)
        for n, (known, size) in enumerate(zip(annotations, sizes, strict=True)):
            if masks and known.masks is not None:
                pixels[n] = _pixels(known.masks, masks, size, image_size, n)
        return cls(
            labels=torch.tensor([_labels(a, labels, n) for n, a in enumerate(annotations)]).view(
                len(objects), len(labels)
            ),
            boxes=torch.from_numpy(padded),
            classes=torch.from_numpy(classes),
            boxes_known=torch.tensor(
                [bool(boxes) and known.boxes is not None for known in annotations],
                dtype=torch.bool,
            ),
            masks=torch.from_numpy(pixels),
        )


def _labels(known: Annotations, names: Sequence[str], image: int) -> list[float]:
    if known.labels is None or not names:
        return [float("nan")] * len(names)
    row = [0.0] * len(names)
    for label in known.labels:
        if not 0 <= label.probability <= 1:
            raise ValueError(
                f"image {image}: label {label.name!r} has the probability {label.probability}; "
                "use 0 to 1"
            )
        row[_class(label.name, names, image, "label")] = label.probability
    return row


def _objects(
    known: Sequence[Box] | None, names: Sequence[str], size: Size, image: int
) -> list[tuple[int, tuple[float, ...]]]:
    """Return the class and the place of each object, as shares of the picture."""
    if known is None or not names:
        return []
    return [(_class(box.name, names, image, "box"), _place(box, size, image)) for box in known]


def _place(box: Box, size: Size, image: int) -> tuple[float, ...]:
    width, height = size
    sides = f"x {box.x}, y {box.y}, width {box.width}, height {box.height}"
    if not (box.width > 0 and box.height > 0):
        raise ValueError(
            f"image {image}: box {box.name!r} ({sides}) has no area; give it one or leave it out"
        )
    ends = (box.x, box.y, box.x + box.width, box.y + box.height)
    limits = (width, height, width, height)
    place = tuple(min(max(end / limit, 0.0), 1.0) for end, limit in zip(ends, limits, strict=True))
    if not (place[0] < place[2] and place[1] < place[3]):
        raise ValueError(
            f"image {image}: box {box.name!r} ({sides}) lies outside the image, which has "
            f"{width} x {height} pixels; boxes are in pixels of the upright original"
        )
    return place


def _pixels(
    known: Sequence[Mask], names: Sequence[str], size: Size, image_size: int, image: int
) -> npt.NDArray[np.uint8]:
    """Return the class of each pixel, [image_size x image_size]: of the original's nearest."""
    pixels = np.zeros((image_size, image_size), np.uint8)
    rows, columns = (_nearest(side, image_size) for side in (size[1], size[0]))
    for kind, mask in _decoded(known, names, size, image):
        pixels[mask[np.ix_(rows, columns)] > 0] = 1 + kind
    return pixels


def _nearest(side: int, wanted: int) -> npt.NDArray[np.int64]:
    """Return which of ``side`` pixels lies at the centre of each of those wanted."""
    return (2 * np.arange(wanted) + 1) * side // (2 * wanted)


def _decoded(
    known: Sequence[Mask], names: Sequence[str], size: Size, image: int
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield the class of each mask and its pixels, [height x width]."""
    width, height = size
    for mask in known:
        kind = _class(mask.name, names, image, "mask")
        if tuple(mask.size) != (height, width):
            raise ValueError(
                f"image {image}: mask {mask.name!r} has the size {tuple(mask.size)}, height and "
                f"width, but the image has {(height, width)}; make it of the upright original"
            )
        try:
            yield kind, decoded(mask)
        except ValueError as error:
            raise ValueError(f"image {image}: {error}") from error


def decoded(mask: Mask) -> npt.NDArray[np.uint8]:
    """Return the pixels of a mask, 1 where it lies, [height x width].

    Where counts make fewer pixels than there are, ``pycocotools`` returns what lay in memory.

    Raises:
        ValueError: if its counts are no encoding of so many pixels.
    """
    height, width = mask.size
    runs = _runs(mask.counts)
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"mask {mask.name!r} has counts {mask.counts[:40]!r}, which do not make {height} x "
            f"{width} pixels; use COCO's compressed run-length encoding"
        )
    pixels = np.repeat((np.arange(len(runs)) % 2).astype(np.uint8), runs)
    return pixels.reshape(mask.size, order="F")


def _runs(counts: str) -> npt.NDArray[np.int64] | None:
    """Read COCO's compressed run lengths; None if they are none.

    Six bits a character from "0" on: five of a number, lowest first, and whether more follow; from
    the fourth on the numbers are differences to those two before (``rleFrString`` of COCO's API).
    """
    codes = np.array([ord(character) - 48 for character in counts], np.int64)
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63:
        return None
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() > 6:  # More than 35 bits, which no image has pixels for.
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << (shifts[ends] + 5), 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def _class(name: str, names: Sequence[str], image: int, what: str) -> int:
    if name in names:
        return list(names).index(name)
    some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise ValueError(
        f"image {image}: {what} {name!r} is none of the classes, which are {some}; rename it, "
        "leave it out, or add the class"
    )
