"""Labels for a confidence head: reviews, joined with the captions that the reviewers saw."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from captioner.confidence.guarantee import kept_for_guarantees
from captioner.confidence.labels import Labels
from captioner.confidence.verification import MOST_CAPTIONS
from captioner.verifier import Verifier
from pipelines import storage
from pipelines.commands import UsageError
from pipelines.output import Output
from schemas.kinds import Verdict
from schemas.uris import redact

_KEY = ["image_id", "model_id", "decoding"]
_COLUMNS = [*_KEY, "shown_caption", "verdict", "reviewed_at"]
_Review = dict[str, Any]

_OF_LEARNED_IMAGES = "are of images that the verifier learned from (learn it anew: --verifier)"
_UNVERIFIED = "lack what the model's verifier says (fill it: captioner annotate --refill)"
"""Why labels are left out."""


@dataclass(frozen=True)
class LabelledCaption:
    """A caption of which a person said whether it is right.

    Attributes:
        image_id: of its image.
        caption: its text.
        correct: whether it is right.
        features: of it.
        uris: where its image is, sorted.
    """

    image_id: str
    caption: str
    correct: bool
    features: dict[str, float | None]
    uris: tuple[str, ...]


@dataclass
class Joined:
    """Reviews that are labels of a model's captions, and how many are not.

    Attributes:
        captions: that are labelled.
        reviews: how many there were.
        skipped: of these, how many say nothing.
        superseded: how many are older than another of the same caption.
        other_models: how many are of each other model.
        other_decodings: how many are of this model but of each other way of decoding.
        other_images: how many are of images that have no caption.
        other_captions: how many are of another text than the caption.
        kept: how many are kept for guarantees.
        learned: how many are of images that the verifier learned from.
        unverified: how many are of captions of which the verifier has not said anything.
        beyond: how many are more than a verifier learns from.
        unreadable: how many are of images that cannot be read or captioned any more.
        changed: how many are of images that have other bytes now.
        captioned_otherwise: how many are of images that the model captions differently now.
    """

    captions: list[LabelledCaption] = field(default_factory=list)
    reviews: int = 0
    skipped: int = 0
    superseded: int = 0
    other_models: Counter[str] = field(default_factory=Counter)
    other_decodings: Counter[str] = field(default_factory=Counter)
    other_images: int = 0
    other_captions: int = 0
    kept: int = 0
    learned: int = 0
    unverified: int = 0
    beyond: int = 0
    unreadable: int = 0
    changed: int = 0
    captioned_otherwise: int = 0

    def labels(self) -> Labels:
        """Return what a head is fitted on."""
        labels = Labels()
        for one in self.captions:
            labels.add(one.features, one.correct, one.image_id)
        return labels

    def summary(self) -> str:
        """How many reviews there were, and why some were left out."""
        reasons = [
            (self.skipped, "were skipped by the reviewer"),
            (self.superseded, "are older than another of the same caption"),
            (self.other_models.total(), f"are for other models ({_names(self.other_models)})"),
            (
                self.other_decodings.total(),
                f"are for other decodings ({_names(self.other_decodings)})",
            ),
            (self.other_images, "are for images without a caption"),
            (self.other_captions, "are for another caption than the image has"),
            (self.kept, "are kept for guarantees (use them: --no_guarantee)"),
            (self.learned, _OF_LEARNED_IMAGES),
            (self.unverified, _UNVERIFIED),
            (
                self.beyond,
                f"are more than the {MOST_CAPTIONS:,} that a verifier learns from, by a hash of "
                "the image",
            ),
            (self.unreadable, "are of images that cannot be read or captioned any more"),
            (self.changed, "are of images that have changed"),
            (self.captioned_otherwise, "are of images that are captioned differently now"),
        ]
        parts = [f"{len(self.captions):,} of {self.reviews:,} reviews are used"]
        return "; ".join([*parts, *(f"{count:,} {why}" for count, why in reasons if count)])


def join(
    labels: str,
    captions: str,
    model_id: str,
    decoding: str,
    *,
    keep_for_guarantees: bool = True,
    verifier: Verifier | None = None,
) -> Joined:
    """Join reviews with captions by image, model, decoding and text.

    A caption is right if its reviewer accepted it; edited and rejected ones are wrong. Of several
    reviews of a caption the newest counts.

    Args:
        labels: uri of an output, or of a file or folder of Parquet in the schema of ``reviews``.
        captions: uri of an output.
        model_id: whose captions are wanted.
        decoding: id of the decoding configuration of these captions.
        keep_for_guarantees: leave out what may certify: the half of the images that
            `kept_for_guarantees` names.
        verifier: that the head looks at. Captions of which it has not said anything, and images
            that it learned from, are left out.

    Raises:
        UsageError: if there are no such captions, or no reviews of them.
        OutputError: if an output is damaged.
        StorageError: if a file cannot be read.
    """
    joined = Joined()
    reviews = list(_wanted(_reviews(labels), joined, model_id, decoding))
    output = Output(captions)
    wanted = {review["image_id"] for review in reviews}
    verifier_id = None if verifier is None else verifier.id
    rows = _rows(output, wanted, model_id, decoding, verifier_id)
    images = {image for image, _ in rows}
    newest: dict[tuple[str, str], _Review] = {}
    for review in reviews:
        key = review["image_id"], review["shown_caption"]
        if key in rows:
            joined.superseded += key in newest
            if key not in newest or _when(review) >= _when(newest[key]):
                newest[key] = review
        elif key[0] in images:
            joined.other_captions += 1
        else:
            joined.other_images += 1
    if keep_for_guarantees:
        spent = {key: one for key, one in newest.items() if not kept_for_guarantees(key[0])}
        joined.kept, newest = len(newest) - len(spent), spent
    if verifier is not None:
        unseen = {key: one for key, one in newest.items() if not verifier.saw(key[0])}
        joined.learned, newest = len(newest) - len(unseen), unseen
        told = {key: one for key, one in newest.items() if rows[key].verifier_id == verifier.id}
        joined.unverified, newest = len(newest) - len(told), told
    for key, review in newest.items():
        correct = review["verdict"] == Verdict.ACCEPTED.value
        row = rows[key]
        uris = tuple(sorted(row.uris))
        joined.captions.append(LabelledCaption(*key, correct, row.features, uris))
    if not joined.reviews:
        raise UsageError(
            f"{redact(labels)} holds no reviews; bring back what people said with captioner review "
            "pull, or name scenes:N where the model is for drawn scenes"
        )
    if not newest:
        raise UsageError(
            f"{redact(labels)} has no label for captions by {model_id} with decoding {decoding} "
            f"in {redact(captions)}: {joined.summary()}. Captions there are {_kinds(output)}"
        )
    return joined


def _wanted(
    reviews: Iterable[_Review], joined: Joined, model_id: str, decoding: str
) -> Iterator[_Review]:
    """Yield reviews of this model and decoding that say something, and count the others."""
    verdicts = [verdict.value for verdict in Verdict]
    for review in reviews:
        joined.reviews += 1
        if review["verdict"] not in verdicts:
            raise UsageError(
                f"a review of {review['image_id']} has the verdict {review['verdict']!r}; use one "
                f"of {', '.join(verdicts)}"
            )
        if review["verdict"] == Verdict.SKIPPED.value:
            joined.skipped += 1
        elif review["model_id"] != model_id:
            joined.other_models[review["model_id"]] += 1
        elif review["decoding"] != decoding:
            joined.other_decodings[review["decoding"]] += 1
        else:
            yield review


def _reviews(uri: str) -> Iterator[_Review]:
    if storage.exists(storage.join(uri, "current.json")):
        for _, table in Output(uri).tables("reviews", _COLUMNS):
            yield from table.to_pylist()
        return
    for name in [uri] if uri.endswith(".parquet") else _parquet_files(uri):
        yield from _read(name).to_pylist()


def _parquet_files(folder: str) -> list[str]:
    names = [file.uri for file in storage.list_files(folder) if file.uri.endswith(".parquet")]
    if not names:
        raise UsageError(
            f"--labels {redact(folder)} has no Parquet files; name an output of annotate, a file "
            "or folder of reviews, or scenes:N"
        )
    return names


def _read(uri: str) -> pa.Table:
    data = storage.read_fresh(uri)
    try:
        names = pq.read_schema(pa.BufferReader(data)).names
        missing = [name for name in _COLUMNS if name not in names]
        if not missing:
            return pq.read_table(pa.BufferReader(data), columns=_COLUMNS)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"--labels {redact(uri)} cannot be read as Parquet: {error}") from error
    raise UsageError(
        f"--labels {redact(uri)} has no column {missing[0]}; reviews have {', '.join(_COLUMNS)}"
    )


@dataclass(frozen=True)
class _Row:
    """What an output has of an image's caption."""

    features: dict[str, float | None]
    verifier_id: str | None
    uris: list[str]


