"""The confidence heads of a model that a user named."""

from collections.abc import Sequence

from captioner.checkpoint import embedded_path
from captioner.confidence.head import ConfidenceHead, head_for, load_heads
from captioner.contract import EMBEDDED, EXTRAS
from pipelines import storage
from pipelines.commands import UsageError
from pipelines.report.terminal import say


def model_folder(model: str) -> str | None:
    """Return the uri of the folder that a model lies in; None for a name on a hub."""
    folder = storage.absolute_uri(embedded_path() if model == EMBEDDED else model)
    return folder if storage.exists(storage.join(folder, "config.json")) else None


def head_of(
    model: str, model_id: str, decoding: str, extras: Sequence[str] = ()
) -> ConfidenceHead | None:
    """Return the head for a run's captions, and say so where the model has some but none for it.

    Args:
        model: as the user named it.
        model_id: of the model that was loaded from there.
        decoding: id of the run's decoding configuration.
        extras: features that the run computes besides those that cost little.

    Raises:
        UsageError: if the head needs others than these.
        HeadError: if the model's heads cannot be used, or are for another model.
    """
    folder = model_folder(model)
    heads = load_heads(folder) if folder else ()
    head = head_for(heads, model_id, decoding)
    if heads and head is None:
        say(
            "confidence is uncalibrated: the model's heads are for other decoding options than "
            f"these ({decoding}). Fit one with captioner calibrate and the same options."
        )
    lacking = [name for name in EXTRAS if head and name in head.features and name not in extras]
    if lacking:
        wanted = " ".join((*extras, *lacking))
        raise UsageError(f"the model's confidence head needs {lacking[0]}: add --features {wanted}")
    return head
