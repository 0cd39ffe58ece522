"""Training that starts from a model which was trained before, and not from nothing."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from captioner.checkpoint import embedded_path, read
from captioner.contract import EMBEDDED, ModelLoadError
from captioner.heads import HEADS, HeadsConfig, SegmenterConfig
from captioner.loading import is_checkpoint, load
from captioner.model import CaptionModel
from captioner.tokenizer import CaptionTokenizer
from captioner.training.learned import Learned, read_learned
from schemas.uris import redact

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """A trained model that another is to come from.

    Attributes:
        model: with its weights.
        tokenizer: its words.
        model_id: name and hash.
        learned: the reviewed images that it has learned from, None if there are none.
    """

    model: CaptionModel
    tokenizer: CaptionTokenizer
    model_id: str
    learned: Learned | None

    def words_with(self, captions: Iterable[str], min_frequency: int) -> CaptionTokenizer:
        """Return the model's words, and behind them those of captions that it does not know.

        Args:
            captions: to be learned from.
            min_frequency: how often a word must come to be added.
        """
        extended = self.tokenizer.extended(captions, min_frequency)
        if more := len(extended) - len(self.tokenizer):
            logger.info("%d words are new to %s, and are added to its own", more, self.model_id)
        return extended

    def heads(
        self, wanted: HeadsConfig | None, mask_width: int | None = None
    ) -> HeadsConfig | None:
        """Return the heads to train: the model's own where they tell all classes of the data.

        Args:
            wanted: what the data and the options ask for.
            mask_width: channels of the finest map of masks; None takes the model's.
        """
        asked = {name: getattr(wanted, name, None) for name in HEADS}
        for name, part in asked.items():
            own = self._own_head(name)
            if part is None and own is not None:
                logger.warning(
                    "the %s of %s are left out: they would no longer fit what is learned; name "
                    "them among the tasks to keep them",
                    *(name, self.model_id),
                )
            elif part is not None:
                why = _why_anew(own, part, mask_width)
                if why is None:
                    asked[name] = own
                else:
                    logger.warning("the %s are learned from nothing: %s", name, why)
        return HeadsConfig(**asked) if any(asked.values()) else None

    def build(
        self, name: str, tokenizer: CaptionTokenizer, heads: HeadsConfig | None
    ) -> CaptionModel:
        """Make a model with the weights of this one, as far as it has them.

        Args:
            name: of the new model.
            tokenizer: this one's words, maybe with more behind them.
            heads: of ``heads``.
        """
        decoder = replace(self.model.config.decoder, vocabulary_size=len(tokenizer))
        model = CaptionModel(replace(self.model.config, name=name, decoder=decoder, heads=heads))
        anew = [f"heads.{head}." for head in HEADS if not self._keeps(head, heads)]
        weights = model.state_dict()
        for key, known in self.model.state_dict().items():
            if key in weights and not key.startswith(tuple(anew)):
                _take_over(weights[key], known)
        model.load_state_dict(weights)
        return model

    def _own_head(self, name: str) -> Any:
        return getattr(self.model.config.heads, name, None)

    def _keeps(self, name: str, heads: HeadsConfig | None) -> bool:
        part = getattr(heads, name, None)
        return part is not None and part == self._own_head(name)


def _why_anew(own: Any, wanted: Any, mask_width: int | None) -> str | None:
    """Return why the head of the model to start from cannot be gone on with, None if it can."""
    if own is None:
        return "the model to start from has no such head"
    if new := sorted(set(wanted.classes) - set(own.classes)):
        return f"the head of the model to start from has no {new[0]!r}"
    if isinstance(own, SegmenterConfig) and mask_width not in (None, own.width):
        return f"the head of the model to start from has mask_width {own.width}, not {mask_width}"
    return None


def _take_over(weight: torch.Tensor, known: torch.Tensor) -> None:
    """Put known weights in the place of new ones, whose last rows may be of words that are new."""
    if weight.ndim:
        weight[: len(known)] = known
    else:
        weight.copy_(known)


def start_from(name: str) -> Start:
    """Load the model that a training is to start from.

    Args:
        name: ``embedded``, or a folder on any store.

    Raises:
        ModelLoadError: if it cannot be loaded, or is not of this project's kind.
    """
    folder = embedded_path() if name == EMBEDDED else name
    if not is_checkpoint(folder):
        load(name, "cpu")  # If there is no such model at all, it says so.
        raise ModelLoadError(
            f"{redact(name)} is a model of Hugging Face, which runs through their own generate and "
            "cannot be trained here; start from a model of captioner train"
        )
    stored = read(folder)
    return Start(stored.model, stored.tokenizer, stored.model_id, read_learned(folder))
