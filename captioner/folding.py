"""Batch norms that the convolutions before them do: fewer passes over memory, the same answers."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(model: nn.Module) -> None:
    """Put each batch norm that follows a convolution in a ``Sequential`` into its weights.

    A trained batch norm only scales and shifts channels, which the convolution can do itself
    (1712.05877, section 3.2). What the model says changes in the last digits. Its weights have
    other names then, so that it can be neither trained nor saved.

    Args:
        model: in evaluation mode; changed in place.
    """
    for parts in [part for part in model.modules() if isinstance(part, nn.Sequential)]:
        for (name, first), (after, second) in pairwise(list(parts.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                parts.add_module(name, fuse_conv_bn_eval(first, second))
                parts.add_module(after, nn.Identity())
