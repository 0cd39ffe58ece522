"""Making a project ready for captions before the first push, or seeing that it is."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from captioner.annotations import ClassNames
from pipelines.labelstudio import config
from pipelines.labelstudio.client import Client
from pipelines.labelstudio.images import Images, bucket_of, is_stored
from pipelines.labelstudio.project import SETTINGS, find_project, is_empty, open_project

_OF_ADOPTED = ("show_collab_predictions", "sampling")
"""Settings without which captions are not filled in, or do not come least certain first."""


@dataclass(frozen=True)
class Ready:
    """A project that is ready for captions.

    Attributes:
        id: its number.
        address: where a browser opens it.
        made: whether it was made now.
        changed: what was set in one that was there, as Label Studio names it.
        storages: each bucket, and whether its storage was made now.
        by_address: how many images a browser gets from their own web address.
        previews: of how many images the push uploads a preview.
        attention: whether it shows where the model looked, for which a push needs the model.
    """

    id: int
    address: str
    made: bool
    changed: tuple[str, ...]
    storages: dict[str, bool]
    by_address: int
    previews: int
    attention: bool


def set_up(
    client: Client,
    title: str,
    classes: ClassNames,
    uris: Iterable[str],
    show_unsure_words: bool = False,
    previews: bool = False,
    *,
    show_attention: bool = False,
) -> Ready:
    """Make a project, or adopt the one of that title; one that is ready stays as it is.

    A project that is there keeps its labelling config, which must have the controls that are
    wanted. One with neither a config nor tasks is set up as a new one is.

    Args:
        client: a connection to Label Studio.
        title: of the project.
        classes: of labels, boxes and masks that are to be reviewed with the captions.
        uris: of the images that are to be shown.
        show_unsure_words: whether reviewers must see the caption with its unsure words marked.
        previews: upload a preview even of what Label Studio could read itself.
        show_attention: whether reviewers must see where the model looked.

    Returns:
        What was made and what was found.

    Raises:
        OtherConfigError: if the project's labelling config is for something else; nothing was
            changed.
        LabelStudioError: if two have the title, or Label Studio cannot read a bucket. The next
            call goes on from there.
    """
    before = find_project(client, title)
    shown = (classes, show_unsure_words, show_attention)
    project = open_project(client, title, *shown)
    changed = {} if before is None else _changes(before, *shown)
    if changed and before is not None and not is_empty(before):
        client.patch(f"/api/projects/{project.id}", changed)
    images = Images(client, project.id, previews)
    by_address = uploaded = 0
    samples: dict[str, str] = {}
    for uri in uris:
        if images.needs_preview(uri):
            uploaded += 1
        elif is_stored(uri):
            samples.setdefault(bucket_of(uri), uri)
        else:
            by_address += 1
    return Ready(
        id=project.id,
        address=f"{client.url}/projects/{project.id}/data",
        made=before is None,
        changed=tuple(changed),
        storages={bucket: images.open_store(uri) for bucket, uri in samples.items()},
        by_address=by_address,
        previews=uploaded,
        attention=project.attention,
    )


def unset(project: dict[str, Any]) -> dict[str, object]:
    """Return the settings that a project lacks to show captions as it should, by name."""
    wanted: dict[str, object] = {name: SETTINGS[name] for name in _OF_ADOPTED}
    return {name: value for name, value in wanted.items() if project.get(name) != value}


def _changes(
    before: dict[str, Any], classes: ClassNames, show_unsure_words: bool, show_attention: bool
) -> dict[str, object]:
    """Return what a project that was there lacks; what somebody chose for it otherwise stays."""
    changes = unset(before)
    if not before.get("expert_instruction"):
        changes["expert_instruction"] = config.instruction(
            classes, show_unsure_words, show_attention
        )
    if is_empty(before):
        changes["label_config"] = config.label_config(classes, show_unsure_words, show_attention)
    return changes
