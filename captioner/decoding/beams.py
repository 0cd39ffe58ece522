"""Beam search: ``beam_size`` captions an image, a row each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captioner.contract import DecodingConfig
from captioner.decoders import Decoder, State
from captioner.decoding.captions import Decoded, Words
from captioner.decoding.distribution import NEVER, Distribution
from captioner.decoding.rules import allowed


@dataclass(frozen=True)
class _Hypothesis:
    """A caption on its way.

    Attributes:
        total: sum of the log-probabilities; minus infinity for a row that nothing lives in.
        row: of the decoder's state that it goes on from.
        tokens: so far.
        figures: of the last token, as ``Distribution.figures``.
        looked: where the last step looked.
        before: what it goes on from; None at the start.
        output: what the last token was chosen by, where that is kept.
    """

    total: float
    row: int
    tokens: tuple[int, ...] = ()
    figures: Sequence[float] = ()
    looked: Tensor | None = None
    before: "_Hypothesis | None" = None
    output: Tensor | None = None

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
            caption.add(step.tokens[-1], step.figures, step.looked, step.output)
        return caption


class Beams:
    """Beam search for all images of a batch at once; each has ``beam_size`` rows.

    A caption is worth its log-probability divided by ``length ** length_penalty``. The search of
    an image ends when no unfinished caption can come to be worth more than the worst of its
    ``beam_size`` finished ones: ending early changes nothing.
    """

    def __init__(
        self, config: DecodingConfig, words: Words, images: int, keep_outputs: bool
    ) -> None:
        self._config = config
        self._keep_outputs = keep_outputs
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
            output = state.output if self._keep_outputs else None
            beams = self._extend(images, beams, logits, state.attention, output)
            alive = [i for i, image in enumerate(images) if self._may_improve(image, beams[i])]
            if not alive:
                break
            images, beams = [images[i] for i in alive], [beams[i] for i in alive]
        else:
            for image, row in zip(images, beams, strict=True):
                self._finish(image, [beam for beam in row if beam.total > NEVER])
        return [self._best(done) for done in self._done]

    def _extend(
        self,
        images: list[int],
        beams: list[list[_Hypothesis]],
        logits: Tensor,
        attention: Tensor | None,
        output: Tensor | None,
    ) -> list[list[_Hypothesis]]:
        """Let each image's hypotheses grow by a token; those that end go to the finished ones.

        Returns:
            For each image ``beam_size`` new hypotheses.
        """
        size, width = self._config.beam_size, len(beams[0])
        found = Distribution.of(logits)
        everyone = [beam for row in beams for beam in row]
        said = [beam.tokens for beam in everyone]
        totals = torch.tensor([beam.total for beam in everyone], device=logits.device)
        scores = allowed(found.logprobs, said, self._config, self._words) + totals.unsqueeze(1)
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
                    None if output is None else output[row],
                )
                for total, row, token, numbers in zip(*candidates, strict=True)
                if total > NEVER
            ]
            self._finish(images[i], [new for new in grown[:size] if self._ends(new)])
            going = [new for new in grown if not self._ends(new)][:size]
            dead = _Hypothesis(NEVER, row=i * width)
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
        if best == NEVER:
            return False
        # A total only falls; at the longest length the least is left of its penalty.
        bound = self._worth(best, self._config.max_length)
        return len(done) < self._config.beam_size or bound > self._value(done[-1])

    def _best(self, done: list[_Hypothesis]) -> Decoded:
        caption = done[0].caption()
        caption.n_best = [(list(found.tokens), found.total) for found in done]
        return caption
