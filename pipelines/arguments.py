"""What arguments are made of: a parser with our errors, and kinds of numbers."""

import argparse
from typing import Any, NoReturn

EXIT_USAGE = 2


class Parser(argparse.ArgumentParser):
    """A parser whose errors exit with the documented status, and that takes no abbreviations."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, without the page of usage."""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\nSee {self.prog} --help\n")


def add_kind(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose one model's captions, made in one way."""
    parser.add_argument("--model_id", help="whose captions, if the output has several models'")
    parser.add_argument(
        "--decoding", help="how they were decoded, if the model's were in several ways"
    )


def positive(text: str) -> int:
    """Read a whole number above 0."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return number
