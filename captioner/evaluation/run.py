"""Scoring a captioner on a data set, or on drawn scenes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from captioner.contract import Captioner
from captioner.evaluation.captions import caption_examples
from captioner.evaluation.metrics import require_pycocoevalcap, score
from captioner.evaluation.scenes import score_on_scenes
from captioner.scenes import TEST, scene_count
from captioner.tokenizer import words
from captioner.training.images import check
from captioner.training.sources import DataError, Example, read_examples
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


def evaluate(
    captioner: Captioner, data: str, images: str | None = None, *, batch_size: int = 32
) -> Evaluation:
    """Caption images and hold the captions against people's, or against the truth.

    Args:
        captioner: with the decoding that is to be scored.
        data: as ``read_examples`` takes it, or ``scenes:N``.
        images: where the images lie, if the captions do not say.
        batch_size: images through the model at once.

    Raises:
        DataError: if there is nothing to score.
        ModuleNotFoundError: if pycocoevalcap is not installed.
        ValueError: if N is no such number.
    """
    about = {
        "model_id": captioner.model_id,
        "decoding": {"id": captioner.decoding.id, **asdict(captioner.decoding)},
        "data": redact(data),
    }
    if (count := scene_count(data)) is not None:
        return _on_scenes(captioner, count, batch_size, about)
    require_pycocoevalcap()
    examples, left_out = _usable(read_examples(data, images))
    captions = caption_examples(captioner, examples, batch_size=batch_size)
    said = [caption.text for caption in captions]
    scores = score(said, [example.captions for example in examples])
    rows: list[dict[str, Any]] = [
        {"uri": example.uri, "caption": text, "references": example.captions}
        for example, text in zip(examples, said, strict=True)
    ]
    rows += [{"uri": uri, "left_out": why} for uri, why in left_out.items()]
    metrics = {**about, "left_out": len(left_out), **scores.as_dict()}
    table = scores.table()
    if left_out:
        uri, why = next(iter(left_out.items()))
        table += f"\nleft out {len(left_out):,} images, such as {redact(uri)}: {why}"
    return Evaluation(metrics, rows, table)


def _usable(examples: Sequence[Example]) -> tuple[list[Example], dict[str, str]]:
    """Leave out images that cannot be read, and captions without a word."""
    good, left_out = check(examples)
    usable = []
    for example in good:
        said = tuple(caption for caption in example.captions if words(caption))
        if said:
            usable.append(Example(example.uri, said))
        else:
            left_out[example.uri] = "none of its captions has a word"
    if not usable:
        uri, why = next(iter(left_out.items()))
        raise DataError(f"none of {len(examples)} images can be scored; of {redact(uri)}: {why}")
    return usable, left_out


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
