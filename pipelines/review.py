"""What follows a commit: plan the queue and push it. One function for a run and for a graph."""

from dataclasses import dataclass
from typing import Any

from captioner.contract import ModelLoadError
from pipelines.labelstudio.attention import Load
from pipelines.labelstudio.client import LabelStudioError, LabelStudioSettings, read_token
from pipelines.labelstudio.push import push
from pipelines.output import Output
from pipelines.planning import ReviewRules, RulesError, plan_review
from pipelines.review_queue import queue_classes, queue_limits, review_items
from schemas.uris import redact


@dataclass(frozen=True, kw_only=True)
class ReviewConfig:
    """What is to be reviewed and where; the token is read where the push happens."""

    rules: ReviewRules = ReviewRules()
    label_studio_url: str | None = None
    label_studio_project: str = "Captions to review"
    label_studio_token_file: str | None = None

    def settings(self) -> LabelStudioSettings:
        """Return where the review is, with the token, which is read now.

        Raises:
            LabelStudioError: if there is no token, or address or title cannot be used.
        """
        token = read_token(self.label_studio_token_file)
        return LabelStudioSettings(self.label_studio_url or "", self.label_studio_project, token)


@dataclass(frozen=True)
class Pushed:
    """What a push did: counts, what there is to say, and why it did not finish if it did not."""

    tasks_created: int = 0
    tasks_found: int = 0
    predictions_created: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None

    @property
    def finished(self) -> bool:
        """Whether every item of the queue is in Label Studio."""
        return self.error is None and not self.failed


def push_queue(
    output: Output,
    review: ReviewConfig,
    model_id: str | None = None,
    decoding: str | None = None,
    load: Load | None = None,
) -> Pushed:
    """Push the live queue; what goes wrong is in the result, since the captions are safe.

    The caller holds the output's lease.

    Args:
        output: the output.
        review: where to.
        model_id: only this model's queue; all models' if None.
        decoding: only this decoding config's; all if None.
        load: returns the model that made the captions, where the project shows where it looked.
    """
    try:
        settings = review.settings()
        items = review_items(output, model_id, decoding)
        classes = queue_classes(output, items, model_id, decoding)
        limits = queue_limits(output, model_id, decoding)
        report = push(items, settings, classes=classes, output=output, load=load, limits=limits)
    except (LabelStudioError, ModelLoadError) as error:
        return Pushed(error=redact(str(error)))
    failed = tuple((redact(uri), redact(why)) for uri, why in report.failed)
    return Pushed(
        report.tasks_created, report.tasks_found, report.predictions_created, failed, report.notes
    )


def review_committed(
    output: Output,
    run_id: str,
    model_id: str,
    decoding: str,
    review: ReviewConfig,
    load: Load | None = None,
) -> dict[str, Any]:
    """Plan the queue of a run's captions, push it if asked, and add either to the manifest.

    A push that is broken off leaves the plan there.

    Rules that only the number of captions shows to be out of reach are in the manifest as an
    error: the captions are committed by then, and the queue is as before.

    Args:
        output: the output.
        run_id: the run.
        model_id: its model.
        decoding: the id of its decoding config.
        review: what is to be reviewed and where.
        load: returns that model, where the project shows where it looked.
    """
    manifest = output.read_manifest(run_id)
    manifest["review"] = {"rules": review.rules.as_dict()}
    try:
        plan = plan_review(output, model_id, decoding, review.rules)
    except RulesError as error:
        manifest["review"]["error"] = str(error)
        output.write_manifest(run_id, manifest)
        return manifest
    manifest["review"] |= plan.as_dict()
    output.write_manifest(run_id, manifest)
    if review.label_studio_url and plan.queued:
        pushed = push_queue(output, review, model_id, decoding, load)
        manifest["review"]["pushed"] = {**vars(pushed), "finished": pushed.finished}
        output.write_manifest(run_id, manifest)
    return manifest
