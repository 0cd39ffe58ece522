"""What Label Studio does to a push: refusals, changes on the way, and its own bugs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.labelstudio import pushing
from pipelines.labelstudio.push import LabelStudioError, Token, push
from pipelines.output import Output
from tests.pipelines.labelstudio.conftest import Queue, make_item, make_item_of, make_items
from tests.pipelines.labelstudio.proxy import Proxy


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "output").as_uri())


def imports(proxy: Proxy) -> list[Any]:
    return [request for request in proxy.requests if request[1].endswith("/import")]


class TestOddities:
    def test_tasks_that_it_made_without_predictions_get_them(
        self, queue: Queue, proxy: Proxy
    ) -> None:
        """As 1.23 does on SQLite where another request holds the database's lock."""

        def strip(path: str, body: bytes) -> bytes:
            if not path.endswith("/import"):
                return body
            return json.dumps([{"data": task["data"]} for task in json.loads(body)]).encode()

        proxy.change = strip
        items = make_items(5)
        push(items, replace(queue.settings, url=proxy.url))
        queue.assert_each_once(items)

    def test_an_edition_that_imports_in_the_background(self, queue: Queue, proxy: Proxy) -> None:
        proxy.answers["/import"] = b'{"import": 5}'
        items = make_items(5)
        report = push(items, replace(queue.settings, url=proxy.url))
        assert (report.tasks_created, report.predictions_created) == (5, 5)
        queue.assert_each_once(items)


class TestRefused:
    def test_what_is_refused_is_named(self, queue: Queue, proxy: Proxy) -> None:
        items = make_items(3)
        proxy.answer_first("POST", "/import", 400, 3)  # All, the first two, the first one.
        report = push(items, replace(queue.settings, url=proxy.url))
        ((uri, why),) = report.failed
        assert uri == items[0].uri
        assert "status 400" in why
        queue.assert_each_once(items[1:])

    def test_a_prediction_that_is_not_taken_in_silence_is_named(
        self, queue: Queue, proxy: Proxy
    ) -> None:
        """As 1.23 does with one that does not fit the labelling config."""
        items, newer = make_items(3), make_items(3, model_id="model-2")
        push(items, queue.settings)

        def strip(path: str, body: bytes) -> bytes:
            all_but_one = json.dumps(json.loads(body)[1:]).encode()
            return all_but_one if path.endswith("/predictions") else body

        proxy.change = strip
        report = push(newer, replace(queue.settings, url=proxy.url))
        ((uri, why),) = report.failed
        assert uri == newer[0].uri
        assert "did not take its prediction" in why
        assert report.predictions_created == 2
        queue.assert_each_once(items + newer[1:])

    def test_a_server_that_refuses_everything_is_not_asked_for_ever(
        self, queue: Queue, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pushing, "MOST_REFUSED", 3)
        proxy.answer_first("POST", "/import", 400, 1_000)
        with pytest.raises(LabelStudioError, match="has refused 4 images, the last one since: "):
            push(make_items(4), replace(queue.settings, url=proxy.url))


