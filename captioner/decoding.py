"""The decoding engine: drives any decoder, one step for all captions of a batch.

Whatever way tokens are chosen, the figures told of them (log-probability, entropy, margin) are
those of the model's own distribution, before anything was forbidden, tempered or cut off: they
mean the same in every caption. A caption that reaches the longest length without an end token is
a caption like any other.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoders import Decoder, State

_NEVER = float("-inf")
_UNLIKELY = -1e4
"""Stands for a log-probability of minus infinity where one is to be counted with."""


@dataclass(frozen=True)
class Words:
    """The tokens that decoding must know of.

    Attributes:
        start: the one that every caption begins with; not part of what is returned.
        end: the one that ends a caption.
        forbidden: sequences of tokens that no caption may hold.
    """

    start: int
    end: int
    forbidden: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def never(self) -> tuple[int, ...]:
        """The tokens that are forbidden by themselves."""
        return tuple(sequence[0] for sequence in self.forbidden if len(sequence) == 1)

    @cached_property
    def phrases(self) -> tuple[tuple[list[int], int], ...]:
        """Longer forbidden sequences: what comes before the last token, and that."""
        longer = (sequence for sequence in self.forbidden if len(sequence) > 1)
        return tuple((list(sequence[:-1]), sequence[-1]) for sequence in longer)


@dataclass
class Decoded:
    """What the engine found out about one caption, a value a token.

    Attributes:
        tokens: the tokens, the end token last where it was produced.
        logprobs: natural log-probability of each token.
        entropies: entropy of each token's distribution, in nats.
        margins: probability of each token less that of the best other one.
        attention: where each step looked, [positions]; empty for decoders that do not attend.
        end_probability: the probability of the end token at the last step.
        n_best: the captions that were found, tokens and log-probability, best first.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    end_probability: float = 0.0
    n_best: list[tuple[list[int], float]] = field(default_factory=list)


