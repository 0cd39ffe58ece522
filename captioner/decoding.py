"""The decoding engine: drives any decoder, one step for all captions of a batch."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from captioner.decoders import Decoder, State


@dataclass
class Decoded:
    """What the engine found out about one caption, a value a token.

    Attributes:
        tokens: the tokens, the end token last where it was produced.
        logprobs: natural log-probability of each token.
        entropies: entropy of each token's distribution, in nats.
        margins: probability of each token less that of the second best.
        attention: where each step looked, [positions]; empty for decoders that do not attend.
        end_probability: the probability of the end token at the last step.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    end_probability: float = 0.0


@torch.inference_mode()
def greedy(
    decoder: Decoder[State], memory: Tensor, *, start: int, end: int, max_length: int
) -> list[Decoded]:
    """Take the most probable token at each step, until the end token or the longest length.

    Rows that are done leave the batch, so late steps cost what is left.

    Args:
        decoder: what gives the logits.
        memory: what the encoder saw, [b x positions x features].
        start: the token that every caption begins with; not part of what is returned.
        end: the token that ends a caption.
        max_length: most tokens in a caption, the end token included.

    Returns:
        One ``Decoded`` an image, in order.
    """
    captions = [Decoded() for _ in range(len(memory))]
    if not captions:
        return captions
    rows = list(range(len(memory)))
    state = decoder.start(memory)
    tokens = torch.full((len(memory),), start, dtype=torch.long, device=memory.device)
    for _ in range(max_length):
        logits, state = decoder.step(tokens, state)
        logprobs = logits.float().log_softmax(1)
        probabilities = logprobs.exp()
        best, tokens = logprobs.max(1)
        runner_up = logprobs.scatter(1, tokens.unsqueeze(1), float("-inf")).amax(1)
        entropies = -(probabilities * logprobs.clamp_min(-1e4)).sum(1)
        figures = torch.stack(
            (best, entropies, best.exp() - runner_up.exp(), probabilities[:, end]), 1
        ).tolist()
        chosen = tokens.tolist()
        looked = None if state.attention is None else state.attention.float().cpu()
        for i, row in enumerate(rows):
            caption = captions[row]
            caption.tokens.append(chosen[i])
            logprob, entropy, margin, caption.end_probability = figures[i]
            caption.logprobs.append(logprob)
            caption.entropies.append(entropy)
            caption.margins.append(margin)
            if looked is not None:
                caption.attention.append(looked[i])
        alive = [i for i, token in enumerate(chosen) if token != end]
        if not alive:
            break
        if len(alive) < len(rows):
            kept = torch.tensor(alive, device=memory.device)
            state, tokens = decoder.select(state, kept), tokens[kept]
            rows = [rows[i] for i in alive]
    return captions
