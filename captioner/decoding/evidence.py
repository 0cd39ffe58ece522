"""What a decoder knew when it said each word: what a verifier judges by."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captioner.decoding.captions import Decoded


@torch.inference_mode()
def evidence(decoder: Any, memory: Tensor, captions: Sequence[Decoded]) -> list[Tensor]:
    """Return what was known of each word of captions.

    Of a word these are: what it was chosen by, the decoder's last layer before the vocabulary;
    what attention saw there, its weights' mean of the memory (the plain mean, of a decoder that
    does not attend); what the word is read as; and its log-probability and probability.

    Args:
        decoder: one of ``captioner.decoders``.
        memory: what the encoder saw of the image of each caption, [c x positions x f].
        captions: decoded with ``keep_outputs``, by any strategy.

    Returns:
        For each caption [tokens x d], float32, where the memory is.
    """
    if not captions:
        return []
    device, lengths = memory.device, [len(caption.tokens) for caption in captions]
    tokens = torch.tensor([token for caption in captions for token in caption.tokens])
    logprobs = torch.tensor([value for caption in captions for value in caption.logprobs])
    said = logprobs.unsqueeze(1).to(device)
    parts = (
        torch.stack([output for caption in captions for output in caption.outputs]),
        _looked(memory, captions, lengths),
        decoder.read_as(tokens.to(device)),
        said,
        said.exp(),
    )
    return list(torch.split(torch.cat([part.float() for part in parts], 1), lengths))


def _looked(memory: Tensor, captions: Sequence[Decoded], lengths: Sequence[int]) -> Tensor:
    """Return what attention saw at each token, [all tokens x f]."""
    if not captions[0].attention:
        counts = torch.tensor(lengths, device=memory.device)
        return memory.mean(1).repeat_interleave(counts, 0)
    weights = torch.stack([step for caption in captions for step in caption.attention])
    each = torch.split(weights.to(memory.device, memory.dtype), list(lengths))
    return torch.cat([one @ seen for one, seen in zip(each, memory, strict=True)])
