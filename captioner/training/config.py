"""How a model is trained."""

from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]
Schedule = Literal["joint", "alternating", "decoder_first"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What decides, together with the data, which weights come out.

    Attributes:
        epochs: passes over the images.
        batch_size: images a step, all processes together.
        captions_per_image: captions of each of them in that step; the image is encoded once.
        accumulate: batches whose gradients are added up before weights change.
        learning_rate: the highest; it rises to it and falls to nothing (one cycle).
        encoder_learning_rate: likewise of the encoder, from where it learns on.
        thaw: what of the encoder learns: ``none``, ``all``, ``last:N`` layers, or a regular
            expression for names of weights.
        schedule: ``joint`` changes encoder and decoder in one step; ``alternating`` one of them
            while the other rests, in turn; ``decoder_first`` lets the encoder rest at first.
        decoder_epochs: how long it rests in ``decoder_first``.
        weight_decay: of matrices and kernels; biases and norms go without.
        label_smoothing: share of each target that is spread over all words (1512.00567).
        word_noise: share of the words read that another caption's word at that place stands in
            for, so that the next one is looked for in the picture (after 1703.02573).
        doubly_stochastic: weight of the term that asks attention to see all of the picture
            (1502.03044, equation 14).
        averaging: share of the averaged weights that is kept at each step; 0 takes the last ones.
        clip: largest norm of the gradient.
        patience: epochs without a better score after which training ends; 0 goes on.
        seed: decides order, captions, augmentation and dropout.
        precision: of matrix products and convolutions; weights are kept in float32.
    """

    epochs: int = 12
    batch_size: int = 32
    captions_per_image: int = 5
    accumulate: int = 1
    learning_rate: float = 1.5e-3
    encoder_learning_rate: float = 2e-4
    thaw: str = "none"
    schedule: Schedule = "joint"
    decoder_epochs: int = 0
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    word_noise: float = 0.0
    doubly_stochastic: float = 0.0
    averaging: float = 0.997
    clip: float = 1.0
    patience: int = 0
    seed: int = 0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if one is beyond all use, or they do not fit together.
        """
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}; use {least} to {most}")
        for name, kind in (("schedule", Schedule), ("precision", Precision)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(get_args(kind))}")
        if self.thaw == "none" and self.schedule != "joint":
            raise ValueError(
                f"schedule is {self.schedule}, but thaw is none: the encoder never learns; thaw "
                "some of it, or use joint"
            )
        rests = 1 <= self.decoder_epochs < self.epochs
        if (self.schedule == "decoder_first") != bool(self.decoder_epochs) or (
            self.decoder_epochs and not rests
        ):
            raise ValueError(
                f"decoder_epochs is {self.decoder_epochs} with the schedule {self.schedule}; with "
                f"decoder_first use 1 to {self.epochs - 1}, with the others 0"
            )

    def encoder_learns(self, epoch: int) -> bool:
        """Whether the encoder's weights may change in an epoch, counted from 0."""
        return self.thaw != "none" and epoch >= self.decoder_epochs


_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000),
    "batch_size": (1, 65_536),
    "captions_per_image": (1, 100),
    "accumulate": (1, 10_000),
    "learning_rate": (0.0, 10.0),
    "encoder_learning_rate": (0.0, 10.0),
    "decoder_epochs": (0, 100_000),
    "weight_decay": (0.0, 10.0),
    "label_smoothing": (0.0, 0.9),
    "word_noise": (0.0, 0.9),
    "doubly_stochastic": (0.0, 100.0),
    "averaging": (0.0, 0.99999),
    "clip": (1e-6, 1e6),
    "patience": (0, 100_000),
    "seed": (0, 2**32),
}
