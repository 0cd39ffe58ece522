"""Training on users' own images and captions."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.annotations import ClassNames
from captioner.contract import Captioner
from captioner.evaluation.captions import caption_examples
from captioner.evaluation.heads import score_heads_on_examples
from captioner.evaluation.metrics import NAMES, require_pycocoevalcap, score
from captioner.model import AttentionCaptioner, CaptionModel, prepare
from captioner.tokenizer import CaptionTokenizer
from captioner.training.augment import UNCHANGED, AugmentConfig, Pixels
from captioner.training.batch import Batches
from captioner.training.captions import LoaderConfig
from captioner.training.config import TrainingConfig
from captioner.training.features import FeatureCache, ViewConfig, cache_features
from captioner.training.images import in_order, load_image
from captioner.training.loader import ExampleLoader, FeatureLoader
from captioner.training.loop import Objective
from captioner.training.material import PICTURES
from captioner.training.objective import CaptionObjective
from captioner.training.sources import Example, class_names
from captioner.training.statistics import encoded, evenly
from captioner.training.tasks import TaskConfig, TaskObjective

_ENOUGH_FOR_CIDER = 10


@dataclass
class ExampleMaterial:
    """Images with captions, all of which can be decoded.

    Attributes:
        examples: to train on.
        validation: to score on.
        tokenizer: trained on the captions.
        config: how.
        cache: folder for what a frozen encoder saw.
        augment: how pictures may be changed.
        views: in how many ways a frozen encoder sees each picture; 0 keeps nothing of it and
            encodes anew.
        max_tokens: longer captions are cut.
        tasks: how much captions and heads count, of a model with heads; None of one without.
        threads: that read and decode.
        classes: of labels, boxes and masks that are to be learned.
    """

    examples: Sequence[Example]
    validation: Sequence[Example]
    tokenizer: CaptionTokenizer
    config: TrainingConfig
    cache: Path
    augment: AugmentConfig = UNCHANGED
    views: int = 1
    max_tokens: int = 64
    tasks: TaskConfig | None = None
    threads: int = 4
    classes: ClassNames = field(init=False)
    best_by: str = field(init=False)
    facts: dict[str, object] = field(init=False)

    def __post_init__(self) -> None:
        """Check what was asked for, before time is spent on it, and tell what the data is.

        Raises:
            ModuleNotFoundError: if pycocoevalcap is not installed.
            ValueError: if views, changes and what learns do not fit together.
        """
        require_pycocoevalcap()
        if self.tasks is not None:
            if self.views > 1:
                raise ValueError(
                    f"views is {self.views}, but tasks need the picture itself; leave views out"
                )
            self.views = min(self.views, 0)
        frozen = self.config.thaw == "none"
        if frozen and self.views == 1 and self.augment != UNCHANGED:
            raise ValueError(
                "views is 1, and the one view that a frozen encoder keeps is the plain picture: "
                "give more views, or 0 to encode each time, or change no pictures"
            )
        if self.views > 1 and self.config.encoder_learns(0):
            raise ValueError(
                f"views is {self.views}, but the encoder learns from the start, so nothing that it "
                "saw can be kept; leave views out"
            )
        if self.views < 0:
            raise ValueError(f"views is {self.views}; use 0 or more")
        self.classes = class_names(self.examples)
        self._captioned = [example for example in self.validation if example.captions]
        self._loader, self._views = self._loader_config(), self._view_config()
        # CIDEr asks how rare words are, which few captions cannot tell; of one image it is 0.
        self.best_by = "cider" if len(self._captioned) >= _ENOUGH_FOR_CIDER else "rouge_l"
        heads_alone = self.tasks is not None and not self.tasks.caption_weight
        if heads_alone and any(example.annotated for example in self.validation):
            self.best_by = "heads"
        captions = sum(len(example.captions) for example in self.examples)
        self.facts = {
            "data": f"{len(self.examples):,} images with {captions:,} captions",
            "scores": f"on {len(self._captioned):,} images, greedy, times 100 as papers have it",
            "words": f"{len(self.tokenizer):,}",
        }

    def epochs(self, model: CaptionModel) -> Callable[[int], Batches]:
        """Read from disk what a frozen encoder saw, and decode images where the encoder learns.

        Either is prepared when it is first asked for.
        """

        @cache
        def loader(from_disk: bool) -> Batches:
            return self._seen(model) if from_disk else self._pixels(model)

        return lambda epoch: loader(self.views > 0 and not self.config.encoder_learns(epoch))

    def _loader_config(self) -> LoaderConfig:
        most = max(len(example.captions) for example in self.examples)
        return LoaderConfig(
            batch_size=self.config.batch_size,
            captions_per_image=min(self.config.captions_per_image, most),
            max_tokens=self.max_tokens,
            seed=self.config.seed,
        )

    def _view_config(self) -> ViewConfig:
        return ViewConfig(
            views=max(1, self.views),
            augment=self.augment if self.views > 1 else UNCHANGED,
            seed=self.config.seed,
        )

    def _pixels(self, model: CaptionModel) -> ExampleLoader:
        size = model.config.encoder.image_size
        return ExampleLoader(
            self.examples,
            self.tokenizer,
            self._loader,
            prepare=lambda image: prepare(image, size).pixels,
            augment=self.augment,
            draft_size=(2 * size, 2 * size),  # Enough for crops, and much faster to decode.
            targets=model.heads.targets if model.heads is not None else None,
            threads=self.threads,
        )

    def _seen(self, model: CaptionModel) -> FeatureLoader:
        return FeatureLoader(self._cached(model), self.examples, self.tokenizer, self._loader)

    def _cached(self, model: CaptionModel) -> FeatureCache:
        size, device = model.config.encoder.image_size, next(model.parameters()).device
        half = self.config.precision == "bfloat16"

        def encode(pixels: Pixels) -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                return model.encode(torch.from_numpy(pixels).to(device))

        model.eval()
        return cache_features(
            self.cache,
            self.examples,
            encode,
            _encoder_id(model, self.config.precision),
            prepare=lambda image: prepare(image, size).pixels,
            config=self._views,
            threads=self.threads,
        )

    def objective(self, model: CaptionModel) -> Objective:
        """Return the losses of captions, of attention where it is asked for, and of heads."""
        captions = CaptionObjective(
            pad=self.tokenizer.pad,
            label_smoothing=self.config.label_smoothing,
            doubly_stochastic=self.config.doubly_stochastic,
        )
        if model.heads is None or self.tasks is None:
            return captions
        return TaskObjective(captions, model.heads, self.tasks)

    def validate(self, captioner: Captioner) -> dict[str, float]:
        """Hold captions against what people wrote; scores are times 100, as papers have them."""
        captions = caption_examples(captioner, self._captioned, threads=self.threads)
        scores = score(
            [caption.text for caption in captions],
            [example.captions for example in self._captioned],
        )
        found = {name: 100 * getattr(scores, name).value for name in NAMES}
        annotated = any(example.annotated for example in self.validation)
        if (
            annotated
            and isinstance(captioner, AttentionCaptioner)
            and captioner.model.heads is not None
        ):
            heads = score_heads_on_examples(captioner, self.validation, threads=self.threads)
            found |= {name: 100 * value for name, value in heads.headline().items()}
        return found

    def memories(self, model: CaptionModel) -> Iterator[Tensor]:
        """Read what a frozen encoder saw, which is on disk, or encode images."""
        numbers = evenly(len(self.examples))
        if self.views and self.config.thaw == "none":
            cache = self._cached(model)
            for number in numbers:  # The first view is plain.
                plain = cache.features[number * cache.views].astype(np.float32)
                yield torch.from_numpy(plain).unsqueeze(0)
            return
        size = model.config.encoder.image_size

        def pixels(number: int) -> Pixels:
            return prepare(load_image(self.examples[number].uri), size).pixels

        ahead = 16 * self.threads
        with closing(in_order(pixels, numbers, threads=self.threads, ahead=ahead)) as loaded:
            yield from encoded(model, loaded)

    def pictures(self) -> Sequence[Image.Image]:
        """Return the first images that are scored on."""
        return [load_image(example.uri) for example in self.validation[:PICTURES]]


def _encoder_id(model: CaptionModel, precision: str) -> str:
    """Hash everything that decides what an encoder sees of a picture."""
    config = model.config.encoder
    about = [type(config).__name__, asdict(config), precision]  # type: ignore[call-overload]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
