"""The command `review init`: a project that is ready before anything is pushed."""

import argparse
import json
from collections.abc import Iterable, Iterator

from captioner.annotations import NO_CLASSES, ClassNames
from pipelines import storage
from pipelines.commands import (
    CommandError,
    UsageError,
    captioned_output,
    label_studio_settings,
)
from pipelines.labelstudio import config
from pipelines.labelstudio.client import Client, LabelStudioError
from pipelines.labelstudio.images import PREVIEW_SIZE
from pipelines.labelstudio.project import OtherConfigError
from pipelines.labelstudio.setup import Ready, set_up
from pipelines.local import opened
from pipelines.next_command import push_command
from pipelines.options import EXIT_DONE
from pipelines.output import Output
from pipelines.queue_model import model_to_name
from pipelines.report.terminal import say
from pipelines.review_queue import queue_classes, queue_kinds, review_items
from schemas.uris import redact

_SET = {
    "label_config": "the labelling config",
    "expert_instruction": "instructions",
    "sampling": "least certain first",
    "show_collab_predictions": "captions filled in",
}
_VERDICTS = "verdict (keys: 1 accept, 2 fix, 3 reject)"


def init_review(args: argparse.Namespace) -> int:
    """Make the project in Label Studio, or see that it is ready.

    Raises:
        UsageError: if OUTPUT has no captions, or the project is for something else.
        CommandError: if Label Studio did not do it.
    """
    output = captioned_output(args.output)
    try:
        settings = label_studio_settings(args)
        # Label Studio has no create-if-absent: two at once would make two projects of one title.
        with opened(output, str(output.run_id)), Client(settings) as client:
            client.check()
            classes, uris = _to_show(output)
            ready = set_up(
                client,
                settings.project,
                classes,
                uris,
                args.show_unsure_words,
                settings.previews,
                show_attention=args.show_attention,
            )
    except OtherConfigError as error:
        _say_difference(error, args, classes)
        raise UsageError(
            f"project {args.label_studio_project!r} has another labelling config, and was not "
            "changed; name another --label_studio_project, or bring its config to the above in "
            "Settings > Labeling Interface > Code"
        ) from error
    except LabelStudioError as error:
        raise CommandError(redact(str(error))) from error
    _say_ready(ready, classes, args, _pushes(output, ready, args))
    return EXIT_DONE


def _to_show(output: Output) -> tuple[ClassNames, Iterable[str]]:
    """Return the classes that reviewers need and the images' uris: the queue's, else all."""
    items = review_items(output)
    if items:
        return queue_classes(output, items), (item.uri for item in items)
    captions = output.tables("captions", ["uri"])
    return _newest_classes(output), (
        uri for _, table in captions for uri in table.column("uri").to_pylist()
    )


def _newest_classes(output: Output) -> ClassNames:
    """Return the classes that the model of the last run knows."""
    runs = sorted(storage.list_files(output.path("runs")), key=lambda file: file.uri)
    for run in reversed(runs):
        known = json.loads(storage.read_fresh(run.uri)).get("classes")
        if known:
            return ClassNames(**{kind: tuple(names) for kind, names in known.items()})
    return NO_CLASSES


def _say_difference(error: OtherConfigError, args: argparse.Namespace, classes: ClassNames) -> None:
    say("what is different there:")
    for difference in error.differences:
        say(f"  {difference}")
    say("the labelling config that is wanted:")
    shown = args.show_unsure_words, args.show_attention
    say(config.label_config(classes, *shown).rstrip())


def _lines(
    ready: Ready, classes: ClassNames, args: argparse.Namespace
) -> Iterator[tuple[str, str]]:
    """Yield what reviewers get, and how they get to see images."""
    shown = ["where the model looked"] if args.show_attention else []
    shown += ["unsure words"] if args.show_unsure_words else []
    kinds = [f"{kind} ({len(names):,} classes)" for kind, names in vars(classes).items() if names]
    yield "controls", ", ".join([*shown, "caption", _VERDICTS, *kinds])
    for bucket, made in ready.storages.items():
        yield "images", f"{bucket}: a storage of the project, {'made' if made else 'found'}"
    if ready.storages:
        yield "", "it signs with the server's credentials or its own: docs/label-studio.md"
    if ready.by_address:
        yield "images", f"{ready.by_address:,} by their web address; their server must allow CORS"
    if ready.previews:
        side = max(PREVIEW_SIZE)
        yield "images", f"{ready.previews:,} by previews of {side} px at most, which push uploads"


def _say_ready(
    ready: Ready, classes: ClassNames, args: argparse.Namespace, pushes: Iterable[str]
) -> None:
    """Say what was made and found, and which pushes come next."""
    state = "made" if ready.made else "found; it is ready"
    if ready.changed:
        state = f"found, and set: {', '.join(_SET[name] for name in ready.changed)}"
    print(f"project {args.label_studio_project!r}, number {ready.id}: {state}")
    for title, text in _lines(ready, classes, args):
        print(f"  {title:<10}{text}")
    print(f"Open it: {ready.address}")
    for push in pushes:
        print(f"Fill it: {push}")


def _pushes(output: Output, ready: Ready, args: argparse.Namespace) -> list[str]:
    """Return the pushes that fill the project: where a model is needed, one for each model."""
    if not ready.attention:
        return [push_command(args.output, args)]
    kinds = queue_kinds(review_items(output))
    if len(kinds) < 2:
        return [push_command(args.output, args, model=model_to_name(output))]
    return [
        push_command(
            args.output,
            args,
            model=model_to_name(output, *kind),
            model_id=kind[0],
            decoding=kind[1],
        )
        for kind in kinds
    ]
