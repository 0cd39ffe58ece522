"""Tokens, addresses and labelling configs that never leave this process."""

import pickle
from pathlib import Path

import pytest

from pipelines.labelstudio import config
from pipelines.labelstudio.client import (
    LabelStudioError,
    LabelStudioSettings,
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
