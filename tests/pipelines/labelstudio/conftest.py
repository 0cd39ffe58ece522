"""A project of its own for each test, and the truth about what is in it."""

import contextlib
import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.labelstudio import client as client_module
from pipelines.labelstudio.push import LabelStudioSettings, ReviewItem, Token
from tests.pipelines.labelstudio.proxy import Proxy
from tests.servers import LabelStudio


class Queue:
    """What Label Studio holds, read past the code that is tested."""

    def __init__(self, server: LabelStudio, title: str) -> None:
        self.server = server
        self.title = title
        headers = {"Authorization": f"Token {server.token}"}
        self.http = httpx.Client(base_url=server.url, headers=headers, timeout=60)

    @property
    def settings(self) -> LabelStudioSettings:
        return LabelStudioSettings(self.server.url, self.title, Token(self.server.token))

    def projects(self) -> list[dict[str, Any]]:
        options = {"title": self.title, "page_size": 100}
        return list(self.get("/api/projects", params=options)["results"])

    def project(self) -> dict[str, Any]:
        (project,) = self.projects()
        return project

    def tasks(self) -> list[dict[str, Any]]:
        options = {"project": self.project()["id"], "page_size": 5000, "fields": "all"}
        options["query"] = json.dumps({"ordering": ["tasks:id"]})
        return list(self.get("/api/tasks", params=options)["tasks"])

    def predictions(self) -> list[dict[str, Any]]:
        return list(self.get("/api/predictions/", params={"project": self.project()["id"]}))

    def get(self, path: str, **options: Any) -> Any:
        return self.http.get(path, **options).raise_for_status().json()

    def post(self, path: str, body: object) -> Any:
        return self.http.post(path, json=body).raise_for_status().json()

    def assert_each_once(self, items: list[ReviewItem]) -> None:
        """One task for each image, one prediction for each image and model, and nothing else."""
        keys = {task["id"]: task["data"]["image_id"] for task in self.tasks()}
        assert sorted(keys.values()) == sorted({item.image_id for item in items})
        found = Counter((keys[p["task"]], p["model_version"]) for p in self.predictions())
        assert found == {(item.image_id, item.model_version): 1 for item in items}


@pytest.fixture
def queue(label_studio: LabelStudio) -> Iterator[Queue]:
    """A project that is not there yet."""
    queue = Queue(label_studio, f"review {uuid.uuid4().hex[:12]}")
    yield queue
    queue.http.close()


@contextlib.contextmanager
def second_user(queue: Queue) -> Iterator[httpx.Client]:
    """Another reviewer, who has signed up by the organization's link and is logged in."""
    token = queue.get("/api/invite")["token"]
    with httpx.Client(base_url=queue.server.url, timeout=60, follow_redirects=True) as http:
        form = http.get("/user/signup/", params={"token": token}).raise_for_status()
        fields = {"email": f"{uuid.uuid4().hex}@localhost.test", "password": uuid.uuid4().hex}
        fields["csrfmiddlewaretoken"] = form.cookies["csrftoken"]
        http.post("/user/signup/", params={"token": token}, data=fields).raise_for_status()
        http.headers["X-CSRFToken"] = http.cookies["csrftoken"]
        http.get("/api/current-user/whoami").raise_for_status()
        yield http


@pytest.fixture(scope="session")
def personal_token(label_studio: LabelStudio) -> str:
    """The personal access token of the first user, of which there can be one."""
    headers = {"Authorization": f"Token {label_studio.token}"}
    with httpx.Client(base_url=label_studio.url, headers=headers, timeout=60) as http:
        both = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        http.post("/api/jwt/settings", json=both).raise_for_status()
        return str(http.post("/api/token/").raise_for_status().json()["token"])


@pytest.fixture
def proxy(label_studio: LabelStudio) -> Iterator[Proxy]:
    with Proxy(label_studio.url) as proxy:
        yield proxy


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_delay", lambda attempt, response: 0.01)


def make_item(number: int, **changes: Any) -> ReviewItem:
    """An item by web address, which needs neither storage nor upload."""
    values = {
        "image_id": hashlib.sha256(b"%d" % number).hexdigest(),
        "uri": f"https://images.invalid/{number}.jpg",
        "caption": f"caption {number}",
        "confidence": (number % 100) / 100,
        "confidence_kind": "uncalibrated",
        "model_id": "model-1",
        "decoding": "greedy-1",
        "width": 640,
        "height": 480,
    }
    return ReviewItem(**(values | changes))


def make_item_of(path: Path, number: int = 1, **changes: Any) -> ReviewItem:
    """An item of a local file as it is, which needs an upload."""
    key = hashlib.sha256(path.read_bytes()).hexdigest()
    return make_item(number, image_id=key, uri=f"file://{path}", **changes)


def make_items(count: int, **changes: Any) -> list[ReviewItem]:
    return [make_item(number, **changes) for number in range(count)]
