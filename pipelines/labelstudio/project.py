"""The project in Label Studio: made on first use, found by its title afterwards."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from captioner.annotations import NO_CLASSES, ClassNames
from pipelines.labelstudio import config
from pipelines.labelstudio.client import Client, LabelStudioError, OutcomeUnknownError

PAGE = 500
TRIES = 8
EMPTY_CONFIGS = ("", "<View></View>", "<View/>")
SETTINGS = {
    "show_collab_predictions": True,  # without it a reviewer starts from an empty field
    "sampling": "Uncertainty sampling",  # lowest confidence first
    "maximum_annotations": 1,
    "enable_empty_annotation": False,
}


@dataclass(frozen=True)
class Project:
    """A project that captions can be reviewed in.

    Attributes:
        id: its number.
        shown_version: the model version whose predictions are filled in for reviewers.
        unsure_words: whether its tasks must bring the caption with its unsure words marked.
        attention: whether they must bring a picture of where the model looked.
    """

    id: int
    shown_version: str
    unsure_words: bool = False
    attention: bool = False


class OtherConfigError(LabelStudioError):
    """A project whose labelling config is for something else.

    Attributes:
        differences: what it lacks, a sentence each.
    """

    def __init__(self, title: str, number: int, differences: list[str]) -> None:
        super().__init__(
            f"project {title!r} (number {number}) has another labelling config: "
            f"{'; '.join(differences)}; name another project, or add these controls to it"
        )
        self.differences = differences


def open_project(
    client: Client,
    title: str,
    classes: ClassNames = NO_CLASSES,
    show_unsure_words: bool = False,
    show_attention: bool = False,
) -> Project:
    """Find the project with exactly this title, or make it.

    Args:
        client: a connection to Label Studio.
        title: the title.
        classes: of labels, boxes and masks that are to be reviewed with the captions.
        show_unsure_words: whether reviewers must see the caption with its unsure words marked.
        show_attention: whether they must see where the model looked.

    Returns:
        The project.

    Raises:
        OtherConfigError: if its labelling config is for something else.
        LabelStudioError: if two have the title.
    """
    shown = (classes, show_unsure_words, show_attention)
    found = find_project(client, title) or _create(client, title, *shown)
    return _adopt(client, found, title, *shown)


def find_project(client: Client, title: str) -> dict[str, Any] | None:
    """Return the project with exactly this title as Label Studio has it, None without one.

    Raises:
        LabelStudioError: if two have the title.
    """
    found = _named(client, title)
    if len(found) > 1:
        numbers = ", ".join(str(project["id"]) for project in found)
        raise LabelStudioError(
            f"{len(found)} projects are called {title!r} (numbers {numbers}); rename all but one, "
            "or name another project"
        )
    return found[0] if found else None


def project_key(url: str, number: int) -> str:
    """Return what a project is called in the names of files: a hash of where it is.

    Args:
        url: the address of Label Studio.
        number: of the project.
    """
    return hashlib.sha256(f"{url.rstrip('/')} {number}".encode()).hexdigest()[:16]


@contextmanager
def deletion_told(client: Client, number: int, title: str, meanwhile: str) -> Iterator[None]:
    """Say that a project was deleted where that is why something is refused in the block.

    Args:
        client: a connection to Label Studio.
        number: of the project.
        title: of the project.
        meanwhile: while what was done, and what to do now.

    Raises:
        LabelStudioError: that says so.
    """
    try:
        yield
    except LabelStudioError as error:
        if error.status != 404 or client.status(f"/api/projects/{number}") != 404:
            raise
        raise LabelStudioError(
            f"project {title!r} (number {number}) was deleted while {meanwhile}"
        ) from None


def is_empty(project: dict[str, Any]) -> bool:
    """Say whether a project has neither a labelling config nor tasks, so can be set up."""
    found = str(project.get("label_config") or "")
    return found.strip() in EMPTY_CONFIGS and not project.get("task_number")


def show_predictions(client: Client, project: Project, model_version: str) -> None:
    """Fill in this model version's captions for reviewers.

    Label Studio fills in the predictions of one version: that of the project's settings. Where
    it is not set, reviewers find an empty field.

    Args:
        client: a connection to Label Studio.
        project: the project.
        model_version: a version that has at least one prediction there.
    """
    if project.shown_version != model_version:
        client.patch(f"/api/projects/{project.id}", {"model_version": model_version})


def _named(client: Client, title: str) -> list[dict[str, Any]]:
    """Return the projects with exactly this title; the server's own filter is looser."""
    found: list[dict[str, Any]] = []
    page = 1
    while True:
        options = {"title": title, "page": page, "page_size": PAGE}
        answer = client.get("/api/projects", params=options)
        found += [project for project in answer["results"] if project["title"] == title]
        if not answer.get("next"):
            return found
        page += 1