class TestTooLarge:
    def test_requests_that_are_too_large_are_divided(self, queue: Queue, proxy: Proxy) -> None:
        items = make_items(30)
        proxy.largest_body = 5_000
        push(items, replace(queue.settings, url=proxy.url))
        queue.assert_each_once(items)
        assert proxy.requests.count(("POST", f"/api/projects/{queue.project()['id']}/import")) > 5

    def test_previews_that_are_too_large_together_are_divided(
        self, queue: Queue, proxy: Proxy, tmp_path: Path
    ) -> None:
        draw, items = np.random.default_rng(0), []
        for number in range(5):
            path = tmp_path / f"{number}.png"
            Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
            items.append(make_item_of(path, number))
        proxy.largest_body = 12_000
        assert push(items, replace(queue.settings, url=proxy.url)).failed == ()
        path = f"/api/projects/{queue.project()['id']}/file-uploads"
        assert len(queue.get(path, params={"all": "true"})) == 5
        queue.assert_each_once(items)

    def test_a_preview_that_is_too_large_by_itself_ends_the_push(
        self, queue: Queue, proxy: Proxy, tmp_path: Path
    ) -> None:
        path = tmp_path / "noise.png"
        noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(noise).save(path)
        items = [make_item_of(path)]
        proxy.largest_body = 5_000
        with pytest.raises(LabelStudioError, match=r"too large for .* client_max_body_size"):
            push(items, replace(queue.settings, url=proxy.url))
        assert push(items, queue.settings).tasks_created == 1
        queue.assert_each_once(items)

    def test_what_is_too_large_by_itself_is_named_and_left_out(
        self, queue: Queue, proxy: Proxy
    ) -> None:
        items = [make_item(n, caption="x" * 10_000 if n == 3 else "short") for n in range(6)]
        proxy.largest_body = 5_000
        report = push(items, replace(queue.settings, url=proxy.url))
        ((uri, why),) = report.failed
        assert uri == items[3].uri
        assert "too large" in why
        assert "client_max_body_size" in why
        assert (report.tasks_created, report.predictions_created) == (5, 5)
        queue.assert_each_once(items[:3] + items[4:])
        assert push(items, queue.settings).tasks_created == 1
        queue.assert_each_once(items)

    def test_a_prediction_that_is_too_large_is_named_too(self, queue: Queue, proxy: Proxy) -> None:
        items = make_items(3)
        push(items, queue.settings)
        newer = [make_item(n, model_id="m-2", caption="x" * 10_000 * (n == 1)) for n in range(3)]
        proxy.largest_body = 5_000
        report = push(newer, replace(queue.settings, url=proxy.url))
        assert [uri for uri, _ in report.failed] == [newer[1].uri]
        assert report.predictions_created == 2
        queue.assert_each_once([*items, newer[0], newer[2]])


class TestChangedOnTheWay:
    @pytest.mark.usefixtures("no_waiting")
    def test_a_project_that_is_deleted_on_the_way(self, queue: Queue, proxy: Proxy) -> None:
        items = make_items(260)

        def delete(method: str, path: str) -> None:
            if method == "POST" and path.endswith("/import") and len(imports(proxy)) == 2:
                queue.http.delete(path.removesuffix("/import")).raise_for_status()

        proxy.before = delete
        with pytest.raises(LabelStudioError, match=r"was deleted while .*; push again") as raised:
            push(items, replace(queue.settings, url=proxy.url))
        assert queue.title in str(raised.value)
        assert push(items, queue.settings).tasks_created == 260
        queue.assert_each_once(items)

    def test_a_control_that_is_renamed_on_the_way(
        self, queue: Queue, proxy: Proxy, output: Output
    ) -> None:
        items = make_items(260)
        original = ""

        def rename(method: str, path: str) -> None:
            nonlocal original
            if method == "POST" and path.endswith("/import") and len(imports(proxy)) == 1:
                original = queue.project()["label_config"]
                changed = original.replace('name="caption"', 'name="text"')
                address = path.removesuffix("/import")
                queue.http.patch(address, json={"label_config": changed}).raise_for_status()

        proxy.before = rename
        with pytest.raises(LabelStudioError) as raised:
            push(items, replace(queue.settings, url=proxy.url), output=output)
        assert "there is no TextArea named 'caption'" in str(raised.value)
        assert "changed while captions were pushed" in str(raised.value)
        with pytest.raises(LabelStudioError, match="no TextArea named 'caption'"):
            push(items, queue.settings, output=output)
        path = f"/api/projects/{queue.project()['id']}"
        queue.http.patch(path, json={"label_config": original}).raise_for_status()
        push(items, queue.settings, output=output)
        queue.assert_each_once(items)

    @pytest.mark.usefixtures("no_waiting")
    def test_a_personal_token_that_expires_on_the_way(
        self, queue: Queue, proxy: Proxy, personal_token: str, output: Output
    ) -> None:
        items = make_items(260)

        def expire(method: str, path: str) -> None:
            if method == "POST" and path.endswith("/import") and len(imports(proxy)) == 1:
                proxy.answer_first("POST", "/import", 401, 1_000)
                proxy.answer_first("POST", "/api/token/refresh/", 401, 1_000)

        proxy.before = expire
        settings = replace(queue.settings, url=proxy.url, token=Token(personal_token))
        with pytest.raises(LabelStudioError, match="refuses the token") as raised:
            push(items, settings, output=output)
        assert "Account & Settings" in str(raised.value)
        assert personal_token not in str(raised.value)
        proxy.behave()
        proxy.before = lambda method, path: None
        report = push(items, settings, output=output)
        assert (report.tasks_found, report.tasks_created) == (250, 10)
        queue.assert_each_once(items)
