"""Words that a model was unsure of, marked in captions of every kind of tokens."""

import math
import os
import re
from html import unescape

import pytest

from captioner.annotations import NO_CLASSES, ClassNames
from captioner.tokenizer import END, CaptionTokenizer
from pipelines.labelstudio import config
from pipelines.labelstudio.unsure import unsure_words
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.test_browser import ActionChains, Reviewer, reviewer

__all__ = ["reviewer"]

MARKED = re.compile(r'<mark title="probability ([0-9.]+)">(.*?)</mark>')
SENTENCES = [
    "a café, seen 😀 at night",
    'a <b>red</b> "cat" & <script>alert(1)</script>',
    "猫が好き です",
    "well-known it's 3.5 m",
    "naïve ΑΩ Привет",
]


def words_of(html: str) -> dict[str, float]:
    """Return the marked words and their probabilities."""
    return {unescape(word): float(chance) for chance, word in MARKED.findall(html)}


def text_of(html: str) -> str:
    """Return what a browser shows; there must be no markup but the marks."""
    bare = MARKED.sub(r"\2", html)
    assert "<" not in bare
    return unescape(bare)


def logs(*probabilities: float) -> list[float]:
    return [math.log(probability) for probability in probabilities]


class TestTokens:
    def test_a_word_below_one_half_is_marked(self) -> None:
        html = unsure_words(["a", "red", "cat", END], logs(0.9, 0.49, 0.51, 0.01), "a red cat")
        assert html == 'a <mark title="probability 0.49">red</mark> cat'

    def test_parts_of_a_word_count_together(self) -> None:
        tokens = ["a", "play", "##ing", "dog", "[SEP]", END]
        html = unsure_words(tokens, logs(0.9, 0.6, 0.6, 0.6, 0.1, 0.1), "a playing dog")
        assert words_of(html) == {"playing": 0.36}

    def test_sentence_pieces(self) -> None:
        tokens = ["\u2581a", "\u2581bi", "cycle", "\u2581", "here"]
        html = unsure_words(tokens, logs(0.9, 0.5, 0.5, 0.1, 0.9), "a bicycle here")
        assert words_of(html) == {"bicycle": 0.25}

    @pytest.mark.parametrize("caption", SENTENCES)
    @pytest.mark.parametrize("size", [256 + 4, 400])
    def test_byte_pairs(self, caption: str, size: int) -> None:
        trained = CaptionTokenizer.train(SENTENCES * 3, "byte_pair", vocabulary_size=size)
        (ids,) = trained.encode([caption])
        tokens = [trained.word(number) for number in ids]
        assert trained.text(tokens) == caption
        assert text_of(unsure_words(tokens, logs(*[0.99] * len(ids)), caption)) == caption
        html = unsure_words(tokens, logs(*[0.49] * len(ids)), caption)
        assert text_of(html) == caption
        marked = [word for _, word in MARKED.findall(html)]
        letters = "".join(filter(str.isalnum, unescape("".join(marked))))
        assert letters == "".join(filter(str.isalnum, caption))

    def test_a_character_of_several_byte_pairs(self) -> None:
        trained = CaptionTokenizer.train(["abc"], "byte_pair", vocabulary_size=260)
        (ids,) = trained.encode(["é 猫"])
        tokens = [trained.word(number) for number in ids]
        assert len(tokens) == 2 + 1 + 3
        html = unsure_words(tokens, logs(0.7, 0.6, 0.9, 0.9, 0.9, 0.9), "é 猫")
        assert words_of(html) == {"é": 0.42}

    @pytest.mark.parametrize("caption", SENTENCES)
    def test_words(self, caption: str) -> None:
        trained = CaptionTokenizer.train(SENTENCES, "word")
        (ids,) = trained.encode([caption])
        tokens = [trained.word(number) for number in ids]
        said = trained.text(tokens)
        html = unsure_words([*tokens, END], logs(*[0.25] * len(ids), 1.0), said)
        assert text_of(html) == said
        assert set(words_of(html)) == {token for token in tokens if any(map(str.isalnum, token))}
        assert set(words_of(html).values()) == {0.25}

    def test_tokens_of_another_caption_mark_nothing(self) -> None:
        assert unsure_words(["x", "y"], logs(0.1, 0.1), "a <cat>") == "a &lt;cat&gt;"
        assert unsure_words(["a"], logs(0.1), "a cat") == "a cat"

    def test_a_model_that_does_not_tell(self) -> None:
        assert unsure_words([], [], "a & b") == "a &amp; b"

    def test_what_does_not_belong_together(self) -> None:
        with pytest.raises(ValueError, match="2 tokens have 1 log-probabilities"):
            unsure_words(["a", "b"], [0.0], "a b")


