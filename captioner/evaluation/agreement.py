"""What reviews say of captions: how many are accepted, what is changed, whether reviewers agree."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein

from captioner.confidence.sampling import wilson
from captioner.evaluation.metrics import require_pycocoevalcap
from captioner.tokenizer import words
from schemas.kinds import Verdict

_Floats = npt.NDArray[np.float64]
_Numbers = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Judgements:
    """Reviews of captions, at most one by each reviewer of each caption.

    Attributes:
        caption: a number for each caption, [n].
        image: a number for each image, which may have captions of several models, [n].
        reviewer: a number for each reviewer, [n].
        verdict: what was said, [n].
        seconds: how long that took; NaN where it is not known, [n].
        characters: how much of an edited caption changed, see `edit_distances`; else NaN, [n].
        words: likewise by words, [n].
        cider: of an edited caption as the model wrote it, see `cider`; else NaN, [n].
        no_cider: why no caption has one, if that is so.
    """

    caption: _Numbers
    image: _Numbers
    reviewer: _Numbers
    verdict: npt.NDArray[np.str_]
    seconds: _Floats
    characters: _Floats
    words: _Floats
    cider: _Floats
    no_cider: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: naming what does not fit.
        """
        shapes = {name: value.shape for name, value in vars(self).items() if name != "no_cider"}
        if set(shapes.values()) != {(len(self.caption),)}:
            raise ValueError(
                ", ".join(f"{name} is of shape {shape}" for name, shape in shapes.items())
                + "; give [n] of all"
            )
        unknown = sorted({*self.verdict.tolist()} - {*Verdict})
        if unknown:
            raise ValueError(f"verdict is {unknown[0]!r}; use one of {', '.join(Verdict)}")
        if len(np.unique(np.stack([self.caption, self.reviewer]), axis=1).T) < len(self.caption):
            raise ValueError("a reviewer has two reviews of a caption; keep the newest")


@dataclass(frozen=True)
class Figures:
    """What a group of reviews comes to; None where that cannot be had.

    Attributes:
        reviews: how many there are.
        judged: how many of them were not skipped.
        images: of how many images those are.
        accepted: share of the judged ones.
        accepted_low: lower limit of its 95% interval (Wilson's), in which an image counts once:
            reviews of one image tell much the same.
        accepted_high: its upper limit.
        edited: share of the judged ones.
        rejected: share of the judged ones.
        skipped: share of all.
        edits: edited captions whose text is known before and after.
        characters: their mean share of changed characters.
        words: their mean share of changed words.
        cider: their mean CIDEr-D, from 0 to 10.
        seconds: median time a review took.
        compared: captions with judgements by two reviewers or more.
        same_verdict: how often two reviewers of such a caption gave it the same verdict.
        alpha: Krippendorff's, of those verdicts: 1 is perfect, 0 what chance gives.
        missing: why a figure is None, by name.
    """

    reviews: int
    judged: int
    images: int
    accepted: float | None
    accepted_low: float | None
    accepted_high: float | None
    edited: float | None
    rejected: float | None
    skipped: float
    edits: int
    characters: float | None
    words: float | None
    cider: float | None
    seconds: float | None
    compared: int
    same_verdict: float | None
    alpha: float | None
    missing: dict[str, str] = field(default_factory=dict)


def figures(judgements: Judgements, rows: _Mask | None = None) -> Figures:
    """Return what reviews come to.

    Args:
        judgements: the reviews.
        rows: which of them, [n]; all by default.

    Raises:
        ValueError: if ``rows`` holds none, or is not of the reviews' length.
    """
    rows = np.ones(len(judgements.verdict), np.bool_) if rows is None else rows
    if rows.shape != judgements.verdict.shape or not rows.any():
        raise ValueError(
            f"rows is of shape {rows.shape} and holds {int(rows.sum())} reviews; choose at least "
            f"one of the {len(judgements.verdict):,}"
        )
    judged = rows & (judgements.verdict != Verdict.SKIPPED)
    images = len(np.unique(judgements.image[judged]))
    accepted, edited, rejected = (
        _mean((judgements.verdict == verdict).astype(np.float64), judged)
        for verdict in (Verdict.ACCEPTED, Verdict.EDITED, Verdict.REJECTED)
    )
    low, high = (None, None) if accepted is None else wilson(accepted, images)
    compared, same_verdict, alpha = _reviewers(judgements, judged)
    seconds = judgements.seconds[rows & np.isfinite(judgements.seconds)]
    found = Figures(
        reviews=int(rows.sum()),
        judged=int(judged.sum()),
        images=images,
        accepted=accepted,
        accepted_low=low,
        accepted_high=high,
        edited=edited,
        rejected=rejected,
        skipped=float((rows & ~judged).sum() / rows.sum()),
        edits=int((rows & np.isfinite(judgements.characters)).sum()),
        characters=_mean(judgements.characters, rows),
        words=_mean(judgements.words, rows),
        cider=_mean(judgements.cider, rows),
        seconds=float(np.median(seconds)) if len(seconds) else None,
        compared=compared,
        same_verdict=same_verdict,
        alpha=alpha,
    )
    return replace(found, missing=_missing(found, judgements.no_cider))


