"""What of an encoder is trained: nothing, everything, its last layers, or what a pattern names."""

import re

from torch import nn

from captioner.encoders.base import Encoder

_LISTED = 10


def thaw(encoder: Encoder, what: str) -> list[str]:
    """Freeze an encoder, but for what is to be trained.

    Args:
        encoder: whose parameters then ask for gradients or not.
        what: ``none``; ``all``; ``last:N``, the last N of its ``layers()`` and whatever comes
            after them, such as a final norm; or a regular expression, which the names of
            parameters are searched for.

    Returns:
        The names of the parameters that are trained.

    Raises:
        ValueError: if that is nothing though it is not ``none``, or there are no N layers.
    """
    parameters = dict(encoder.named_parameters())
    thawed = _named(encoder, parameters, what)
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in thawed)
    return list(thawed)


def _named(encoder: Encoder, parameters: dict[str, nn.Parameter], what: str) -> dict[str, None]:
    """Return the names of what is thawed, in their order, each once."""
    names = list(parameters)
    if not what:
        raise ValueError("what is to be trained is not said; give none, all, last:N or a pattern")
    if what == "none":
        return {}
    if what == "all":
        return dict.fromkeys(names)
    if what.startswith("last:"):
        return dict.fromkeys(names[_start(encoder, parameters, what) :])
    try:
        pattern = re.compile(what)
    except re.error as error:
        raise ValueError(
            f"{what!r} is no regular expression ({error}); give none, all, last:N or one"
        ) from error
    found = [name for name in names if pattern.search(name)]
    if not found:
        some = names if len(names) <= _LISTED else [names[0], "...", *names[1 - _LISTED :]]
        raise ValueError(f"{what!r} is in the name of no parameter; they are {', '.join(some)}")
    return dict.fromkeys(found)


def _start(encoder: Encoder, parameters: dict[str, nn.Parameter], what: str) -> int:
    """Return where the last N layers start: parameters are in the order of the layers."""
    layers = encoder.layers()
    count = what.removeprefix("last:")
    if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= len(layers):
        raise ValueError(f"{what!r} names no layers; use last:1 to last:{len(layers)}")
    first = next(layers[-int(count)].parameters())
    return next(n for n, parameter in enumerate(parameters.values()) if parameter is first)
