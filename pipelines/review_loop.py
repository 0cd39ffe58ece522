"""The commands `review pull` and `review status`: what reviewers said, and how far they are."""

import argparse
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.compute as pc

from pipelines.agreement import verdict_figures
from pipelines.commands import (
    CommandError,
    captioned_output,
    label_studio_settings,
)
from pipelines.committed import captions_by_model, newest_verdicts
from pipelines.labelstudio.annotations import (
    Annotations,
    ReviewProject,
    failing_tasks,
    review_project,
)
from pipelines.labelstudio.client import Client, LabelStudioError
from pipelines.labelstudio.project import deletion_told
from pipelines.local import opened
from pipelines.next_command import label_studio_flags
from pipelines.options import EXIT_DONE, EXIT_NOT_PUSHED
from pipelines.output import Output
from pipelines.pulling import Pulled, pull
from pipelines.report.agreement import short_lines
from pipelines.report.terminal import LINE_SECONDS, say
from schemas.kinds import ReviewReason, Verdict
from schemas.uris import redact

_NAMED = 10
"""How many of a kind are named in a report; the others are counted."""


def review_pull(args: argparse.Namespace) -> int:
    """Bring what reviewers said into an output.

    Raises:
        UsageError: if the output has no captions.
        CommandError: if the project was not read.
    """
    output = captioned_output(args.output)
    with _connected(args) as (client, project), opened(output, str(output.run_id)):
        pulled = pull(client, project, output, args.since, on_progress=_Ticker())
    for why in _some(pulled.damaged):
        say(f"not taken: {why}")
    print("\n".join(_pull_lines(args, output, pulled)))
    return EXIT_NOT_PUSHED if pulled.failing else EXIT_DONE


def review_status(args: argparse.Namespace) -> int:
    """Say how far reviewers are.

    Raises:
        UsageError: if the output has no captions.
        CommandError: if the project was not read.
    """
    output = captioned_output(args.output)
    with _connected(args) as (client, project):
        annotations = Annotations(client, project.id)
        pulled = pull(client, project, output, write=False, on_progress=_Ticker())
        tasks, drafts = annotations.tasks(), annotations.drafts()
    print(f"project {project.title!r}, number {project.id}, at {args.label_studio_url}")
    print("\n".join(_status_lines(output, pulled, tasks, drafts)))
    if pulled.changes.changed:
        print(f"Bring them with: {_pull_command(args)}")
    return EXIT_NOT_PUSHED if pulled.failing else EXIT_DONE


@contextmanager
def _connected(args: argparse.Namespace) -> Iterator[tuple[Client, ReviewProject]]:
    try:
        with Client(label_studio_settings(args)) as client:
            client.check()
            project = review_project(client, args.label_studio_project)
            meanwhile = "its reviews were read; those that were pulled before stay in the output"
            with deletion_told(client, project.id, project.title, meanwhile):
                yield client, project
    except LabelStudioError as error:
        raise CommandError(redact(str(error))) from error


class _Ticker:
    """Says how many tasks were read, each half minute."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, tasks: int) -> None:
        if time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            say(f"{tasks:,} tasks read")


def _verdicts(output: Output) -> Counter[str]:
    """Return how many rows of ``reviews`` there are of each verdict."""
    counts: Counter[str] = Counter()
    for _, table in output.tables("reviews", ["verdict"]):
        for row in pc.value_counts(table.column("verdict")).to_pylist():
            counts[row["values"]] += row["counts"]
    return counts


def _some(texts: list[str]) -> Iterator[str]:
    yield from texts[:_NAMED]
    if len(texts) > _NAMED:
        yield f"{len(texts) - _NAMED:,} more like these"


def _pull_lines(args: argparse.Namespace, output: Output, pulled: Pulled) -> Iterator[str]:
    since = f"changed since {pulled.since:%Y-%m-%d %H:%M:%S} UTC" if pulled.since else "in all"
    changes, there = pulled.changes, _verdicts(output)
    yield (
        f"project {args.label_studio_project!r} at {args.label_studio_url}: {pulled.tasks:,} "
        f"annotated tasks {since}"
    )
    yield (
        f"reviews: {changes.added.total():,} new or changed, {changes.removed.total():,} replaced "
        f"or withdrawn, {changes.same:,} read again and the same"
    )
    verdicts = ", ".join(f"{there[verdict]:,} {verdict.value}" for verdict in Verdict)
    yield f"the output has {there.total():,} now: {verdicts}"
    yield from _remarks(pulled)


def _remarks(pulled: Pulled) -> Iterator[str]:
    """Say what was read and is not what a reader of the table may take it for."""
    if pulled.failing:
        yield failing_tasks(pulled.failing)
    if pulled.damaged:
        yield f"annotations that cannot be read and were not taken: {len(pulled.damaged):,}"
    if pulled.unknown:
        named = ", ".join(_some([str(number) for number in pulled.unknown]))
        yield (
            "tasks with annotations of no caption of this output, which were not taken: " + named
        )
    if pulled.missing:
        yield (f"reviewed tasks that are not in the project any more, and kept: {pulled.missing:,}")
    if pulled.elsewhere:
        yield (
            "reviews of images that the output has no caption of, taken without boxes and masks: "
            f"{pulled.elsewhere:,}"
        )


def _status_lines(output: Output, pulled: Pulled, tasks: int, drafts: int) -> Iterator[str]:
    queued, judged, deferred, left = _queue(output)
    changes, there = pulled.changes, _verdicts(output)
    for name, count, text in (
        ("queued", queued, f"captions, {judged:,} of them reviewed since they were planned"),
        ("deferred", deferred, "near-duplicates of those, which wait"),
        ("pushed", tasks, "tasks in the project"),
        ("in progress", drafts, "tasks with a draft"),
        ("not queued", left, "reviewed captions that are in the queue no more"),
    ):
        yield f"{name:12}{count:8,}  {text}"
    yield f"{'reviews':12}{'pulled':>8}  not pulled yet"
    for verdict in Verdict:
        yield f"  {verdict.value:10}{there[verdict]:8,}  {changes.added[verdict]:14,}"
    if changes.removed:
        yield f"{changes.removed.total():,} of the pulled ones were changed or withdrawn since"
    if (found := verdict_figures(output)) is not None:
        yield from short_lines(found)
    yield from _remarks(pulled)
    if not (changes.changed or pulled.failing):
        yield "all is pulled"


def _queue(output: Output) -> tuple[int, int, int, int]:
    """Return how many captions are queued, reviewed of these, deferred, and reviewed otherwise."""
    queued: dict[tuple[str, str], set[str]] = {}
    deferred = 0
    columns = ["image_id", "model_id", "decoding", "reasons"]
    for _, table in output.tables("review", columns):
        for row in table.to_pylist():
            waits = ReviewReason.DEFERRED.value in row["reasons"]
            images = queued.setdefault((row["model_id"], row["decoding"]), set())
            deferred += waits
            images |= set() if waits else {row["image_id"]}
    judged = left = 0
    for model_id, decoding in captions_by_model(output):
        ours = (pc.field("model_id") == model_id) & (pc.field("decoding") == decoding)
        said = {
            image for image, right in newest_verdicts(output, ours).items() if right is not None
        }
        here = queued.get((model_id, decoding), set())
        judged, left = judged + len(said & here), left + len(said - here)
    return sum(map(len, queued.values())), judged, deferred, left


def _pull_command(args: argparse.Namespace) -> str:
    return shlex.join(["captioner", "review", "pull", args.output, *label_studio_flags(args)])