def _mean(values: _Floats, rows: _Mask) -> float | None:
    """Return the mean of what is known."""
    known = values[rows & np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _missing(found: Figures, no_cider: str | None) -> dict[str, str]:
    reasons = dict.fromkeys(("accepted", "edited", "rejected"), "every review was skipped")
    reasons |= dict.fromkeys(("characters", "words"), "no caption was edited")
    reasons["cider"] = no_cider if found.edits and no_cider else "no caption was edited"
    reasons["seconds"] = "no review says how long it took"
    reasons["same_verdict"] = "no caption has two reviewers who judged it"
    reasons["alpha"] = (
        "all those reviewers gave one verdict, so what chance gives cannot be told"
        if found.compared
        else reasons["same_verdict"]
    )
    return {name: reason for name, reason in reasons.items() if getattr(found, name) is None}


def _reviewers(judgements: Judgements, judged: _Mask) -> tuple[int, float | None, float | None]:
    """Return the captions with several judgements, how often two agree, and alpha."""
    captions, inverse, counts = np.unique(
        judgements.caption[judged], return_inverse=True, return_counts=True
    )
    several = counts[inverse] > 1
    if not several.any():
        return 0, None, None
    verdicts, number = np.unique(judgements.verdict[judged], return_inverse=True)
    table = np.zeros((len(captions), len(verdicts)))
    np.add.at(table, (inverse, number), 1)
    several_of = table[counts > 1]
    pairs = several_of.sum(1) * (several_of.sum(1) - 1)
    same = float(np.mean(np.sum(several_of * (several_of - 1), 1) / pairs))
    alpha = krippendorff_alpha(
        judgements.caption[judged][several],
        judgements.reviewer[judged][several],
        judgements.verdict[judged][several],
    )
    return len(pairs), same, alpha


def krippendorff_alpha(
    units: _Numbers, coders: _Numbers, values: npt.NDArray[np.str_]
) -> float | None:
    """Return Krippendorff's alpha of nominal values; coders need not have seen all units.

    Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).

    Args:
        units: what was judged, [n].
        coders: by whom, [n].
        values: how, [n].

    Returns:
        None where there is no unit with two values, or only one value in all of them.
    """
    from nltk.metrics.agreement import AnnotationTask  # takes seconds

    _, inverse, counts = np.unique(units, return_inverse=True, return_counts=True)
    several = counts[inverse] > 1
    columns = (part[several].tolist() for part in (coders, units, values))
    if len(np.unique(values[several])) < 2:
        return None
    return float(AnnotationTask(zip(*columns, strict=True)).alpha())


def edit_distances(shown: Sequence[str], edited: Sequence[str]) -> tuple[_Floats, _Floats]:
    """Return how much of captions was changed, from 0 to 1: by characters, and by words.

    Levenshtein's distance, the fewest insertions, deletions and replacements, over the length of
    the longer text. Words are those that scores count: in lower case, without punctuation.

    Args:
        shown: the captions before, [n].
        edited: and after, [n].
    """
    pairs = list(zip(shown, edited, strict=True))
    by_characters = [Levenshtein.normalized_distance(*pair) for pair in pairs]
    by_words = [Levenshtein.normalized_distance(*map(words, pair)) for pair in pairs]
    return np.array(by_characters, np.float64), np.array(by_words, np.float64)


def cider(shown: Sequence[str], edited: Sequence[str]) -> _Floats:
    """Return the CIDEr-D of each caption against the one that a reviewer made of it, [n].

    From 0 to 10; the mean is that of `captioner.evaluation.metrics.score`. How rare words are is
    counted in all edited captions, so that parts of them compare.

    Raises:
        ValueError: if there are fewer than two captions, since no word is rare in one.
        ModuleNotFoundError: if pycocoevalcap is not installed.
    """
    if len(shown) < 2:
        raise ValueError(f"CIDEr needs two edited captions at least, and there are {len(shown)}")
    require_pycocoevalcap()
    from pycocoevalcap.cider.cider import Cider

    said, wanted = (
        {number: [" ".join(words(text))] for number, text in enumerate(texts)}
        for texts in (shown, edited)
    )
    _, each = Cider().compute_score(wanted, said)
    return np.asarray(each, np.float64)


def confidence_bins(confidence: _Floats, bins: int = 5) -> list[tuple[float, float, _Mask]]:
    """Return least and most confidence and the rows of bins with about as many each.

    Each but the first holds the upper number and not the lower; NaN is in none.
    """
    known = confidence[np.isfinite(confidence)]
    if not len(known):
        return []
    inner = np.unique(np.quantile(known, np.arange(1, bins) / bins, method="lower"))
    edges = [float(known.min()), *map(float, inner), float(known.max())]
    place = np.where(np.isfinite(confidence), np.searchsorted(inner, confidence), -1)
    return [
        (edges[number], edges[number + 1], place == number)
        for number in np.unique(place[place >= 0])
    ]
