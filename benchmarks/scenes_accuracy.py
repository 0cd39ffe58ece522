"""How true a model's captions of unseen scenes are: ``python benchmarks/scenes_accuracy.py``.

Prints, as lines for RESULTS.md, the share of captions that are true in every fact they state
(with a 95% Wilson interval), how much they state beside the grammar's own captions, and images/s
from pictures in memory to captions, after a burn-in.
"""

import argparse
import datetime
import math
import os
import platform
import time
from pathlib import Path

import numpy as np
import PIL
import torch

from captioner.checkpoint import embedded_path, load
from captioner.contract import DecodingConfig
from captioner.evaluation.scenes import score_on_scenes
from captioner.scenes import TEST, render, samples

_NORMAL_95 = 1.96


def main() -> None:
    """Score a model and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default=embedded_path(), help="folder of the checkpoint")
    parser.add_argument("--scenes", type=int, default=2000, help="how many")
    parser.add_argument("--first_seed", type=int, default=TEST, help="seed of the first scene")
    parser.add_argument("--batch_size", type=int, default=64, help="images captioned at once")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    decoding = DecodingConfig(precision=options.precision)
    captioner = load(options.model, device=options.device, decoding=decoding)
    images = [captioner.prepare(render(scene)) for scene in samples(0, options.batch_size)]
    captioner.caption(images)
    began, processor_began = time.perf_counter(), time.process_time()
    scores = score_on_scenes(captioner, options.first_seed, options.scenes, options.batch_size)
    took, processor = time.perf_counter() - began, time.process_time() - processor_began
    low, high = wilson(scores.true_captions, scores.scenes)

    size = sum(path.stat().st_size for path in Path(options.model).iterdir()) / 1e6
    last_seed = options.first_seed + options.scenes - 1
    print(f"- Model {captioner.model_id}, {size:.2f} MB, {options.precision}, greedy")
    print(f"- {scores.scenes} unseen scenes (seeds {options.first_seed} to {last_seed})")
    print(
        f"- True in every stated fact: {scores.true_captions:.2%} "
        f"(95% interval {low:.2%} to {high:.2%})"
    )
    print(f"- Facts stated, as a share of what the grammar states: {scores.stated_facts:.3f}")
    for problem, count in scores.problems:
        print(f"  - {problem}: {count}")
    print(
        f"- {scores.images_per_second:.0f} images/s, resize included, batches of "
        f"{options.batch_size}, {options.threads} threads, {captioner.device}"
    )
    print(f"- The whole script: {took:.0f} s, {processor:.0f} s of processor time")
    print(
        f"- {datetime.date.today()}, {_processor()} x {os.cpu_count()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}, "
        f"numpy {np.__version__}"
    )


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the ends of the 95% Wilson interval of a share."""
    z = _NORMAL_95**2 / count
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(share * (1 - share) * z + z * z / 4) / (1 + z)
    return middle - half, middle + half


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
