"""Which precision a machine is fast at."""

import torch

from captioner.training.config import Precision


def fastest_precision(device: str) -> Precision:
    """Return bfloat16 where there are instructions for it; elsewhere it is slower than float32.

    Args:
        device: auto, which takes a GPU, or cpu.
    """
    if device != "cpu" and torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    asked = getattr(torch.cpu, "get_capabilities", dict)  # Newer than the oldest that will do.
    abilities: dict[str, bool] = asked()
    return "bfloat16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "float32"
