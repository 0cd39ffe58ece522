"""What `calibrate` learns a verifier from: reviewed captions, made once more, word by word."""

from collections.abc import Sequence

from torch import Tensor
from tqdm import tqdm

from captioner.confidence.labels import Labels
from captioner.confidence.verification import MOST_CAPTIONS
from captioner.contract import Caption, Prepared
from captioner.model import AttentionCaptioner
from pipelines.config import AnnotateConfig
from pipelines.labels import Joined, LabelledCaption
from pipelines.recaptioning import caption_again
from pipelines.records import Failure
from pipelines.report.terminal import say
from schemas.identity import row_key
from schemas.kinds import FailureKind
from schemas.uris import redact

_SHOWN = 3


def with_evidence(joined: Joined, captioner: AttentionCaptioner, config: AnnotateConfig) -> Labels:
    """Return labels with the evidence of each caption, of those that are made as they were.

    Images are read and captioned again: what was known of each word is too much to be kept in an
    output. What cannot be had is taken out of ``joined`` and counted there.

    Args:
        joined: reviews and their captions.
        captioner: that made them.
        config: how images are decoded, what they may cost, and how many make a batch.
    """
    chosen = sorted(joined.captions, key=_by_hash)[:MOST_CAPTIONS]
    joined.beyond = len(joined.captions) - len(chosen)

    def known(batch: Sequence[Prepared]) -> list[tuple[Caption, Tensor]]:
        return list(zip(*captioner.caption_with_evidence(batch), strict=True))

    said = caption_again(known, chosen, captioner, config)
    joined.captions = []
    evidence, failures = [], []
    progress = tqdm(said, "captioning", len(chosen), unit=" images", leave=False, disable=None)
    for labelled, item in progress:
        if isinstance(item, Failure):
            failures.append(item)
        elif item[0].text != labelled.caption:
            joined.captioned_otherwise += 1
        else:
            joined.captions.append(labelled)
            evidence.append(item[1])
    joined.changed = sum(failure.kind is FailureKind.CHANGED for failure in failures)
    joined.unreadable = len(failures) - joined.changed
    for failure in failures[:_SHOWN]:
        say(f"{redact(failure.ref.uri)}: {redact(failure.message)}")
    labels = joined.labels()
    labels.evidence.extend(evidence)
    return labels


def _by_hash(labelled: LabelledCaption) -> tuple[bytes, str]:
    return row_key(labelled.image_id), labelled.caption
