"""What a training run asks of what is learned from: scenes drawn here, or users' own images."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from PIL import Image
from torch import Tensor

from captioner.annotations import ClassNames
from captioner.contract import Captioner
from captioner.model import CaptionModel
from captioner.tokenizer import CaptionTokenizer
from captioner.training.batch import Batches
from captioner.training.loop import Objective

PICTURES = 4
"""How many images' attention is drawn after each epoch."""


class Material(Protocol):
    """Images, captions, words, and what good captions of them are.

    Attributes:
        tokenizer: trained on the captions.
        facts: what the model card tells of the data, by name.
        classes: what labels, boxes and masks may be.
        best_by: the score by which the best epoch is chosen, the higher the better.
    """

    tokenizer: CaptionTokenizer
    facts: dict[str, object]
    best_by: str
    classes: ClassNames

    def epochs(self, model: CaptionModel) -> Callable[[int], Batches]:
        """Return what gives the batches of each epoch, counted from 0."""

    def objective(self, model: CaptionModel) -> Objective:
        """Return what is made small."""

    def validate(self, captioner: Captioner) -> dict[str, float]:
        """Score captions of images that are not trained on."""

    def memories(self, model: CaptionModel) -> Iterator[Tensor]:
        """Yield what an encoder sees of plain training images, ``MOST_IMAGES`` or fewer.

        Args:
            model: ready to caption.

        Yields:
            Of some of them after others, [b x positions x features].
        """

    def pictures(self) -> Sequence[Image.Image]:
        """Return ``PICTURES`` of those images, always the same ones."""
