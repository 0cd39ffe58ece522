"""Words to numbers and back, by the `tokenizers` library."""

import re
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
_SPECIAL = (PAD, START, END, UNKNOWN)
_SPACE_BEFORE_MARK = re.compile(r" (?=[.,:;!?])")


class WordTokenizer:
    """One token a word, in lower case; numbers 0 to 3 are pad, start, end and unknown."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer.

        Raises:
            ValueError: if it lacks one of the special tokens, or its numbers have gaps.
        """
        ids: list[int] = []
        for token in _SPECIAL:
            number = tokenizer.token_to_id(token)
            if number is None:
                raise ValueError(f"the tokenizer has no {token}")
            ids.append(number)
        numbers = set(tokenizer.get_vocab().values())
        if numbers != set(range(tokenizer.get_vocab_size())):
            raise ValueError(
                f"the numbers of its {len(numbers)} tokens, up to {max(numbers)}, have gaps"
            )
        self.pad, self.start, self.end, self.unknown = ids
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, captions: Iterable[str]) -> "WordTokenizer":
        """Make a tokenizer that knows the words of some captions."""
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=list(_SPECIAL), show_progress=False)
        tokenizer.train_from_iterator(captions, trainer)
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> "WordTokenizer":
        """Read what ``to_json`` wrote."""
        return cls(Tokenizer.from_str(text))

    def to_json(self) -> str:
        """Write the tokenizer as the library's JSON."""
        return str(self._tokenizer.to_str(pretty=True))

    def __len__(self) -> int:
        """How many tokens there are."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Turn captions into numbers, without start and end."""
        encoded = self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        return [item.ids for item in encoded]

    def sequences(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Turn words, or phrases, into numbers each.

        Left out is what is no text: special tokens, and words that the tokenizer does not know,
        which no caption can hold.
        """
        encoded = self.encode(words) if words else []
        special = {self.pad, self.start, self.end, self.unknown}
        return tuple(tuple(ids) for ids in encoded if ids and special.isdisjoint(ids))

    def word(self, number: int) -> str:
        """Return the token of a number."""
        return self._tokenizer.id_to_token(number) or UNKNOWN

    def text(self, tokens: Sequence[str]) -> str:
        """Join tokens to a caption; special tokens but the unknown are left out."""
        words = (token for token in tokens if token not in (PAD, START, END))
        return _SPACE_BEFORE_MARK.sub("", " ".join(words))
