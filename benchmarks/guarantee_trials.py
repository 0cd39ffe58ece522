"""How often a guarantee fails, and how much it accepts: trials on scores of known quality.

    python benchmarks/guarantee_trials.py

Scores of right and of wrong captions are normal, their distance such that the AUROC is as stated;
70% of the captions are right. Each trial draws captions and, uniformly from them, labels; asks for
95% of the accepted captions to be right with 90% confidence; and looks at all captions whether that
holds. The oracle accepts as many as it could if it saw every caption's truth.
"""

import argparse
import time

import numpy as np
from scipy.stats import norm
from training_runs import machine

from captioner.confidence.guarantee import accept_threshold

ACCURACY, CONFIDENCE = 0.95, 0.9


def main() -> None:
    """Run the trials, and print a line for each number of labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--captions", type=int, default=20_000, help="in each trial")
    parser.add_argument("--labels", type=int, nargs="*", default=(300, 1000, 1500))
    parser.add_argument("--right", type=float, default=0.7, help="share of right captions")
    parser.add_argument("--auroc", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.perf_counter()
    print("| labels | missed | certified | accepts, of the oracle's |\n|---|---|---|---|")
    for labels in args.labels:
        missed, shares = trials(args, labels)
        print(
            f"| {labels:,} | {np.mean(missed):.1%} | {np.mean(shares > 0):.1%} | "
            f"{np.mean(shares):.1%} |",
            flush=True,
        )
    print(
        f"\n- {args.trials:,} trials a line, {args.captions:,} captions each, {args.right:.0%} "
        f"right, AUROC {args.auroc}, {ACCURACY:.0%} at {CONFIDENCE:.0%}, seed {args.seed}; "
        f"{time.perf_counter() - began:.0f} s"
    )
    print(machine())


def trials(args: argparse.Namespace, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which trials missed their goal, and what they accepted as a share of the oracle's."""
    rng = np.random.default_rng((args.seed, labels))
    missed, shares = [], []
    for _ in range(args.trials):
        correct = rng.random(args.captions) < args.right
        scores = rng.standard_normal(args.captions) + correct * norm.ppf(args.auroc) * 2**0.5
        chosen = rng.choice(args.captions, labels, replace=False)
        found = accept_threshold(
            scores, scores[chosen], correct[chosen], accuracy=ACCURACY, confidence=CONFIDENCE
        )
        threshold = np.inf if found.threshold is None else found.threshold
        accepted = scores >= threshold
        missed.append(bool(accepted.any() and correct[accepted].mean() < ACCURACY))
        shares.append(accepted.sum() / oracle(scores, correct))
    return np.array(missed), np.array(shares)


def oracle(scores: np.ndarray, correct: np.ndarray) -> int:
    """Return the most captions that can be accepted by a threshold so that the goal holds."""
    right = np.cumsum(correct[np.argsort(-scores)])
    counts = np.arange(1, len(scores) + 1)
    return int(counts[right >= ACCURACY * counts].max(initial=1))


if __name__ == "__main__":
    main()