@torch.inference_mode()
def decode(
    decoder: Decoder[State],
    memory: Tensor,
    config: DecodingConfig,
    words: Words,
    seeds: Sequence[int] = (),
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

    Returns:
        One ``Decoded`` an image, in order.

    Raises:
        ValueError: if sampling lacks a seed for each image.
        FloatingPointError: if the model gives something that is no number.
    """
    if not len(memory):
        return []
    if config.strategy == "beam":
        return _Beams(config, words, len(memory)).run(decoder, memory)
    choose: _Choice = _most_probable
    if config.strategy == "sample":
        if len(seeds) != len(memory):
            raise ValueError(f"{len(memory)} images but {len(seeds)} seeds; give one an image")
        choose = _Sampling(config, seeds)
    return _one_a_row(decoder, memory, config, words, choose)


# --- figures ------------------------------------------------------------------------------------


@dataclass
class _Distribution:
    """What the model says of the next token, before any rule: r rows, v tokens.

    Attributes:
        logprobs: [r x v].
        entropies: in nats, [r].
        best: the highest log-probability and the second highest, [r x 2].
        most_probable: the token of the highest, [r].
    """

    logprobs: Tensor
    entropies: Tensor
    best: Tensor
    most_probable: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "_Distribution":
        """Read logits [r x v], whatever their precision.

        Raises:
            FloatingPointError: if they are no distribution.
        """
        logprobs = logits.float().log_softmax(1)
        entropies = -(logprobs.exp() * logprobs.clamp_min(_UNLIKELY)).sum(1)
        if entropies.isnan().any():
            raise FloatingPointError(
                "the model gave no probabilities (not a number); if it runs in half precision, "
                "use float32"
            )
        best, tokens = logprobs.topk(2, 1)
        return cls(logprobs, entropies, best, tokens[:, 0])

    def figures(self, rows: Tensor, tokens: Tensor, end: int) -> Tensor:
        """Return log-probability, entropy, margin and end probability, [n x 4].

        Args:
            rows: of the distribution, [n].
            tokens: chosen there, [n].
            end: the end token.
        """
        chosen = self.logprobs[rows, tokens]
        best, runner_up = self.best[rows].unbind(1)
        other = torch.where(tokens == self.most_probable[rows], runner_up, best)
        ends = self.logprobs[rows, end].exp()
        return torch.stack((chosen, self.entropies[rows], chosen.exp() - other.exp(), ends), 1)


def _append(caption: Decoded, token: int, figures: Sequence[float], looked: Tensor | None) -> None:
    logprob, entropy, margin, caption.end_probability = figures
    caption.tokens.append(token)
    caption.logprobs.append(logprob)
    caption.entropies.append(entropy)
    caption.margins.append(margin)
    if looked is not None:
        caption.attention.append(looked)


# --- what may be said ---------------------------------------------------------------------------


def _allowed(
    logprobs: Tensor, said: Sequence[Sequence[int]], config: DecodingConfig, words: Words
) -> Tensor:
    """Return log-probabilities [r x v] with what may not follow ``said`` at minus infinity.

    A row to which everything is forbidden may end.
    """
    banned = [_banned(history, config, words) for history in said]
    if not words.never and not any(banned):
        return logprobs
    own_ends = logprobs[:, words.end].clamp_min(_UNLIKELY)
    logprobs = logprobs.clone()
    logprobs[:, list(words.never)] = _NEVER
    row = torch.tensor([i for i, tokens in enumerate(banned) for _ in tokens], dtype=torch.long)
    column = torch.tensor([token for tokens in banned for token in tokens], dtype=torch.long)
    logprobs[row.to(logprobs.device), column.to(logprobs.device)] = _NEVER
    stuck = logprobs.amax(1) == _NEVER
    logprobs[stuck, words.end] = own_ends[stuck]
    return logprobs


def _banned(said: Sequence[int], config: DecodingConfig, words: Words) -> set[int]:
    """Return the tokens that may not come next."""
    banned = {words.end} if len(said) < config.min_length else set[int]()
    for before, last in words.phrases:
        if list(said[-len(before) :]) == before:
            banned.add(last)
    n = config.no_repeat_ngram
    if n and len(said) >= n - 1:
        tail = list(said[len(said) - n + 1 :])
        banned.update(
            said[i + n - 1] for i in range(len(said) - n + 1) if list(said[i : i + n - 1]) == tail
        )
    return banned


# --- one caption an image -----------------------------------------------------------------------

_Choice = Callable[[Tensor, int, list[int]], Tensor]
"""From log-probabilities [r x v], the step, and each row's image, to tokens [r]."""


def _most_probable(logprobs: Tensor, step: int, images: list[int]) -> Tensor:
    return logprobs.argmax(1)


class _Sampling:
    """Draws tokens, each image by random numbers of its own."""

    def __init__(self, config: DecodingConfig, seeds: Sequence[int]) -> None:
        self._config = config
        self._draws = np.stack(
            [np.random.default_rng((config.seed, seed)).random(config.max_length) for seed in seeds]
        )

    def __call__(self, logprobs: Tensor, step: int, images: list[int]) -> Tensor:
        config = self._config
        # On the processor: some accelerators have no double precision, and little is to be done.
        scaled = logprobs.cpu() / config.temperature
        ordered, tokens = scaled.sort(dim=1, descending=True, stable=True)
        probabilities = ordered.softmax(1).double()
        if config.top_k:
            probabilities[:, config.top_k :] = 0
        if config.top_p < 1:
            before = probabilities.cumsum(1) - probabilities
            probabilities[before >= config.top_p * probabilities.sum(1, keepdim=True)] = 0
        cumulated = probabilities.cumsum(1)
        draws = torch.from_numpy(self._draws[images, step])
        place = torch.searchsorted(cumulated, (draws * cumulated[:, -1]).unsqueeze(1), right=True)
        # A draw next to 1 may be rounded past the last token that has a probability.
        last = (probabilities > 0).sum(1, keepdim=True) - 1
        chosen: Tensor = tokens.gather(1, place.minimum(last)).squeeze(1)
        return chosen.to(logprobs.device)


def _one_a_row(
    decoder: Decoder[State],
    memory: Tensor,
    config: DecodingConfig,
    words: Words,
    choose: _Choice,
) -> list[Decoded]:
    captions = [Decoded() for _ in range(len(memory))]
    rows = list(range(len(memory)))
    state = decoder.start(memory)
    tokens = torch.full((len(memory),), words.start, dtype=torch.long, device=memory.device)
    for step in range(config.max_length):
        logits, state = decoder.step(tokens, state)
        found = _Distribution.of(logits)
        said = [captions[row].tokens for row in rows]
        tokens = choose(_allowed(found.logprobs, said, config, words), step, rows)
        everyone = torch.arange(len(rows), device=tokens.device)
        figures = found.figures(everyone, tokens, words.end).tolist()
        chosen = tokens.tolist()
        looked = None if state.attention is None else state.attention.float().cpu()
        for i, row in enumerate(rows):
            _append(captions[row], chosen[i], figures[i], None if looked is None else looked[i])
        alive = [i for i, token in enumerate(chosen) if token != words.end]
        if not alive:
            break
        if len(alive) < len(rows):
            kept = torch.tensor(alive, device=memory.device)
            state, tokens = decoder.select(state, kept), tokens[kept]
            rows = [rows[i] for i in alive]
    for caption in captions:
        caption.n_best = [(caption.tokens, math.fsum(caption.logprobs))]
    return captions


# --- beam search --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hypothesis:
    """A caption on its way.

    Attributes:
        total: sum of the log-probabilities; minus infinity for a row that nothing lives in.
        row: of the decoder's state that it goes on from.
        tokens: so far.
        figures: of the last token, as ``_Distribution.figures``.
        looked: where the last step looked.
        before: what it goes on from; None at the start.
    """

    total: float
    row: int
    tokens: tuple[int, ...] = ()
    figures: Sequence[float] = ()
    looked: Tensor | None = None
    before: "_Hypothesis | None" = None

    def steps(self) -> Iterator["_Hypothesis"]:
        """Yield what it was after each token, the last one first."""
        at: _Hypothesis | None = self
        while at is not None and at.tokens:
            yield at
            at = at.before

    def caption(self) -> Decoded:
        """Return the caption with its figures, in order."""
        caption = Decoded()
        for step in reversed(list(self.steps())):
            _append(caption, step.tokens[-1], step.figures, step.looked)
        return caption


class _Beams:
    """Beam search for all images of a batch at once; each has ``beam_size`` rows.

    A caption is worth its log-probability divided by ``length ** length_penalty``. The search of
    an image ends when no unfinished caption can come to be worth more than the worst of its
    ``beam_size`` finished ones: ending early changes nothing.
    """

    def __init__(self, config: DecodingConfig, words: Words, images: int) -> None:
        self._config = config
        self._words = words
        self._done: list[list[_Hypothesis]] = [[] for _ in range(images)]

    def run(self, decoder: Decoder[State], memory: Tensor) -> list[Decoded]:
        """Search, and return the best caption of each image."""
        images = list(range(len(memory)))
        beams = [[_Hypothesis(0.0, row=row)] for row in images]
        state = decoder.start(memory)
        for step in range(self._config.max_length):
            everyone = [beam for row in beams for beam in row]
            if step:
                rows = torch.tensor([beam.row for beam in everyone], device=memory.device)
                state = decoder.select(state, rows)
            last = [beam.tokens[-1] if beam.tokens else self._words.start for beam in everyone]
            logits, state = decoder.step(torch.tensor(last, device=memory.device), state)
            beams = self._extend(images, beams, logits, state.attention)
            alive = [i for i, image in enumerate(images) if self._may_improve(image, beams[i])]
            if not alive:
                break
            images, beams = [images[i] for i in alive], [beams[i] for i in alive]
        else:
            for image, row in zip(images, beams, strict=True):
                self._finish(image, [beam for beam in row if beam.total > _NEVER])
        return [self._best(done) for done in self._done]

    def _extend(
        self,
        images: list[int],
        beams: list[list[_Hypothesis]],
        logits: Tensor,
        attention: Tensor | None,
    ) -> list[list[_Hypothesis]]:
        """Let each image's hypotheses grow by a token; those that end go to the finished ones.

        Returns:
            For each image ``beam_size`` new hypotheses.
        """
        size, width = self._config.beam_size, len(beams[0])
        found = _Distribution.of(logits)
        everyone = [beam for row in beams for beam in row]
        said = [beam.tokens for beam in everyone]
        totals = torch.tensor([beam.total for beam in everyone], device=logits.device)
        scores = _allowed(found.logprobs, said, self._config, self._words) + totals.unsqueeze(1)
        vocabulary = scores.shape[1]
        by_image = scores.view(len(images), -1)
        # Each row can end in one way only, so that twice as many are enough to go on.
        best, places = by_image.topk(min(2 * size, by_image.shape[1]), 1)
        rows = torch.arange(len(images), device=logits.device).unsqueeze(1) * width
        rows, chosen = rows + places // vocabulary, places % vocabulary
        figures = found.figures(rows.flatten(), chosen.flatten(), self._words.end)
        looked = None if attention is None else attention.float().cpu()
        numbers = figures.view(*best.shape, 4)
        told = (best.tolist(), rows.tolist(), chosen.tolist(), numbers.tolist())
        after = []
        for i, candidates in enumerate(zip(*told, strict=True)):
            grown = [
                _Hypothesis(
                    total,
                    row,
                    (*everyone[row].tokens, token),
                    numbers,
                    None if looked is None else looked[row],
                    everyone[row],
                )
                for total, row, token, numbers in zip(*candidates, strict=True)
                if total > _NEVER
            ]
            self._finish(images[i], [new for new in grown[:size] if self._ends(new)])
            going = [new for new in grown if not self._ends(new)][:size]
            dead = _Hypothesis(_NEVER, row=i * width)
            after.append([*going, *[dead] * (size - len(going))])
        return after

    def _ends(self, caption: _Hypothesis) -> bool:
        return caption.tokens[-1] == self._words.end

    def _worth(self, total: float, length: int) -> float:
        return total / float(length**self._config.length_penalty)

    def _value(self, caption: _Hypothesis) -> float:
        return self._worth(caption.total, len(caption.tokens))

    def _finish(self, image: int, captions: list[_Hypothesis]) -> None:
        """Keep the best ``beam_size`` captions of an image."""
        if captions:
            done = sorted([*self._done[image], *captions], key=self._value, reverse=True)
            self._done[image] = done[: self._config.beam_size]

    def _may_improve(self, image: int, beams: list[_Hypothesis]) -> bool:
        """Whether an unfinished caption may come to be worth more than a finished one."""
        best, done = max(beam.total for beam in beams), self._done[image]
        if best == _NEVER:
            return False
        # A total only falls; at the longest length the least is left of its penalty.
        bound = self._worth(best, self._config.max_length)
        return len(done) < self._config.beam_size or bound > self._value(done[-1])

    def _best(self, done: list[_Hypothesis]) -> Decoded:
        caption = done[0].caption()
        caption.n_best = [(list(found.tokens), found.total) for found in done]
        return caption
