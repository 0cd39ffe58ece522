"""The model that made the captions of a queue, for what the tables do not hold: where it looked."""

from dataclasses import fields

from captioner.contract import EMBEDDED, Captioner, DecodingConfig
from captioner.loading import load
from pipelines.default_model import read_default
from pipelines.output import Output
from pipelines.review_queue import queue_configs


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


def model_to_name(
    output: Output, model_id: str | None = None, decoding: str | None = None
) -> str | None:
    """Return what ``--model`` has to name for the captions of the live queue to be made again.

    It is that of the newest run that tells; None where none does, or it is taken without being
    named.

    Args:
        output: the output.
        model_id: only this model's queue; all models' if None.
        decoding: only this decoding config's; all if None.

    Raises:
        OutputError: if what the output says of its model is damaged.
    """
    default = read_default(output)
    taken = EMBEDDED if default is None else default.model
    configs = queue_configs(output, model_id, decoding)
    models = (config["model"] for config in configs if config.get("model"))
    model = str(next(models, taken))
    return None if model == taken else model


def _decoding(output: Output, model_id: str | None, decoding: str | None) -> DecodingConfig:
    """Return how the captions were made, by the manifest of the newest run that tells."""
    known = {field.name for field in fields(DecodingConfig)}
    for config in queue_configs(output, model_id, decoding):
        said = config.get("decoding")
        if said and set(said) <= known:
            return DecodingConfig(**said)
    return DecodingConfig()
