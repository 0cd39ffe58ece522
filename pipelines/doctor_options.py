"""The options of `doctor`."""

import argparse
from collections.abc import Callable
from typing import Any

_DOCTOR = """\
Each thing is a line: ok, a warning, FAILED or not checked; and below what is not ok, what to do.

example:
  captioner doctor gs://bucket/photos --output gs://bucket/captions \\
      --label_studio_url http://127.0.0.1:8080

exit status:
  0    nothing failed
  1    something failed
  2    wrong usage
"""


def add_doctor(
    commands: Any,
    add_model: Callable[[argparse.ArgumentParser], object],
    add_label_studio: Callable[[argparse._ArgumentGroup, bool, str, str], None],
) -> None:
    """Add the command to a parser's commands.

    Args:
        commands: of the parser.
        add_model: adds the options that say which model, where.
        add_label_studio: adds the options that say where the review is.
    """
    doctor = commands.add_parser(
        "doctor",
        help="look, before a long run, at each thing that would fail late",
        description="Look, before a long run, at each thing that would fail late: model, "
        "accelerator, inputs,\noutput, disk, and Label Studio. Give what you will give to "
        "annotate. Nothing is changed, but\nfor small files that are written to OUTPUT and "
        "removed.",
        epilog=_DOCTOR,
    )
    doctor.add_argument(
        "input", nargs="*", metavar="INPUT", help="as annotate takes it; its first images are read"
    )
    doctor.add_argument("--output", metavar="URI", help="folder for the Parquet")
    add_model(doctor)
    project = doctor.add_argument_group("Label Studio")
    add_label_studio(project, False, "look at", "its title; it is not made")
    doctor.set_defaults(parser=doctor)