def _set_up(classes: ClassNames, show_unsure_words: bool, show_attention: bool) -> dict[str, Any]:
    """Return labelling config, instructions and settings, checked before they are sent."""
    label_config = config.label_config(classes, show_unsure_words, show_attention)
    config.validate(label_config)
    told = config.instruction(classes, show_unsure_words, show_attention)
    return {"label_config": label_config, "expert_instruction": told, **SETTINGS}


def _create(
    client: Client, title: str, classes: ClassNames, show_unsure_words: bool, show_attention: bool
) -> dict[str, Any]:
    body = {"title": title, **_set_up(classes, show_unsure_words, show_attention)}
    body["description"] = "Captions to review. Made by captioner; tasks are keyed by image_id."
    return create_project(client, body)


def create_project(client: Client, body: Mapping[str, Any]) -> dict[str, Any]:
    """Make a project whose title none has, once, also where an answer is lost.

    Args:
        client: a connection to Label Studio.
        body: title, labelling config and settings, as Label Studio takes them.

    Returns:
        The project as Label Studio has it.

    Raises:
        LabelStudioError: if it was not made, or that is not known.
    """
    title = body["title"]
    made: dict[str, Any] = {}
    for attempt in range(TRIES):
        try:
            made = dict(client.post("/api/projects", json=dict(body)))
        except OutcomeUnknownError:
            client.wait(attempt)
            made = max(_named(client, title), key=_number, default={})
            if not made and attempt + 1 == TRIES:
                raise
        if made:
            break
    _remove_repeats(client, title, made)
    return made


def _remove_repeats(client: Client, title: str, made: dict[str, Any]) -> None:
    """Remove what the same request made before ``made``: the last try's is the whole one.

    Label Studio on SQLite carries a request out again when its database was locked
    (DatabaseIsLockedRetryMiddleware), and what the first try made is there all the same.
    """
    for project in _named(client, title):
        same = all(project.get(name) == made.get(name) for name in ("created_by", "label_config"))
        if same and not project.get("task_number") and _number(project) < _number(made):
            client.delete(f"/api/projects/{project['id']}/")


def _number(project: dict[str, Any]) -> int:
    return int(project["id"])


def _adopt(
    client: Client,
    project: dict[str, Any],
    title: str,
    classes: ClassNames,
    show_unsure_words: bool,
    show_attention: bool,
) -> Project:
    """Take a project as it is if captions can be reviewed in it; set up an empty one."""
    if is_empty(project):
        body = _set_up(classes, show_unsure_words, show_attention)
        project = client.patch(f"/api/projects/{project['id']}", body)
    found = str(project.get("label_config") or "")
    if different := config.differences(found, classes, show_unsure_words, show_attention):
        raise OtherConfigError(title, project["id"], different)
    if project.get("show_collab_predictions") is False:
        client.patch(f"/api/projects/{project['id']}", {"show_collab_predictions": True})
    shown = str(project.get("model_version") or "")
    return Project(
        id=int(project["id"]),
        shown_version=shown,
        unsure_words=config.wants_unsure_words(found),
        attention=config.wants_attention(found),
    )
