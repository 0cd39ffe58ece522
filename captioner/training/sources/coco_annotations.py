"""The objects of COCO (1405.0312): its instances, and its panoptic masks (1801.00868).

https://cocodataset.org/#format-data
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from captioner.training.sources import coco, files, marks
from captioner.training.sources.examples import DataError, MaskFile, Row
from captioner.training.sources.marks import Marks, Tally, bad, shown
from schemas.uris import redact


@dataclass(frozen=True)
class _Class:
    name: str
    has_boxes: bool


def read(uri: str, images: str | None = None) -> Iterator[Row]:
    """Read what is known of images: boxes, masks and labels, or captions, whichever the file has.

    - Instances (``instances_train2017.json``): a box and a mask an object, of polygons or run
      lengths; of a crowd the mask alone. A class's objects in an image make one mask; classes
      stand in the order of their last objects. An image without objects is known to be empty.
    - Panoptic (``panoptic_train2017.json``): boxes of things; masks stay in their PNG files, in
      the folder of the same name beside the JSON file. An image without a mask is unknown.

    The labels of an image are the classes of its objects. Where an object has no box, or no mask,
    nothing is known of the image's boxes, or masks, since the place is not empty. Bad annotations
    are left out, and the first one is shown in the log, if they are fewer than 1% and at most
    1,000.

    Args:
        uri: of the JSON file.
        images: the folder of the images; see ``coco.read``.

    Raises:
        DataError: if the file is something else, its images or masks are not found, its classes
            are not clear, or more annotations are bad.
    """
    source = redact(uri)
    content = coco.read_content(uri, source)
    notes: list[Any] = content["annotations"]
    first = notes[0] if notes and isinstance(notes[0], dict) else {}
    sizes = _sizes(content["images"], source)
    places = coco.find_images(content, uri, images, source)
    if "caption" in first:
        yield from (Row(*row) for row in coco.captions_of(content, places, source))
        return
    classes = _classes(content.get("categories"), source)
    tally = Tally(source)
    if "segments_info" in first:
        yield from _panoptic(
            notes, classes, places, sizes, _masks_folder(uri, notes, source), tally
        )
    else:
        yield from _instances(notes, classes, places, sizes, tally)
    tally.finish()


def _sizes(images: list[Any], source: str) -> dict[Any, tuple[int, int] | None]:
    return {
        image.get("id"): marks.size_of(image, f"{source}, image {image.get('id')!r},")
        for image in images
        if isinstance(image, dict) and isinstance(image.get("id"), int | str)
    }


def _classes(categories: object, source: str) -> dict[Any, _Class]:
    """Return the classes by their ids."""
    if not isinstance(categories, list) or not categories:
        raise DataError(f"{source} has no categories, which say the classes' names")
    classes: dict[Any, _Class] = {}
    ids: dict[str, Any] = {}
    for category in categories:
        said = category if isinstance(category, dict) else {}
        key, name = said.get("id"), said.get("name")
        if not isinstance(key, int | str) or not isinstance(name, str) or not name.strip():
            raise DataError(f"{source} has a category without id and name: {shown(category)}")
        name = marks.name_of(name)
        if key in classes or name in ids:
            raise DataError(
                f"{source}: the categories {ids.get(name, key)!r} and {key!r} have the same "
                f"{'id' if key in classes else 'name'}, {key if key in classes else name!r}; "
                "give each its own"
            )
        ids[name] = key
        classes[key] = _Class(name, has_boxes=bool(said.get("isthing", True)))
    return classes


def _instances(
    notes: list[Any],
    classes: Mapping[Any, _Class],
    places: Mapping[Any, str],
    sizes: Mapping[Any, tuple[int, int] | None],
    tally: Tally,
) -> Iterator[Row]:
    found: dict[Any, Marks] = {}
    boxes = masks = False
    for number, note in enumerate(notes):
        notes[number] = None  # its polygons take many times the memory of their run lengths
        with tally.annotation():
            where, key = _where(note, places, tally.source)
            image = found.setdefault(key, Marks(sizes.get(key)))
            boxes, masks = boxes or bool(note.get("bbox")), masks or bool(note.get("segmentation"))
            _add_instance(image, note, classes, where, tally)
    for key, uri in places.items():
        image = found.pop(key) if key in found else Marks(None)
        yield Row(uri, (), image.annotations(boxes=boxes, masks=masks))


def _add_instance(
    image: Marks, note: dict[str, Any], classes: Mapping[Any, _Class], where: str, tally: Tally
) -> None:
    name = _class(note, classes, where).name
    box = mask = None
    crowd = bool(note.get("iscrowd"))
    if note.get("segmentation"):
        mask = marks.mask_of(note["segmentation"], image.size, where)
    if note.get("bbox") and not crowd:
        box = marks.box_of(name, note["bbox"], image.size, where, tally)
    image.add(name, box, mask)
    image.boxes_known &= box is not None or crowd
    image.masks_known &= mask is not None


def _panoptic(
    notes: list[Any],
    classes: Mapping[Any, _Class],
    places: Mapping[Any, str],
    sizes: Mapping[Any, tuple[int, int] | None],
    folder: str,
    tally: Tally,
) -> Iterator[Row]:
    for note in notes:
        row = None
        with tally.annotation():
            where, key = _where(note, places, tally.source)
            name, segments = note.get("file_name"), note.get("segments_info")
            if not isinstance(name, str) or not isinstance(segments, list):
                raise bad(f"{where} lacks file_name or segments_info", "add them")
            image = Marks(sizes.get(key))
            numbers = _add_segments(image, segments, classes, where, tally)
            file = files.inside(folder, name, where)
            known = image.annotations(boxes=True, masks=False)
            row = Row(places[key], (), known, MaskFile(file, numbers, True, image.size))
        if row is not None:
            yield row
    yield from (Row(uri, ()) for uri in places.values())


def _add_segments(
    image: Marks,
    segments: list[Any],
    classes: Mapping[Any, _Class],
    where: str,
    tally: Tally,
) -> tuple[tuple[int, str | None], ...]:
    """Add segments to what is said of their image, and return the class of each one's number."""
    numbers: dict[int, str | None] = {0: None}
    for segment in segments:
        with tally.annotation():
            number = segment.get("id") if isinstance(segment, dict) else None
            if not isinstance(number, int) or number < 1:
                raise bad(f"{where} has the segment {shown(segment)}", "give it an id from 1 on")
            numbers[number] = None  # stays so if the segment is bad: its pixels are of no class
            numbers[number] = _add_segment(image, segment, classes, where, tally)
    return tuple(numbers.items())


