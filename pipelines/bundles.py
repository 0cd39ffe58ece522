"""What a DoFn that collects elements needs from Beam."""

from typing import Any

from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue


def at_end_of_bundle(item: Any) -> WindowedValue:
    """Return an element to emit from ``finish_bundle``, where Beam wants a window named."""
    window = GlobalWindow()
    return WindowedValue(item, window.max_timestamp(), (window,))
