"""The commands `train`, `evaluate` and `statistics`."""

import argparse
import itertools
import json
import logging
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.evaluation.run import Evaluation, evaluate
from captioner.images import ImageError, Limits, decode
from captioner.loading import load
from captioner.scenes import TRAINING, render, sample, scene_count
from captioner.scenes.combinations import shows_held_out
from captioner.training.assemble import assemble
from captioner.training.augment import AugmentConfig
from captioner.training.config import TrainingConfig
from captioner.training.images import in_order
from captioner.training.loop import DivergedError
from captioner.training.options import TrainingOptions
from captioner.training.precision import fastest_precision
from captioner.training.sources import DataError
from captioner.training.state import StateError
from captioner.training.statistics import MOST_IMAGES, add, evenly
from captioner.training.tasks import TaskConfig
from pipelines import storage
from pipelines.commands import CommandError, UsageError, decoding_config, refuse_credentials, uri_of
from pipelines.listing import list_images
from pipelines.options import EXIT_DONE
from pipelines.report.terminal import say
from pipelines.training_options import DECODER_FIELDS
from schemas.uris import redact

_FROM_NOTHING = ("grid", "vit")
_URIS = (
    *("data", "images", "annotations", "validation", "validation_annotations"),
    *("encoder", "decoder", "start_from"),
)
_THREADS = 8
_PREFIX = re.compile("(timm|regions|lm):(?!//)")


def train(args: argparse.Namespace) -> int:
    """Train a captioner; what was begun before is gone on with.

    Raises:
        CommandError: if training cannot go on.
        UsageError: naming the option that cannot be used.
    """
    logging.getLogger("captioner").setLevel(logging.INFO)
    for name in _URIS:
        if value := getattr(args, name):
            refuse_credentials(f"--{name}", _PREFIX.sub("", value, count=1))
    if "://" in args.output:
        raise UsageError(
            f"--output {redact(args.output)} is no local folder; train into one, and copy what "
            "comes out"
        )
    with _made(Path(args.output)):
        try:
            run = assemble(_options(args))
        except (ModuleNotFoundError, StateError, ValueError) as error:
            raise UsageError(str(error)) from error
        try:
            scores = run.run()
        except (DataError, DivergedError) as error:
            raise CommandError(str(error)) from error
    if not run.leads:
        return EXIT_DONE
    for name, value in scores.items():
        print(f"{name:18} {value:8.3f}")
    print(f"the best epoch is in {run.best}; use it: captioner annotate --model {run.best}")
    return EXIT_DONE


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder; what fails before it has written anything leaves none.

    Raises:
        UsageError: if it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--output {folder} cannot be made: {error.strerror}; name another folder"
        ) from error
    try:
        yield
    except BaseException:
        with suppress(OSError):  # Something was written there, which stays.
            for path in missing:
                path.rmdir()
        raise


def _options(args: argparse.Namespace) -> TrainingOptions:
    given = vars(args)
    whole = args.start_from is not None or args.encoder in _FROM_NOTHING
    thaw = args.thaw or ("all" if whole else "none")
    config = {**_of(TrainingConfig, given), "thaw": thaw}
    config["precision"] = args.precision or fastest_precision(args.device)
    settings = {name: given[name] for name in (*DECODER_FIELDS, "tied") if name in given}
    plain = {
        name: given[name]
        for name in (field.name for field in fields(TrainingOptions))
        if name in given
    }
    plain |= {"languages": tuple(args.languages), "tasks": tuple(args.tasks)}
    return TrainingOptions(
        **plain,
        punctuation=not args.drop_punctuation,
        gate=not args.no_gate,
        task_config=TaskConfig(**_of(TaskConfig, given)),
        decoder_settings=settings,
        augment=AugmentConfig(**_of(AugmentConfig, given)),
        config=TrainingConfig(**config),
    )


def _of(config: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(config) if field.name in given}


def evaluate_model(args: argparse.Namespace) -> int:
    """Score a model's captions and heads, show the scores, and write them where that is asked for.

    Raises:
        UsageError: naming what cannot be used.
    """
    for name in ("data", "images", "annotations", "model"):
        if value := getattr(args, name):
            refuse_credentials(f"--{name}", value)
    output = uri_of("--output", args.output) if args.output else None
    captioner = load(args.model, args.device, decoding_config(args))
    try:
        evaluation = evaluate(
            captioner,
            args.data,
            args.images,
            annotations=args.annotations,
            batch_size=args.batch_size,
        )
    except (ModuleNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
    print(evaluation.table)
    if output is not None:
        _write(output, evaluation)
    return EXIT_DONE


def _write(output: str, evaluation: Evaluation) -> None:
    rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in evaluation.rows)
    metrics = json.dumps(evaluation.metrics, indent=2) + "\n"
    storage.write_bytes_atomically(f"{output}/captions.jsonl", rows.encode())
    storage.write_bytes_atomically(f"{output}/metrics.json", metrics.encode())
    print(f"metrics.json and captions.jsonl are in {output}")


def add_statistics(args: argparse.Namespace) -> int:
    """Add statistics of training images to a model's folder, and say its new id.

    Raises:
        UsageError: naming what cannot be used.
    """
    for name in ("model", "data"):
        refuse_credentials(f"--{name}", getattr(args, name))
    try:
        count = scene_count(args.data)
        images = _drawn(count) if count is not None else _read(args.data)
        model_id = add(args.model, images, device=args.device)
    except ValueError as error:
        raise UsageError(f"--data {redact(args.data)}: {error}") from error
    print(model_id)
    say("The model has another id now: its images are captioned anew, and confidence heads of the")
    say("id before do not fit it.")
    return EXIT_DONE


def _drawn(count: int) -> Iterator[Image.Image]:
    """Draw scenes as training does."""
    scenes = map(sample, itertools.count(TRAINING))
    shown = (scene for scene in scenes if not shows_held_out(scene))
    return map(render, itertools.islice(shown, min(count, MOST_IMAGES)))


def _read(data: str) -> Iterator[Image.Image]:
    """Read images of all parts of a folder; what cannot be read is told and left out."""
    uris = [ref.uri for ref in list_images([data]) if ref.kind is None]
    chosen = [uris[number] for number in evenly(len(uris))]
    bad = 0
    with closing(in_order(_opened, chosen, threads=_THREADS, ahead=4 * _THREADS)) as opened:
        for image in opened:
            if image is None:
                bad += 1
            else:
                yield image
    if bad:
        say(f"{bad:,} of {len(chosen):,} images cannot be read and are left out")


def _opened(uri: str) -> Image.Image | None:
    try:
        return decode(storage.read_bytes(uri, Limits().max_bytes)).image
    except (storage.StorageError, ImageError):
        return None
