"""The commands `calibrate` and `rescore`."""

import argparse
from typing import Any

from captioner.confidence.fitting import FitError, Fitted, fit
from captioner.confidence.head import (
    HEADS_FILE,
    VERIFIED,
    load_heads,
    save_heads,
    verifier_file,
)
from captioner.confidence.labels import Labels, label_scenes
from captioner.confidence.verification import MOST_CAPTIONS, learn
from captioner.contract import EMBEDDED, Captioner
from captioner.loading import is_checkpoint, load
from captioner.model import AttentionCaptioner
from captioner.scenes import VALIDATION, scene_count
from captioner.verifier import Verifier
from pipelines import storage
from pipelines.commands import UsageError, decoding_config, output_of, refuse_credentials, uri_of
from pipelines.confidence import model_folder
from pipelines.config import AnnotateConfig
from pipelines.kept_heads import KeptHead, missing_files, other_heads, verified_head
from pipelines.labels import join
from pipelines.local import opened
from pipelines.next_command import plan_command
from pipelines.options import EXIT_DONE
from pipelines.output import Output, new_run_id
from pipelines.report.terminal import say
from pipelines.rescoring import Rescored, rescore
from pipelines.review_queue import caption_limits
from pipelines.verifying import with_evidence
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
    if args.verifier:
        _check_can_be_verified(args.model)
    missing = missing_files(source, target)
    # A verifier that is learned anew must not be in the way, were it broken.
    captioner = load(
        args.model, args.device, decoding, args.features, with_verifier=not args.verifier
    )
    others = other_heads(source, target, captioner)
    present = None if args.verifier else verified_head(source, captioner)
    verifier = None if present is None else present.verifier
    labels, summary = _labels(args, captioner, scenes, verifier)
    try:
        if args.verifier:
            verifier = _learn(labels, args.fold_seed)
        fitted = _fit(args, labels, captioner, verifier, present)
    except FitError as error:
        raise UsageError(f"--labels {redact(args.labels)}: {error} ({summary})") from error
    for name in missing:
        data = storage.read_bytes(storage.join(source, name))
        storage.write_bytes_atomically(storage.join(target, name), data)
    made = KeptHead(fitted.head, verifier if fitted.head.verifier else None)
    every = [*others, made]
    save_heads(target, [one.head for one in every], [one.verifier for one in every if one.verifier])
    print(summary)
    print("\n".join(fitted.report.lines()))
    _say_what_next(made, args, redact(target).removeprefix("file://"))
    return EXIT_DONE


def _fit(
    args: argparse.Namespace,
    labels: Labels,
    captioner: Captioner,
    verifier: Verifier | None,
    present: KeptHead | None,
) -> Fitted:
    """Fit a head, without a verifier that tells nothing of captions that are new to it.

    A head that held its word against a caption would turn its memory upside down.

    Raises:
        FitError: if nothing can be fitted.
    """
    settings: dict[str, Any] = {
        "model_id": captioner.model_id,
        "decoding": captioner.decoding.id,
        "calibration": args.calibration,
        "seed": args.fold_seed,
    }
    known = labels.rows, labels.correct, labels.groups
    if verifier is not None:
        spent = present is not None and present.head.all_labels
        all_labels = args.no_guarantee or spent
        fitted = fit(*known, **settings, all_labels=all_labels, verifier=verifier.id)
        if dict(zip(fitted.head.features, fitted.head.weights, strict=True)).get(VERIFIED, 0) > 0:
            if spent:
                say(
                    "no guarantee can rest on this head, as on the one before: its verifier may "
                    "have learned from all labels. Learn it anew: --verifier"
                )
            return fitted
        say(
            f"verifier {verifier.id} is left out: of captions new to it, it does not tell right "
            "ones from wrong ones. Learn another from more labels: --verifier"
        )
    return fit(*known, **settings, all_labels=args.no_guarantee)


