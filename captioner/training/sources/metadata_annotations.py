"""Labels, boxes and masks in ``metadata.jsonl``, as Hugging Face's ImageFolder has them.

https://huggingface.co/docs/datasets/image_dataset#object-detection
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from captioner.annotations import Annotations
from captioner.training.sources import files, marks, metadata
from captioner.training.sources.examples import DataError, MaskFile, Row
from captioner.training.sources.marks import Marks, Tally, bad, shown
from schemas.uris import redact

CLASSES = "classes.txt"
"""Beside ``metadata.jsonl`` or in the folder above: the classes' names, one a line, from 0 on."""

BACKGROUND = "background"
"""In ``classes.txt``: pixels of this class are of none."""

UNLABELLED = 255
"""Pixels of this number are of no class either, unless ``classes.txt`` goes so far."""

FIELDS = ("objects", "labels", "label", "masks", "mask_file_name")


def read(uri: str) -> Iterator[Row]:
    """Read a JSON object a line: ``file_name``, and captions and annotations in any of these.

    - ``objects``: ``{"bbox": [[x, y, width, height], ...], "categories": [class, ...]}``, in
      pixels; ``category`` does as well. Empty lists say that there are no objects.
    - ``labels``: a list of classes, or ``label``: one. Without them, the classes of the line's
      objects and masks are its labels, unless the masks are in a file.
    - ``masks``: ``[{"name": class, "counts": ..., "size": [height, width]}, ...]``, in COCO's run
      lengths; or ``mask_file_name``: an image of the same size whose pixels are numbers of classes.
    - ``width`` and ``height`` of the image: boxes and masks are checked against them.
    - ``captions``, ``caption`` or ``text``, as in ``metadata.read_jsonl``.

    A class is a name, or a number from 0 on in ``classes.txt``; where there is such a file, names
    must be in it too. What a line lacks is unknown of its image. Bad annotations are left out, and
    the first one is shown in the log, if they are fewer than 1% and at most 1,000.

    Raises:
        DataError: if a line is something else, names a file elsewhere, or has numbers for classes
            without ``classes.txt``; if none has captions or annotations; or if more annotations
            are bad.
    """
    folder, source, named = files.parent(uri), redact(uri), False
    classes, tally = _read_classes(folder), Tally(source)
    numbers = _numbers(classes)
    for where, row in metadata.read_lines(uri):
        named = named or any(field in row for field in (*metadata.CAPTION_FIELDS, *FIELDS))
        size = marks.size_of(row, where)
        file = None
        if row.get("mask_file_name") is not None:
            file = MaskFile(
                _mask_uri(row["mask_file_name"], folder, classes, where), numbers, size=size
            )
        yield Row(
            files.inside(folder, row["file_name"], where),
            metadata.captions_of(row, where),
            _annotations(row, size, classes, where, tally),
            file,
        )
    if not named:
        fields = ", ".join((*metadata.CAPTION_FIELDS, *FIELDS))
        raise DataError(f"no line of {source} has one of the fields {fields}")
    tally.finish()


def _read_classes(folder: str) -> tuple[str, ...]:
    """Return the names of the classes; none if there is no such file."""
    places = (files.join(place, CLASSES) for place in (folder, files.parent(folder)))
    uri = next(filter(files.exists, places), None)
    if uri is None:
        return ()
    names = [marks.name_of(line) for line in files.read_text(uri).rstrip().split("\n")]
    for number, name in enumerate(names):
        if not name or name in names[:number]:
            wrong = f"is {name!r}, as is line {names.index(name) + 1}" if name else "is empty"
            raise DataError(
                f"{redact(uri)}, line {number + 1}, {wrong}; write the name of class {number} there"
            )
    return tuple(names)


def _numbers(classes: tuple[str, ...]) -> tuple[tuple[int, str | None], ...]:
    """Return what each number in a file of masks stands for."""
    numbers: dict[int, str | None] = {UNLABELLED: None}
    numbers |= {n: None if name == BACKGROUND else name for n, name in enumerate(classes)}
    return tuple(sorted(numbers.items()))


def _mask_uri(name: object, folder: str, classes: tuple[str, ...], where: str) -> str:
    if not isinstance(name, str):
        raise DataError(f"{where} has the mask_file_name {shown(name)}; use the path of a file")
    if not classes:
        raise DataError(_no_names(f"{where} has a file of masks"))
    return files.inside(folder, name, where)


def _annotations(
    row: dict[str, Any],
    size: tuple[int, int] | None,
    classes: tuple[str, ...],
    where: str,
    tally: Tally,
) -> Annotations | None:
    """Return what a line says; None if that is nothing."""
    image, names = Marks(size), set[str]()
    objects = _objects(row.get("objects"), where, tally)
    for value, class_ in objects or ():
        with tally.annotation():
            name = _name(class_, classes, where)
            image.add(name, marks.box_of(name, value, image.size, where, tally))
    masks = _list(row.get("masks"), f"{where} field 'masks'", tally)
    for mask in masks or ():
        with tally.annotation():
            if not isinstance(mask, dict):
                raise bad(f"{where} has the mask {shown(mask)}", "use name, counts and size")
            name = _name(mask.get("name"), classes, where)
            image.add(name, mask=marks.mask_of(mask, image.size, where))
    said = row.get("labels")
    said = [row["label"]] if said is None and row.get("label") is not None else said
    seen = _list(said, f"{where} field 'labels'", tally)
    for class_ in seen or ():
        with tally.annotation():
            names.add(_name(class_, classes, where))
    if objects is None and masks is None and seen is None:
        return None
    known = image.annotations(boxes=objects is not None, masks=masks is not None)
    if seen is not None:
        return replace(known, labels=marks.labels(names))
    return replace(known, labels=None) if row.get("mask_file_name") is not None else known


def _objects(value: object, where: str, tally: Tally) -> list[tuple[object, object]] | None:
    """Return boxes and their classes; None if they are unknown."""
    if value is None:
        return None
    said = value if isinstance(value, dict) else {}
    boxes, classes = said.get("bbox"), said.get("categories", said.get("category"))
    if isinstance(boxes, list) and isinstance(classes, list) and len(boxes) == len(classes):
        return list(zip(boxes, classes, strict=True))
    with tally.annotation():
        raise bad(
            f"{where} has the objects {shown(value)}",
            "use bbox and categories, two lists of the same length",
        )
    return None


def _list(value: object, what: str, tally: Tally) -> list[object] | None:
    """Return a list; None if it is unknown."""
    if value is None or isinstance(value, list):
        return value
    with tally.annotation():
        raise bad(f"{what} is {shown(value)}", "use a list")
    return None


def _name(value: object, classes: tuple[str, ...], where: str) -> str:
    """Return the name of a class that is named, or numbered."""
    if type(value) is int:
        if not classes:
            raise DataError(_no_names(f"{where} has a class by its number, {value}"))
        if 0 <= value < len(classes):
            return classes[value]
    name = marks.name_of(value) if isinstance(value, str) else ""
    if name and (not classes or name in classes):
        return name
    text = f"{where} has the class {shown(value)}"
    if not classes:
        raise bad(text, "use a name, or a number together with " + CLASSES)
    raise bad(f"{text}, which is not among the {len(classes)} of {CLASSES}", "correct one of them")


def _no_names(what: str) -> str:
    return (
        f"{what}, but no {CLASSES} says the classes' names; write it beside the file or in the "
        "folder above, one name a line, from number 0 on"
    )
