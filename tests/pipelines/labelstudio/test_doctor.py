"""What `doctor` sees of Label Studio, where nothing may change for its looking."""

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest

from captioner.annotations import NO_CLASSES, ClassNames
from captioner.contract import Captioner, ModelLoadError
from pipelines.cli import main
from pipelines.doctor import labelstudio
from pipelines.doctor.checks import Finding, Mark, run
from pipelines.doctor.labelstudio import PERMISSIONS, Review
from pipelines.labelstudio import config
from pipelines.labelstudio.client import Client
from pipelines.labelstudio.setup import set_up
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import write_images
from tests.pipelines.labelstudio.conftest import Queue, second_user
from tests.pipelines.labelstudio.test_images import put, storage_key
from tests.pipelines.stores import Server, http_server
from tests.servers import ObjectStore

__all__ = ["storage_key"]

FOREIGN = (
    '<View><Image name="image" value="$image"/><Choices name="verdict" toName="image">'
    '<Choice value="good"/><Choice value="bad"/></Choices></View>'
)


@dataclass
class Knowing(FakeCaptioner):
    """A model with heads."""

    classes: ClassNames = NO_CLASSES


@dataclass
class Doctor:
    """The checks of Label Studio, with a model and inputs that were looked at before.

    Attributes:
        url: of Label Studio.
        title: of the project.
        token: that is in the token file.
        folder: for that file.
        uris: an image for each input, None for an input without one.
        classes: of the model; None for a model that did not load.
    """

    url: str
    title: str
    token: str
    folder: Path
    uris: tuple[str | None, ...] = ()
    classes: ClassNames | None = NO_CLASSES

    def look(self) -> dict[str, Finding]:
        """Run the checks; return what was found by subject."""
        loaded: Future[Captioner] = Future()
        if self.classes is None:
            loaded.set_exception(ModelLoadError("no such model"))
        else:
            loaded.set_result(Knowing(classes=self.classes))
        images: dict[str, Future[str | None]] = {}
        for uri in self.uris:
            images[str(uri)] = Future()
            images[str(uri)].set_result(uri)
        path = self.folder / "token"
        path.write_text(self.token)
        review = Review(self.url, self.title, str(path), loaded, images)
        found: dict[str, Finding] = {}
        run([review.checks()], lambda subject, finding: found.update({subject: finding}))
        assert not self.token or self.token not in str(found)
        return found

    def of_browser(self) -> Finding:
        """Look at the only input."""
        (uri,) = self.uris
        return self.look()[f"browser, {uri}"]


@pytest.fixture
def doctor(queue: Queue, tmp_path: Path) -> Doctor:
    return Doctor(queue.server.url, queue.title, queue.server.token, tmp_path)


@pytest.fixture
def web() -> Iterator[Server]:
    with http_server() as server:
        yield server


def marks(found: dict[str, Finding]) -> dict[str, Mark]:
    return {subject: finding.mark for subject, finding in found.items()}


def make(queue: Queue, label_config: str, **settings: Any) -> int:
    shown = {"show_collab_predictions": True, "sampling": "Uncertainty sampling"}
    body = {"title": queue.title, "label_config": label_config} | shown | settings
    return int(queue.post("/api/projects", body)["id"])


def jwt(**claims: Any) -> str:
    parts = ({"alg": "HS256"}, claims, {"not": "signed"})
    texts = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in parts)
    return ".".join(text.decode().rstrip("=") for text in texts)


def pretend(
    web: Server, version: str = "1.23.0", permissions: tuple[str, ...] = PERMISSIONS
) -> None:
    """Let a web server answer as Label Studio does."""
    answers = {
        "/api/version": {"release": version, "label-studio-os-package": {"version": version}},
        "/api/current-user/whoami": {"email": "me@host", "permissions": permissions},
    }
    web.files |= {path: json.dumps(answer).encode() for path, answer in answers.items()}


