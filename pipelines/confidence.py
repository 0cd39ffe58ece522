"""The confidence heads of a model that a user named."""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc

from captioner.checkpoint import embedded_path
from captioner.confidence.head import VERIFIED, ConfidenceHead, head_for, load_heads
from captioner.contract import EMBEDDED, EXTRAS
from pipelines import storage
from pipelines.commands import UsageError
from pipelines.done import column_of, of_another
from pipelines.output import Output
from pipelines.report.terminal import say
from schemas.kinds import ConfidenceKind


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


def say_uncalibrated(output: Output, run_id: str, head: ConfidenceHead | None) -> None:
    """Say which of a run's captions lack what its head needs, here and in the manifest.

    Args:
        output: that the run is committed to.
        run_id: the run.
        head: the run's; without one there is nothing to say.
    """
    if head is None:
        return
    kind = ConfidenceKind.UNCALIBRATED.value
    ours = (pc.field("run_id") == run_id) & (pc.field("confidence_kind") == kind)
    captions, lacking = 0, dict.fromkeys(head.features, 0)
    columns = [*map(column_of, head.features), "verifier_id"]
    for _, table in output.tables("captions", columns, ours):
        captions += table.num_rows
        for name in head.features:
            values = table.column(name).to_numpy().astype(np.float64)  # null becomes NaN
            unknown = ~np.isfinite(values)
            if name == VERIFIED:
                unknown |= of_another(table, head.verifier).to_numpy()
            lacking[name] += int(unknown.sum())
    if not captions:
        return
    lacking = {name: count for name, count in lacking.items() if count}
    manifest = output.read_manifest(run_id)
    manifest["uncalibrated"] = {"captions": captions, "lacking": lacking}
    output.write_manifest(run_id, manifest)
    told = ", ".join(f"{name} in {count:,}" for name, count in lacking.items())
    say(
        f"{captions:,} captions are uncalibrated: confidence head {head.id} needs what they lack "
        f"({told})"
    )
