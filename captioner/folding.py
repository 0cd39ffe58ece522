"""Batch norms that the convolutions before them do: fewer passes over memory, the same answers."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Folded(nn.Identity):
    """Stands where a batch norm was."""


def fold(model: nn.Module) -> None:
    """Put each batch norm that follows a convolution in a ``Sequential`` into its weights.

    A trained batch norm only scales and shifts channels, which the convolution can do itself
    (1712.05877, section 3.2). What the model says changes in the last digits. Its weights have
    other names then, so that it can be neither trained nor saved. Kinds of their own, such as
    timm's convolutions that standardise their weights, stay as they are, and so do batch norms
    without statistics.

    Args:
        model: in evaluation mode; changed in place.
    """
    for parts in [part for part in model.modules() if isinstance(part, nn.Sequential)]:
        for (name, first), (after, second) in pairwise(list(parts.named_children())):
            # Others that are derived from these may do more, such as timm's norms with a ReLU.
            if type(first) is not nn.Conv2d or type(second) is not nn.BatchNorm2d:
                continue
            if second.running_mean is not None:
                parts.add_module(name, fuse_conv_bn_eval(first, second))
                parts.add_module(after, Folded())


def is_folded(model: nn.Module) -> bool:
    """Whether ``fold`` has changed a model."""
    return any(isinstance(module, Folded) for module in model.modules())
