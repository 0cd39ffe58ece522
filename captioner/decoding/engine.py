"""The engine: drives any decoder, one step for all captions of a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoders import Decoder, State
from captioner.decoding.beams import Beams
from captioner.decoding.captions import Decoded, Words
from captioner.decoding.rows import Choice, Sampling, most_probable, one_a_row


@torch.inference_mode()
def decode(
    decoder: Decoder[State],
    memory: Tensor,
    config: DecodingConfig,
    words: Words,
    seeds: Sequence[int] = (),
    *,
    keep_outputs: bool = False,
) -> list[Decoded]:
    """Caption images.

    Rows that are done leave the batch, so late steps cost what is left.

    Args:
        decoder: what gives the logits.
        memory: what the encoder saw, [b x positions x features].
        config: how tokens are chosen.
        words: the tokens that matter.
        seeds: for sampling, a number of each image's own, [b], so that its caption does not
            depend on the batch.
        keep_outputs: keep what each token was chosen by, for ``evidence``.

    Returns:
        One ``Decoded`` an image, in order.

    Raises:
        ValueError: if sampling lacks a seed for each image.
        FloatingPointError: if the model gives something that is no number.
    """
    if not len(memory):
        return []
    if config.strategy == "beam":
        return Beams(config, words, len(memory), keep_outputs).run(decoder, memory)
    choose: Choice = most_probable
    if config.strategy == "sample":
        if len(seeds) != len(memory):
            raise ValueError(f"{len(memory)} images but {len(seeds)} seeds; give one an image")
        choose = Sampling(config, seeds)
    return one_a_row(decoder, memory, config, words, choose, keep_outputs)