def _learn(labels: Labels, seed: int) -> Verifier:
    """Learn a verifier; what others like it said of captions new to them becomes a feature.

    Raises:
        FitError: if there is too little to learn from.
    """
    learned = learn(labels.evidence, labels.correct, labels.groups, seed=seed)
    labels.evidence.clear()  # It takes more memory than all else.
    for row, logit in zip(labels.rows, learned.logits.tolist(), strict=True):
        row[VERIFIED] = logit
    return learned.verifier


def _say_what_next(made: KeptHead, args: argparse.Namespace, shown: str) -> None:
    print(f"head {made.head.id} is in {shown}/{HEADS_FILE}")
    if made.verifier is not None:
        print(f"verifier {made.verifier.id} is in {shown}/{verifier_file(made.verifier.id)}")
    print(f"use it: captioner annotate --model {shown}")
    if made.verifier is not None and args.verifier:
        print(
            "or, for captions that are there, which the verifier has to read again: captioner "
            f"annotate --refill --model {shown}, with the inputs and options of these captions"
        )
    else:
        print(f"or, for captions that are there: captioner rescore OUTPUT --model {shown}")


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
    if args.verifier and scenes and scenes > MOST_CAPTIONS:
        raise UsageError(
            f"--labels {args.labels}: a verifier learns from {MOST_CAPTIONS:,} captions at most; "
            f"name scenes:{MOST_CAPTIONS} or fewer"
        )
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
    args: argparse.Namespace,
    captioner: Captioner,
    scenes: int | None,
    kept: Verifier | None,
) -> tuple[Labels, str]:
    """Return the labels, and a line that says what they are.

    Args:
        args: options.
        captioner: whose captions are labelled.
        scenes: how many scenes are to be drawn; None for reviews.
        kept: the verifier that the head may look at; None if there is none, or it is learned anew.
    """
    if scenes:
        return _of_scenes(args, captioner, scenes, kept)
    labels = uri_of("--labels", args.labels)
    captions = uri_of("--captions", args.captions or args.labels)
    if not storage.exists(storage.join(captions, "current.json")):
        what = args.captions or args.labels
        raise UsageError(
            f"{redact(what)} is no output of annotate; name the one that the reviews are of with "
            "--captions"
        )
    kind = captioner.model_id, captioner.decoding.id
    guarded = not args.no_guarantee
    joined = join(labels, captions, *kind, keep_for_guarantees=guarded, verifier=kept)
    if not args.verifier:
        return joined.labels(), joined.summary()
    assert isinstance(captioner, AttentionCaptioner)
    config = AnnotateConfig(
        output=captions,
        run_id=new_run_id(),
        model=args.model,
        model_id=captioner.model_id,
        device=args.device,
        decoding=captioner.decoding,
        batch_size=args.batch_size,
        limits=caption_limits(Output(captions), *kind),
    )
    return with_evidence(joined, captioner, config), joined.summary()


def _of_scenes(
    args: argparse.Namespace, captioner: Captioner, scenes: int, kept: Verifier | None
) -> tuple[Labels, str]:
    """Label scenes; those that a verifier has learned from make way for others."""
    labels = label_scenes(
        captioner,
        VALIDATION,
        scenes,
        args.batch_size,
        with_evidence=args.verifier,
        leave_out=(lambda scene: False) if kept is None else kept.saw,
    )
    return labels, f"{scenes:,} scenes"


def _check_can_be_verified(model: str) -> None:
    """Check that a model tells what it knew of its words.

    Raises:
        UsageError: if it is one of Hugging Face.
    """
    if model != EMBEDDED and not is_checkpoint(model):
        raise UsageError(
            f"--verifier: {redact(model)} is a model of Hugging Face, which runs through its own "
            "generate and cannot tell what it knew of its words; leave it out"
        )


def _folder(model: str) -> str:
    folder = model_folder(model)
    if folder is None:
        raise UsageError(
            f"--model {redact(model)} is no folder with config.json. Heads are kept in a model's "
            "folder; a model of the Hugging Face hub has to be downloaded into one first: "
            f"hf download {redact(model)} --local-dir FOLDER"
        )
    return folder
