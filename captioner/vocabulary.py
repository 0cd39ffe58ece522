"""Learning the tokens of captions, by the `tokenizers` library: words, or byte pairs."""

from collections.abc import Iterable
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

UNKNOWN = "<unknown>"
CJK = (
    "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana.
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b"  # Radicals, marks.
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han.
)
"""Characters written without spaces between words, as a class of a regular expression."""
_LETTERS = r"[\w\u200c\u200d]+"  # The joiners of Persian and Indian scripts are part of words.
_NUMBER = r"\d+(?:[.,:]\d+)+"  # 3.5, 10:30
_WORDS_AND_MARKS = rf"{_NUMBER}|{_LETTERS}(?:['\u2019-]{_LETTERS})*|[^\w\s]+"


def train_words(
    captions: Iterable[str], special: list[str], size: int, min_frequency: int, punctuation: bool
) -> Tokenizer:
    """Learn at most ``size`` tokens, special ones included: words, and Chinese characters."""
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = word_normalizer(punctuation)
    tokenizer.pre_tokenizer = word_splitter()
    trainer = trainers.WordLevelTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


def train_byte_pairs(
    captions: Iterable[str], special: list[str], size: int, min_frequency: int
) -> Tokenizer:
    """Learn at most ``size`` tokens, special ones included: pieces of words, down to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    # Where no spaces part words, whole sentences would become one token.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [_one_by_one(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return tokenizer


@cache
def word_normalizer(punctuation: bool) -> normalizers.Normalizer:
    """Bring a caption to lower case and Unicode's form NFC, with punctuation or without."""
    steps: list[normalizers.Normalizer] = [normalizers.NFC(), normalizers.Lowercase()]
    if not punctuation:
        steps.append(normalizers.Replace(Regex(r"[\p{P}\p{S}]"), " "))
    return normalizers.Sequence(steps)


@cache
def word_splitter() -> pre_tokenizers.PreTokenizer:
    """Split at spaces and punctuation, and between Chinese and Japanese characters."""
    rest = pre_tokenizers.Split(Regex(_WORDS_AND_MARKS), "removed", invert=True)
    return pre_tokenizers.Sequence([_one_by_one(), rest])


@cache
def _one_by_one() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(f"[{CJK}]"), "isolated")