class TestConfig:
    def test_the_control_comes_where_it_is_asked_for(self) -> None:
        classes = ClassNames(boxes=("cat",))
        for wanted in (NO_CLASSES, classes):
            plain, made = config.label_config(wanted), config.label_config(wanted, True)
            config.validate(made)
            assert config.wants_unsure_words(made)
            assert not config.wants_unsure_words(plain)
            assert config.differences(made, wanted, True) == []
            assert config.differences(made, wanted) == []
            assert config.differences(plain, wanted, True) == [
                "there is no HyperText named 'unsure_words'"
            ]

    def test_reviewers_are_told(self) -> None:
        assert "unsure" in config.instruction(NO_CLASSES, True)
        assert "unsure" not in config.instruction(ClassNames(masks=("cat",)))
        assert "masks" in config.instruction(ClassNames(masks=("cat",)))


def test_a_reviewer_sees_marks_and_no_markup(queue: Queue, reviewer: Reviewer) -> None:
    caption = SENTENCES[1]
    tokens = re.findall(r"\w+|[^\w\s]+", caption)
    chances = [0.3 if token in ("red", "script") else 0.9 for token in tokens]
    made = config.label_config(NO_CLASSES, True)
    settings = {"title": queue.title, "label_config": made, "show_collab_predictions": True}
    project = queue.post("/api/projects", settings)
    data = {"image": f"{queue.server.url}/static/icons/logo.svg", "caption": "of another model"}
    data["unsure_words"] = unsure_words(tokens, logs(*chances), caption)
    filled = {"from_name": "caption", "to_name": "image", "type": "textarea"}
    prediction = {"model_version": "m/1", "result": [filled | {"value": {"text": [caption]}}]}
    task = {"data": data, "predictions": [prediction]}
    queue.post(f"/api/projects/{project['id']}/import", [task])
    queue.http.patch(f"/api/projects/{project['id']}", json={"model_version": "m/1"})
    reviewer.open_queue()
    reviewer.wait(lambda: reviewer.caption() == caption)
    marked = reviewer.find("mark")
    shown = marked.find_element("xpath", "..")
    assert shown.text == caption
    marks = reviewer.browser.find_elements("css selector", "mark")
    assert [mark.text for mark in marks] == ["red", "script", "script"]
    assert marked.get_attribute("title") == "probability 0.30"
    assert marked.value_of_css_property("background-color") != shown.value_of_css_property(
        "background-color"
    )
    assert not shown.find_elements("css selector", "b, script")
    if folder := os.environ.get("CAPTIONER_SCREENSHOTS"):
        reviewer.browser.save_screenshot(f"{folder}/unsure-words.png")

    ActionChains(reviewer.browser).send_keys("1").perform()
    reviewer.find("[data-testid=bottombar-submit-button]").click()
    reviewer.wait(lambda: queue.tasks()[0]["annotations"])
    (annotation,) = queue.tasks()[0]["annotations"]
    said = {region["from_name"]: region["value"] for region in annotation["result"]}
    assert said == {"caption": {"text": [caption]}, "verdict": {"choices": ["accept"]}}