def _rows(
    output: Output, images: set[str], model_id: str, decoding: str, verifier_id: str | None
) -> dict[tuple[str, str], _Row]:
    """Return what there is of some images, by image and text of the caption.

    Of several rows of a caption it is one of which the wanted verifier said something.
    """
    ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
    wanted = ours & pc.field("image_id").isin(pa.array(sorted(images), pa.string()))
    columns = ["image_id", "caption", "features", "verifier_id", "uri"]
    found: dict[tuple[str, str], _Row] = {}
    for _, table in output.tables("captions", columns, wanted):
        for row in table.to_pylist():
            key = row["image_id"], row["caption"]
            before = found.get(key)
            if before is not None:
                before.uris.append(row["uri"])
            if before is None or row["verifier_id"] == verifier_id:
                uris = [row["uri"]] if before is None else before.uris
                found[key] = _Row(row["features"] or {}, row["verifier_id"], uris)
    return found


def _kinds(output: Output) -> str:
    """Name the models and decodings that an output has captions of."""
    kinds = {
        f"by {row['model_id']} with decoding {row['decoding']}"
        for _, table in output.tables("captions", ["model_id", "decoding"])
        for row in table.group_by(["model_id", "decoding"]).aggregate([]).to_pylist()
    }
    return ", ".join(sorted(kinds)) or "none"


def _names(counts: Counter[str]) -> str:
    return ", ".join(sorted(counts))


def _when(review: _Review) -> float:
    at = review["reviewed_at"]
    return float("-inf") if at is None else float(at.timestamp())
