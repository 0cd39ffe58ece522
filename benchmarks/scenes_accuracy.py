"""How true a model's captions of unseen scenes are: ``python benchmarks/scenes_accuracy.py``.

Prints, as lines for RESULTS.md and for each language that the model knows, the share of captions
that are true in every fact they state (with a 95% Wilson interval) and how much they state beside
the grammar's own captions: on scenes without the combinations of colour and shape that training
holds out, and on scenes whose captions must name one. Then images/s from the bytes of JPEG files
to captions, after a burn-in.
"""

import argparse
import datetime
import io
import math
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from captioner.checkpoint import embedded_path, load
from captioner.contract import DecodingConfig, Prepared
from captioner.evaluation.scenes import Combinations, score_on_scenes
from captioner.images import decode
from captioner.model import AttentionCaptioner
from captioner.scenes import HELD_OUT, TEST, render, samples

_NORMAL_95 = 1.96
_DECODING_THREADS = 2
_SCENES: dict[Combinations, str] = {
    "seen": "unseen scenes without a combination that is held out",
    "unseen": f"scenes that name a {', '.join(' '.join(pair) for pair in HELD_OUT[:-1])} or "
    f"{' '.join(HELD_OUT[-1])}",
}


def main() -> None:
    """Score a model and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default=embedded_path(), help="folder of the checkpoint")
    parser.add_argument("--scenes", type=int, default=2000, help="how many of each kind")
    parser.add_argument("--first_seed", type=int, default=TEST, help="seed of the first scene")
    parser.add_argument("--batch_size", type=int, default=64, help="images captioned at once")
    parser.add_argument("--images", type=int, default=1024, help="JPEG files that are timed")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    began, processor_began = time.perf_counter(), time.process_time()
    captioner = _load(options, "")
    size = sum(path.stat().st_size for path in Path(options.model).iterdir()) / 1e6
    print(f"- Model {captioner.model_id}, {size:.2f} MB, {options.precision}, greedy")
    print("- Whether its training held out anything, its model card must tell: this only measures")
    for language in captioner.tokenizer.languages or ("",):
        print(f"- Language: {language or 'its only one, which has no name'}")
        for combinations in _SCENES:
            _score(_load(options, language), combinations, language or None, options)
    rate = images_per_second(captioner, options.images, options.batch_size)
    took, processor = time.perf_counter() - began, time.process_time() - processor_began
    print(
        f"- {rate:.0f} images/s from the bytes of JPEG files of 224 x 224, decoded on "
        f"{_DECODING_THREADS} threads, batches of {options.batch_size}, {options.threads} threads "
        f"of torch, {captioner.device}"
    )
    print(f"- The whole script: {took:.0f} s, {processor:.0f} s of processor time")
    print(
        f"- {datetime.date.today()}, {_processor()} x {os.cpu_count()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, Pillow {PIL.__version__}, "
        f"numpy {np.__version__}"
    )


def _load(options: argparse.Namespace, language: str) -> AttentionCaptioner:
    decoding = DecodingConfig(precision=options.precision, language=language)
    return load(options.model, device=options.device, decoding=decoding)


def _score(
    captioner: AttentionCaptioner,
    combinations: Combinations,
    language: str | None,
    options: argparse.Namespace,
) -> None:
    scores = score_on_scenes(
        captioner,
        options.first_seed,
        options.scenes,
        options.batch_size,
        combinations=combinations,
        language=language,
    )
    low, high = wilson(scores.true_captions, scores.scenes)
    print(f"  - {scores.scenes} {_SCENES[combinations]}, from seed {options.first_seed} on")
    print(
        f"    - True in every stated fact: {scores.true_captions:.2%} "
        f"(95% interval {low:.2%} to {high:.2%})"
    )
    print(f"    - Facts stated, as a share of what the grammar states: {scores.stated_facts:.3f}")
    for problem, count in scores.problems:
        print(f"    - {problem}: {count}")


def images_per_second(captioner: AttentionCaptioner, count: int, batch_size: int) -> float:
    """Time the way from the bytes of JPEG files to captions; threads decode ahead of the model."""
    files = [_jpeg(render(scene)) for scene in samples(0, count)]

    def ready(data: bytes) -> Prepared:
        return captioner.prepare(decode(data).image)

    captioner.caption([ready(data) for data in files[:batch_size]])
    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        began = time.perf_counter()
        images = pool.map(ready, files)
        while batch := list(islice(images, batch_size)):
            captioner.caption(batch)
        return count / (time.perf_counter() - began)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


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
