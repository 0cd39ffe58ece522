"""What attention is held to; see also test_embedded.py."""

from dataclasses import replace

import numpy as np
import pytest

from captioner.checkpoint import embedded_path, load
from captioner.contract import Caption, Geometry, Prepared
from captioner.evaluation.attention import attention_on_shapes
from captioner.scenes import TEST, captions, samples
from captioner.scenes.grammar import describe
from captioner.scenes.languages import LANGUAGES
from captioner.scenes.outlines import mask
from captioner.tokenizer import CaptionTokenizer


class Changed:
    """A captioner whose captions are changed before they are told."""

    def __init__(self, captioner, change):
        self.captioner = captioner
        self.change = change
        self.model_id = captioner.model_id
        self.prepare = captioner.prepare

    def caption(self, batch):
        return [self.change(caption) for caption in self.captioner.caption(batch)]


@pytest.fixture(scope="module")
def captioner():
    return load(embedded_path(), device="cpu")


class TestAttentionOnShapes:
    def test_the_embedded_model_looks_where_it_should(self, captioner):
        found = attention_on_shapes(captioner, TEST, 40)
        assert found.words > 70
        assert 0.01 < found.chance < 0.2
        assert found.inside > 3 * found.chance

    def test_attention_that_is_spread_evenly_is_chance(self, captioner):
        def spread(caption):
            return replace(caption, attention=np.full_like(caption.attention, 1 / 36))

        found = attention_on_shapes(Changed(captioner, spread), TEST, 40)
        assert found.inside == pytest.approx(found.chance)

    def test_attention_that_is_shifted_misses(self, captioner):
        def shifted(caption):
            return replace(caption, attention=np.roll(caption.attention, (3, 3), (1, 2)))

        found = attention_on_shapes(Changed(captioner, shifted), TEST, 40)
        assert found.inside < found.chance

    def test_captions_that_name_nothing_are_no_evidence(self, captioner):
        silent = Changed(captioner, lambda caption: replace(caption, text="a dog"))
        with pytest.raises(ValueError, match="no caption names an object as it is"):
            attention_on_shapes(silent, TEST, 3)


SCENES = list(samples(TEST, 12))


class Pointing:
    """Says the truth and looks at a shape as it says the word for it, else at the upper left.

    Of each shape's word it looks at the shape only while it says the last ``letters``.
    """

    model_id = "pointing@1"

    def __init__(self, language, kind, letters=99):
        said = [text for scene in SCENES for text in captions(scene, language)] * 3
        self.tokenizer = CaptionTokenizer.train(said, kind)
        self.language, self.letters = LANGUAGES[language], letters
        self.said = iter([(scene, describe(scene, language)[0]) for scene in SCENES])

    def prepare(self, image):
        return Prepared(np.array(image), Geometry(*image.size, 1.0, 1.0))

    def caption(self, batch):
        scene, said = next(self.said)
        (ids,) = self.tokenizer.encode([said.text])
        (offsets,) = self.tokenizer.offsets([said.text])
        tokens = (*(self.tokenizer.word(number) for number in ids), "<end>")
        attention = np.zeros((len(tokens), 24, 24))
        attention[:, 0, 0] = 1
        for index, (_, stop) in zip(said.objects, said.spans, strict=True):
            thing = scene.objects[index]
            length = min(self.letters, len(self.language.words[thing.shape]))
            area = mask(thing.shape, thing.rotation, thing.x, thing.y, thing.extent, 24)
            for at, (_, end) in enumerate(offsets):
                if stop - length < end <= stop:
                    attention[at] = area / area.sum()
        return [Caption(said.text, tokens, (0.0,) * len(tokens), attention=attention)]


@pytest.mark.parametrize(
    ("language", "kind"), [("en", "word"), ("zh", "word"), ("zh", "byte_pair")]
)
class TestEveryLanguage:
    def test_all_tokens_of_a_word_are_looked_at(self, language, kind):
        found = attention_on_shapes(Pointing(language, kind), TEST, len(SCENES))
        assert found.words > 20
        assert found.inside > 0.6

    def test_tokens_of_a_word_count_alike(self, language, kind):
        whole = attention_on_shapes(Pointing(language, kind), TEST, len(SCENES)).inside
        last = attention_on_shapes(Pointing(language, kind, letters=1), TEST, len(SCENES)).inside
        none = attention_on_shapes(Pointing(language, kind, letters=0), TEST, len(SCENES)).inside
        share = 1 if language == "en" else pytest.approx(0.45, abs=0.05)  # Of two letters or three.
        assert last / whole == share
        assert none < 0.05

    def test_tokens_that_spell_another_caption_are_refused(self, language, kind):
        def garbled(caption):
            tokens = tuple("#" if token != "<end>" else token for token in caption.tokens)
            return replace(caption, tokens=tokens)

        with pytest.raises(ValueError, match="no token spells .* words or whole characters"):
            attention_on_shapes(Changed(Pointing(language, kind), garbled), TEST, 3)


def test_an_english_word_in_byte_pairs_is_found():
    found = attention_on_shapes(Pointing("en", "byte_pair"), TEST, len(SCENES))
    assert found.inside > 0.6
