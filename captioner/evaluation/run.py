"""Scoring a captioner on a data set, or on drawn scenes: its captions, and what its heads find."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from captioner.annotations import ClassNames
from captioner.contract import Captioner
from captioner.evaluation.annotation_counts import require_torchmetrics
from captioner.evaluation.annotations import AnnotationScores
from captioner.evaluation.captions import caption_examples
from captioner.evaluation.heads import (
    score_heads_on_examples,
    score_heads_on_scenes,
)
from captioner.evaluation.metrics import require_pycocoevalcap, score
from captioner.evaluation.scenes import score_on_scenes
from captioner.model import AttentionCaptioner
from captioner.scenes import TEST, scene_count, truth
from captioner.tokenizer import words
from captioner.training.images import check
from captioner.training.sources import (
    DataError,
    Example,
    class_names,
    join_annotations,
    read_examples,
)
from schemas.uris import redact


@dataclass(frozen=True)
class Evaluation:
    """What a captioner scored.

    Attributes:
        metrics: scores, and what they are of; ready for JSON.
        rows: what was said of each image, what people said, and each image that was left out.
        table: the scores, a line each.
    """

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    table: str

    def joined(self, metrics: dict[str, Any], lines: Sequence[str]) -> "Evaluation":
        """Return it with more metrics, and more lines under its table."""
        table = "\n".join([*([self.table] if self.table else []), *lines])
        return Evaluation(self.metrics | metrics, self.rows, table)


def evaluate(
    captioner: Captioner,
    data: str,
    images: str | None = None,
    *,
    annotations: str | None = None,
    batch_size: int = 32,
) -> Evaluation:
    """Hold captions, and what heads find, against what people said, or against the truth.

    Captions are scored where the data has some, and heads, if the model has any, where it has
    labels, boxes or masks. Of these, classes that the model does not know are left out.

    Args:
        captioner: with the decoding that is to be scored.
        data: as ``read_examples`` takes it, or ``scenes:N``.
        images: where the images lie, if the captions do not say.
        annotations: COCO's instances or panoptic JSON, where the data has captions alone.
        batch_size: images through the model at once.

    Raises:
        DataError: if there is nothing to score.
        ModuleNotFoundError: if pycocoevalcap, or for heads torchmetrics, is not installed.
        ValueError: if N is no such number, or annotations are of no use.
    """
    about = {
        "model_id": captioner.model_id,
        "decoding": {"id": captioner.decoding.id, **asdict(captioner.decoding)},
        "data": redact(data),
    }
    heads = _with_heads(captioner)
    if heads is not None:
        require_torchmetrics()
    if annotations is not None:
        if heads is None:
            raise ValueError(
                f"annotations are given, but model {captioner.model_id} has no heads; leave them "
                "out, or take a model that was trained with --tasks"
            )
        about["annotation_data"] = redact(annotations)
    if (count := scene_count(data)) is not None:
        if annotations is not None:
            raise ValueError("annotations are given, but scenes bring their own; leave them out")
        evaluation = _on_scenes(captioner, count, batch_size, about)
        return evaluation if heads is None else _with_scenes(evaluation, heads, count, batch_size)
    found = _read(data, images, annotations, annotated=heads is not None)
    if any(example.captions for example in found):
        require_pycocoevalcap()
    examples, left_out = _usable(found)
    evaluation = _on_examples(captioner, examples, left_out, batch_size, about)
    return evaluation if heads is None else _with_examples(evaluation, heads, examples, batch_size)


def _with_heads(captioner: Captioner) -> AttentionCaptioner | None:
    """Return a captioner that has heads as what it is; None if it has none."""
    if isinstance(captioner, AttentionCaptioner) and captioner.model.heads is not None:
        return captioner
    return None


def _read(
    data: str, images: str | None, annotations: str | None, *, annotated: bool
) -> list[Example]:
    examples = read_examples(data, images, annotated=annotated)
    if annotations is None:
        return examples
    return join_annotations(examples, read_examples(annotations, images, annotated=True))


def _usable(examples: Sequence[Example]) -> tuple[list[Example], dict[str, str]]:
    """Leave out images that cannot be read, and captions without a word."""
    good, left_out = check(examples)
    usable = []
    for example in good:
        said = tuple(caption for caption in example.captions if words(caption))
        if said or example.annotated:
            usable.append(replace(example, captions=said))
        else:
            left_out[example.uri] = "none of its captions has a word"
    if not usable:
        uri, why = next(iter(left_out.items()))
        raise DataError(f"none of {len(examples)} images can be scored; of {redact(uri)}: {why}")
    return usable, left_out


def _on_examples(
    captioner: Captioner,
    examples: Sequence[Example],
    left_out: dict[str, str],
    batch_size: int,
    about: dict[str, Any],
) -> Evaluation:
    """Score captions of the images that people captioned, if there are any."""
    metrics = {**about, "left_out": len(left_out)}
    rows: list[dict[str, Any]] = []
    lines = ["no image has a caption: captions are not scored"]
    if captioned := [example for example in examples if example.captions]:
        captions = caption_examples(captioner, captioned, batch_size=batch_size)
        said = [caption.text for caption in captions]
        scores = score(said, [example.captions for example in captioned])
        rows += [
            {"uri": example.uri, "caption": text, "references": example.captions}
            for example, text in zip(captioned, said, strict=True)
        ]
        metrics |= scores.as_dict()
        lines = [scores.table()]
    rows += [{"uri": uri, "left_out": why} for uri, why in left_out.items()]
    if left_out:
        uri, why = next(iter(left_out.items()))
        lines.append(f"left out {len(left_out):,} images, such as {redact(uri)}: {why}")
    return Evaluation(metrics, rows, "\n".join(lines))


def _with_examples(
    evaluation: Evaluation,
    captioner: AttentionCaptioner,
    examples: Sequence[Example],
    batch_size: int,
) -> Evaluation:
    """Add the scores of heads on the images of which people said more than captions."""
    scores = AnnotationScores(None, None, None)
    if any(example.annotated for example in examples):
        scores = score_heads_on_examples(captioner, examples, batch_size=batch_size)
    return evaluation.joined(*_told(scores, captioner.classes, class_names(examples)))


def _with_scenes(
    evaluation: Evaluation, captioner: AttentionCaptioner, count: int, batch_size: int
) -> Evaluation:
    """Add the scores of heads on unseen scenes, of which a model may know some classes only."""
    scores = score_heads_on_scenes(captioner, TEST, count, batch_size)
    shown = ClassNames(truth.LABELS, truth.BOXES, truth.MASKS)
    return evaluation.joined(*_told(scores, captioner.classes, shown))


def _told(
    scores: AnnotationScores, known: ClassNames, there: ClassNames
) -> tuple[dict[str, Any], list[str]]:
    """Return metrics and lines: the scores, and what of the model or the data is not in them."""
    kinds = [kind for kind, names in asdict(known).items() if names]
    unknown = {
        kind: names
        for kind in kinds
        if (names := sorted(set(getattr(there, kind)) - set(getattr(known, kind))))
    }
    lines = [scores.table()] if scores.headline() else []
    if unscored := [kind for kind in kinds if getattr(scores, kind) is None]:
        lines.append(f"not scored: {', '.join(unscored)}; the data has none that the model knows")
    if unknown:
        counts = ", ".join(f"{len(names):,} of {kind}" for kind, names in unknown.items())
        name = next(iter(unknown.values()))[0]
        lines.append(f"left out classes that the model does not know: {counts}, such as {name!r}")
    metrics: dict[str, Any] = {"annotations": scores.as_dict()} if scores.headline() else {}
    return {**metrics, **({"unknown_classes": unknown} if unknown else {})}, lines


def _on_scenes(
    captioner: Captioner, count: int, batch_size: int, about: dict[str, Any]
) -> Evaluation:
    scores = score_on_scenes(captioner, TEST, count, batch_size)
    metrics = {**about, **asdict(scores)}
    table = "\n".join(
        [
            f"{scores.scenes:,} unseen scenes",
            f"true captions {scores.true_captions:7.1%}   95% interval "
            + " to ".join(f"{edge:.1%}" for edge in scores.true_interval),
            f"stated facts  {scores.stated_facts:7.3f}   95% interval "
            + " to ".join(f"{edge:.3f}" for edge in scores.stated_interval)
            + ", of what the grammar states",
            *(f"  {problem}: {times:,}" for problem, times in scores.problems[:5]),
        ]
    )
    return Evaluation(metrics, [], table)
