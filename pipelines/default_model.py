"""The model of an output: the one that `annotate` takes unless it is told another."""

import argparse
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from captioner.contract import EMBEDDED, Captioner, DecodingConfig, ModelLoadError
from pipelines import storage
from pipelines.output import Output, OutputError
from pipelines.report.terminal import say
from schemas.tables import SCHEMA_VERSION
from schemas.uris import redact

MODEL = "model"
"""The file in an output."""


@dataclass(frozen=True)
class DefaultModel:
    """What ``OUTPUT/model`` says.

    Attributes:
        model: a folder's uri, the name of a model on the Hugging Face hub, or ``embedded``.
        model_id: hash of weights and configuration that it had.
        decoding: how its captions were decoded when they were found better.
        promoted_at: when that was, in ISO 8601.
    """

    model: str
    model_id: str
    decoding: DecodingConfig
    promoted_at: str

    def check(self, captioner: Captioner) -> None:
        """Check that a model is the one that was found better.

        Raises:
            ModelLoadError: if it is not.
        """
        if captioner.model_id != self.model_id:
            raise ModelLoadError(
                f"{redact(self.model)} is now {captioner.model_id}, but the output's model is "
                f"{self.model_id}, as it was compared; put that back, or name a --model"
            )


def read_default(output: Output) -> DefaultModel | None:
    """Return the model of an output; None if it has none.

    Raises:
        OutputError: if the file is damaged or of a newer version.
    """
    uri = output.path(MODEL)
    try:
        data = storage.read_fresh(uri)
    except storage.StorageError as error:
        if error.kind == "not_found":
            return None
        raise
    try:
        content = json.loads(data)
        version = int(content["schema_version"])
        found = DefaultModel(
            str(content["model"]),
            str(content["model_id"]),
            DecodingConfig(**content["decoding"]),
            str(content["promoted_at"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{uri} is not what captioner promote writes ({error!r}); put back a copy of it, or "
            "remove it"
        ) from error
    if version > SCHEMA_VERSION:
        raise OutputError(
            f"{uri} has schema version {version}, newer than {SCHEMA_VERSION}, which this program "
            "knows. Install a newer version of this program."
        )
    return found


def write_default(
    output: Output, model: str, captioner: Captioner, instead_of: tuple[str, str]
) -> DefaultModel:
    """Make a model that of an output, in one write.

    Args:
        output: the output.
        model: the uri of its folder, or its name.
        captioner: what was loaded from there.
        instead_of: model id and decoding of the one whose place it takes.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    default = DefaultModel(model, captioner.model_id, captioner.decoding, now)
    content = {
        "schema_version": SCHEMA_VERSION,
        "model": model,
        "model_id": captioner.model_id,
        "decoding": _changed(captioner.decoding),
        "promoted_at": now,
        "instead_of": {"model_id": instead_of[0], "decoding": instead_of[1]},
    }
    data = (json.dumps(content, indent=2) + "\n").encode()
    storage.write_bytes_atomically(output.path(MODEL), data)
    return default


def choose_model(args: argparse.Namespace, output: Output) -> DefaultModel | None:
    """Put the output's model, and how it decodes, into options that name none.

    Options that say how to decode are followed instead of all that was decided for the model.

    Args:
        args: options; ``model`` is None where it was not given.
        output: that is written to.

    Returns:
        The output's model if it is to be taken.
    """
    default = read_default(output)
    if args.model is not None:
        if default is not None:
            chosen, kept = redact(args.model), redact(default.model)
            say(f"model: {chosen}, as --model says; not the output's, {kept}")
        return None
    args.model = EMBEDDED if default is None else default.model
    if default is None:
        return None
    say(
        f"model: {default.model_id}, from {redact(default.model)}: promoted {default.promoted_at} "
        f"({output.path(MODEL)}); another one: --model"
    )
    ways = _changed(default.decoding)
    if ways and _says_how(args):
        say("decoding: as the options say, not as it was compared")
    elif ways:
        vars(args).update(ways)
        say(f"decoding: as it was compared: {', '.join(f'{k} {v}' for k, v in ways.items())}")
    return default


def _changed(decoding: DecodingConfig) -> dict[str, Any]:
    """Return what is not as it would be by itself."""
    default = asdict(DecodingConfig())
    return {name: value for name, value in asdict(decoding).items() if value != default[name]}


def _says_how(args: argparse.Namespace) -> bool:
    """Say whether an option tells how to decode; these two are there whether given or not."""
    default = asdict(DecodingConfig())
    always = ("precision", "draft")
    given = vars(args)
    return any(
        name in given and (name not in always or given[name] != default[name]) for name in default
    )
