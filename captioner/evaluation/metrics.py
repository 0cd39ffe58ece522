"""BLEU, ROUGE-L and CIDEr of captions against references, with intervals, as papers report them.

The counting is that of pycocoevalcap (1504.00325); the words are ours, since its own tokenizer
needs Java: lower case, no punctuation, each Chinese or Japanese character a word of its own (see
``captioner.tokenizer.words``). So figures can differ from published ones in their last digits.
METEOR and SPICE need Java and are not offered. Of scenes, where the truth is known, use
``captioner.evaluation.scenes``: it tells whether a caption is true, which no overlap of words can.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner.tokenizer import words

_ORDERS = 4
_RESAMPLES = 1000
_SMALL, _TINY = 1e-9, 1e-15  # As pycocoevalcap: no division by zero, and 0 where nothing matches.
NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
"""The scores, as they are called in ``CaptionScores``."""
_TITLES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A figure and its 95% interval, had other images of the same kind been drawn."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CaptionScores:
    """How much captions are like their references.

    BLEU and ROUGE-L reach from 0 to 1 and CIDEr from 0 to 10; papers write 100 times that.

    Attributes:
        images: how many.
        empty: how many captions had no word.
        bleu_1: BLEU of the whole, by words.
        bleu_2: and by pairs of words.
        bleu_3: and by three in a row.
        bleu_4: and by four in a row.
        rouge_l: ROUGE-L, a mean over images.
        cider: CIDEr-D, a mean over images. How rare words are is counted in these references, so
            it needs many images (it is 0 for one), and compares only captions of the same ones.
    """

    images: int
    empty: int
    bleu_1: Score
    bleu_2: Score
    bleu_3: Score
    bleu_4: Score
    rouge_l: Score
    cider: Score

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def table(self) -> str:
        """A line a score, times 100 as papers have it, with its interval."""
        bleu = (self.bleu_1, self.bleu_2, self.bleu_3, self.bleu_4)
        lines = [f"{self.images:,} images, {self.empty:,} without a word; scores times 100"]
        for title, score in zip(_TITLES, (*bleu, self.rouge_l, self.cider), strict=True):
            value, low, high = (100 * part for part in (score.value, score.low, score.high))
            lines.append(f"{title:8} {value:6.1f}   95% interval {low:.1f} to {high:.1f}")
        return "\n".join(lines)


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Hold captions against what people wrote.

    Intervals are percentiles of a bootstrap: images are drawn anew a thousand times, always the
    same draws for the same number of images. How rare words are to CIDEr is not counted anew.

    Args:
        captions: one an image; an empty one scores 0 and counts like any other.
        references: of each image, one or more.

    Raises:
        ValueError: if there is nothing to score, an image lacks a reference, or one has no word.
        ModuleNotFoundError: if pycocoevalcap is not installed.
    """
    _check(captions, references)
    said = [" ".join(words(caption)) for caption in captions]
    wanted = [[" ".join(words(text)) for text in texts] for texts in references]
    for number, texts in enumerate(wanted):
        if "" in texts:
            text = references[number][texts.index("")]
            raise ValueError(f"reference {text!r} of image {number} has no word; leave it out")
    counts = _count(said, wanted)
    images = len(counts)
    rng = np.random.default_rng(0)
    drawn = [
        _scores(np.bincount(rng.integers(images, size=images), minlength=images) @ counts, images)
        for _ in range(_RESAMPLES)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
    values = _scores(counts.sum(0), images)
    scores = (Score(*map(float, parts)) for parts in zip(values, low, high, strict=True))
    return CaptionScores(images, said.count(""), *scores)


def require_pycocoevalcap() -> None:
    """Make sure that captions can be scored, before time is spent on making them.

    Raises:
        ModuleNotFoundError: if pycocoevalcap is not installed.
    """
    try:
        import pycocoevalcap.bleu.bleu_scorer  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scores need {error.name}; install it: pip install 'captioner[evaluation]'"
        ) from error


def _check(captions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not captions:
        raise ValueError("there are no captions to score; give at least one")
    if len(captions) != len(references):
        raise ValueError(
            f"{len(captions)} captions but references of {len(references)} images; give one list "
            "of references a caption"
        )
    for number, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(
                f"the references of image {number} are {texts!r}; give a list of one or more texts"
            )


def _count(said: Sequence[str], wanted: Sequence[list[str]]) -> _Floats:
    """Count what scores are made of, a row an image.

    Returns:
        Length of the caption and of the closest reference, n-grams said and n-grams right for n
        from 1 to 4, ROUGE-L and CIDEr, [images x 12].
    """
    require_pycocoevalcap()
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    _, cider = Cider().compute_score(
        dict(enumerate(wanted)), {number: [text] for number, text in enumerate(said)}
    )
    rouge = Rouge()
    rows = []
    for text, texts, consensus in zip(said, wanted, cider, strict=True):
        found = cook_test(text, cook_refs(texts, n=_ORDERS), eff="closest", n=_ORDERS)
        lengths = (found["testlen"], found["reflen"])
        subsequence = rouge.calc_score([text], texts)
        rows.append((*lengths, *found["guess"], *found["correct"], subsequence, consensus))
    return np.array(rows, np.float64)


def _scores(totals: _Floats, images: int) -> _Floats:
    """Make BLEU-1 to 4, ROUGE-L and CIDEr of the sum of images' counts."""
    said, closest = totals[:2]
    guessed, right = totals[2 : 2 + _ORDERS], totals[2 + _ORDERS : 2 + 2 * _ORDERS]
    precisions = (right + _TINY) / (guessed + _SMALL)
    bleu = np.cumprod(precisions) ** (1 / np.arange(1, _ORDERS + 1))
    ratio = (said + _TINY) / (closest + _SMALL)
    if ratio < 1:
        bleu *= np.exp(1 - 1 / ratio)
    return np.concatenate([bleu, totals[-2:] / images])
