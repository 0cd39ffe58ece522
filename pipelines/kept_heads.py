"""What `calibrate` leaves as it is: a model's files, and the heads and verifiers that stay."""

import fnmatch
from dataclasses import dataclass

from captioner.checkpoint import CARD
from captioner.confidence.head import (
    HEADS_FILE,
    VERIFIER_FILES,
    ConfidenceHead,
    HeadError,
    load_heads,
    load_verifier,
)
from captioner.contract import Captioner
from captioner.verifier import Verifier
from pipelines import storage
from pipelines.commands import UsageError
from pipelines.report.terminal import say
from schemas.uris import redact


@dataclass(frozen=True)
class KeptHead:
    """A head, and the verifier that it looks at, if it looks at one."""

    head: ConfidenceHead
    verifier: Verifier | None

    @classmethod
    def of(cls, head: ConfidenceHead, folder: str) -> "KeptHead":
        """Return a head of a model's folder.

        Raises:
            HeadError: if its verifier is missing there or broken.
        """
        return cls(head, load_verifier(folder, head.verifier) if head.verifier else None)


def other_heads(source: str, target: str, captioner: Captioner) -> list[KeptHead]:
    """Return the heads for other decodings of this model, the target's before the source's.

    Raises:
        HeadError: if heads cannot be read.
    """
    found: dict[str, tuple[ConfidenceHead, str]] = {}
    for folder in (source, target):
        for head in load_heads(folder):
            if head.model_id == captioner.model_id:
                found[head.decoding] = head, folder
            else:
                say(f"left out: a head for {head.model_id}, which is not this model")
    found.pop(captioner.decoding.id, None)
    kept = []
    for head, folder in found.values():
        try:
            kept.append(KeptHead.of(head, folder))
        except HeadError as error:  # It must not keep others from being made.
            say(f"left out: the head for decoding {head.decoding}. {error}")
    return kept


def verified_head(source: str, captioner: Captioner) -> KeptHead | None:
    """Return the head that the model has for its decoding, if that has a verifier.

    Raises:
        HeadError: if heads cannot be read, or the verifier.
    """
    kind = captioner.model_id, captioner.decoding.id
    for head in load_heads(source):
        if (head.model_id, head.decoding) == kind and head.verifier:
            return KeptHead.of(head, source)
    return None


def missing_files(source: str, target: str) -> list[str]:
    """Return what has to be copied, if the target holds no other model.

    Raises:
        UsageError: if it does.
    """
    if source == target:
        return []
    there, names = _names(target), _names(source)
    for name in there & names - {CARD}:
        mine, other = (storage.read_bytes(storage.join(place, name)) for place in (source, target))
        if mine != other:
            raise UsageError(
                f"--output {redact(target)} holds another model ({name} differs); name a folder "
                "that is new, or a copy of this model"
            )
    return sorted(names - there)


def _names(folder: str) -> set[str]:
    """Return the names of a model's files, but of its heads and their verifiers."""
    names = {file.uri.rpartition("/")[2] for file in storage.list_files(folder)}
    return names - {HEADS_FILE, *fnmatch.filter(names, VERIFIER_FILES)}
