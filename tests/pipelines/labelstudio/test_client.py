"""Tokens, addresses and labelling configs that never leave this process."""

import pickle
from pathlib import Path

import httpx
import pytest

from pipelines.labelstudio import client as client_module
from pipelines.labelstudio import config
from pipelines.labelstudio.client import (
    Client,
    FailingError,
    LabelStudioError,
    LabelStudioSettings,
    OutcomeUnknownError,
    Token,
    read_token,
)

SECRET = "0123456789abcdef0123456789abcdef01234567"


class TestToken:
    def test_it_is_not_shown(self) -> None:
        settings = LabelStudioSettings("http://127.0.0.1:8080", "review", Token(SECRET))
        assert SECRET not in f"{settings!r} {settings} {settings.token!r} {settings.token}"

    def test_it_is_not_pickled(self) -> None:
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(Token(SECRET))

    def test_a_file_comes_before_the_environment(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text(f" {SECRET}\n")
        environ = {"LABEL_STUDIO_API_KEY": "other"}
        assert read_token(path, environ).reveal() == SECRET
        assert read_token(None, environ).reveal() == "other"

    def test_none_is_said_with_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
            read_token(None, {})
        with pytest.raises(LabelStudioError, match="token file"):
            read_token(tmp_path / "gone", {})

    @pytest.mark.parametrize("value", ["", "  \n", "two words", "a\nb: c", "é"])
    def test_what_cannot_be_a_token(self, value: str) -> None:
        with pytest.raises(LabelStudioError, match="the Label Studio token is"):
            Token(value)


class TestSettings:
    @pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", "http://", "", "http://[bad"])
    def test_an_address_that_cannot_be_one(self, url: str) -> None:
        with pytest.raises(LabelStudioError, match="http://host:port"):
            LabelStudioSettings(url, "review", Token(SECRET))

    def test_a_login_in_the_address_is_refused_and_not_shown(self) -> None:
        with pytest.raises(LabelStudioError, match="carries a login") as raised:
            LabelStudioSettings("http://me:hidden@host", "review", Token(SECRET))
        assert "hidden" not in str(raised.value)

    @pytest.mark.parametrize("title", ["", "ab", "x" * 51])
    def test_a_title_that_label_studio_does_not_take(self, title: str) -> None:
        with pytest.raises(LabelStudioError, match="3 to 50"):
            LabelStudioSettings("http://host", title, Token(SECRET))


class TestConfig:
    def test_ours_is_valid_and_has_all_that_is_needed(self) -> None:
        config.validate(config.LABEL_CONFIG)
        assert config.differences(config.LABEL_CONFIG) == []

    def test_one_that_label_studio_would_refuse(self) -> None:
        with pytest.raises(LabelStudioError, match="not valid"):
            config.validate('<View><TextArea name="caption" toName="nothing"/></View>')

    @pytest.mark.parametrize(
        ("before", "after", "difference"),
        [
            ('name="caption"', 'name="text"', "there is no TextArea named 'caption'"),
            ('value="$image"', 'value="$picture"', "value of the Image 'image' is '$picture'"),
            ('<Choice value="fix"', '<Choice value="correct"', "lack fix"),
            ('toName="image" choice', 'toName="other" choice', "toName of the Choices 'verdict'"),
            ('<Header value="Caption"', '<Header value="$title"', "it wants $title"),
            ("</View>", "", "it is not XML"),
        ],
    )
    def test_what_differs_is_named(self, before: str, after: str, difference: str) -> None:
        changed = config.LABEL_CONFIG.replace(before, after, 1)
        assert changed != config.LABEL_CONFIG
        assert any(difference in found for found in config.differences(changed))


class TestPatience:
    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        waits: list[float] = []
        monkeypatch.setattr(client_module.time, "sleep", waits.append)
        return waits

    def client(self, *answers: httpx.Response | Exception) -> Client:
        """A client whose requests are answered by these in turn, the last one for ever."""
        left = list(answers)

        def answer(request: httpx.Request) -> httpx.Response:
            found = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(found, Exception):
                raise found
            return found

        client = Client(LabelStudioSettings("http://127.0.0.1:8080", "review", Token(SECRET)))
        client._http = httpx.Client(transport=httpx.MockTransport(answer))
        return client

    def test_what_changes_nothing_is_asked_again_with_growing_pauses(
        self, waits: list[float]
    ) -> None:
        lost = httpx.ReadError("reset")
        answers = [httpx.Response(502), httpx.Response(429), lost, httpx.Response(200, json=[7])]
        assert self.client(*answers).get("/api/tasks") == [7]
        assert waits == sorted(waits)
        assert len(waits) == 3

    def test_a_server_that_stays_away_is_given_a_minute(self, waits: list[float]) -> None:
        with pytest.raises(LabelStudioError, match=r"does not answer .*status 503, 9 times"):
            self.client(httpx.Response(503)).get("/api/tasks")
        assert 50 < sum(waits) < 100

    @pytest.mark.parametrize(("failing", "times"), [(None, 9), (2, 2)])
    def test_a_server_that_fails_is_told_from_one_that_is_away(
        self, waits: list[float], failing: int | None, times: int
    ) -> None:
        message = rf"fails at GET /api/tasks \(status 500, {times} times\)"
        with pytest.raises(FailingError, match=message):
            self.client(httpx.Response(500)).get("/api/tasks", failing=failing)
        assert len(waits) == times - 1

    def test_what_fails_once_is_asked_again(self, waits: list[float]) -> None:
        answers = [httpx.Response(500), httpx.Response(502), httpx.Response(200, json=[7])]
        assert self.client(*answers).get("/api/tasks", failing=2) == [7]
        assert len(waits) == 2

    def test_an_address_where_nothing_ever_answered_is_given_up_soon(
        self, waits: list[float]
    ) -> None:
        for error in (httpx.ConnectError("refused"), httpx.ReadTimeout("slow")):
            with pytest.raises(LabelStudioError, match="2 times"):
                self.client(error).get("/api/tasks")
        assert sum(waits) < 2

    @pytest.mark.parametrize(("asked", "waited"), [("3", 3), ("999", 120)])
    def test_it_waits_as_long_as_it_is_asked_to(
        self, waits: list[float], asked: str, waited: float
    ) -> None:
        busy = httpx.Response(429, headers={"Retry-After": asked})
        self.client(busy, httpx.Response(201, json={})).post("/import")
        assert waits == [waited]

    @pytest.mark.parametrize(
        "answer",
        [
            httpx.Response(500),
            httpx.ReadTimeout("slow"),
            httpx.RemoteProtocolError("closed"),
            httpx.Response(201, text="<html>"),
        ],
        ids=["error", "time-out", "closed", "not JSON"],
    )
    def test_what_may_have_been_done_is_not_done_again(
        self, waits: list[float], answer: httpx.Response | Exception
    ) -> None:
        client = self.client(answer, httpx.Response(201, json={}))
        with pytest.raises(OutcomeUnknownError):
            client.post("/import")
        assert waits == []
