"""Which kind of data set a folder or file is, found by looking."""

from collections.abc import Iterable

from captioner.training.sources import (
    coco,
    coco_annotations,
    files,
    flickr,
    metadata,
    metadata_annotations,
    parquet,
    reviews,
)
from captioner.training.sources.examples import DataError, Example, Row, join
from schemas.uris import redact

KNOWN = (
    "metadata.jsonl",
    "metadata.csv",
    reviews.CURRENT,
    "captions.txt",
    "Flickr8k.token.txt",
)
"""Names that say what a folder is; asked for one by one, as listing a million images is slow."""

SPLITS = {
    "train": ("train",),
    "validation": ("validation", "dev", "val"),
    "test": ("test",),
}
"""The names that subfolders of a split may have."""

_MOST_OF_LINE = 65_536
_LOOKED_FOR = f"looked for {', '.join(KNOWN)} and *.parquet"
_Rows = Iterable[Row] | Iterable[tuple[str, list[str]]]


def read_examples(
    data: str, images: str | None = None, *, annotated: bool = False, spare_audit: bool = False
) -> list[Example]:
    """Read images with their captions, of whatever kind the data is.

    Args:
        data: a folder or file on any store: a folder with ``metadata.jsonl`` or ``metadata.csv``
            (Hugging Face's ImageFolder), an output of ``captioner annotate``, Parquet files, a
            JSON file of COCO captions, ``Flickr8k.token.txt`` or ``captions.txt``. Of an output
            only what people reviewed is read (`reviews.read_output`).
        images: the folder of the images, for COCO and Flickr8k, whose captions lie elsewhere.
        annotated: whether labels, boxes and masks are read too, from ``metadata.jsonl``, from
            COCO's instances and panoptic files and from reviews; an image with some of them needs
            no captions. Otherwise nothing but captions is looked at.
        spare_audit: leave out images of an output that models are judged by, see
            `audited_images`.

    Raises:
        DataError: if it is none of these; says what was looked for and what was found.
    """
    uri = files.absolute_uri(data)
    if files.info(uri)["type"] == "directory":
        rows, elsewhere = _folder_rows(uri, images, annotated, spare_audit)
    else:
        rows, elsewhere = _file_rows(uri, images, annotated, spare_audit)
    if images is not None and not elsewhere:
        raise DataError(
            f"{redact(uri)} says itself where its images are; leave out `images` ({images!r})"
        )
    return join(rows, redact(uri))


def audited_images(data: str) -> frozenset[str]:
    """Return the ids of an output's images that models are judged by; none of other data.

    Raises:
        DataError: if it cannot be read.
    """
    uri = files.absolute_uri(data)
    folder = files.parent(uri) if uri.endswith("/" + reviews.CURRENT) else uri
    if files.exists(files.join(folder, reviews.CURRENT)):
        return reviews.audited_images(folder)
    return frozenset()


def splits_of(data: str) -> dict[str, str]:
    """Return the uris of the splits that lie in a folder, by name: train, validation and test.

    A split is a subfolder with ``metadata.jsonl`` or ``metadata.csv``, named as in ``SPLITS``.

    Raises:
        DataError: if there is no such folder, or two subfolders are the same split.
    """
    uri = files.absolute_uri(data)
    if files.info(uri)["type"] != "directory":
        return {}
    splits: dict[str, str] = {}
    for split, folders in SPLITS.items():
        found = [
            folder
            for folder in folders
            if any(files.exists(files.join(uri, f"{folder}/{name}")) for name in KNOWN[:2])
        ]
        if len(found) > 1:
            raise DataError(
                f"{redact(uri)} has {' and '.join(found)}, which both mean {split}; name the one "
                "that is meant"
            )
        if found:
            splits[split] = files.join(uri, found[0])
    return splits


def _folder_rows(
    uri: str, images: str | None, annotated: bool, spare_audit: bool
) -> tuple[_Rows, bool]:
    """Return the rows of a folder, and whether its images may lie elsewhere."""
    found = [name for name in KNOWN if files.exists(files.join(uri, name))]
    if len(found) > 1:
        raise DataError(f"{redact(uri)} has {' and '.join(found)}; name the one that is meant")
    if found:
        return _file_rows(files.join(uri, found[0]), images, annotated, spare_audit)
    splits = splits_of(uri)
    if splits:
        raise DataError(
            f"{redact(uri)} has splits ({', '.join(splits)}) and no captions itself; name one of "
            f"them, e.g. {redact(next(iter(splits.values())))}"
        )
    names = files.names(uri)
    tables = [name for name, type_ in names.items() if name.endswith(".parquet")]
    if tables:
        return parquet.read([files.join(uri, name) for name in tables]), False
    shown = ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "")
    raise DataError(
        f"{redact(uri)} holds no captions: {_LOOKED_FOR}; found {shown or 'nothing'}. "
        "COCO's captions are named by their JSON file"
    )


def _file_rows(
    uri: str, images: str | None, annotated: bool, spare_audit: bool
) -> tuple[_Rows, bool]:
    """Return the rows of a file, and whether its images may lie elsewhere."""
    name = uri.partition("::")[0].lower()
    if name.endswith(".parquet"):
        return parquet.read([uri]), False
    if name.endswith("/" + reviews.CURRENT):
        folder = files.parent(uri)
        return reviews.read_output(folder, annotated=annotated, spare_audit=spare_audit), False
    if name.endswith(".jsonl"):
        return metadata_annotations.read(uri) if annotated else metadata.read_jsonl(uri), False
    if name.endswith(".json"):
        return coco_annotations.read(uri, images) if annotated else coco.read(uri, images), True
    return _text_rows(uri, images)


def _text_rows(uri: str, images: str | None) -> tuple[_Rows, bool]:
    start = files.start(uri, _MOST_OF_LINE).decode("utf-8-sig", "replace")
    first = start.partition("\n")[0].rstrip("\r")
    columns = [name.strip('"') for name in first.split(",")]
    if flickr.TOKEN_LINE.fullmatch(first):
        return flickr.read_tokens(uri, images), True
    if "image" in columns and "caption" in columns:
        return flickr.read_captions(uri, images), True
    if "file_name" in columns:
        return metadata.read_csv(uri), False
    raise DataError(
        f"{redact(uri)} is of no known kind: its first line is {first[:80]!r}. Known are "
        "NAME#NUMBER, a tab and a caption (Flickr8k.token.txt); a table with the columns image "
        "and caption (captions.txt) or file_name and caption (metadata.csv); .jsonl, .json of "
        "COCO captions, and .parquet"
    )
