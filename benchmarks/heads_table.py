"""Captions, labels, boxes and masks by one encoder or by one each, with gates and without.

    python benchmarks/heads_table.py --output FOLDER

Every model learns from the same scenes for as many passes, from nothing, with several seeds, and is
then scored on the same unseen scenes. What was trained before is not trained again, so a table may
take several runs; `--only` trains those whose name holds a text. A task that is learned alone has
an encoder of its own.
"""

import argparse
from pathlib import Path
from statistics import fmean

from heads_accuracy import heads_cost
from training_runs import LSTM_ATTENDS, machine, trained

from captioner.checkpoint import load
from captioner.evaluation.heads import score_heads_on_scenes
from captioner.evaluation.scenes import score_on_scenes
from captioner.scenes import TEST

_ALL = ("--tasks", "labels", "boxes", "masks")
_ALONE = ("--caption_weight", "0", "--tasks")
VARIANTS: dict[str, tuple[str, ...]] = {
    "all four": _ALL,
    "captions alone": (),
    "labels alone": (*_ALONE, "labels"),
    "boxes alone": (*_ALONE, "boxes"),
    "masks alone": (*_ALONE, "masks"),
    "all four, no gates": (*_ALL, "--no_gate"),
    "all four, in turns": (*_ALL, "--turns", "alternating"),
    "all four, weights by uncertainty": (*_ALL, "--weighting", "uncertainty"),
}
COLUMNS = ("true_captions", "label_f1", "map_50", "map_50_95", "mean_iou")


def main() -> None:
    """Train, score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the models")
    parser.add_argument("--scenes", type=int, default=6400, help="to learn from")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them")
    parser.add_argument("--seeds", type=int, default=3, help="models of each kind")
    parser.add_argument("--scored", type=int, default=1000, help="unseen scenes to score on")
    parser.add_argument("--only", default="", help="train and score names that hold this text")
    args = parser.parse_args()
    rows = []
    for name, flags in VARIANTS.items():
        if args.only not in name:
            continue
        found = [_scores(args, name, flags, seed) for seed in range(args.seeds)]
        rows.append(f"| {name} | " + " | ".join(_cell(found, column) for column in COLUMNS) + " |")
        print(rows[-1], flush=True)
    print(f"\n| model | {' | '.join(COLUMNS)} |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    print("\n".join(rows))
    print(
        f"\n- {args.scenes:,} scenes, {args.epochs} epochs, {args.seeds} seeds: mean (least to "
        f"most); scored on {args.scored:,} unseen scenes"
    )
    print(machine())


def _scores(
    args: argparse.Namespace, name: str, flags: tuple[str, ...], seed: int
) -> dict[str, float]:
    budget = ("--data", f"scenes:{args.scenes}", "--epochs", str(args.epochs))
    told = (*budget, "--seed", str(seed), *LSTM_ATTENDS, *flags)
    folder, _ = trained(args.output, f"{name} {seed}", told)
    captioner = load(folder, device="cpu")
    scores = {}
    if "--caption_weight" not in flags:
        found = score_on_scenes(captioner, TEST, args.scored, combinations="seen")
        scores["true_captions"] = found.true_captions
    if captioner.model.heads is not None:
        heads = score_heads_on_scenes(captioner, TEST, args.scored, combinations="seen")
        scores |= heads.headline()
        if "--caption_weight" not in flags and seed == 0:
            print(f"{name}: heads cost {heads_cost(captioner):.1%} of the captioner's time")
    return scores


def _cell(found: list[dict[str, float]], column: str) -> str:
    values = [scores[column] for scores in found if column in scores]
    if not values:
        return ""
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
