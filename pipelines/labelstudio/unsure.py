"""The words of a caption that the model was unsure of, marked for reviewers to look at."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from tokenizers import decoders

from captioner.tokenizer import END
from captioner.vocabulary import word_splitter

UNSURE_BELOW = 0.5
"""A word of less probability is marked: the model thought it likelier that another one is right."""

_PART = "##"  # how WordPiece writes that a token goes on with a word
_SPACE = "\u2581"  # SentencePiece's space


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
    if len(tokens) != len(token_logprobs):
        raise ValueError(f"{len(tokens)} tokens have {len(token_logprobs)} log-probabilities")
    places = _places(tokens, token_logprobs, caption)
    html, done = "", 0
    for word, (start, end) in word_splitter().pre_tokenize_str(caption):
        of_word = (logprob for a, b, logprob in places if a < end and b > start)
        probability = math.exp(math.fsum(of_word))
        if probability < UNSURE_BELOW and any(map(str.isalnum, word)):
            html += f'{escape(caption[done:start])}<mark title="probability {probability:.2f}">'
            html += f"{escape(caption[start:end])}</mark>"
            done = end
    return html + escape(caption[done:])


def _places(
    tokens: Sequence[str], logprobs: Sequence[float], caption: str
) -> list[tuple[int, int, float]]:
    """Say from and to which character each token lies; none if they do not make the caption.

    A token that is not found is one that no caption shows, like a separator, or the first bytes
    of a character that the next tokens end.
    """
    places = []
    done, torn, owed = 0, list[str](), 0.0
    for token, logprob in zip(tokens, logprobs, strict=True):
        if token == END:
            continue
        start = len(caption) - len(caption[done:].lstrip())
        whole = _joined([*torn, token])
        if torn and caption.startswith(whole, start):
            text, logprob = whole, logprob + owed
        else:
            readings = (text for text in _readings(token) if caption.startswith(text, start))
            found = next(readings, None)
            if found is None:
                torn, owed = [*torn, token], owed + logprob
                continue
            text = found
        done, torn, owed = start + len(text), [], 0.0
        places.append((start, done, logprob))
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
