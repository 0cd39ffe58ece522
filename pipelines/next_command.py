"""Commands that are printed for what comes next: followed as they stand, they do just that."""

import argparse
import shlex
from collections.abc import Mapping


def label_studio_flags(args: argparse.Namespace) -> list[str]:
    """Return the options that say where Label Studio is, for a command that comes next."""
    names = ("label_studio_url", "label_studio_project", "label_studio_token_file")
    return _flags({name: getattr(args, name) for name in names})


def push_command(
    output: str,
    args: argparse.Namespace,
    *,
    model: str | None = None,
    device: str | None = None,
    model_id: str | None = None,
    decoding: str | None = None,
) -> str:
    """Return the `review push` that comes next.

    Args:
        output: folder or uri.
        args: options that say where Label Studio is.
        model: for ``--model``; None if that is not needed, as for the others.
        device: for ``--device``.
        model_id: for ``--model_id``.
        decoding: for ``--decoding``.
    """
    device = None if device == "auto" else device
    queue = {"model": model, "device": device, "model_id": model_id, "decoding": decoding}
    command = ["captioner", "review", "push", output, *label_studio_flags(args), *_flags(queue)]
    return shlex.join(command)


def plan_command(
    output: str, rule: str, value: str, model_id: str | None = None, decoding: str | None = None
) -> str:
    """Return a `review plan` that comes next.

    Args:
        output: folder or uri.
        rule: the option, such as ``--audit``.
        value: of that option.
        model_id: for ``--model_id``; None if that is not needed, as for the other.
        decoding: for ``--decoding``.
    """
    queue = _flags({"model_id": model_id, "decoding": decoding})
    return shlex.join(["captioner", "review", "plan", output, rule, value, *queue])


def _flags(options: Mapping[str, str | None]) -> list[str]:
    return [part for name, value in options.items() if value for part in (f"--{name}", value)]
