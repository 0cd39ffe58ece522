"""Pictures of where a model looked, made and uploaded when a task is made.

The tables do not hold attention. So the model that made a caption makes it again, from the same
bytes, and only where it says the same is what it looked at shown.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from captioner.contract import Captioner, Prepared
from captioner.explain import Explanation, NoAttentionError, explain_prepared
from captioner.images import ImageError, Limits, decode
from captioner.strip import COLUMNS, Look, as_jpeg, small, strip, without_looks
from pipelines.labelstudio.client import LabelStudioError
from pipelines.labelstudio.images import PREVIEW_THREADS
from pipelines.labelstudio.items import ReviewItem
from pipelines.labelstudio.unsure import UNSURE_BELOW, words_of
from pipelines.labelstudio.uploads import UPLOAD_FILES, Uploads
from pipelines.storage import StorageError, read_bytes
from schemas.identity import image_id
from schemas.uris import redact

MOST_WORDS = 2 * COLUMNS
_NAMED = 5
_NONE = "no-attention"
_NOTHING_TO_SHOW = "There is no picture of where the model looked."

Load = Callable[[], Captioner]
"""Returns the model that made the captions of a queue."""


@dataclass(frozen=True)
class _Seen:
    """An image as the model takes it, and a copy to draw on."""

    item: ReviewItem
    prepared: Prepared
    copy: Image.Image


class AttentionPictures:
    """Makes pictures of where a model looked for the words that it was least sure of.

    Attributes:
        missing: why there is none, for the uri of each image without.
    """

    def __init__(self, load: Load, kinds: set[tuple[str, str]], limits: Limits) -> None:
        """Load nothing yet.

        Args:
            load: returns the model; called once, before the first picture is made.
            kinds: model and decoding of all captions of the queue.
            limits: what an image may cost.
        """
        self.missing: dict[str, str] = {}
        self._load, self._kinds, self._limits = load, kinds, limits
        self._loaded: Captioner | None = None

    def addresses(self, items: Sequence[ReviewItem], uploads: Uploads) -> dict[str, str]:
        """Make pictures of some captions and upload them, those that are there excepted.

        Args:
            items: the captions, each image once.
            uploads: of the project.

        Returns:
            The address for each image id: of one that says so where there is no picture.

        Raises:
            LabelStudioError: if the model is not the one that made all captions of the queue, or
                does not tell where it looks, or Label Studio takes no upload.
            ModelLoadError: if there is no such model.
        """
        known = uploads.known()
        names = {item.image_id: _name(item) for item in items}
        rest = [item for item in items if names[item.image_id] not in known]
        for start in range(0, len(rest), UPLOAD_FILES):
            uploads.add(self._made(rest[start : start + UPLOAD_FILES]))
        if _NONE not in known and any(name not in known for name in names.values()):
            uploads.add({_NONE: as_jpeg(without_looks(_NOTHING_TO_SHOW))})
        return {i: known[name if name in known else _NONE] for i, name in names.items()}

    def notes(self) -> Iterator[str]:
        """Say which images have no picture, a sentence each, and how many more there are."""
        for uri, why in list(self.missing.items())[:_NAMED]:
            yield f"no picture of where the model looked: {redact(uri)}: {redact(why)}"
        more = len(self.missing) - _NAMED
        if more > 0:
            yield f"{more:,} more tasks have no such picture"

    def _made(self, items: Sequence[ReviewItem]) -> dict[str, bytes]:
        """Make the pictures of a few captions; reading, decoding and drawing are on threads."""
        captioner = self._model()
        made: dict[str, bytes] = {}
        with ThreadPoolExecutor(PREVIEW_THREADS) as pool:
            read = list(pool.map(lambda item: _see(captioner, item, self._limits), items))
            seen = [one for one in read if isinstance(one, _Seen)]
            drawn = dict(
                zip(
                    (one.item.image_id for one in seen),
                    pool.map(_draw, seen, _explained(captioner, seen)),
                    strict=True,
                )
            )
        for item, one in zip(items, read, strict=True):
            result = one if isinstance(one, str) else drawn[item.image_id]
            if isinstance(result, str):
                self.missing[item.uri] = result
            else:
                made[_name(item)] = result
        return made

    def _model(self) -> Captioner:
        if self._loaded is None:
            captioner = self._load()
            ours = (captioner.model_id, captioner.decoding.id)
            if others := sorted(self._kinds - {ours}):
                told = " and ".join(" ".join(kind) for kind in others)
                raise LabelStudioError(
                    "the project shows where the model looked, but captions of the queue are of "
                    f"{told}, and the model is {' '.join(ours)}; name the one that made them by "
                    "--model, and of several kinds one by --model_id and --decoding"
                )
            self._loaded = captioner
        return self._loaded


def _name(item: ReviewItem) -> str:
    """Return a caption's name among the uploads; Label Studio cuts off one of 75 characters."""
    key = hashlib.sha256(f"{item.image_id} {item.model_version}".encode()).hexdigest()
    return f"attention-{key[:40]}"


def _see(captioner: Captioner, item: ReviewItem, limits: Limits) -> _Seen | str:
    """Read an image as it was read for its caption; say why if that cannot be done."""
    try:
        data = read_bytes(item.uri, limits.max_bytes)
        if image_id(data) != item.image_id:
            return "the image has changed since it was captioned"
        draft_size = captioner.image_size if captioner.decoding.draft else None
        image = decode(data, limits, draft_size).image
    except (StorageError, ImageError) as error:
        return str(error)
    except MemoryError:
        return "it did not fit in memory while it was decoded"
    try:
        return _Seen(item, captioner.prepare(image), small(image))
    except Exception as error:  # a model's own preparation raises anything
        return f"the model could not take the image: {error!r}"


def _explained(captioner: Captioner, seen: Sequence[_Seen]) -> list[Explanation | str]:
    """Caption images once more; on an error split them until the guilty one is alone."""
    if not seen:
        return []
    prepared, copies = [one.prepared for one in seen], [one.copy for one in seen]
    try:
        return list(explain_prepared(captioner, prepared, copies))
    except NoAttentionError as error:
        raise LabelStudioError(
            f"{error}, or have captions reviewed in a project without --show_attention"
        ) from None
    except Exception as error:
        if len(seen) == 1:
            return [f"the model failed on it: {error!r}"]
    half = len(seen) // 2
    return [*_explained(captioner, seen[:half]), *_explained(captioner, seen[half:])]


def _draw(seen: _Seen, found: Explanation | str) -> bytes | str:
    """Draw the words that the model was least sure of; say why if that cannot be done."""
    if isinstance(found, str):
        return found
    caption = found.caption
    if caption.text != seen.item.caption:
        return f"captioned once more it got another caption: {caption.text!r}"
    words = words_of(caption.tokens, caption.token_logprobs, caption.text)
    words = [word for word in words if word.tokens]
    if not words:
        return "which token makes which word cannot be told"
    least_sure = sorted(words, key=lambda word: word.probability)[:MOST_WORDS]
    maps = found.maps(*seen.copy.size)
    looks = []
    for word in sorted(least_sure, key=lambda word: word.start):
        weights = maps[list(word.tokens)].mean(axis=0)
        text = f"{caption.text[word.start : word.end]}  {word.probability:.2f}"
        unsure = word.probability < UNSURE_BELOW
        looks.append(Look(text, weights / (weights.max() or 1), unsure))
    return as_jpeg(strip(seen.copy, looks))
