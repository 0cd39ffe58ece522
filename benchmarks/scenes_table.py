"""One table of encoders, decoders, attentions, schedules and fusions, trained alike on scenes.

    python benchmarks/scenes_table.py --output FOLDER

Every model learns from the same scenes, for as many passes, from nothing, and then captions the
same unseen scenes. What was trained before is not trained again, so a table may take several runs;
`--only` trains those whose name holds a text. `--epochs` and `--scenes` are the budget. `--long`
trains one model instead, a Vision Transformer with a Transformer, until it knows scenes well.
"""

import argparse
from pathlib import Path

from training_runs import LSTM, LSTM_ATTENDS, machine, trained

from captioner.checkpoint import load
from captioner.evaluation.scenes import SceneScores, score_on_scenes
from captioner.scenes import TEST

_TRANSFORMER = ("--decoder", "transformer", "--width", "128", "--layers", "2")
_TRANSFORMER = (*_TRANSFORMER, "--feedforward_size", "512", "--dropout", "0.1")

_LONG = (
    *(*_TRANSFORMER, "--encoder", "vit", "--tasks", "labels", "boxes"),
    *("--data", "scenes:40000", "--epochs", "7"),
    *("--learning_rate", "1e-3", "--encoder_learning_rate", "1e-3"),
)
"""What it sees in a scene, it learns from labels and boxes in a fraction of the time."""


def variants(epochs: int) -> dict[str, tuple[str, ...]]:
    """Return the flags of each model, by its name in the table."""
    first = max(1, epochs // 3)
    rests = ("--schedule", "decoder_first", "--decoder_epochs", str(first))
    return {
        "grid, LSTM, additive attention, joint": LSTM_ATTENDS,
        "grid, LSTM, dot attention": (*LSTM_ATTENDS, "--attention", "dot"),
        "grid, LSTM, scaled-dot attention": (*LSTM_ATTENDS, "--attention", "scaled_dot"),
        "grid, LSTM, multi-head attention": (
            *(*LSTM_ATTENDS, "--attention", "multi_head", "--heads", "4"),
        ),
        "grid, LSTM, early fusion": (*LSTM, "--fusion", "early"),
        "grid, LSTM, late fusion": (*LSTM, "--fusion", "late"),
        "grid, LSTM, alternating": (*LSTM_ATTENDS, "--schedule", "alternating"),
        f"grid, LSTM, decoder first ({first} of {epochs} epochs)": (*LSTM_ATTENDS, *rests),
        "grid, Transformer": _TRANSFORMER,
        "ViT, LSTM, additive attention": (*LSTM_ATTENDS, "--encoder", "vit"),
        "ViT, Transformer": (*_TRANSFORMER, "--encoder", "vit"),
    }


def main() -> None:
    """Train, score, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the models")
    parser.add_argument("--scenes", type=int, default=12_800, help="to learn from")
    parser.add_argument("--epochs", type=int, default=5, help="passes over them")
    parser.add_argument("--scored", type=int, default=1000, help="unseen scenes to score on")
    parser.add_argument("--only", default="", help="train and score names that hold this text")
    parser.add_argument("--long", action="store_true", help="the long training instead")
    args = parser.parse_args()
    rows = []
    budget = ("--data", f"scenes:{args.scenes}", "--epochs", str(args.epochs))
    chosen = {name: (*budget, *flags) for name, flags in variants(args.epochs).items()}
    if args.long:
        chosen = {"ViT, Transformer, with labels and boxes, 7 x 40,000 scenes": _LONG}
    for name, flags in chosen.items():
        if args.only not in name:
            continue
        folder, minutes = trained(args.output, name, flags)
        captioner = load(folder, device="cpu")
        scores = score_on_scenes(captioner, TEST, args.scored, combinations="seen")
        rows.append(row(name, scores, minutes))
        print(rows[-1], flush=True)
    print("\n| model | true captions (95%) | stated facts | images/s | minutes |")
    print("|---|---|---|---|---|")
    print("\n".join(rows))
    told = "" if args.long else f"{args.scenes:,} scenes, {args.epochs} epochs, "
    print(f"\n- {told}scored on {args.scored:,} unseen scenes")
    print(machine())


def row(name: str, scores: SceneScores, minutes: float) -> str:
    """Return a row of the table."""
    low, high = scores.true_interval
    return (
        f"| {name} | {scores.true_captions:.1%} ({low:.1%} to {high:.1%}) | "
        f"{scores.stated_facts:.3f} | {scores.images_per_second:.0f} | {minutes:.1f} |"
    )


if __name__ == "__main__":
    main()
