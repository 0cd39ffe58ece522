"""Do intervals of the quality estimate hold the truth, and what do they save?

    python benchmarks/quality_intervals.py

Draws data sets whose accuracy is known: scores of right and wrong captions are normal (binormal),
as far apart as the AUROC says, and confidence is the probability that follows, or a power of it,
which is no probability. An audit draws captions at random; estimates are made of its labels by the
function that `captioner quality` uses. Prints how often the 95% interval holds the true accuracy,
how often it lies above and below it, and how many labels are needed as a share of those that
simple random sampling needs for an interval (Wilson's) of the same width. Then the same where
captions below a confidence are queued and reviewed: all of them, a part at random, or the least
confident first.
"""

import argparse
import math
import time

import numpy as np
from scipy import stats
from scipy.special import expit, logit
from training_runs import machine

from captioner.confidence.quality import Estimate, Mask, Reviewed, Values, estimate
from captioner.confidence.sampling import wilson

LABELS = (200, 500, 1000)
WORLDS = (
    *((accuracy, auroc, 1.0) for accuracy in (0.5, 0.7, 0.9, 0.95) for auroc in (0.8, 0.9)),
    (0.98, 0.9, 1.0),
    (0.7, 0.9, 0.3),
    (0.7, 0.9, 4.0),
)
FIRST = "least confident first"
QUEUES = (
    (1.0, 1.0, "random"),
    (1.0, 0.6, "random"),
    (0.5, 0.6, "random"),
    *((share, 1.0, FIRST) for share in (0.08, 0.5, 0.9)),
)
BELOW = 0.3


def captions(
    rng: np.random.Generator, count: int, accuracy: float, auroc: float, power: float
) -> tuple[Values, Mask]:
    """Draw captions: their confidence, and whether they are right."""
    correct = rng.random(count) < accuracy
    apart = math.sqrt(2) * stats.norm.ppf(auroc)
    scores = rng.normal(size=count) + apart * correct
    return expit(logit(accuracy) + apart * scores - apart**2 / 2) ** power, correct


def main() -> None:
    """Measure, and print tables for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000, help="of each line")
    parser.add_argument("--captions", type=int, default=10_000, help="of a data set")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    args = parser.parse_args()
    began = time.perf_counter()
    print("| accuracy | AUROC | confidence | labels | holds | above | below | labels needed |")
    print("|---" * 8 + "|")
    for world in WORLDS:
        for labels in LABELS:
            print(audit_line(args, world, labels), flush=True)
    print(
        "\n| queued reviewed | audit reviewed | all: holds | accepted: holds | queued: holds | "
        "all: width | accepted: width | queued: width |"
    )
    print("|---" * 8 + "|")
    for queue in QUEUES:
        print(queue_line(args, *queue), flush=True)
    print(
        f"\n- {args.trials:,} trials a line, {args.captions:,} captions each, seed {args.seed}; in "
        f"the second table accuracy 0.7, AUROC 0.9, queued below {BELOW}, audit 5%, of which as "
        f"many as stated are reviewed; {time.perf_counter() - began:.0f} s"
    )
    print(machine())


def audit_line(args: argparse.Namespace, world: tuple[float, float, float], labels: int) -> str:
    """Measure estimates from an audit of about so many labels; return a line of the table."""
    rng = np.random.default_rng(args.seed)
    nothing_queued = np.ones(args.captions, np.bool_)
    holds, widths = [], []
    for _ in range(args.trials):
        confidence, correct = captions(rng, args.captions, *world)
        index = np.flatnonzero(rng.random(args.captions) < labels / args.captions)
        chances = np.full(len(index), labels / args.captions)
        nothing_known = np.zeros(len(index), np.bool_)
        found = estimate(
            Reviewed(confidence, nothing_queued, index, correct[index], nothing_known, chances)
        )
        low, high = wilson(correct[index].mean(), len(index) / (1 - len(index) / args.captions))
        holds.append(side(found, correct.mean()))
        widths.append((found.high - found.low, high - low))
    ours, plain = np.mean(widths, 0)
    within, above, below = (np.mean(np.array(holds) == one) for one in (0, 1, -1))
    accuracy, auroc, power = world
    kind = "calibrated" if power == 1 else f"to the power {power:g}"
    return (
        f"| {accuracy} | {auroc} | {kind} | {labels:,} | {within:.1%} | {above:.1%} | "
        f"{below:.1%} | {(ours / plain) ** 2:.2f} |"
    )


def queue_line(args: argparse.Namespace, of_queue: float, of_audit: float, order: str) -> str:
    """Measure estimates where captions of little confidence are queued; return a line."""
    rng = np.random.default_rng(args.seed)
    holds, widths = [], []
    for _ in range(args.trials):
        confidence, correct = captions(rng, args.captions, 0.7, 0.9, 1.0)
        accepted = confidence >= BELOW
        audited = rng.random(args.captions) < 0.05
        if order == "random":  # The audit's surer captions sooner.
            answered = rng.random(args.captions) < of_audit * confidence**0.5
            done = np.where(accepted, answered, rng.random(args.captions) < of_queue)
        else:
            done = (confidence <= np.quantile(confidence[~accepted], of_queue)) | audited
        index = np.flatnonzero((audited | ~accepted) & done)
        chances = np.full(len(index), 0.05)
        reviewed = Reviewed(confidence, accepted, index, correct[index], ~audited[index], chances)
        parts = (np.ones_like(accepted), accepted, ~accepted)
        found = [estimate(reviewed, rows) for rows in parts]
        holds.append(
            [side(one, correct[rows].mean()) for one, rows in zip(found, parts, strict=True)]
        )
        widths.append([one.high - one.low for one in found])
    cells = " | ".join(f"{share:.1%}" for share in np.mean(np.array(holds) == 0, 0))
    width = " | ".join(f"{one:.3f}" for one in np.mean(widths, 0))
    audit = f"{of_audit:.0%} x sqrt(confidence)" if order == "random" else "all"
    return f"| {of_queue:.0%}, {order} | {audit} | {cells} | {width} |"


def side(found: Estimate, truth: float) -> int:
    """Say whether an interval holds the truth (0), lies above it (1) or below (-1)."""
    return int(found.low > truth) - int(found.high < truth)


if __name__ == "__main__":
    main()
