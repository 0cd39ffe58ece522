"""A pretrained language model as decoder: GPT-2 with attention to the image in every layer."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.contract import ModelLoadError
from captioner.decoders.base import check_range, select_images, start_captions
from captioner.third_party_settings import check_settings

MODEL_TYPES = frozenset(["gpt2"])
"""Which models are known, by ``model_type``."""

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class LanguageModelDecoderConfig:
    """A language model of ``transformers`` that attends to the image.

    Attributes:
        vocabulary_size: tokens that it may say.
        settings: the model's own configuration, with its ``model_type``.
    """

    vocabulary_size: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: if they do not fit together, or the model is of a kind that is not known.
        """
        check_range(self, "vocabulary_size", 4, 1_000_000)
        check_settings(self.settings)
        kind = self.settings.get("model_type")
        if not isinstance(kind, str) or kind not in MODEL_TYPES:
            known = ", ".join(sorted(MODEL_TYPES))
            raise ValueError(f"model_type is {kind!r}; those known are {known}")
        wanted = {"vocab_size": self.vocabulary_size, "add_cross_attention": True}
        for name, value in wanted.items():
            if self.settings.get(name) != value:
                raise ValueError(f"settings: {name} is {self.settings.get(name)!r}, not {value!r}")
        if not self.settings.get("tie_word_embeddings", True):
            raise ValueError("settings: tie_word_embeddings is false, but words are said as read")


@dataclass(frozen=True)
class LanguageModelState:
    """What is remembered between two steps; h heads of w numbers each, t words so far.

    Attributes:
        image: which image each row is of, [b].
        seen: keys and values of the image, [b x h x n x w] both, for each layer.
        words: keys and values of the words read so far, [b x h x t x w] both, for each layer.
        attention: where the last layer looked, [b x n].
        output: what the last word was chosen by, [b x w]; rows that are selected lose it.
    """

    image: Tensor
    seen: tuple[KeysValues, ...]
    words: tuple[KeysValues, ...] = ()
    attention: Tensor | None = None
    output: Tensor | None = None

    def select(self, rows: Tensor) -> "LanguageModelState":
        """Return the state of those rows, in that order."""
        image, seen = select_images(self.image, tuple(chain.from_iterable(self.seen)), rows)
        return LanguageModelState(
            image,
            tuple(zip(seen[::2], seen[1::2], strict=True)),
            tuple((keys[rows], values[rows]) for keys, values in self.words),
            None if self.attention is None else self.attention[rows],
        )


class LanguageModelDecoder(nn.Module):
    """GPT-2; in each layer attention to the image follows that to the words (1907.12461).

    The image's features are brought to the model's width. Words are compared by what they are
    read as, as in the model itself. The attention that it tells of is the last layer's, a mean of
    its heads.

    Raises:
        ModelLoadError: if ``transformers`` is missing, or makes no model of the settings.
    """

    def __init__(self, config: LanguageModelDecoderConfig, *, feature_size: int) -> None:
        super().__init__()
        self.config = config
        self.model: Any = _built(config.settings)
        self.image = nn.Linear(feature_size, self.model.config.hidden_size)
        # What is told of attention sums to 1, in training too.
        self.model.h[-1].crossattention.attn_dropout.p = 0.0

    @property
    def longest(self) -> int:
        """How many tokens it can read, and so write."""
        return int(self.model.config.max_position_embeddings)

    def start(self, memory: Tensor) -> LanguageModelState:
        """Begin captions of the images of memory [b x n x f]."""
        image = self.image(memory)
        heads = self.model.config.num_attention_heads
        seen = []
        for layer in self.model.h:
            both = layer.crossattention.c_attn(image).chunk(2, 2)  # (b, n, all heads) each
            keys, values = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in both)
            seen.append((keys, values))
        return LanguageModelState(torch.arange(len(memory), device=memory.device), tuple(seen))

    def step(self, tokens: Tensor, state: LanguageModelState) -> tuple[Tensor, LanguageModelState]:
        """Read the last tokens [b] and return logits [b x vocabulary] and the next state."""
        read, attention, words = self._read(tokens.unsqueeze(1), state)
        output = read[:, 0]
        after = LanguageModelState(state.image, state.seen, words, attention[:, 0], output)
        return self._logits(output), after

    def select(self, state: LanguageModelState, rows: Tensor) -> LanguageModelState:
        """Keep those rows of a state, in that order; a row may be kept several times."""
        return state.select(rows)

    def forward(self, memory: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read whole captions (teacher forcing).

        Args:
            memory: [b x positions x f].
            tokens: of as many captions of each image, one image's after another's, [c x t].

        Returns:
            Logits [c x t x vocabulary], and where each step looked, [c x t x positions].

        Raises:
            ValueError: if c is not a multiple of b, or captions are longer than it can read.
        """
        read, attention, _ = self._read(tokens, start_captions(self, memory, tokens))
        return self._logits(read), attention

    def read_as(self, tokens: Tensor) -> Tensor:
        """Return what tokens [...] are read as, [... x w]."""
        words: Tensor = self.model.wte(tokens)
        return words

    def _logits(self, read: Tensor) -> Tensor:
        return functional.linear(read, self.model.wte.weight)

    def _read(
        self, tokens: Tensor, state: LanguageModelState
    ) -> tuple[Tensor, Tensor, tuple[KeysValues, ...]]:
        """Read tokens [b x t] after those of a state."""
        from transformers import DynamicCache, EncoderDecoderCache

        count = tokens.shape[1] + (state.words[0][0].shape[2] if state.words else 0)
        if count > self.longest:
            raise ValueError(
                f"a caption has {count} tokens, but the language model reads {self.longest}"
            )
        known = EncoderDecoderCache(DynamicCache(state.words), DynamicCache(state.seen))
        output = self.model(
            inputs_embeds=self.model.wte(tokens),
            past_key_values=known,
            encoder_hidden_states=state.seen[0][0][:, 0],  # For its shape: the cache has all keys.
            use_cache=True,
            output_attentions=True,
        )
        layers: Any = known.self_attention_cache.layers
        words = tuple((layer.keys, layer.values) for layer in layers)
        return output.last_hidden_state, output.cross_attentions[-1].mean(1), words


def _built(settings: dict[str, Any]) -> Any:
    """Build a model from its settings, with weights of no worth yet."""
    # Which imports this package.
    from captioner.huggingface.loading import import_transformers

    transformers = import_transformers()
    try:
        config = transformers.AutoConfig.for_model(**settings)
        # The others do not tell where they look.
        return transformers.AutoModel.from_config(config, attn_implementation="eager")
    except Exception as error:  # settings are checked by several libraries
        kind = settings["model_type"]
        raise ModelLoadError(f"language model {kind} cannot be built: {error}") from error
