"""What scores hold a captioner to; see also test_embedded.py."""

from dataclasses import replace

import numpy as np
import pytest

from captioner.checkpoint import embedded_path, load
from captioner.evaluation.attention import attention_on_shapes
from captioner.scenes import TEST


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
