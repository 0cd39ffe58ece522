"""The decoding engine: drives any decoder, one step for all captions of a batch.

Whatever way tokens are chosen, the figures told of them (log-probability, entropy, margin) are
those of the model's own distribution, before anything was forbidden, tempered or cut off: they
mean the same in every caption. A caption that reaches the longest length without an end token is
a caption like any other.
"""

from captioner.decoding.captions import Decoded, Words
from captioner.decoding.engine import decode
from captioner.decoding.evidence import evidence
from captioner.decoding.features import features
from captioner.decoding.rescoring import rescore

__all__ = ["Decoded", "Words", "decode", "evidence", "features", "rescore"]
