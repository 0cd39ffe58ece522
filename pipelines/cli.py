"""The console script ``captioner``: errors that people can act on, and the exit status."""

import argparse
import atexit
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence

from pipelines.options import EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE, parse

_MAY_HANG = ("read", "beam", "doctor")
"""How threads are called that may hang: in a read, a pipeline that was cut short, or a check."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        args, beam_args = parse(sys.argv[1:] if argv is None else argv)
        return _run(args, beam_args)
    except KeyboardInterrupt:
        print("ended at once; the next run picks up what was finished", file=sys.stderr)
        return EXIT_STOPPED


def _run(args: argparse.Namespace, beam_args: Sequence[str]) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # What Pillow warns of is either refused by our own limits or ends in a row of failures.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # Its warnings are of no use to a user, and it passes on what workers log as warnings.
    logging.getLogger("apache_beam.runners.portability.local_job_service").setLevel(logging.ERROR)
    # After parsing, since torch and Beam take seconds to import.
    from captioner.contract import ModelLoadError
    from pipelines import (
        agreement,
        calibration,
        commands,
        job,
        merge,
        promote,
        quality,
        review_init,
        review_loop,
        training,
    )
    from pipelines.doctor import command as doctor
    from pipelines.listing import ListingError
    from pipelines.local import RunError
    from pipelines.manifest import BalanceError
    from pipelines.output import OutputError
    from pipelines.storage import StorageError

    actions = {
        "agreement": agreement.agreement,
        "calibrate": calibration.calibrate,
        "compact": commands.compact_output,
        "doctor": doctor.doctor,
        "evaluate": training.evaluate_model,
        "explain": commands.explain_image,
        "init": review_init.init_review,
        "merge": merge.merge_output,
        "plan": commands.review_plan,
        "pull": review_loop.review_pull,
        "promote": promote.promote,
        "push": commands.review_push,
        "quality": quality.quality,
        "rescore": calibration.rescore_output,
        "scenes": commands.scenes,
        "status": review_loop.review_status,
        "statistics": training.add_statistics,
        "train": training.train,
    }
    try:
        if args.command == "annotate":
            return job.annotate(args, beam_args)
        return actions[getattr(args, "action", args.command)](args)
    except (commands.UsageError, ListingError, ModelLoadError) as error:
        print(f"captioner: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (
        commands.CommandError,
        RunError,
        OutputError,
        BalanceError,
        StorageError,
        OSError,
    ) as error:
        print(f"captioner: {error}", file=sys.stderr)
        return EXIT_FAILED


def run() -> None:
    """Run as a program."""
    status = main()
    if not any(thread.name.startswith(_MAY_HANG) for thread in threading.enumerate()):
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    # Python would wait for ever for a thread that hangs, and native libraries have been seen to
    # abort while they were taken down: neither may change the status of what is done.
    os._exit(status)


if __name__ == "__main__":
    run()
