"""The project in Label Studio: made on first use, found by its title afterwards."""

from dataclasses import dataclass
from typing import Any

from captioner.annotations import NO_CLASSES, ClassNames
from pipelines.labelstudio import config
from pipelines.labelstudio.client import Client, LabelStudioError, OutcomeUnknownError

PAGE = 500
EMPTY_CONFIGS = ("", "<View></View>", "<View/>")
SETTINGS = {
    "expert_instruction": config.INSTRUCTION,
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
    """

    id: int
    shown_version: str


def open_project(client: Client, title: str, classes: ClassNames = NO_CLASSES) -> Project:
    """Find the project with exactly this title, or make it.

    Args:
        client: a connection to Label Studio.
        title: the title.
        classes: of labels, boxes and masks that are to be reviewed with the captions.

    Returns:
        The project.

    Raises:
        LabelStudioError: if two have the title, or its labelling config is for something else.
    """
    found = _named(client, title)
    if not found:
        try:
            found = [_create(client, title, classes)]
        except OutcomeUnknownError:
            found = _named(client, title)
            if not found:
                raise
    if len(found) > 1:
        numbers = ", ".join(str(project["id"]) for project in found)
        raise LabelStudioError(
            f"{len(found)} projects are called {title!r} (numbers {numbers}); rename all but one, "
            "or name another project"
        )
    return _adopt(client, found[0], title, classes)


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


def _create(client: Client, title: str, classes: ClassNames) -> dict[str, Any]:
    label_config = config.label_config(classes)
    config.validate(label_config)
    body = {"title": title, "label_config": label_config, **SETTINGS}
    body["description"] = "Captions to review. Made by captioner; tasks are keyed by image_id."
    return dict(client.post("/api/projects", json=body))


def _adopt(client: Client, project: dict[str, Any], title: str, classes: ClassNames) -> Project:
    """Take a project as it is if captions can be reviewed in it; set up an empty one."""
    found = str(project.get("label_config") or "")
    if found.strip() in EMPTY_CONFIGS and not project.get("task_number"):
        label_config = config.label_config(classes)
        config.validate(label_config)
        body = {"label_config": label_config, **SETTINGS}
        project = client.patch(f"/api/projects/{project['id']}", body)
        found = str(project["label_config"])
    if different := config.differences(found, classes):
        raise LabelStudioError(
            f"project {title!r} (number {project['id']}) has another labelling config: "
            f"{'; '.join(different)}; name another project, or add these controls to it"
        )
    if project.get("show_collab_predictions") is False:
        client.patch(f"/api/projects/{project['id']}", {"show_collab_predictions": True})
    return Project(int(project["id"]), str(project.get("model_version") or ""))
