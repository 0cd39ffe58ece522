"""Labels of drawn scenes."""

import numpy as np
import pytest

from captioner.confidence.labels import label_scenes
from captioner.contract import Caption, DecodingConfig
from captioner.loading import load
from captioner.scenes import VALIDATION, captions, render, samples
from captioner.scenes.degrade import degrade, draw_degradation

SCENES = list(samples(VALIDATION, 12))


class Knowing:
    """Says the truth of every other scene, and keeps what it is shown."""

    def __init__(self, language=""):
        self.decoding = DecodingConfig(language=language)
        self.shown = []

    def prepare(self, image):
        return image

    def caption(self, batch):
        said = []
        for image in batch:
            number = len(self.shown)
            self.shown.append(image)
            scene = SCENES[number if number % 2 == 0 else number - 1]
            features = {"logprob_mean": -float(number)}
            said.append(Caption(captions(scene)[0], features=features))
        return said


def test_captions_are_held_against_the_scenes_that_were_shown():
    knowing = Knowing()
    labels = label_scenes(knowing, VALIDATION, 12, batch_size=5)
    assert labels.correct == [number % 2 == 0 for number in range(12)]
    assert [row["logprob_mean"] for row in labels.rows] == [-number for number in range(12)]
    assert labels.groups == [str(scene.seed) for scene in SCENES]
    drawn = [draw_degradation(scene.seed) for scene in SCENES]
    assert len({item.kind for item in drawn}) == 4
    for image, scene, degradation in zip(knowing.shown, SCENES, drawn, strict=True):
        expected = degrade(render(scene), degradation, scene.seed)
        assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize(("language", "right"), [("en", 6), ("zh", 0)])
def test_a_caption_in_another_language_than_asked_for_is_wrong(language, right):
    assert sum(label_scenes(Knowing(language), VALIDATION, 12).correct) == right


def test_what_was_known_of_each_word_is_kept_where_it_is_asked_for():
    captioner = load("embedded", "cpu")
    labels = label_scenes(captioner, VALIDATION, 5, batch_size=2, with_evidence=True)
    plain = label_scenes(captioner, VALIDATION, 5)
    assert [len(words) for words in labels.evidence] == [row["num_tokens"] for row in labels.rows]
    assert [words[:, -2].sum().item() for words in labels.evidence] == pytest.approx(
        [row["logprob_sum"] for row in plain.rows], rel=0.01, abs=0.01
    )
    assert plain.evidence == []
    assert labels.correct == plain.correct


def test_scenes_that_are_left_out_are_made_up_for():
    seen = {str(SCENES[0].seed), str(SCENES[2].seed)}
    labels = label_scenes(Knowing(), VALIDATION, 5, batch_size=2, leave_out=seen.__contains__)
    wanted = [scene.seed for scene in SCENES if str(scene.seed) not in seen][:5]
    assert labels.groups == list(map(str, wanted))
