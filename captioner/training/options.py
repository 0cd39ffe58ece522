"""What a training can be told."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from captioner.tokenizer import Kind
from captioner.training.augment import UNCHANGED, AugmentConfig
from captioner.training.config import TrainingConfig
from captioner.training.tasks import TaskConfig

LANGUAGE_MODEL = "lm:"
"""What the name of a pretrained language model comes behind, where a decoder is named."""
WORDS = ("words", "vocabulary_size", "min_frequency", "punctuation")
"""The fields that say what is a word."""

_ELSEWHERE = frozenset(["output", "device", "threads", "start_from"])
"""What the result does not depend on; and what names a folder where its model's id tells more."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Everything that a training is told.

    Attributes:
        data: images with captions, as ``read_examples`` takes them, or a folder with splits of
            them; or ``scenes:N``.
        output: a local folder.
        images: where the images lie, if the captions do not say.
        validation: likewise, to score on; by default the data's own split, or one image in twenty.
        name: of the model, first part of its id.
        start_from: a trained model, as ``load`` takes it, whose encoder, decoder, words and heads
            are gone on with; by default a model is made from nothing, or from a pretrained encoder.
        encoder: as ``encoder_from_name`` takes it.
        image_size: side of the square pictures, in pixels; by default what suits the encoder.
        decoder: ``lstm``, ``transformer``, or ``lm:`` and a pretrained language model.
        decoder_settings: fields of the decoder's configuration.
        tasks: what the model tells besides captions: ``labels``, ``boxes``, ``masks``.
        gate: whether the features of those pass through learned maps of attention.
        mask_width: channels of the finest map of masks; None is that of ``SegmenterConfig``, or of
            the model to start from.
        task_config: how much each of them counts.
        annotations: labels, boxes and masks that lie apart from the captions, as
            ``read_examples`` takes them.
        validation_annotations: likewise, of the images of ``validation``.
        languages: of the captions of scenes, the model's first one first; the images of users
            have their captions in whatever languages they are.
        words: what the tokens are: words, or byte pairs.
        vocabulary_size: most tokens; by default all words, or 8,000 byte pairs.
        min_frequency: how often a word must come to be one.
        punctuation: whether marks are words.
        max_tokens: longer captions are cut.
        augment: how pictures may be changed.
        views: of each picture that a frozen encoder keeps on disk; 0 keeps none.
        config: of the loop.
        device: auto, or cpu.
        threads: that read and decode images.
    """

    data: str
    output: str
    images: str | None = None
    validation: str | None = None
    name: str = "captioner"
    start_from: str | None = None
    encoder: str = "grid"
    image_size: int | None = None
    decoder: str = "lstm"
    decoder_settings: Mapping[str, object] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    gate: bool = True
    mask_width: int | None = None
    task_config: TaskConfig = TaskConfig()
    annotations: str | None = None
    validation_annotations: str | None = None
    languages: tuple[str, ...] = ()
    words: Kind = "word"
    vocabulary_size: int | None = None
    min_frequency: int = 1
    punctuation: bool = True
    max_tokens: int = 64
    augment: AugmentConfig = UNCHANGED
    views: int = 1
    config: TrainingConfig = field(default_factory=TrainingConfig)
    device: str = "auto"
    threads: int = 4

    def settings(self) -> dict[str, object]:
        """Return what the result depends on, by name, ready for JSON."""
        flat: dict[str, object] = {}
        for name, value in asdict(self).items():
            if name in ("augment", "config", "decoder_settings", "task_config"):
                flat |= value
            elif name not in _ELSEWHERE:
                flat[name] = value
        return flat
