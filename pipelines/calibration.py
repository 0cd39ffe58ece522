"""The commands `calibrate` and `rescore`."""

import argparse

from captioner.checkpoint import CARD
from captioner.confidence.fitting import FitError, fit
from captioner.confidence.head import HEADS_FILE, ConfidenceHead, load_heads, save_heads
from captioner.confidence.labels import Labels, label_scenes
from captioner.contract import Captioner
from captioner.loading import load
from captioner.scenes import VALIDATION, scene_count
from pipelines import storage
from pipelines.commands import UsageError, decoding_config, output_of, refuse_credentials, uri_of
from pipelines.confidence import model_folder
from pipelines.labels import join
from pipelines.local import opened
from pipelines.next_command import plan_command
from pipelines.options import EXIT_DONE
from pipelines.output import Output, new_run_id
from pipelines.report.terminal import say
from pipelines.rescoring import Rescored, rescore
from schemas.uris import redact


def calibrate(args: argparse.Namespace) -> int:
    """Fit a confidence head, show what it is worth, and write a model that has it.

    Raises:
        UsageError: naming the option or the labels that cannot be used.
    """
    refuse_credentials("--model", args.model)
    decoding = decoding_config(args)
    scenes = _scene_count(args)
    source, target = _folder(args.model), output_of(args.output).uri
    missing = _missing_files(source, target)
    captioner = load(args.model, args.device, decoding, args.features)
    kept = _other_heads(source, target, captioner)
    labels, summary = _labels(args, captioner, scenes)
    try:
        fitted = fit(
            labels.rows,
            labels.correct,
            labels.groups,
            model_id=captioner.model_id,
            decoding=decoding.id,
            calibration=args.calibration,
            seed=args.fold_seed,
            all_labels=args.no_guarantee,
        )
    except FitError as error:
        raise UsageError(f"--labels {redact(args.labels)}: {error} ({summary})") from error
    for name in missing:
        data = storage.read_bytes(storage.join(source, name))
        storage.write_bytes_atomically(storage.join(target, name), data)
    save_heads(target, [*kept, fitted.head])
    print(summary)
    print("\n".join(fitted.report.lines()))
    shown = redact(target).removeprefix("file://")
    print(f"head {fitted.head.id} is in {shown}/{HEADS_FILE}")
    print(f"use it: captioner annotate --model {shown}")
    print(f"or, for captions that are there: captioner rescore OUTPUT --model {shown}")
    return EXIT_DONE


def rescore_output(args: argparse.Namespace) -> int:
    """Apply a model's heads to the captions of an output.

    Raises:
        UsageError: if there are no heads, or no captions that they are for.
    """
    refuse_credentials("--model", args.model)
    output = Output(output_of(args.output).uri, new_run_id())
    if not output.current().files and not storage.list_files(output.path("staging")):
        raise UsageError(f"{output.uri} holds no captions; run captioner annotate first")
    heads = load_heads(_folder(args.model))
    if not heads:
        raise UsageError(
            f"--model {redact(args.model)} has no {HEADS_FILE}; fit a head with captioner calibrate"
        )
    with opened(output, str(output.run_id)):
        done = rescore(output, heads)
    for one in done:
        print(_said(one))
    if any(one.changed for one in done) and output.current().of("review"):
        say("The review queue was planned with the old confidence: plan it anew, with your rules:")
        for one in done:
            kind = one.head.model_id, one.head.decoding
            if one.changed:
                say(f"  {plan_command(output.uri, '--review_below', '0.5', *kind)}")
    return EXIT_DONE


def _said(done: Rescored) -> str:
    head = done.head
    return (
        f"{head.model_id} {head.decoding}: {done.rows:,} captions, {done.changed:,} changed, "
        f"confidence of head {head.id}"
    )


def _scene_count(args: argparse.Namespace) -> int | None:
    try:
        scenes = scene_count(args.labels)
    except ValueError as error:
        raise UsageError(f"--labels: {error}") from error
    if scenes and args.captions:
        raise UsageError("--captions is for reviews; leave it out, scenes are captioned anew")
    if args.no_guarantee and scenes:
        raise UsageError("--no_guarantee is for reviews; leave it out, scenes certify nothing")
    if args.features and not scenes:
        raise UsageError(
            "--features is for scenes:N; of reviewed captions the features are in the output"
        )
    return scenes


def _labels(
    args: argparse.Namespace, captioner: Captioner, scenes: int | None
) -> tuple[Labels, str]:
    """Return the labels, and a line that says what they are."""
    if scenes:
        return label_scenes(captioner, VALIDATION, scenes, args.batch_size), f"{scenes:,} scenes"
    labels = uri_of("--labels", args.labels)
    captions = uri_of("--captions", args.captions or args.labels)
    if not storage.exists(storage.join(captions, "current.json")):
        what = args.captions or args.labels
        raise UsageError(
            f"{redact(what)} is no output of annotate; name the one that the reviews are of with "
            "--captions"
        )
    joined = join(
        labels,
        captions,
        captioner.model_id,
        captioner.decoding.id,
        keep_for_guarantees=not args.no_guarantee,
    )
    return joined.labels, joined.summary()


def _folder(model: str) -> str:
    folder = model_folder(model)
    if folder is None:
        raise UsageError(
            f"--model {redact(model)} is no folder with config.json. Heads are kept in a model's "
            "folder; a model of the Hugging Face hub has to be downloaded into one first: "
            f"hf download {redact(model)} --local-dir FOLDER"
        )
    return folder


def _missing_files(source: str, target: str) -> list[str]:
    """Return what has to be copied, if the target holds no other model.

    Raises:
        UsageError: if it does.
    """
    if source == target:
        return []
    there = {_name(file.uri) for file in storage.list_files(target)}
    names = [_name(file.uri) for file in storage.list_files(source)]
    for name in there.intersection(names) - {HEADS_FILE, CARD}:
        mine, other = (storage.read_bytes(storage.join(place, name)) for place in (source, target))
        if mine != other:
            raise UsageError(
                f"--output {redact(target)} holds another model ({name} differs); name a folder "
                "that is new, or a copy of this model"
            )
    return [name for name in names if name not in there and name != HEADS_FILE]


def _other_heads(source: str, target: str, captioner: Captioner) -> list[ConfidenceHead]:
    """Return the heads for other decodings of this model, the target's before the source's."""
    found: dict[str, ConfidenceHead] = {}
    for head in (*load_heads(source), *load_heads(target)):
        if head.model_id == captioner.model_id:
            found[head.decoding] = head
        else:
            say(f"left out: a head for {head.model_id}, which is not this model")
    found.pop(captioner.decoding.id, None)
    return list(found.values())


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
