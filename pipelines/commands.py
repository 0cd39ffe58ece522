"""The commands for an output that is there already, and what all commands share."""

import argparse
import io
import os
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from captioner.contract import OF_STRATEGY, DecodingConfig
from captioner.explain import NoAttentionError, explain
from captioner.images import ImageError, Limits, decode
from captioner.loading import load
from captioner.scenes import write_folder
from pipelines import storage
from pipelines.committed import captions_by_model
from pipelines.compact import compact
from pipelines.labelstudio.client import LabelStudioSettings
from pipelines.local import opened
from pipelines.next_command import push_command
from pipelines.options import EXIT_DONE, EXIT_NOT_PUSHED
from pipelines.output import Output, new_run_id
from pipelines.planning import ReviewRules, RulesError, plan_review
from pipelines.queue_model import load_for_queue
from pipelines.report.terminal import queue_lines, say
from pipelines.review import ReviewConfig, push_queue
from pipelines.review_options import review_rules
from schemas.uris import credentials_in, redact


class UsageError(Exception):
    """An option that cannot be used."""


class CommandError(Exception):
    """A command that could not finish: says why, and what to do."""


def refuse_credentials(option: str, value: str) -> None:
    """Refuse a uri that carries a secret.

    Raises:
        UsageError: naming the option and what was found, without the secret.
    """
    found = credentials_in(value)
    if found:
        raise UsageError(
            f"{option} {redact(value)} carries {found}. Take it out; credentials come from the "
            "environment."
        )


def output_of(text: str) -> Output:
    """Return the output that a user named.

    Raises:
        UsageError: if that is no folder that can be written, or a local file.
    """
    uri = uri_of("--output", text)
    if uri.partition("://")[0] in ("zip", "tar", "http", "https"):
        raise UsageError(f"--output {redact(text)!r} cannot be written; name a folder or a bucket")
    if storage.protocol_of(uri) == "file" and os.path.isfile(storage.local_path(uri)):
        raise UsageError(f"{redact(text)!r} is a file, not a folder; name the folder of an output")
    return Output(uri if uri.endswith("://") else uri.rstrip("/"))


def captioned_output(text: str) -> Output:
    """Return the output that a user named, for a run of its own.

    Raises:
        UsageError: if it has no captions.
    """
    output = Output(output_of(text).uri, new_run_id())
    if not output.current().of("captions"):
        raise UsageError(f"{output.uri} holds no captions; run captioner annotate first")
    return output


def uri_of(option: str, text: str) -> str:
    """Return the absolute uri of what a user named; ``UsageError`` if it cannot be one."""
    refuse_credentials(option, text)
    try:
        return storage.absolute_uri(text)
    except ValueError as error:
        raise UsageError(f"{option} {redact(text)!r}: {error}") from error


def chosen_kind(output: Output, model_id: str | None, decoding: str | None) -> tuple[str, str]:
    """Return the model and decoding that the options name, or the only ones there are.

    Raises:
        UsageError: if there are no captions, none that fit, or several kinds that do.
    """
    there = sorted(captions_by_model(output))
    if not there:
        raise UsageError(f"{output.uri} holds no captions; run captioner annotate first")
    fits = [pair for pair in there if model_id in (None, pair[0]) and decoding in (None, pair[1])]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise none_of_kind("captions", there, model_id, decoding)
    flag = "--model_id" if len({one for one, _ in fits}) > 1 else "--decoding"
    raise UsageError(
        f"{output.uri} holds captions of several kinds; choose by {flag}: {_named(there)}"
    )


def none_of_kind(
    what: str, there: Iterable[tuple[str, str]], model_id: str | None, decoding: str | None
) -> UsageError:
    """Return the error that there is nothing of the model and decoding that the options name.

    Args:
        what: there is none of, such as captions.
        there: model and decoding of those that there are.
        model_id: as named.
        decoding: as named.
    """
    flags = (("--model_id", model_id), ("--decoding", decoding))
    asked = " ".join(f"{flag} {value}" for flag, value in flags if value is not None)
    return UsageError(f"{asked} has no {what} here; there are: {_named(there)}")


def _named(kinds: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"--model_id {one} --decoding {way}" for one, way in sorted(kinds))


def decoding_config(args: argparse.Namespace) -> DecodingConfig:
    """Return the decoding configuration that the options ask for.

    Raises:
        UsageError: naming the option that cannot be used, or that the strategy does not look at.
    """
    names = [field.name for field in fields(DecodingConfig)]
    given = {name: value for name, value in vars(args).items() if name in names}
    try:
        config = DecodingConfig(**given)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    for strategy, options in OF_STRATEGY.items():
        unused = sorted(set(options) & set(given))
        if unused and strategy != config.strategy:
            raise UsageError(f"--{unused[0]} is for --strategy {strategy}; add it, or leave it out")
    return config


