from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.annotations import Annotations, Box, Label
from captioner.checkpoint import embedded_path, load
from captioner.contract import Caption, Geometry, Prepared
from captioner.decoders import LSTMDecoderConfig
from captioner.encoders import GridEncoderConfig
from captioner.explain import NoAttentionError, explain
from captioner.fonts import font_for
from captioner.heads import ClassifierConfig, DetectorConfig, HeadsConfig, SegmenterConfig
from captioner.model import AttentionCaptioner, CaptionModel, ModelConfig
from captioner.scenes import TEST, parse, render, samples
from captioner.tokenizer import CaptionTokenizer


class Pointing:
    """Looks at one position of a 4 x 4 grid at each word, and sees the middle of wide images."""

    model_id = "pointing@1"

    def __init__(self, *looked: tuple[int, int]) -> None:
        self.looked = looked

    def prepare(self, image: Image.Image) -> Prepared:
        cut = (image.width - image.height) // 2
        seen = image.crop((cut, 0, cut + image.height, image.height)).resize((40, 40))
        scale = 40 / image.height
        return Prepared(np.array(seen), Geometry(*image.size, scale, scale, -cut * scale))

    def caption(self, batch: list[Prepared]) -> list[Caption]:
        attention = np.full((len(self.looked), 4, 4), 0.01, np.float32)
        for at, (row, column) in enumerate(self.looked):
            attention[at, row, column] = 0.85
        words = tuple(f"word{at}" for at in range(len(self.looked) - 1))
        return [
            Caption(
                " ".join(words),
                (*words, "<end>"),
                (-0.5,) * len(self.looked),
                attention=attention if self.looked else None,
            )
        ]


