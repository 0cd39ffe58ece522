"""Images with captions and annotations, read from users' folders on any store of fsspec's.

From the bottom up; each module imports only from those above it:

- `examples`: an image and what is known of it, and how what is said of one image is joined.
- `files`: reading, looking and joining names that may not lead out of their folder.
- `metadata`: ``metadata.jsonl`` and ``metadata.csv``, the layout that Hugging Face calls
  ImageFolder.
- `marks`: labels, boxes and masks as data sets write them, checked; `mask_files`: masks that lie
  in files of their own, decoded when they are needed.
- `metadata_annotations`: those of ``metadata.jsonl``.
- `coco`, `flickr`: the captions of those data sets, and where their images lie.
- `coco_annotations`: COCO's boxes and masks, of instances and panoptic.
- `parquet`: any Parquet with uris.
- `reviews`: an output of ``captioner annotate`` with its reviews.
- `reading`: which of these it is.
"""

from captioner.training.sources.examples import (
    DataError,
    Example,
    MaskFile,
    class_names,
    join_annotations,
)
from captioner.training.sources.mask_files import load_annotations
from captioner.training.sources.reading import audited_images, read_examples, splits_of

__all__ = [
    "DataError",
    "Example",
    "MaskFile",
    "audited_images",
    "class_names",
    "join_annotations",
    "load_annotations",
    "read_examples",
    "splits_of",
]
