"""How probable whole captions are to a decoder: one pass, told each word before the next."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captioner.decoding.captions import Words


@torch.inference_mode()
def rescore(
    decoder: nn.Module, memory: Tensor, captions: Sequence[Sequence[int]], words: Words
) -> list[float]:
    """Return the log-probability of each caption, the model's own, in float32.

    Args:
        decoder: reads memory and tokens as in training (teacher forcing).
        memory: of the image of each caption, or one of all of them, [b or 1 x positions x f].
        captions: tokens as they were said, the end token where it was.
        words: for the token that captions begin with.
    """
    lengths = [len(caption) for caption in captions]
    rows = [torch.tensor([words.start, *caption]) for caption in captions]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=words.end)
    tokens = padded.to(memory.device)
    logits, _ = decoder(memory, tokens[:, :-1])
    logprobs = logits.float().log_softmax(2)
    said = logprobs.gather(2, tokens[:, 1:].unsqueeze(2)).squeeze(2).cpu().double()
    return [float(row[:length].sum()) for row, length in zip(said, lengths, strict=True)]
