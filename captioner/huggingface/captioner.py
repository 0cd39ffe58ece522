"""A model of Hugging Face ``transformers`` as a captioner.

It runs through its own ``generate``, greedily, with every setting that a checkpoint brings
(penalties, beams, forced tokens) put aside: the caption is the most probable token at each step,
and its figures are of the model's own distribution.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from captioner.annotations import ClassNames
from captioner.contract import Caption, DecodingConfig, Prepared
from captioner.decoding import Decoded, features
from captioner.huggingface.view import View

END = "<end>"
"""Stands for the end-of-sequence token, as the contract asks."""


class HuggingFaceCaptioner:
    """A model of ``transformers`` with its words: fits the ``Captioner`` contract."""

    def __init__(
        self, model: Any, tokenizer: Any, view: View, model_id: str, decoding: DecodingConfig
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.view = view
        self._model_id = model_id
        self._decoding = decoding
        self._generation = _generation(model, decoding)
        device = model.device
        self._mean = torch.tensor(view.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(view.std, device=device).view(1, 3, 1, 1)

    @property
    def model_id(self) -> str:
        """Kind and hash of weights, configuration and words, wherever they are kept or run."""
        return self._model_id

    @property
    def decoding(self) -> DecodingConfig:
        """How captions are made from the model's probabilities."""
        return self._decoding

    @property
    def classes(self) -> ClassNames:
        """Nothing: these models write captions only."""
        return ClassNames()

    @property
    def fills(self) -> tuple[str, ...]:
        """Nothing that not all models fill."""
        return ()

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height that ``prepare`` brings images to, at least on their shorter side."""
        edge = self.view.shortest_edge or 0
        return max(self.view.width, edge), max(self.view.height, edge)

    def prepare(self, image: Image.Image) -> Prepared:
        """Bring an image to the model's size, on any thread."""
        return self.view.prepare(image)

    @torch.inference_mode()
    def caption(self, batch: Sequence[Prepared]) -> list[Caption]:
        """Caption a batch; each caption depends on its own image alone."""
        if not batch:
            return []
        recorder = _Recorder(_ends(self.model))
        self.model.generate(
            pixel_values=self._pixels(batch),
            generation_config=self._generation,
            logits_processor=[recorder],
        )
        return [self._finish(decoded) for decoded in recorder.captions()]

    def _pixels(self, batch: Sequence[Prepared]) -> torch.Tensor:
        """Bring a batch to the device as bytes, and normalise it there."""
        stacked = torch.from_numpy(np.stack([item.pixels for item in batch])).to(self._mean.device)
        values = stacked.permute(0, 3, 1, 2).float() * self.view.factor
        return ((values - self._mean) / self._std).to(self.model.dtype)

    def _finish(self, decoded: Decoded) -> Caption:
        ends = _ends(self.model)
        names = self.tokenizer.convert_ids_to_tokens(decoded.tokens)
        text = self.tokenizer.decode(decoded.tokens, skip_special_tokens=True).strip()
        return Caption(
            text=text,
            tokens=tuple(
                END if number in ends else str(name)
                for number, name in zip(decoded.tokens, names, strict=True)
            ),
            token_logprobs=tuple(decoded.logprobs),
            n_best=((text, math.fsum(decoded.logprobs)),),
            features=features(decoded),
        )


class _Recorder:
    """Takes the figures of each step, and no logits: those of 60 steps can fill a device.

    ``generate`` calls it with the logits of a step, before it takes the highest.
    """

    def __init__(self, ends: frozenset[int]) -> None:
        self._ends = ends
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logprobs = scores.float().log_softmax(1)
        probabilities = logprobs.exp()
        best = scores.argmax(1)
        first = logprobs.gather(1, best.unsqueeze(1)).squeeze(1)
        runner_up = logprobs.scatter(1, best.unsqueeze(1), float("-inf")).amax(1)
        entropies = -(probabilities * logprobs.clamp_min(-1e4)).sum(1)
        end = probabilities[:, sorted(self._ends)].sum(1)
        margins = first.exp() - runner_up.exp()
        figures = (best.double(), first, entropies, margins, end)
        self._steps.append(torch.stack([figure.double() for figure in figures], 1))
        return scores

    def captions(self) -> list[Decoded]:
        """Return what was recorded of each row, up to its end: what follows is padding."""
        rows = torch.stack(self._steps, 1).cpu().tolist()  # (captions, steps, figures)
        return [self._until_end(row) for row in rows]

    def _until_end(self, steps: list[list[float]]) -> Decoded:
        decoded = Decoded()
        for token, logprob, entropy, margin, decoded.end_probability in steps:
            decoded.tokens.append(int(token))
            decoded.logprobs.append(logprob)
            decoded.entropies.append(entropy)
            decoded.margins.append(margin)
            if int(token) in self._ends:
                break
        return decoded


def _decoder(model: Any) -> Any:
    """Return the part of a model that writes: the whole of it, save in BLIP."""
    return getattr(model, "text_decoder", model)


def _text_config(model: Any) -> Any:
    config = model.config
    return getattr(config, "text_config", None) or getattr(config, "decoder", None) or config


def _ends(model: Any) -> frozenset[int]:
    """Return the tokens that end a caption; BLIP ends with the separator."""
    if model.config.model_type == "blip":
        return frozenset([model.config.text_config.sep_token_id])
    saved = model.generation_config.eos_token_id
    found = saved if saved is not None else _text_config(model).eos_token_id
    return frozenset(found if isinstance(found, list) else [found])


def _generation(model: Any, decoding: DecodingConfig) -> Any:
    """Return settings for plain greedy decoding, and put them in place of the checkpoint's.

    ``generate`` fills in what is not set here from those that are in the model.
    """
    from transformers import GenerationConfig  # which made the model, so it is installed

    config, saved, text = model.config, model.generation_config, _text_config(model)
    ends = sorted(_ends(model))
    start = getattr(saved, "decoder_start_token_id", None)
    start = start if start is not None else getattr(config, "decoder_start_token_id", None)
    begin = saved.bos_token_id if saved.bos_token_id is not None else text.bos_token_id
    pad = saved.pad_token_id if saved.pad_token_id is not None else text.pad_token_id
    settings: Any = GenerationConfig  # It has no annotations.
    plain = settings(
        do_sample=False,
        num_beams=1,
        max_new_tokens=min(decoding.max_length, _positions(text) - 1),
        bos_token_id=begin,
        eos_token_id=ends,
        pad_token_id=pad if pad is not None else ends[0],
        decoder_start_token_id=start if start is not None else begin,
    )
    model.generation_config = plain
    _decoder(model).generation_config = plain
    return plain


def _positions(text_config: Any) -> int:
    return int(getattr(text_config, "max_position_embeddings", 1 << 30))