def review_config(args: argparse.Namespace) -> ReviewConfig:
    """Return what the options say of the review; without options for rules, those by default."""
    if args.label_studio_url:
        refuse_credentials("--label_studio_url", args.label_studio_url)
    return ReviewConfig(
        rules=_rules(args) if hasattr(args, "review_rules") else ReviewRules(),
        label_studio_url=args.label_studio_url,
        label_studio_project=args.label_studio_project,
        label_studio_token_file=args.label_studio_token_file,
    )


def label_studio_settings(
    args: argparse.Namespace, title: str | None = None
) -> LabelStudioSettings:
    """Return where Label Studio is, as the options say, with the token.

    Args:
        args: options.
        title: of the project, if it is not the one that they name.

    Raises:
        UsageError: if the address carries a secret.
        LabelStudioError: if it is none, Label Studio takes no such title, or there is no token.
    """
    review = review_config(args)
    return replace(review, label_studio_project=title or review.label_studio_project).settings()


def say_pushed(pushed: dict[str, Any], args: argparse.Namespace, again: str) -> None:
    """Say what a push did, and how to go on if it did not finish.

    Args:
        pushed: what it did.
        args: options that say where Label Studio is.
        again: the command that sends the rest.
    """
    for uri, why in pushed["failed"]:
        say(f"not pushed: {uri}: {why}")
    for note in pushed["notes"]:
        say(note)
    if pushed["error"]:
        say(f"not pushed: {pushed['error']}")
    if pushed["finished"]:
        say(
            f"Label Studio: {pushed['tasks_created']:,} tasks made, {pushed['tasks_found']:,} "
            f"there before, in project {args.label_studio_project!r} at {args.label_studio_url}"
        )
        return
    say("The captions are committed and the queue is kept. Send the rest later with:")
    say(f"  {again}")


def review_push(args: argparse.Namespace) -> int:
    """Push the live queue of an output."""
    if args.model is not None:
        refuse_credentials("--model", args.model)
    output = _existing(args.output)
    review = review_config(args)
    with opened(output, str(output.run_id)):
        kind = args.model_id, args.decoding
        if any(kind):
            kind = chosen_kind(output, *kind)
        pushed = push_queue(
            output,
            review,
            *kind,
            lambda: load_for_queue(output, args.model, args.device, *kind),
        )
    ways = {"model": args.model, "device": args.device, "model_id": kind[0], "decoding": kind[1]}
    again = push_command(output.uri, args, **ways)
    say_pushed({**vars(pushed), "finished": pushed.finished}, args, again)
    return EXIT_DONE if pushed.finished else EXIT_NOT_PUSHED


def review_plan(args: argparse.Namespace) -> int:
    """Plan the queue of an output that is there already."""
    rules, output = _rules(args), _existing(args.output)
    with opened(output, str(output.run_id)):
        model_id, decoding = chosen_kind(output, args.model_id, args.decoding)
        try:
            plan = plan_review(output, model_id, decoding, rules).as_dict()
        except RulesError as error:
            raise UsageError(f"{model_id} {decoding}: {error}") from error
        print(f"{model_id} {decoding}")
        print("\n".join(queue_lines({"rules": rules.as_dict(), **plan})))
    return EXIT_DONE


def _rules(args: argparse.Namespace) -> ReviewRules:
    if args.review_rules:
        args.review_rules = uri_of("--review_rules", args.review_rules)
    try:
        return review_rules(args)
    except RulesError as error:
        raise UsageError(str(error)) from error


def compact_output(args: argparse.Namespace) -> int:
    """Merge an output's small files."""
    output = _existing(args.output)
    with opened(output, str(output.run_id)):
        before, after = compact(output, args.max_file_bytes)
    print(f"{before:,} files before, {after:,} now")
    return EXIT_DONE


def scenes(args: argparse.Namespace) -> int:
    """Write a folder of drawn scenes."""
    try:
        write_folder(args.output, count=args.count, seed=args.seed, language=args.language)
    except (ValueError, FileExistsError) as error:
        raise UsageError(str(error)) from error
    print(f"{args.count:,} scenes in {args.output}")
    return EXIT_DONE


def explain_image(args: argparse.Namespace) -> int:
    """Draw an image's caption, each word over what the model looked at."""
    image, output = uri_of("IMAGE", args.image), uri_of("--output", args.output)
    refuse_credentials("--model", args.model)
    decoding = decoding_config(args)
    try:
        decoded = decode(storage.read_bytes(image, Limits().max_bytes))
    except (storage.StorageError, ImageError) as error:
        raise UsageError(f"{redact(args.image)}: {error}") from error
    try:
        explanation = explain(load(args.model, args.device, decoding), decoded.image)
    except NoAttentionError as error:
        raise UsageError(str(error)) from error
    buffer = io.BytesIO()
    explanation.draw().save(buffer, "PNG")
    storage.write_bytes_atomically(output, buffer.getvalue())
    print(explanation.caption.text)
    print(f"drawn in {redact(args.output)}")
    return EXIT_DONE


def _existing(text: str) -> Output:
    output = Output(output_of(text).uri, new_run_id())
    if not output.current().files and not storage.list_files(output.path("staging")):
        raise UsageError(f"{output.uri} holds no captions; run captioner annotate first")
    return output
