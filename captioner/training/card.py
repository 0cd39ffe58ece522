"""The model card of a training: written from the run, so that it says what was done."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

from captioner.model import CaptionModel

_PACKAGES = ("torch", "accelerate", "tokenizers", "transformers", "numpy", "pillow")


def model_card(
    model: CaptionModel,
    *,
    settings: Mapping[str, object],
    facts: Mapping[str, object],
    scores: Mapping[str, float],
    epoch: int,
    seconds: float,
) -> str:
    """Write the card in Markdown.

    Args:
        model: what was trained.
        settings: what training was told.
        facts: what the data was, by name.
        scores: of validation, by name.
        epoch: after which the scores were reached, counted from 1.
        seconds: of training until then.
    """
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    made_of = {
        "encoder": f"{type(model.encoder).__name__}, {model.config.encoder.image_size} pixels a "
        f"side, a grid of {model.encoder.grid[0]} x {model.encoder.grid[1]}",
        "decoder": type(model.decoder).__name__,
        "parameters": f"{millions:.2f} million",
        **facts,
        "trained": f"{epoch} epochs, {seconds / 60:.0f} minutes",
        "made": f"{datetime.now(UTC):%Y-%m-%d} on {platform.machine()}, Python "
        f"{platform.python_version()}, {_versions()}",
    }
    return "\n".join(
        [
            f"# {model.config.name}",
            "",
            "An image captioner with attention.",
            "",
            *(f"- {name}: {value}" for name, value in made_of.items()),
            "",
            "## Scores on images held back from training",
            "",
            *(f"- {name}: {value:.3f}" for name, value in scores.items()),
            "",
            "Greedy decoding. What these images were chosen by, the model was chosen by, too: test",
            "it on others before you rely on it.",
            "",
            "## Settings",
            "",
            *(f"- {name}: {value}" for name, value in settings.items()),
            "",
            "## Limits",
            "",
            "It knows what its training images and captions showed, mistakes and prejudices",
            "included, and says something of every picture, also of one unlike any it has seen.",
            "",
        ]
    )


def _versions() -> str:
    return ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name)))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None
