"""Train an LSTM with additive attention on Flickr8k, and score it: what the paper's table asks.

    python benchmarks/flickr8k.py --data FLICKR8K --encoder MOBILENET --output FOLDER

FLICKR8K has the folders `train` and `dev`, each with its images and a `metadata.jsonl` (a JSON
object a line: `file_name`, `captions`); it is not openly licensed, so it does not come with this
project: ask its authors (Hodosh, Young and Hockenmaier, 2013). MOBILENET is a `transformers`
checkpoint of MobileNet v1, 0.75, 224 pixels, by folder or name. Dev is what the recipe was tuned
on; `--split test` scores the finished model on a folder `test`.

What this script runs are two commands that anyone can run; both are printed.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RECIPE = (
    *("--decoder", "lstm", "--attention", "additive", "--tied"),
    *("--embedding_size", "256", "--hidden_size", "512", "--attention_size", "256"),
    *("--dropout", "0.4", "--embedding_dropout", "0.2"),
    *("--min_frequency", "5", "--drop_punctuation", "--max_tokens", "24"),
    *("--epochs", "12", "--schedule", "decoder_first", "--decoder_epochs", "1"),
    *("--thaw", "last:15", "--learning_rate", "1.5e-3", "--encoder_learning_rate", "2e-4"),
    *("--weight_decay", "0.01", "--averaging", "0.997", "--label_smoothing", "0.1"),
    *("--flip", "--crop_scale", "0.7", "--colour", "0.2", "--views", "0"),
)
DECODING = ("--strategy", "beam", "--beam_size", "5", "--length_penalty", "0.7")


def main() -> None:
    """Train, score, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train and dev")
    parser.add_argument("--encoder", required=True, help="folder or name of the MobileNet")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model")
    parser.add_argument("--split", default="dev", help="what to score on (default: %(default)s)")
    args = parser.parse_args()
    for split in ("train", args.split):
        if not (args.data / split / "metadata.jsonl").exists():
            parser.error(f"there is no {args.data / split}/metadata.jsonl; {__doc__}")
    began = time.perf_counter()
    run("train", "--data", args.data, "--encoder", args.encoder, "--output", args.output, *RECIPE)
    minutes = (time.perf_counter() - began) / 60
    scores = args.output / args.split
    scored = ("--data", args.data / args.split, "--output", scores)
    run("evaluate", "--model", args.output / "best", *scored, *DECODING)
    metrics = json.loads((scores / "metrics.json").read_text())
    names = ("torch", "transformers", "accelerate", "numpy", "pycocoevalcap")
    print(f"- {args.split}, {metrics['images']:,} images, beam 5, length penalty 0.7")
    for name in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"):
        value, low, high = (100 * metrics[name][part] for part in ("value", "low", "high"))
        print(f"  - {name} {value:.2f} (95% interval {low:.2f} to {high:.2f})")
    epochs = (args.output / "epochs.jsonl").read_text().splitlines()
    steps = json.loads(epochs[-1])["seconds"] / 60
    print(f"- training: {minutes:.0f} minutes, of which {steps:.0f} in steps, the rest in scores")
    print(
        f"- {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        + ", ".join(f"{name} {version(name)}" for name in names)
    )


def run(*command: object) -> None:
    """Run a command of the captioner's, and show it."""
    words = [str(part) for part in command]
    print("captioner", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "pipelines.cli", *words], check=True)


if __name__ == "__main__":
    main()
