"""The model that made the captions of a queue, for what the tables do not hold: where it looked."""

from dataclasses import fields

from captioner.contract import EMBEDDED, Captioner, DecodingConfig
from captioner.loading import load
from pipelines.default_model import read_default
from pipelines.output import Output
from pipelines.review_queue import queue_runs


def load_for_queue(
    output: Output,
    model: str | None,
    device: str,
    model_id: str | None = None,
    decoding: str | None = None,
) -> Captioner:
    """Load a model so that it captions as in the runs that the live queue is of.

    Whether it is the model of those runs is not looked at.

    Args:
        output: the output.
        model: as ``captioner.loading.load`` takes it; None for that of the output, else the
            embedded one.
        device: auto, cpu, cuda or mps.
        model_id: only this model's queue; all models' if None.
        decoding: only this decoding config's; all if None.

    Raises:
        ModelLoadError: if there is no such model, or it cannot be used.
        OutputError: if what the output says of its model is damaged.
    """
    default = None if model else read_default(output)
    name = model or (EMBEDDED if default is None else default.model)
    return load(name, device, _decoding(output, model_id, decoding))


def _decoding(output: Output, model_id: str | None, decoding: str | None) -> DecodingConfig:
    """Return how the captions were made, by the manifest of the newest run that tells."""
    known = {field.name for field in fields(DecodingConfig)}
    for run in sorted(queue_runs(output, model_id, decoding), reverse=True):
        said = output.read_manifest(run).get("config", {}).get("decoding")
        if said and set(said) <= known:
            return DecodingConfig(**said)
    return DecodingConfig()
