"""Captions to numbers and back, by the `tokenizers` library: words, or byte pairs."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

from tokenizers import AddedToken, Tokenizer, decoders, models

from captioner.contract import LANGUAGE_NAME
from captioner.vocabulary import (
    CJK,
    UNKNOWN,
    train_byte_pairs,
    train_words,
    word_normalizer,
    word_splitter,
)

Kind = Literal["word", "byte_pair"]

PAD, START, END = "<pad>", "<start>", "<end>"
_SPECIAL = (PAD, START, END, UNKNOWN)
_START_OF = re.compile("<start:(.+)>")
_BYTES = 256
_BYTE_PAIRS = 8_000
_NO_LIMIT = 2**31
_WIDE_MARKS = "\u3001-\u3003\u3008-\u3011\u3014-\u301f\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff65"
_OTHER_MARKS = "\u060c\u061b\u061f\u06d4\u0964\u0965"  # Of Arabic, Urdu and Hindi.
_UNWANTED_SPACE = re.compile(
    rf" (?=[.,:;!?{_OTHER_MARKS}{CJK}{_WIDE_MARKS}])|(?<=[{CJK}{_WIDE_MARKS}]) "
)


class CaptionTokenizer:
    """What a model reads and writes: numbered tokens, and four special ones among them.

    In a tokenizer that was trained here pad, start, end and unknown have the numbers 0 to 3; in one
    that was adopted they come last. Only ask ``pad``, ``start``, ``end`` and ``unknown``.

    One that was trained for languages by name has in place of ``<start>`` a start token of each,
    ``<start:en>`` and the like: what a caption begins with decides what language it goes on in.

    What looks like a special token in a caption is text like any other.

    Attributes:
        languages: those by name, the first one first; none where there is but ``<start>``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer.

        Raises:
            ValueError: if it lacks one of the special tokens, its numbers have gaps, or its tokens
                are parts of words and it does not tell how to join them.
        """
        added = tokenizer.get_added_tokens_decoder()
        special = {
            token.content: number for number, token in sorted(added.items()) if token.special
        }
        self._starts = {
            found[1]: number
            for token, number in special.items()
            if (found := _START_OF.fullmatch(token))
        }
        self.languages = tuple(self._starts)
        start = START
        if self.languages and tokenizer.token_to_id(START) is None:
            start = f"<start:{self.languages[0]}>"
        ids: list[int] = []
        for token in (PAD, start, END, UNKNOWN):
            number = tokenizer.token_to_id(token)
            if number is None:
                raise ValueError(f"the tokenizer has no {token}")
            ids.append(number)
        numbers = set(tokenizer.get_vocab().values())
        if numbers != set(range(tokenizer.get_vocab_size())):
            raise ValueError(
                f"the numbers of its {len(numbers)} tokens, up to {max(numbers)}, have gaps"
            )
        if tokenizer.decoder is None and not isinstance(tokenizer.model, models.WordLevel):
            kind = type(tokenizer.model).__name__
            raise ValueError(f"the tokenizer is {kind} but has no decoder to join its tokens with")
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # That is: as text.
        self.pad, self.start, self.end, self.unknown = ids
        self._tokenizer = tokenizer
        self._special = {*_SPECIAL, *special}

    @classmethod
    def train(
        cls,
        captions: Iterable[str],
        kind: Kind = "word",
        *,
        vocabulary_size: int | None = None,
        min_frequency: int = 1,
        punctuation: bool = True,
        languages: Sequence[str] = (),
    ) -> "CaptionTokenizer":
        """Learn the tokens of some captions.

        Args:
            captions: what to learn from.
            kind: ``word`` has one token a word, in lower case, and one a Chinese or Japanese
                character, which need no spaces. Words end at white space and at punctuation,
                but hold apostrophes and hyphens between letters. Thai, Lao, Khmer and Burmese,
                which part no words either, are for ``byte_pair``, which has pieces of words,
                down to single bytes, learnt from how often they come (1508.07909); none holds
                more than one Chinese or Japanese character. It knows every script, and keeps
                capitals, spaces and punctuation as they are. Text is brought to Unicode's form
                NFC in both.
            vocabulary_size: most tokens, special ones included; the more frequent ones are kept.
                By default all words, or 8,000 byte pairs.
            min_frequency: how often a word, or a pair, must come to be kept.
            punctuation: whether words keep it as tokens of its own; without, punctuation and
                symbols are dropped, as recipes of benchmarks have it. Byte pairs always keep it.
            languages: what they are written in, such as ``en``; the first is what a caption is in
                unless another is asked for. None leaves the only language without a name.

        Raises:
            ValueError: if an argument is out of range, or no word is left.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"kind is {kind!r}; use one of: {', '.join(get_args(Kind))}")
        special = _special_tokens(languages)
        least = len(special) + (_BYTES if kind == "byte_pair" else 1)
        if vocabulary_size is not None and vocabulary_size < least:
            raise ValueError(f"vocabulary_size is {vocabulary_size}; {kind} needs at least {least}")
        if min_frequency < 1:
            raise ValueError(f"min_frequency is {min_frequency}; use at least 1")
        if kind == "byte_pair" and not punctuation:
            raise ValueError("byte_pair keeps punctuation; drop it with kind word")
        if kind == "byte_pair":
            size = vocabulary_size or _BYTE_PAIRS
            return cls(train_byte_pairs(captions, special, size, min_frequency))
        size = vocabulary_size or _NO_LIMIT
        trained = cls(train_words(captions, special, size, min_frequency, punctuation))
        if len(trained) == len(special):
            raise ValueError(f"no word comes {min_frequency} times in the captions; give more")
        return trained

    @classmethod
    def from_json(cls, text: str) -> "CaptionTokenizer":
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: if it is not that.
        """
        return cls(_parse(text))

    @classmethod
    def adopt(cls, text: str) -> "CaptionTokenizer":
        """Take over a pretrained model's ``tokenizer.json``: its tokens keep their numbers.

        Special tokens that it lacks are added at the end.

        Raises:
            ValueError: if it is not one, or cannot be used.
        """
        tokenizer = _parse(text)
        tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in _SPECIAL])
        return cls(tokenizer)

    def extended(self, captions: Iterable[str], min_frequency: int = 1) -> "CaptionTokenizer":
        """Return these tokens with the words of captions that are none yet behind them.

        The more frequent ones come first. Byte pairs, which know every word, stay as they are, and
        so do adopted tokens, whose last numbers are those of special ones.

        Args:
            captions: whose words are looked at.
            min_frequency: how often a word must come to be added.
        """
        if not self.whole_words:
            return self
        content = json.loads(self.to_json())
        vocabulary: dict[str, int] = content["model"]["vocab"]
        if len(vocabulary) < len(self):
            return self
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        counts = Counter(
            word
            for caption in captions
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption))
        )
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if count >= min_frequency and word not in vocabulary:
                vocabulary[word] = len(vocabulary)
        return CaptionTokenizer.from_json(json.dumps(content))

    def to_json(self) -> str:
        """Write the tokenizer as the library's JSON."""
        return str(self._tokenizer.to_str(pretty=True))

    def __reduce__(self) -> tuple[Callable[[str], "CaptionTokenizer"], tuple[str]]:
        """Pickle it as JSON: the library's own pickle forgets that special tokens are text."""
        return CaptionTokenizer.from_json, (self.to_json(),)

    def __len__(self) -> int:
        """How many tokens there are."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def whole_words(self) -> bool:
        """Whether each token is a word, a character or a mark, and not a part of one."""
        return self._tokenizer.decoder is None

    def start_of(self, language: str) -> int:
        """Return the token that captions of a language begin with; empty is the first one.

        Raises:
            ValueError: if the tokenizer does not know the language.
        """
        if not language:
            return self.start
        if language not in self._starts:
            known = f"use one of: {', '.join(self._starts)}"
            unnamed = "the only language that is known has no name; leave it out"
            raise ValueError(f"language is {language!r}; {known if self._starts else unnamed}")
        return self._starts[language]

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Turn captions into numbers, without start and end."""
        encoded = self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        return [item.ids for item in encoded]

    def offsets(self, captions: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Tell where in its caption each token of ``encode`` lies: from and to which character.

        A byte pair may hold the space before its word. Bytes of one character lie in one place.
        """
        encoded = self._tokenizer.encode_batch(list(captions), add_special_tokens=False)
        return [item.offsets for item in encoded]

    def sequences(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """Turn words, or phrases, into numbers each.

        Left out is what is no text: special tokens, and words that the tokenizer does not know,
        which no caption can hold. Byte pairs write a word that follows a space otherwise than
        one that does not, so both are returned. They are those that the tokenizer would use: a
        model can still spell the word by other pieces.
        """
        words = [word.strip() for word in words]
        if not self.whole_words:
            words = [text for word in words for text in (word, f" {word}") if word.strip()]
        encoded = self.encode(words) if words else []
        special = {self._tokenizer.token_to_id(token) for token in self._special}
        return tuple(tuple(ids) for ids in encoded if ids and special.isdisjoint(ids))

    @property
    def unspeakable(self) -> tuple[int, ...]:
        """The tokens that are no words and end nothing: all special ones but the end."""
        special = {self._tokenizer.token_to_id(token) for token in self._special}
        return tuple(sorted(number for number in special - {self.end} if number is not None))

    def word(self, number: int) -> str:
        """Return the token of a number, as it stands in the vocabulary."""
        return self._tokenizer.id_to_token(number) or UNKNOWN

    def text(self, tokens: Sequence[str]) -> str:
        """Join tokens to a caption; special tokens but the unknown are left out.

        Words are joined by spaces, but marks like the comma to the word before, and Chinese and
        Japanese characters and marks to what is on either side. Other kinds are joined by what
        the tokenizer itself says.
        """
        said = [token for token in tokens if token == UNKNOWN or token not in self._special]
        if self.whole_words:
            return _UNWANTED_SPACE.sub("", " ".join(said))
        return str(self._tokenizer.decoder.decode(said)).strip()


def words(caption: str) -> list[str]:
    """Split a caption as ``CaptionTokenizer.train(kind="word", punctuation=False)`` does.

    Words are in lower case, without punctuation and symbols, each Chinese or Japanese character a
    word of its own.
    """
    normalized = word_normalizer(punctuation=False).normalize_str(caption)
    return [word for word, _ in word_splitter().pre_tokenize_str(normalized)]


def readable(token: str) -> str:
    """Show a token as the text that it stands for: byte pairs spell spaces and letters in marks.

    A byte pair that holds but a part of a character is shown as it is.
    """
    text = str(decoders.ByteLevel().decode([token])).strip()
    return token if not text or "\ufffd" in text else text


def _special_tokens(languages: Sequence[str]) -> list[str]:
    """Return the special tokens, the first of the start tokens in the place of ``<start>``.

    Raises:
        ValueError: if a language is named twice, or is no name.
    """
    for number, language in enumerate(languages):
        if not LANGUAGE_NAME.fullmatch(language) or language in languages[:number]:
            raise ValueError(
                f"languages is {tuple(languages)!r}; use short names such as en, each once"
            )
    start, *others = [f"<start:{language}>" for language in languages] or [START]
    return [PAD, start, END, UNKNOWN, *others]


def _parse(text: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # The tokenizers library raises bare Exception.
        raise ValueError(f"not a tokenizer.json of the tokenizers library: {error}") from error
