"""An image and what is known of it, and how what a data set says of one image is joined."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

from captioner.annotations import Annotations, ClassNames, Label
from schemas.uris import redact

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class DataError(ValueError):
    """Data that cannot be trained on: says what was looked for, what was found, what to do."""


@dataclass(frozen=True)
class MaskFile:
    """An image file of numbers, each of which stands for a class; decoded when it is needed.

    Attributes:
        uri: of the file: absolute, with protocol, unescaped.
        classes: the numbers that a pixel may have, and the class of each; None is background.
        coloured: whether a pixel's number is red + 256 green + 65,536 blue, as in COCO's panoptic
            files, rather than its one value.
        size: height and width that it must have; None if they were not said.
    """

    uri: str
    classes: tuple[tuple[int, str | None], ...]
    coloured: bool = False
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Example:
    """An image and what is known of it: captions, annotations or both.

    Attributes:
        uri: of the image: absolute, with protocol, unescaped.
        captions: each once, none of them empty; at least one unless there are annotations.
        annotations: labels, boxes and masks; None if nothing was said of any.
        mask_file: where the masks lie, if not in ``annotations``: see ``load_annotations``.
        image_id: SHA-256 of the image's bytes, where people reviewed just these; None if the data
            does not say.
    """

    uri: str
    captions: tuple[str, ...]
    annotations: Annotations | None = None
    mask_file: MaskFile | None = None
    image_id: str | None = None

    @property
    def annotated(self) -> bool:
        """Whether anything besides captions is known."""
        return self.annotations is not None or self.mask_file is not None


class Row(NamedTuple):
    """What one place of a data set says of an image; a uri may come again in another row."""

    uri: str
    captions: Sequence[str]
    annotations: Annotations | None = None
    mask_file: MaskFile | None = None
    image_id: str | None = None


def join(rows: Iterable[Row | tuple[str, Sequence[str]]], source: str) -> list[Example]:
    """Join what is said of each image, in the order in which images come.

    White space in captions is made single blanks. Empty captions, and images with neither captions
    nor annotations, are left out and counted in the log.

    Args:
        rows: uris and captions, or all of a ``Row``; a uri may come again.
        source: what they were read from, as it may be shown.

    Raises:
        DataError: if no image has a caption, nor any of them a box, a mask or a label; or if an
            image has two files of masks.
    """
    captions: dict[str, dict[str, None]] = {}
    known: dict[str, Example] = {}
    ids: dict[str, str | None] = {}
    empty = 0
    for row in rows:
        said = captions.setdefault(row[0], {})
        for text in row[1]:
            caption = " ".join(text.split())
            if caption:
                said[caption] = None
            else:
                empty += 1
        if isinstance(row, Row):
            ids[row.uri] = ids.get(row.uri) or row.image_id
        if isinstance(row, Row) and (row.annotations or row.mask_file):
            new = Example(row.uri, (), row.annotations, row.mask_file)
            known[row.uri] = _merged(known[row.uri], new) if row.uri in known else new
    examples = [
        replace(known.get(uri, Example(uri, ())), captions=tuple(said), image_id=ids.get(uri))
        for uri, said in captions.items()
        if said or uri in known
    ]
    _check_some(examples, source, len(captions), annotated=bool(known))
    silent = len(captions) - len(examples)
    if empty or silent:
        logger.warning(
            "%s: left out %d empty captions and %d images without captions%s",
            *(source, empty, silent, " or annotations" if known else ""),
        )
    return examples


def _check_some(examples: Sequence[Example], source: str, images: int, *, annotated: bool) -> None:
    """Check that there is something to learn: a caption, or an object in any of the images."""
    marked = annotated and any(map(_is_marked, examples))
    if annotated and not marked:
        nothing = f"{source} has no box, mask or label in any of its {images:,} images"
        if not any(example.captions for example in examples):
            raise DataError(f"{nothing}, and no captions; name a file that has some")
        logger.warning("%s", nothing)
    if not examples:
        raise DataError(f"{source} has captions of none of its {images:,} images")


def _is_marked(example: Example) -> bool:
    known = example.annotations
    said = known is not None and bool(known.labels or known.boxes or known.masks)
    return said or example.mask_file is not None


def join_annotations(examples: Sequence[Example], annotated: Sequence[Example]) -> list[Example]:
    """Join two readings of the same images, such as COCO's captions and its instances.

    Images that only one of them has are kept with what they have, and counted in the log; those of
    the first come first.

    Raises:
        DataError: if an image has two files of masks.
    """
    joined = {example.uri: example for example in examples}
    both = 0
    for example in annotated:
        both += example.uri in joined
        known = joined.get(example.uri)
        joined[example.uri] = example if known is None else _merged(known, example)
    logger.log(
        logging.INFO if both else logging.WARNING,
        "%d images are in both captions and annotations, %d only in captions, %d only in "
        "annotations",
        *(both, len(examples) - both, len(annotated) - both),
    )
    return list(joined.values())


def _merged(first: Example, second: Example) -> Example:
    """Join two examples of one image: what either says is known."""
    if first.mask_file and second.mask_file and first.mask_file != second.mask_file:
        raise DataError(
            f"the image {redact(first.uri)} has two files of masks, {redact(first.mask_file.uri)} "
            f"and {redact(second.mask_file.uri)}; take one of them out"
        )
    return Example(
        first.uri,
        tuple(dict.fromkeys(first.captions + second.captions)),
        _added(first.annotations, second.annotations),
        first.mask_file or second.mask_file,
        first.image_id or second.image_id,
    )


def _added(first: Annotations | None, second: Annotations | None) -> Annotations | None:
    if first is None or second is None:
        return first or second
    labels = _concatenated(first.labels, second.labels)
    return Annotations(
        labels=None if labels is None else tuple(sorted(set(labels), key=_name)),
        boxes=_concatenated(first.boxes, second.boxes),
        masks=_concatenated(first.masks, second.masks),
    )


def _name(label: Label) -> str:
    return label.name


def _concatenated(
    first: tuple[_T, ...] | None, second: tuple[_T, ...] | None
) -> tuple[_T, ...] | None:
    if first is None or second is None:
        return second if first is None else first
    return tuple(dict.fromkeys(first + second))  # A line a caption may repeat the same boxes.


def class_names(examples: Iterable[Example]) -> ClassNames:
    """Return the classes that occur, of each kind.

    Of a file of class numbers, all that its pixels may be are counted: it is not decoded for this.
    """
    labels: set[str] = set()
    boxes: set[str] = set()
    masks: set[str] = set()
    for example in examples:
        if (known := example.annotations) is not None:
            labels.update(label.name for label in known.labels or ())
            boxes.update(box.name for box in known.boxes or ())
            masks.update(mask.name for mask in known.masks or ())
        if example.mask_file is not None:
            masks.update(name for _, name in example.mask_file.classes if name is not None)
    return ClassNames(*(tuple(sorted(names)) for names in (labels, boxes, masks)))
