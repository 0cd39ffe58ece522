"""Reviews as the browser sends them, in a project that was filled without the code under test.

What a browser sends was read from one: the caption with every region that is left, the verdict,
the time spent, and in ``parent_prediction`` the prediction that was filled in.
"""

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Sequence
from typing import Any

import httpx

from captioner.annotations import NO_CLASSES, ClassNames
from pipelines.labelstudio import config
from tests.pipelines.labelstudio.conftest import Queue

VERSION = "fake@1/0123456789ab"
"""The model and decoding of tests.pipelines.planned."""


_WITH_TASKS = ("predictions", "annotations")


def fill(
    queue: Queue,
    count: int,
    label_config: str | None = None,
    classes: ClassNames = NO_CLASSES,
    **more: Sequence[Any],
) -> list[dict[str, Any]]:
    """Make the project and import tasks like a push's; return them as they are there.

    Args:
        queue: the project.
        count: how many tasks.
        label_config: of the project, if it is not that of captions and classes.
        classes: of boxes and the like.
        more: what else to import, for each task: ``annotations``, ``predictions``.
    """
    made = label_config or config.label_config(classes)
    body = {"title": queue.title, "label_config": made, "maximum_annotations": 1}
    number = queue.post("/api/projects", body)["id"]
    tasks = [
        {"data": data_of(n), "predictions": [prediction(f"caption {n}")]} for n in range(count)
    ]
    for name, values in more.items():
        for task, value in zip(tasks, values, strict=True):
            task[name] = value
    while tasks:
        queue.post(f"/api/projects/{number}/import", tasks)
        found = queue.tasks()
        sent = [[len(task.get(kind, [])) for kind in _WITH_TASKS] for task in tasks]
        if [[len(task[kind]) for kind in _WITH_TASKS] for task in found] == sent:
            return found
        # On SQLite, 1.23 leaves both out where it finds the database locked by somebody else.
        queue.http.delete(f"/api/projects/{number}/tasks/").raise_for_status()
    return []


def data_of(number: int) -> dict[str, str]:
    """Return a task's data, with the image id of tests.pipelines.planned."""
    return {
        "image": f"https://images.invalid/{number}.jpg",
        "image_id": f"{number:064x}",
        "uri": f"file:///in/{number:06}.jpg",
        "caption": f"caption {number}",
    }


def prediction(text: str, version: str = VERSION, *others: dict[str, Any]) -> dict[str, Any]:
    """Return a prediction to import."""
    return config.prediction(text, 0.5, version, list(others))


def result(caption: str | None, choice: str | None, *others: dict[str, Any]) -> list[Any]:
    """Return what a browser sends of a caption and a verdict."""
    found = []
    if caption is not None:
        found.append(_region("caption", "textarea", {"text": [caption]}))
    found += others
    if choice is not None:
        found.append(_region("verdict", "choices", {"choices": [choice]}))
    return found


def _region(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex[:10],
        "from_name": name,
        "to_name": "image",
        "type": kind,
        "value": value,
        "origin": "manual",
    }


def submit(
    queue: Queue,
    task: dict[str, Any],
    choice: str | None,
    caption: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Submit a review of a task as the browser does; return the annotation."""
    shown = task["predictions"][0]
    text = shown["result"][0]["value"]["text"][0] if caption is None else caption
    body = {
        "lead_time": 7.25,
        "result": result(text, choice),
        "draft_id": 0,
        "parent_prediction": shown["id"],
        "parent_annotation": None,
        "started_at": "2026-11-21T20:00:00.000Z",
    }
    return dict(queue.post(f"/api/tasks/{task['id']}/annotations/", body | changes))


def cut(http: httpx.Client, task: int, name: str = "caption") -> None:
    """Review a task with a text that ends within a character, at which the server then fails.

    Args:
        http: a connection to the server.
        task: its number.
        name: of the control.
    """
    half = "a \ud83d"
    kinds = {"caption": ("textarea", {"text": [half]}), "better": ("choices", {"choices": [half]})}
    body = json.dumps({"result": [_region(name, *kinds[name])]})
    path, headers = f"/api/tasks/{task}/annotations/", {"Content-Type": "application/json"}
    assert http.post(path, content=body, headers=headers).status_code == 500  # It is kept.


def miscount(queue: Queue, task: int) -> None:
    """Let the server's count of a task's annotations be 0, as where many work at once."""
    database = queue.server.directory / "data" / "label_studio.sqlite3"
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("UPDATE task SET total_annotations = 0 WHERE id = ?", (task,))


def change(queue: Queue, annotation: dict[str, Any], choice: str, caption: str) -> None:
    """Change a review."""
    body = {"result": result(caption, choice)}
    queue.http.patch(f"/api/annotations/{annotation['id']}/", json=body).raise_for_status()


def delete(queue: Queue, path: str) -> None:
    """Delete something."""
    queue.http.delete(path).raise_for_status()


def new_user(queue: Queue) -> dict[str, Any]:
    """Make another reviewer."""
    name = uuid.uuid4().hex[:12]
    body = {"email": f"{name}@localhost", "username": name, "password": uuid.uuid4().hex}
    return dict(queue.post("/api/users/", body))
