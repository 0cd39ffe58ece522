"""The console script ``captioner``: errors that people can act on, and the exit status."""

import logging
import os
import sys
import threading
from collections.abc import Sequence

from pipelines.options import EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE, parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    args, beam_args = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    # Its warnings are of no use to a user, and it passes on what workers log as warnings.
    logging.getLogger("apache_beam.runners.portability.local_job_service").setLevel(logging.ERROR)
    from pipelines import job  # after parsing: torch and Beam take seconds to import

    try:
        match args.command:
            case "annotate":
                return job.annotate(args, beam_args)
            case "review":
                return job.review_push(args) if args.action == "push" else job.review_plan(args)
            case "compact":
                return job.compact_output(args)
            case "scenes":
                return job.scenes(args)
    except KeyboardInterrupt:
        print("ended at once; the next run picks up what was finished", file=sys.stderr)
        return EXIT_STOPPED
    except job.USAGE_ERRORS as error:
        print(f"captioner: {error}", file=sys.stderr)
        return EXIT_USAGE
    except job.RUN_ERRORS as error:
        print(f"captioner: {error}", file=sys.stderr)
        return EXIT_FAILED
    raise AssertionError(f"no command {args.command!r}")


def run() -> None:
    """Run as a program."""
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.name.startswith(("read", "beam")) for thread in threading.enumerate()):
        os._exit(status)  # a hung read, or a pipeline cut short: Python would wait for it forever
    sys.exit(status)


if __name__ == "__main__":
    run()
