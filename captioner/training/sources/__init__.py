"""Images with captions, read from users' own folders on any store that fsspec knows.

From the bottom up; each module imports only from those above it:

- `examples`: an image and its captions, and how what is said of one image is joined.
- `files`: reading, looking and joining names that may not lead out of their folder.
- `metadata`: ``metadata.jsonl`` and ``metadata.csv``, the layout that Hugging Face calls
  ImageFolder.
- `coco`, `flickr`: the captions of those data sets, and where their images lie.
- `parquet`: an output of ``captioner annotate`` with its reviews, or any Parquet with uris.
- `reading`: which of these it is.
"""

from captioner.training.sources.examples import DataError, Example
from captioner.training.sources.reading import read_examples, splits_of

__all__ = ["DataError", "Example", "read_examples", "splits_of"]
