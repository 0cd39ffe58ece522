"""The words of a caption that the model was unsure of, marked for reviewers to look at."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tokenizers import decoders

from captioner.tokenizer import END
from captioner.vocabulary import word_splitter

UNSURE_BELOW = 0.5
"""A word of less probability is marked: the model thought it likelier that another one is right."""

_PART = "##"  # how WordPiece writes that a token goes on with a word
_SPACE = "\u2581"  # SentencePiece's space


@dataclass(frozen=True)
class Word:
    """A word of a caption.

    Attributes:
        start: its first character.
        end: the one behind its last.
        probability: that of all its tokens together.
        tokens: their places among the caption's tokens.
    """

    start: int
    end: int
    probability: float
    tokens: tuple[int, ...]


def unsure_words(tokens: Sequence[str], token_logprobs: Sequence[float], caption: str) -> str:
    """Write a caption as HTML in which the words that the model was unsure of are marked.

    A word is as probable as all of its tokens together. The caption is escaped: markup in it
    stays text. Where tokens and caption do not belong together nothing is marked, since a wrong
    mark is worse than none.

    Args:
        tokens: of the caption, as the column ``tokens`` has them: words, or parts of words as
            byte pairs, WordPiece and SentencePiece write them.
        token_logprobs: the natural log-probability of each.
        caption: the text.

    Returns:
        The caption, with ``<mark title="probability 0.31">`` around each such word.

    Raises:
        ValueError: if there are not as many log-probabilities as tokens.
    """
    html, done = "", 0
    for word in words_of(tokens, token_logprobs, caption):
        if word.probability < UNSURE_BELOW:
            html += f'{escape(caption[done : word.start])}<mark title="probability '
            html += f'{word.probability:.2f}">{escape(caption[word.start : word.end])}</mark>'
            done = word.end
    return html + escape(caption[done:])


def words_of(tokens: Sequence[str], token_logprobs: Sequence[float], caption: str) -> list[Word]:
    """Return the words of a caption, punctuation left out, with the tokens that each is made of.

    Args:
        tokens: as ``unsure_words`` takes them.
        token_logprobs: the natural log-probability of each.
        caption: the text.

    Returns:
        In order; where tokens and caption do not belong together, words without tokens.

    Raises:
        ValueError: if there are not as many log-probabilities as tokens.
    """
    if len(tokens) != len(token_logprobs):
        raise ValueError(f"{len(tokens)} tokens have {len(token_logprobs)} log-probabilities")
    places = _places(tokens, caption)
    words = []
    for text, (start, end) in word_splitter().pre_tokenize_str(caption):
        if any(map(str.isalnum, text)):
            of_word = [n for a, b, made in places if a < end and b > start for n in made]
            probability = math.exp(math.fsum(token_logprobs[n] for n in of_word))
            words.append(Word(start, end, probability, tuple(of_word)))
    return words


def _places(tokens: Sequence[str], caption: str) -> list[tuple[int, int, range]]:
    """Say from and to which character tokens lie, and which; none if they do not make the caption.

    A token that is not found is one that no caption shows, like a separator, or the first bytes
    of a character that the next tokens end.
    """
    places = []
    done, torn = 0, list[str]()
    for number, token in enumerate(tokens):
        if token == END:
            continue
        start = len(caption) - len(caption[done:].lstrip())
        whole = _joined([*torn, token])
        first = number
        if torn and caption.startswith(whole, start):
            text, first = whole, number - len(torn)
        else:
            readings = (text for text in _readings(token) if caption.startswith(text, start))
            found = next(readings, None)
            if found is None:
                torn = [*torn, token]
                continue
            text = found
        done, torn = start + len(text), []
        places.append((start, done, range(first, number + 1)))
    return [] if caption[done:].strip() else places


def _readings(token: str) -> Iterator[str]:
    """Yield what a token may stand for."""
    yield token
    yield token.removeprefix(_PART)
    yield token.replace(_SPACE, "")
    yield _joined([token])


def _joined(tokens: list[str]) -> str:
    """Return the text that byte pairs spell."""
    return str(decoders.ByteLevel().decode(tokens)).strip()
