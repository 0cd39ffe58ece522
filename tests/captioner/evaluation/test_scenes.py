"""What scores are asked of; see also test_embedded.py."""

import pytest

from captioner.contract import Caption
from captioner.evaluation.scenes import score_on_scenes
from captioner.scenes import TEST, captions, samples, samples_with, samples_without


class Knowing:
    """Is asked about scenes that it knows beforehand, in order, and says the truth."""

    def __init__(self, scenes, language="en"):
        self.said = iter([captions(scene, language)[0] for scene in scenes])

    def prepare(self, image):
        return image

    def caption(self, batch):
        return [Caption(next(self.said)) for _ in batch]


@pytest.mark.parametrize(
    ("combinations", "scenes"),
    [("all", samples), ("seen", samples_without), ("unseen", samples_with)],
)
def test_the_scenes_are_those_asked_for(combinations, scenes):
    knowing = Knowing(scenes(TEST, 9))
    scores = score_on_scenes(knowing, TEST, 9, batch_size=4, combinations=combinations)
    assert (scores.scenes, scores.true_captions) == (9, 1)


def test_a_caption_in_another_language_is_false_where_one_is_asked_for():
    scenes = list(samples(TEST, 5))
    for language, true in ((None, 1), ("zh", 1), ("en", 0)):
        scores = score_on_scenes(Knowing(scenes, "zh"), TEST, 5, language=language)
        assert scores.true_captions == true
        assert scores.stated_facts == (pytest.approx(9 / 9.2) if true else 0)
