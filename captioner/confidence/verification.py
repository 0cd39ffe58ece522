"""Learning a verifier from labelled captions; ``captioner.verifier`` says of what it is made.

The confidence head looks at what the verifier says, and a verifier is too sure of captions that it
learned from. So the head is fitted on what verifiers said that had seen nothing of an image: one a
fold, as in stacking (Wolpert 1992). The verifier that is kept learned from all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.confidence.fitting import FitError, check_labels, splits_of
from captioner.verifier import Verifier, hash_of, logit

MOST_CAPTIONS = 32_768
"""Evidence of so many is learned from at most: that much fits into memory, and more adds little."""

_UNITS = 256
_EPOCHS = 12
_MOST_EPOCHS = 40
_STEPS = 200
"""Few labels are gone through more often, up to ``_MOST_EPOCHS`` times, to make so many steps."""
_BATCH = 64
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 0.02
_DROPOUT = 0.2
_GRADIENT_NORM = 1.0
_FOR_SCALES = 2_000
"""Captions from which means and scales of the evidence are taken."""
_FIRST_BIAS = 3.0
"""Before anything is learned, a word is right with 95%: most are, and captions are many words."""


@dataclass(frozen=True)
class Learned:
    """A verifier, and what others like it said of captions that they had not seen.

    Attributes:
        verifier: learned from all captions.
        logits: of each caption, by a verifier that had seen no caption of its image, [n].
    """

    verifier: Verifier
    logits: npt.NDArray[np.float64]


def learn(
    evidence: Sequence[Tensor], correct: Sequence[bool], groups: Sequence[str], *, seed: int = 0
) -> Learned:
    """Learn a verifier.

    Args:
        evidence: of each caption, [tokens x d], as ``captioner.decoding.evidence`` finds it.
        correct: whether each caption is right.
        groups: the image of each.
        seed: of folds, first weights and dropout.

    Raises:
        FitError: if the labels are too few, or of one class, or evidence is not all numbers.
    """
    right, images = np.asarray(correct, np.bool_), np.asarray(groups, np.str_)
    check_labels(len(evidence), right, images)
    for place, words in enumerate(evidence):
        if not words.isfinite().all():
            raise FitError(
                f"what is known of the words of {images[place]} is not all numbers; leave it out"
            )
    order = np.argsort(images, kind="stable")  # So that the order of captions changes no digit.
    known = [evidence[place] for place in order]
    right, images = right[order], images[order]
    logits = np.empty(len(right))
    for training, held_out in splits_of(right, images, seed):
        one = _learned([known[place] for place in training], right[training], images[:0], seed)
        logits[order[held_out]] = one.logits([known[place] for place in held_out])
    return Learned(_learned(known, right, images, seed), logits)


def _learned(
    evidence: Sequence[Tensor],
    right: npt.NDArray[np.bool_],
    images: npt.NDArray[np.str_],
    seed: int,
) -> Verifier:
    """Learn from all captions: AdamW, with a learning rate of one cycle (1708.07120)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, scale = _scales(evidence)
        network = _Network(len(mean))
        batches = -(-len(evidence) // _BATCH)
        epochs = min(max(_EPOCHS, -(-_STEPS // batches)), _MOST_EPOCHS)
        optimizer = torch.optim.AdamW(
            network.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY
        )
        # One more step than is taken: the scheduler looks ahead.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, _LEARNING_RATE, total_steps=epochs * batches + 1
        )
        truth = torch.from_numpy(right)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(evidence)), _BATCH):
                parts = [evidence[place] for place in batch.tolist()]
                words = (torch.cat(parts).float() - mean) / scale
                loss = _loss(network(words), [len(part) for part in parts], truth[batch])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(network.parameters(), _GRADIENT_NORM)
                optimizer.step()
                schedule.step()
    return network.verifier(mean, scale, images)


def _scales(evidence: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and scale of each figure, [d] both, of captions that are spread evenly."""
    taken = min(len(evidence), _FOR_SCALES)
    chosen = [evidence[place * len(evidence) // taken].double() for place in range(taken)]
    count = sum(map(len, chosen))
    mean = torch.stack([words.sum(0) for words in chosen]).sum(0) / count
    square = torch.stack([(words - mean).square().sum(0) for words in chosen]).sum(0) / count
    # What is the same everywhere says nothing, and must not be divided by nothing.
    return mean.float(), square.sqrt().clamp_min(1e-3).float()


def _loss(words: Tensor, lengths: Sequence[int], right: Tensor) -> Tensor:
    """Return the binary cross-entropy of captions that are right where all their words are."""
    each = torch.split(functional.logsigmoid(words), list(lengths))
    logits = logit(torch.stack([part.sum() for part in each]))
    return functional.binary_cross_entropy_with_logits(logits, right.float())


class _Network(nn.Module):
    """What becomes a verifier, with dropout."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(_DROPOUT)
        self.hidden = nn.Linear(size, _UNITS)
        self.hidden_dropout = nn.Dropout(_DROPOUT)
        self.word = nn.Linear(_UNITS, 1)
        nn.init.constant_(self.word.bias, _FIRST_BIAS)

    def forward(self, words: Tensor) -> Tensor:
        """Return the logit of each of the words [t x d], standardised."""
        hidden = self.hidden(self.input_dropout(words)).relu()
        logits: Tensor = self.word(self.hidden_dropout(hidden)).squeeze(1)
        return logits

    @torch.no_grad()
    def verifier(self, mean: Tensor, scale: Tensor, images: npt.NDArray[np.str_]) -> Verifier:
        """Return it as it is used."""
        seen = np.unique(np.array([hash_of(image) for image in images], np.int32))
        return Verifier(
            mean,
            scale,
            self.hidden.weight.half(),
            self.hidden.bias.clone(),
            self.word.weight[0].clone(),
            self.word.bias.clone(),
            torch.from_numpy(seen),
        )