class TestServer:
    def test_one_that_is_there(self, doctor: Doctor) -> None:
        found = doctor.look()["Label Studio"]
        assert found.mark is Mark.OK
        assert found.found.startswith(f"{doctor.url}: version 1.")

    def test_none(self, doctor: Doctor) -> None:
        doctor.url = "http://127.0.0.1:9"
        found = doctor.look()
        assert found["Label Studio"].mark is Mark.FAILED
        assert "does not answer" in found["Label Studio"].found
        assert "--label_studio_url" in found["Label Studio"].remedy
        assert set(list(marks(found).values())[1:]) == {Mark.NOT_CHECKED}

    @pytest.mark.parametrize("content", [b"<html>", b"{}", b"[1]", None])
    def test_something_else(self, content: bytes | None, doctor: Doctor, web: Server) -> None:
        if content is not None:
            web.files["/api/version"] = content
        doctor.url = web.url
        assert doctor.look()["Label Studio"].mark is Mark.FAILED

    @pytest.mark.parametrize(
        ("version", "mark"),
        [("1.19.4", Mark.FAILED), ("0.9", Mark.FAILED), ("1.20.0", Mark.OK), ("2.1.0", Mark.OK)],
    )
    def test_how_old_it_may_be(self, version: str, mark: Mark, doctor: Doctor, web: Server) -> None:
        pretend(web, version)
        doctor.url = web.url
        found = doctor.look()["Label Studio"]
        assert found.mark is mark
        assert f"version {version}" in found.found
        assert "1.20" in found.remedy or mark is Mark.OK

    def test_no_token_goes_to_what_may_not_be_label_studio(
        self, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[httpx.Request] = []
        send = httpx.Client.send

        def record(http: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
            sent.append(request)
            return send(http, request, **options)

        monkeypatch.setattr(httpx.Client, "send", record)
        doctor.look()
        assert sent[0].url.path == "/api/version"
        assert "authorization" not in sent[0].headers
        assert "authorization" in sent[1].headers


class TestToken:
    def test_a_legacy_one(self, doctor: Doctor, queue: Queue) -> None:
        found = doctor.look()["token"]
        assert found.mark is Mark.OK
        assert found.found.startswith(f"legacy token, of {queue.server.username}")

    def test_a_personal_one(
        self, doctor: Doctor, queue: Queue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kinds = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        queue.post("/api/jwt/settings", kinds)
        with second_user(queue) as http:  # each has one, and the first user's is others'
            doctor.token = http.post("/api/token/").raise_for_status().json()["token"]
        found = doctor.look()["token"]
        assert found.mark is Mark.OK
        assert "personal access token that expires on 2" in found.found
        monkeypatch.setattr(labelstudio, "SOON", timedelta(days=365 * 1_000))
        found = doctor.look()["token"]
        assert found.mark is Mark.WARNING
        assert "make another one" in found.remedy

    def test_one_that_has_expired(self, doctor: Doctor) -> None:
        doctor.token = jwt(exp=time.time() - 60, token_type="refresh")
        found = doctor.look()
        assert found["token"].mark is Mark.FAILED
        assert "personal access token that expires on 20" in found["token"].found
        assert found["project"].mark is Mark.NOT_CHECKED

    @pytest.mark.parametrize("token", ["0" * 40, jwt(exp=time.time() + 1e6), "nonsense"])
    def test_one_that_is_refused(self, token: str, doctor: Doctor) -> None:
        doctor.token = token
        found = doctor.look()["token"]
        assert found.mark is Mark.FAILED
        assert "refuses the token" in found.found
        assert "Account & Settings" in found.remedy

    @pytest.mark.parametrize("token", ["", "two words"])
    def test_what_cannot_be_one(self, token: str, doctor: Doctor) -> None:
        doctor.token = token
        found = doctor.look()["token"]
        assert found.mark is Mark.FAILED
        assert found.found.startswith("the Label Studio token is ")

    def test_no_file_of_one(self, doctor: Doctor) -> None:
        review = Review(doctor.url, doctor.title, str(doctor.folder / "none"), Future(), {})
        _, found, *_ = run([review.checks()], lambda subject, finding: None)
        assert found.mark is Mark.FAILED
        assert "was not read: No such file" in found.found

    def test_one_whose_owner_may_too_little(self, doctor: Doctor, web: Server) -> None:
        pretend(web, permissions=("projects.view", "tasks.create", "predictions.any"))
        doctor.url = web.url
        found = doctor.look()["token"]
        assert found.mark is Mark.FAILED
        assert found.found == (
            "legacy token, of me@host, who lacks projects.create, projects.change, tasks.delete, "
            "storages.change"
        )


class TestProject:
    def test_none_yet_and_none_is_made(self, doctor: Doctor, queue: Queue) -> None:
        found = doctor.look()
        assert marks(found) == dict.fromkeys(found, Mark.OK)
        assert "review init" in found["project"].found
        assert queue.projects() == []

    def test_one_that_is_ready(self, doctor: Doctor, queue: Queue) -> None:
        number = make(queue, config.LABEL_CONFIG)
        before = queue.get(f"/api/projects/{number}/")
        found = doctor.look()
        assert marks(found) == dict.fromkeys(found, Mark.OK)
        assert found["project"].found == f"{queue.title!r}, number {number}, 0 tasks"
        assert queue.get(f"/api/projects/{number}/") == before

    def test_an_empty_one_is_left_empty(self, doctor: Doctor, queue: Queue) -> None:
        number = make(queue, "<View></View>")
        assert doctor.look()["labelling config"].mark is Mark.OK
        assert queue.get(f"/api/projects/{number}/")["label_config"] == "<View></View>"

    def test_one_for_something_else(self, doctor: Doctor, queue: Queue) -> None:
        number = make(queue, FOREIGN)
        found = doctor.look()["labelling config"]
        assert found.mark is Mark.FAILED
        assert "there is no TextArea named 'caption'" in found.found
        assert "review init" in found.remedy
        assert queue.get(f"/api/projects/{number}/")["label_config"] == FOREIGN

    def test_one_that_lacks_what_the_model_finds(self, doctor: Doctor, queue: Queue) -> None:
        make(queue, config.label_config(ClassNames(boxes=("cat",))))
        doctor.classes = ClassNames(boxes=("cat",))
        found = doctor.look()["labelling config"]
        assert found.mark is Mark.OK
        assert found.found.endswith("with 1 boxes")
        doctor.classes = ClassNames(boxes=("cat", "dog"))
        found = doctor.look()["labelling config"]
        assert found.mark is Mark.FAILED
        assert "the RectangleLabels 'boxes' lacks dog" in found.found

    def test_a_model_that_did_not_load(self, doctor: Doctor, queue: Queue) -> None:
        make(queue, config.LABEL_CONFIG)
        doctor.classes = None
        found = doctor.look()["labelling config"]
        assert found.mark is Mark.OK
        assert "did not load" in found.found

    def test_one_that_would_not_show_captions(self, doctor: Doctor, queue: Queue) -> None:
        settings = {"show_collab_predictions": False, "sampling": "Sequential sampling"}
        make(queue, config.LABEL_CONFIG, **settings)
        found = doctor.look()["labelling config"]
        assert found.mark is Mark.WARNING
        assert found.found == (
            "the project lacks captions that are filled in and the order of confidence"
        )

    def test_two_of_one_title(self, doctor: Doctor, queue: Queue) -> None:
        make(queue, config.LABEL_CONFIG)
        make(queue, config.LABEL_CONFIG)
        found = doctor.look()
        assert found["project"].mark is Mark.FAILED
        assert "projects are called" in found["project"].found
        assert found["labelling config"].mark is Mark.NOT_CHECKED


def allow(web: Server, path: str, origin: str | None) -> str:
    """Serve a picture at a path, to pages of an origin if any; return its address."""
    web.files[path] = b"a picture"
    if origin is not None:
        web.headers[path] = {"Access-Control-Allow-Origin": origin}
    return web.url + path


class TestBrowser:
    def test_local_images_are_shown_by_previews(self, doctor: Doctor) -> None:
        doctor.uris = ("file:///in/a.jpg", None)
        found = doctor.look()
        assert found["browser, file:///in/a.jpg"].found.startswith("shown by a preview")
        assert found["browser, None"].mark is Mark.NOT_CHECKED

    @pytest.mark.parametrize("own", [True, False])
    def test_an_address_that_pages_may_read(self, own: bool, doctor: Doctor, web: Server) -> None:
        doctor.uris = (allow(web, "/a.jpg", doctor.url if own else "*"),)
        assert doctor.of_browser().mark is Mark.OK

    @pytest.mark.parametrize("origin", [None, "https://elsewhere.test", "null"])
    def test_one_that_they_may_not_read(
        self, origin: str | None, doctor: Doctor, web: Server
    ) -> None:
        doctor.uris = (allow(web, "/a.jpg", origin),)
        found = doctor.of_browser()
        assert found.mark is Mark.FAILED
        assert f"does not let pages of {doctor.url} read the image (CORS)" in found.found
        assert f"allow GET from the origin {doctor.url}" in found.remedy

    @pytest.mark.parametrize("status", [403, 404])
    def test_one_that_is_not_given(self, status: int, doctor: Doctor, web: Server) -> None:
        doctor.uris = (allow(web, "/a.jpg", "*"),)
        web.statuses["/a.jpg"] = [status]
        found = doctor.of_browser()
        assert found.mark is Mark.FAILED
        assert f"answers {status} instead of the image" in found.found

    def test_one_behind_an_address_that_they_may_not_read(
        self, doctor: Doctor, web: Server
    ) -> None:
        address = allow(web, "/a.jpg", "*")
        web.statuses["/old.jpg"] = [301]
        web.headers["/old.jpg"] = {"Location": address}
        doctor.uris = (f"{web.url}/old.jpg",)
        assert "(CORS)" in doctor.of_browser().found

    def test_one_that_does_not_answer(self, doctor: Doctor) -> None:
        doctor.uris = ("http://127.0.0.1:9/a.jpg",)
        assert doctor.of_browser().mark is Mark.FAILED

    @pytest.mark.parametrize(
        ("url", "mark", "said"),
        [
            ("https://labels.test", Mark.FAILED, "browsers refuse on a page that came by https"),
            ("http://labels.test", Mark.WARNING, "to browsers on this machine alone"),
        ],
    )
    def test_label_studio_is_somewhere_else(
        self, url: str, mark: Mark, said: str, doctor: Doctor, web: Server
    ) -> None:
        image: Future[str | None] = Future()
        image.set_result(allow(web, "/a.jpg", "*"))
        (doctor.folder / "token").write_text(doctor.token)
        token_file = str(doctor.folder / "token")
        found = Review(url, doctor.title, token_file, Future(), {"in": image}).image("in")
        assert found.mark is mark
        assert said in found.found

    def test_previews_where_they_are_asked_for(
        self, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LABEL_STUDIO_PREVIEWS", "1")
        doctor.uris = ("s3://bucket/a.png",)
        assert doctor.of_browser().found.startswith("shown by a preview")


class TestBuckets:
    @pytest.fixture
    def ready(self, queue: Queue, storage_key: None) -> Callable[[str], None]:
        def make_ready(uri: str) -> None:
            with Client(queue.settings) as client:
                set_up(client, queue.title, NO_CLASSES, [uri])

        return make_ready

    def test_none_is_made(self, doctor: Doctor, queue: Queue, s3_server: ObjectStore) -> None:
        number = make(queue, config.LABEL_CONFIG)
        doctor.uris = (put(s3_server, "doctor.png"),)
        found = doctor.of_browser()
        assert found.mark is Mark.NOT_CHECKED
        assert f"no storage for {s3_server.root}" in found.found
        assert found.found.endswith(f"pages of {doctor.url} may (CORS)")  # moto allows all
        assert "review init" in found.remedy
        assert queue.get("/api/storages/s3", params={"project": number}) == []

    def test_pages_may_not_read_the_bucket(
        self,
        doctor: Doctor,
        s3_server: ObjectStore,
        web: Server,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def sign(path: str, expiration: float) -> str:
            assert path == f"{s3_server.bucket}/doctor.png"
            return allow(web, "/doctor.png?X-Amz-Signature=secret", None)

        monkeypatch.setattr(fsspec.filesystem("s3").__class__, "sign", staticmethod(sign))
        doctor.uris = (put(s3_server, "doctor.png"),)
        found = doctor.of_browser()
        assert found.mark is Mark.FAILED
        assert found.found.startswith(f"{s3_server.root} does not let pages of {doctor.url} read")
        assert "secret" not in str(found)

    def test_a_store_whose_addresses_cannot_be_signed(
        self, doctor: Doctor, gcs_emulator: ObjectStore
    ) -> None:
        doctor.uris = (put(gcs_emulator, "doctor.png"),)
        found = doctor.of_browser()
        assert found.mark is Mark.NOT_CHECKED
        assert "CORS" not in found.found

    def test_a_signed_address_gives_the_image(
        self, doctor: Doctor, s3_server: ObjectStore, ready: Callable[[str], None]
    ) -> None:
        uri = put(s3_server, "doctor.png")
        ready(uri)
        doctor.uris = (uri,)
        found = doctor.of_browser()
        assert found.mark is Mark.OK
        assert found.found.startswith(f"{s3_server.endpoint.removeprefix('http://')} gives")
        assert "Signature" not in str(found)

    def test_an_image_that_label_studio_may_not_read(
        self, doctor: Doctor, s3_server: ObjectStore, ready: Callable[[str], None]
    ) -> None:
        uri = put(s3_server, "doctor-gone.png")
        ready(uri)
        fsspec.filesystem("s3").rm_file(uri.removeprefix("s3://"))
        doctor.uris = (uri,)
        found = doctor.of_browser()
        assert found.mark is Mark.FAILED
        assert re.search("answers 40[34] instead of the image", found.found)
        assert "docs/label-studio.md" in found.remedy

    @pytest.mark.skipif(
        "CAPTIONER_TEST_LABEL_STUDIO_RUNNING" in os.environ,
        reason="one that runs already does not reach the emulator",
    )
    def test_one_that_label_studio_hands_through(
        self, doctor: Doctor, gcs_emulator: ObjectStore, ready: Callable[[str], None]
    ) -> None:
        uri = put(gcs_emulator, "doctor.png")
        ready(uri)
        doctor.uris = (uri,)
        assert doctor.of_browser().found.startswith("Label Studio hands images of gs://")


def test_the_command(queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "in", 1)
    arguments = ["doctor", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    arguments += ["--label_studio_url", queue.server.url, "--label_studio_project", queue.title]
    token = ["--label_studio_token_file", str(queue.server.token_file)]
    assert main([*arguments, *token]) == 0
    said = capsys.readouterr().out
    assert said.endswith("16 ok\n")
    assert f"ok           browser, {tmp_path / 'in'}: shown by a preview" in said
    assert queue.projects() == []

    (tmp_path / "token").write_text("f" * 40)
    token = ["--label_studio_token_file", str(tmp_path / "token")]
    assert main([*arguments, *token]) == 1
    said = capsys.readouterr()
    assert "FAILED       token: " in said.out
    assert "f" * 40 not in said.out + said.err