def test_maps_lie_where_the_model_looked_on_the_original():
    """Of an image of 300 x 100 the middle third is seen; the grid's cells are 25 pixels wide."""
    explanation = explain(Pointing((0, 0), (3, 2), (1, 1)), Image.new("RGB", (300, 100)))
    assert explanation.region == pytest.approx((100, 0, 200, 100))
    maps = explanation.maps(300, 100)
    assert maps.shape == (3, 100, 300)
    for (row, column), weights in zip(((0, 0), (3, 2), (1, 1)), maps, strict=True):
        y, x = np.unravel_index(weights.argmax(), weights.shape)
        assert (int(y) // 25, (int(x) - 100) // 25) == (row, column)
        assert weights.max() == pytest.approx(1, abs=0.3)
        assert weights[:, :95].max() == weights[:, 205:].max() == 0


def test_a_smaller_map_shows_the_same():
    explanation = explain(Pointing((3, 2)), Image.new("RGB", (300, 100)))
    (weights,) = explanation.maps(60, 20)
    y, x = np.unravel_index(weights.argmax(), weights.shape)
    assert (int(y) // 5, (int(x) - 20) // 5) == (3, 2)


def test_a_panel_shows_colour_where_it_looked_and_grey_elsewhere():
    image = Image.new("RGB", (300, 100), "red")
    drawn = np.asarray(explain(Pointing((0, 0), (3, 3), (0, 0)), image).draw(), int)
    colourful = (drawn.max(2) - drawn.min(2)) > 150
    # Three panels of 224 x 75 with margins of 8: the image, and two words (the end is left out).
    assert drawn.shape[1] == 3 * 232 + 8
    panels = [colourful[:, 8 + at * 232 : 232 + at * 232] for at in range(3)]
    assert panels[0].sum() == 224 * 75
    for panel, (low, high) in zip(panels[1:], ((60, 110), (115, 160)), strict=True):
        y, x = np.nonzero(panel)
        assert 100 < len(x) < 224 * 75 / 8
        assert low < x.mean() < high


def test_the_embedded_model_looks_at_what_it_names():
    captioner = load(embedded_path(), device="cpu")
    for scene in samples(TEST + 3, 5):
        explanation = explain(captioner, render(scene))
        first = parse(explanation.caption.text).first
        (thing,) = (thing for thing in scene.objects if thing.attributes == first)
        shape = explanation.caption.tokens.index(thing.shape)
        weights = explanation.maps(100, 100)[shape]
        y, x = np.unravel_index(weights.argmax(), weights.shape)
        assert abs(x / 100 - thing.x) < 0.15
        assert abs(y / 100 - thing.y) < 0.15


def test_a_model_that_does_not_tell_where_it_looked():
    with pytest.raises(NoAttentionError, match="model pointing@1 does not tell"):
        explain(Pointing(), Image.new("RGB", (40, 40)))


class Saying(Pointing):
    """Says what it is told to."""

    def __init__(self, *tokens: str) -> None:
        super().__init__(*[(0, 0)] * len(tokens))
        self.tokens = tokens

    def caption(self, batch: list[Prepared]) -> list[Caption]:
        (said,) = super().caption(batch)
        return [replace(said, text="".join(self.tokens), tokens=self.tokens)]


def drawn(*tokens: str) -> bytes:
    return explain(Saying(*tokens), Image.new("RGB", (300, 100))).draw().tobytes()


def test_byte_pairs_are_shown_as_words(monkeypatch):
    shown = []

    def spied(text: str, size: int):
        shown.append(text)
        return font_for(text, size)

    monkeypatch.setattr("captioner.explain.font_for", spied)
    drawn("a", "\u0120dog", "<end>")
    assert shown[1:] == ["", "a  0.61", "dog  0.61"]


def test_letters_that_no_font_has_are_drawn_as_placeholders(monkeypatch):
    monkeypatch.setattr("captioner.fonts._installed", lambda name, size: None)
    assert drawn("圆", "形") == drawn("?", "?") != drawn("a", "?")


def test_a_long_caption_without_spaces_keeps_within_the_picture():
    sheet = explain(Saying(*"wi" * 60), Image.new("RGB", (300, 100))).draw()
    title = np.asarray(sheet.crop((0, 0, sheet.width, 30)).convert("L"))
    assert (title < 128).any()
    assert (title[:, -8:] > 128).all()


def with_heads() -> AttentionCaptioner:
    """Its boxes' gate opens to the right, its labels are a plain mean, which has no map."""
    torch.manual_seed(0)
    tokenizer = CaptionTokenizer.train(["a red circle"])
    config = ModelConfig(
        name="tiny",
        encoder=GridEncoderConfig(image_size=32, widths=(4, 8), blocks=(0, 1)),
        decoder=LSTMDecoderConfig(
            vocabulary_size=len(tokenizer), embedding_size=8, hidden_size=8, attention_size=8
        ),
        heads=HeadsConfig(
            labels=ClassifierConfig(classes=("cat", "dog"), attention="none", threshold=0.0),
            boxes=DetectorConfig(classes=("cat",)),
            masks=SegmenterConfig(classes=("cat",), gate=False),
        ),
    )
    model = CaptionModel(config).eval()
    with torch.no_grad():
        score = model.heads.boxes.gate.score
        score.bias.zero_()
        score.weight.zero_()
        score.weight[0, -model.encoder.place_size] = 1  # Across, from -2 to 2.
    return AttentionCaptioner(model, tokenizer, model_id="tiny@1")


class TestHeads:
    image = Image.new("RGB", (300, 100), "red")

    def test_where_they_looked(self):
        explanation = explain(with_heads(), self.image)
        assert set(explanation.head_attention) == {"boxes"}
        looked = explanation.head_attention["boxes"]
        across = 1 / (1 + np.exp(-np.linspace(-2, 2, looked.shape[1])))
        np.testing.assert_allclose(looked, np.tile(across, (len(looked), 1)), rtol=1e-5)
        (spread,) = explanation.head_maps(300, 100).values()
        assert spread.shape == (100, 300)
        assert spread[:, 290:].min() > 0.9 > 0.3 > spread[:, :10].max()

    def test_what_they_found(self):
        explanation = explain(with_heads(), self.image)
        (caption,) = with_heads().caption([with_heads().prepare(self.image)])
        assert explanation.annotations == caption.annotations
        assert {label.name for label in explanation.annotations.labels} == {"cat", "dog"}

    def test_they_are_drawn_below_the_words(self):
        explanation = explain(with_heads(), self.image)
        found = Annotations((Label("cat"),), (Box("cat", 150, 50, 150, 50),), ())
        known = replace(explanation, caption=replace(explanation.caption, annotations=found))
        words = replace(explanation, caption=replace(explanation.caption, annotations=None)).draw()
        sheet = known.draw()
        assert sheet.crop((0, 0, *words.size)).tobytes() == words.tobytes()
        panel = np.asarray(sheet)[words.height + 8 + 22 :, 8 : 8 + 456][: 456 // 3]
        y, x = np.nonzero((panel == (230, 159, 0)).all(2))
        assert (x.min(), x.max(), y.max()) == pytest.approx((228, 455, 151), abs=2)

    def test_a_gate_that_is_shut_is_drawn(self):
        shut = {"boxes": np.zeros((4, 4), np.float32)}
        explanation = replace(explain(with_heads(), self.image), head_attention=shut)
        assert explanation.head_maps(30, 10)["boxes"].max() == 0
        assert explanation.draw().height > 0

    def test_a_model_without_heads(self):
        explanation = explain(Pointing((0, 0)), self.image)
        assert explanation.annotations is None
        assert explanation.head_maps(30, 10) == {}
