"""The command `doctor`."""

import argparse
import logging
from collections import Counter
from concurrent.futures import Future

from captioner.contract import Captioner
from pipelines.commands import output_of, refuse_credentials
from pipelines.doctor import files, machine
from pipelines.doctor.checks import Check, Finding, Mark, not_checked, run
from pipelines.doctor.labelstudio import Review
from pipelines.options import EXIT_DONE, EXIT_FAILED
from pipelines.output import Output

_WIDTH = max(len(mark) for mark in Mark)


def doctor(args: argparse.Namespace) -> int:
    """Look at each thing that would fail late, and return the exit status.

    Raises:
        UsageError: if an option carries a secret, or OUTPUT is no folder that can be written.
    """
    if args.model is not None:
        refuse_credentials("--model", args.model)
    if args.label_studio_url:
        refuse_credentials("--label_studio_url", args.label_studio_url)
    output = Output(output_of(args.output).uri) if args.output else None
    before = logging.root.manager.disable
    logging.disable()  # what the stores' clients log is in the findings
    try:
        findings = run(_chains(args, output), _show)
    finally:
        logging.disable(before)
    counts = Counter(finding.mark for finding in findings)
    print(", ".join(f"{counts[mark]} {mark}" for mark in Mark if counts[mark]))
    return EXIT_FAILED if counts[Mark.FAILED] else EXIT_DONE


def _chains(args: argparse.Namespace, output: Output | None) -> list[list[Check]]:
    loaded: Future[Captioner] = Future()
    images: dict[str, Future[str | None]] = {text: Future() for text in args.input}
    chains = [machine.checks(args.model, args.device, args.precision, loaded, output)]
    chains += [[files.input_check(text, found)] for text, found in images.items()]
    if not images:
        chains.append([_left_out("inputs", "name a folder or a bucket of images")])
    if output is None:
        chains.append([_left_out("output", "name it by --output")])
    else:
        chains += files.output_checks(output)
    chains.append([Check("temporary folder", files.room_for_list)])
    if args.label_studio_url:
        review = Review(
            args.label_studio_url,
            args.label_studio_project,
            args.label_studio_token_file,
            loaded,
            images,
        )
        chains.append(review.checks())
    else:
        chains.append([_left_out("Label Studio", "name it by --label_studio_url")])
    return chains


def _left_out(subject: str, remedy: str) -> Check:
    return Check(subject, lambda: not_checked("none was named", remedy))


def _show(subject: str, finding: Finding) -> None:
    print(f"{finding.mark:<{_WIDTH}}  {subject}: {finding.found}", flush=True)
    if finding.remedy:
        print(f"{'':<{_WIDTH}}  -> {finding.remedy}", flush=True)