def _add_segment(
    image: Marks, segment: dict[str, Any], classes: Mapping[Any, _Class], where: str, tally: Tally
) -> str:
    where = f"{where} segment {segment['id']},"
    class_ = _class(segment, classes, where)
    box = None
    if class_.has_boxes and not segment.get("iscrowd"):
        box = marks.box_of(class_.name, segment.get("bbox"), image.size, where, tally)
    image.add(class_.name, box)
    return class_.name


def _masks_folder(uri: str, notes: list[Any], source: str) -> str:
    """Return the folder of the PNG files, found by looking for the first of them."""
    folder = files.parent(uri)
    name = uri.partition("::")[0].rpartition("/")[2].removesuffix(".json")
    tried = (files.join(folder, name), files.join(files.parent(folder), name), folder)
    said = (note.get("file_name") for note in notes[:5] if isinstance(note, dict))
    names = [name for name in said if isinstance(name, str)]
    for place in tried:
        if any(files.exists(files.inside(place, name, source)) for name in names):
            return place
    raise DataError(
        f"the masks of {source} were not found: looked for {(names or ['none'])[0]!r} in "
        f"{', '.join(map(redact, tried))}; put them there"
    )


def _where(note: Any, places: Mapping[Any, str], source: str) -> tuple[str, Any]:
    """Return where an annotation stands, as it may be shown, and the id of its image."""
    if not isinstance(note, dict):
        raise bad(f"{source} has the annotation {shown(note)}", "make it an object, as in COCO")
    key = note.get("image_id")
    where = f"{source}, annotation {shown(note['id']) if 'id' in note else 'without id'},"
    if not isinstance(key, int | str) or key not in places:
        text = f"{where} is of the image {shown(key)}, which is not among its images"
        raise bad(text, "add the image, or take the annotation out")
    return where, key


def _class(said: Mapping[str, Any], classes: Mapping[Any, _Class], where: str) -> _Class:
    key = said.get("category_id")
    if not isinstance(key, int | str) or key not in classes:
        text = f"{where} has the category_id {shown(key)}, which is not among the categories"
        raise bad(text, "add the category, or correct it")
    return classes[key]
