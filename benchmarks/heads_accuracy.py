"""What a model's heads find in unseen scenes, and what they cost: labels, boxes and masks.

    python benchmarks/heads_accuracy.py

Prints, as lines for RESULTS.md, the scores on scenes without the combinations of colour and shape
that training holds out and on scenes that show one, and by what share captions take longer with
heads than without.
"""

import argparse
import os
import time

import torch
from training_runs import machine

from captioner.checkpoint import embedded_path, load
from captioner.evaluation.heads import score_heads_on_scenes
from captioner.evaluation.scenes import Combinations
from captioner.model import AttentionCaptioner
from captioner.scenes import TEST, render, samples

_SCENES: dict[Combinations, str] = {
    "seen": "unseen scenes without a combination that is held out",
    "unseen": "scenes that name one",
}


def main() -> None:
    """Score a model's heads and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default=embedded_path(), help="folder of the checkpoint")
    parser.add_argument("--scenes", type=int, default=2000, help="how many of each kind")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    captioner = load(options.model, device="cpu")
    print(f"- Model {captioner.model_id}")
    for combinations, what in _SCENES.items():
        scores = score_heads_on_scenes(captioner, TEST, options.scenes, combinations=combinations)
        told = ", ".join(f"{name} {value:.3f}" for name, value in scores.headline().items())
        print(f"- {options.scenes:,} {what}: {told}")
    for threads in sorted({1, options.threads}):
        torch.set_num_threads(threads)
        print(
            f"- Captions take {heads_cost(captioner):.1%} longer with the heads than without, "
            f"{threads} threads"
        )
    print(machine())


def heads_cost(captioner: AttentionCaptioner, count: int = 256, rounds: int = 7) -> float:
    """Return by what share captions take longer with heads than without; the median of rounds."""
    images = [captioner.prepare(render(scene)) for scene in samples(TEST, count)]
    heads, ratios = captioner.model.heads, []
    for _ in range(rounds):
        seconds = {}
        for kind in (heads, None):
            captioner.model.heads = kind
            began = time.perf_counter()
            for start in range(0, count, 64):
                captioner.caption(images[start : start + 64])
            seconds[kind is None] = time.perf_counter() - began
        ratios.append(seconds[False] / seconds[True] - 1)
    captioner.model.heads = heads
    return sorted(ratios)[rounds // 2]


if __name__ == "__main__":
    main()
