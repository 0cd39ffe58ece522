"""The model of a process: loaded once, shared by every step and wave in it."""

import torch
from apache_beam.utils.shared import Shared

from captioner.contract import Captioner, ModelLoadError
from captioner.loading import load
from captioner.model import AttentionCaptioner
from pipelines.config import AnnotateConfig


def acquire(shared: Shared, config: AnnotateConfig) -> Captioner:
    """Return this process's captioner, loading it the first time.

    Raises:
        ModelLoadError: if it cannot be loaded or is not the model that the run began with.
    """

    def load_once() -> Captioner:
        captioner = load(config.model, config.device, config.decoding, config.features)
        if captioner.model_id != config.model_id:
            raise ModelLoadError(
                f"{config.model} is now {captioner.model_id}, but the run began with "
                f"{config.model_id}. Start the run again, with a model that stays as it is."
            )
        check_verifier(captioner, config)
        return captioner

    captioner: Captioner = shared.acquire(load_once, tag=_tag(config))
    return captioner


def check_verifier(captioner: Captioner, config: AnnotateConfig) -> None:
    """Check that captions are judged by the verifier that the run's head looks at.

    Raises:
        ModelLoadError: if the model's heads were replaced since the run began.
    """
    if isinstance(captioner, AttentionCaptioner) and captioner.verifier_id != config.verifier:
        raise ModelLoadError(
            f"{config.model} has verifier {captioner.verifier_id} now, but the run began with "
            f"{config.verifier}. Start the run again, with a model that stays as it is."
        )


def keep_loaded(shared: Shared, captioner: Captioner, config: AnnotateConfig) -> None:
    """Make a model that is loaded already this process's captioner."""
    shared.acquire(lambda: captioner, tag=_tag(config))


def _tag(config: AnnotateConfig) -> str:
    return " ".join((config.model_id, config.decoding.id, str(config.verifier), *config.features))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a batch was too large for the device's memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
