"""What a comparison of two models looks like in a terminal."""

import math
from collections.abc import Callable, Iterable

from captioner.evaluation.paired import FEWEST, Better, Paired
from pipelines.comparisons import Pair

_VERDICTS = {
    Better.BETTER: "the candidate is better",
    Better.WORSE: "the candidate is worse",
    Better.CANNOT_TELL: "cannot tell yet",
}


def lines(pair: Pair, found: Paired) -> Iterable[str]:
    """Say what was compared, and what follows."""
    same, differing = found.same, found.images - found.same
    yield f"candidate {pair.candidate_id}, decoding {pair.candidate_decoding}"
    yield f"present   {pair.model_id}, decoding {pair.decoding}"
    yield f"{found.images:,} audited images: of {same:,} both say the same, of {differing:,} not"
    if differing:
        answers = differing - found.waiting
        neither = answers - found.won - found.lost
        yield (
            f"{answers:,} of {differing:,} compared: {found.won:,} better by the candidate, "
            f"{found.lost:,} by the present model, {neither:,} by neither"
        )
    if found.share is not None:
        yield (
            f"of those with a winner the candidate won {found.share:.1%} (95% interval "
            f"{found.share_low:.1%} to {found.share_high:.1%}, however often one looks)"
        )
    if found.difference is not None:
        yield (
            f"of all images, won less lost: {found.difference:+.1%} (95% interval "
            f"{found.difference_low:+.1%} to {found.difference_high:+.1%}, for one look)"
        )
    yield f"verdict: {_VERDICTS[found.verdict]}"


def what_next(found: Paired, share: float, plan: Callable[[str], str]) -> str:
    """Say what would tell, where it cannot be told yet.

    Args:
        found: what is known.
        share: of all images, those that the audit draws.
        plan: gives the command that draws a share of all images.
    """
    if found.same == found.images:
        return "both models say the same of every audited image, so there is nothing to choose by"
    waiting = f"{found.waiting:,} tasks wait for one" if found.waiting else "no task waits for one"
    if found.missing is None and found.won == found.lost == 0:
        told, missing = f"at least {FEWEST} answers for the same model are needed", FEWEST
    elif found.missing is None:
        return (
            "so far neither is better; if that is how it is, no number of answers will tell. More "
            f"answers may show a small difference ({waiting})"
        )
    else:
        told = f"about {found.missing:,} more answers would tell, if they go on like this"
        missing = found.missing
    if missing <= found.waiting:
        return f"{told}; {waiting}"
    differing = found.images - found.same
    more = share * (1 + (missing - found.waiting) / differing)
    if more > 1:
        return f"{told}, more than there are images; {waiting}"
    percent = math.ceil(1000 * more) / 10
    return (
        f"{told}; {waiting}. To draw more images, plan with your rules "
        f"and a larger audit, then run this again: {plan(f'{percent:g}%')}"
    )
