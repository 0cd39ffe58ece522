"""Whether attention looks where it should: ``python benchmarks/attention_on_shapes.py``.

Prints how much of the attention of each shape's word falls within that shape, on unseen scenes,
against the share of the image that the shape covers, which is what chance would give.
"""

import argparse
import datetime
import platform

import torch

from captioner.checkpoint import embedded_path, load
from captioner.evaluation.attention import attention_on_shapes
from captioner.scenes import TEST


def main() -> None:
    """Measure and print lines for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default=embedded_path(), help="folder of the checkpoint")
    parser.add_argument("--scenes", type=int, default=1000, help="how many")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    options = parser.parse_args()
    captioner = load(options.model, device=options.device)
    found = attention_on_shapes(captioner, TEST, options.scenes)
    print(f"- Model {captioner.model_id}, {options.scenes} unseen scenes, {found.words} words")
    print(
        f"- {found.inside:.1%} of a word's attention is within its shape, by chance "
        f"{found.chance:.1%}: {found.inside / found.chance:.1f} times as much"
    )
    print(f"- {datetime.date.today()}, {platform.machine()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
