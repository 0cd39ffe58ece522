import numpy as np
import pytest
import torch

from captioner.scenes import HELD_OUT, TRAINING, captions, judge, sample, samples_without, truth
from captioner.scenes.grammar import CAPTIONS_A_SCENE, PHRASES
from captioner.scenes.languages import ATTRIBUTES, LANGUAGES
from captioner.tokenizer import CaptionTokenizer
from captioner.training.scenes import (
    MIRRORS,
    SceneBatches,
    SceneData,
    SceneTargets,
    render_scenes,
    scene_tokenizer,
)
from tests.captioner.training.conftest import SCENES

BILINGUAL_SCENES = 24


@pytest.fixture(scope="module")
def bilingual() -> CaptionTokenizer:
    return scene_tokenizer(TRAINING, 200, ("en", "zh"))


@pytest.fixture(scope="module")
def both(bilingual) -> SceneData:
    """Scenes with captions in both languages, without what is held out."""
    return render_scenes(
        TRAINING,
        BILINGUAL_SCENES,
        image_size=16,
        tokenizer=bilingual,
        workers=2,
        hold_out=True,
    )


def spelt(tokenizer, tokens) -> list[str]:
    return [tokenizer.word(int(token)) for token in tokens]


class TestSceneData:
    def test_captions_of_each_mirror_are_true_of_the_mirror_image(self, data, tokenizer):
        for row in range(0, SCENES, 5):
            scene = sample(TRAINING + row)
            for number, (across, down, turn) in enumerate(MIRRORS):
                mirror = scene.mirrored(horizontally=across, vertically=down, transposed=turn)
                for tokens in data.tokens[row, number]:
                    text = tokenizer.text(spelt(tokenizer, tokens))
                    assert judge(text, mirror).true, text

    def test_what_english_words_are_about_is_told_by_the_words_alone(self, data, tokenizer):
        """Objects are named by four words; then all is about the second, up to the end."""
        named = " ".join(word for names in ATTRIBUTES for word in names)
        attribute = np.isin(data.tokens, tokenizer.encode([named])[0])
        said = attribute.cumsum(-1)
        first = attribute & (said <= 4)
        over = np.isin(data.tokens, (tokenizer.pad, tokenizer.end))
        second = ~first & (said >= 4) & ~over
        assert np.array_equal(data.objects >= 0, first | second)
        told = data.objects.reshape(-1, data.objects.shape[-1])
        for objects, one, other in zip(
            told, first.reshape(told.shape), second.reshape(told.shape), strict=True
        ):
            assert len(set(objects[one])) == len(set(objects[other])) == 1
            assert objects[one][0] != objects[other][0]

    def test_each_word_is_about_the_object_that_it_names(self, data, tokenizer):
        for row in range(SCENES):
            scene = sample(TRAINING + row)
            for tokens, objects in zip(data.tokens[row, 0], data.objects[row, 0], strict=True):
                words = spelt(tokenizer, tokens)
                named: dict[int, list[str]] = {}
                for word, number in zip(words, objects, strict=True):
                    named.setdefault(int(number), []).append(word)
                first, second = (int(number) for number in dict.fromkeys(objects[objects >= 0]))
                assert named[first] == list(scene.objects[first].attributes)
                assert named[second][-4:] == list(scene.objects[second].attributes)
                assert named[second][-5] == "a"
                relation = " ".join(named[second][:-5]).removeprefix("is ")
                assert any(relation in phrases for phrases in PHRASES.values())
                assert {"<start:en>", "<end>"} <= set(named[-1])

    def test_relations_lie_where_they_are_said(self, data, tokenizer):
        phrases = {phrase for several in PHRASES.values() for phrase in several}
        rows = data.tokens.shape[-1]
        told = zip(data.tokens.reshape(-1, rows), data.relations.reshape(-1, 2), strict=True)
        found = {" ".join(spelt(tokenizer, tokens[begin:end])) for tokens, (begin, end) in told}
        assert found == phrases

    def test_batches_mirror_pixels_and_centres_alike(self, tokenizer):
        # Scenes that are black but for one white pixel, where the only object is.
        count, size = 64, 8
        pixels = np.zeros((count, size, size, 3), np.uint8)
        pixels[:, 1, 2] = 255
        centres = np.full((count, 5, 2), np.nan, np.float32)
        centres[:, 0] = (2.5 / size, 1.5 / size)
        tokens = np.zeros((count, len(MIRRORS), 1, 4), np.uint8)
        tokens[:] = np.arange(1, 9)[None, :, None, None]
        objects = np.zeros(tokens.shape, np.int8)
        attributes = np.zeros((count, 5, 4), np.int8)
        relations = np.zeros((count, len(MIRRORS), 1, 2), np.uint8)
        made = SceneData(pixels, tokens, objects, relations, centres, attributes, None, pad=0)
        (batch,) = SceneBatches(made, count, seed=0).batches(0)
        assert set(batch.tokens[:, 0].tolist()) == set(range(1, 9)), "each mirror comes up"
        seen = (batch.pixels.numpy(), batch.centres.numpy(), batch.tokens.tolist())
        for image, centre, said in zip(*seen, strict=True):
            (y, x), *others = np.argwhere(image[:, :, 0])
            assert not others
            assert ((x + 0.5) / size, (y + 0.5) / size) == pytest.approx(tuple(centre[0]))
            across, down, turn = MIRRORS[said[0] - 1]
            wanted = (5 if across else 2, 6 if down else 1)
            assert (x, y) == (wanted[::-1] if turn else wanted)

    def test_a_pass_sees_each_scene_once(self, data):
        seen = [
            batch.pixels.reshape(16, -1).sum(1, dtype=torch.int64).numpy()
            for batch in SceneBatches(data, 16, seed=1).batches(0)
        ]
        wanted = data.pixels.reshape(SCENES, -1).sum(1, dtype=np.int64)
        assert sorted(np.concatenate(seen)) == sorted(wanted)

    def test_a_pass_taken_up_in_the_middle_goes_on_alike(self, data):
        batches = SceneBatches(data, 16, seed=1)
        unbroken = list(batches.batches(epoch=3))
        assert len(unbroken) == len(batches) == SCENES // 16
        for resumed, wanted in zip(batches.batches(3, first=4), unbroken[4:], strict=True):
            for one, other in ((resumed.pixels, wanted.pixels), (resumed.tokens, wanted.tokens)):
                assert torch.equal(one, other)

    def test_every_pass_has_an_order_of_its_own(self, data):
        first, second = (next(SceneBatches(data, 16, seed=1).batches(epoch)) for epoch in (0, 1))
        assert not torch.equal(first.pixels, second.pixels)

    def test_words_that_relate_are_told(self, both, bilingual):
        (batch,) = SceneBatches(both, BILINGUAL_SCENES, seed=0).batches(0)
        assert batch.relating.shape == batch.tokens.shape == batch.objects.shape
        for tokens, relating in zip(batch.tokens, batch.relating, strict=True):
            language = bilingual.word(int(tokens[0]))[len("<start:") : -1]
            said = spelt(bilingual, tokens[relating])
            phrase = LANGUAGES[language].between.join(said)
            assert any(phrase in phrases for phrases in LANGUAGES[language].phrases.values())
        assert {1, 4} == set(batch.tokens[:, 0].tolist()), "each language comes up"


class TestSeveralLanguages:
    def test_each_caption_is_in_the_language_that_it_starts_with(self, both, bilingual):
        shape = (BILINGUAL_SCENES, len(MIRRORS), 2 * CAPTIONS_A_SCENE)
        assert both.tokens.shape[:3] == both.objects.shape[:3] == shape
        scenes = list(samples_without(TRAINING, BILINGUAL_SCENES))
        for row, scene in enumerate(scenes):
            said = [bilingual.text(spelt(bilingual, tokens)) for tokens in both.tokens[row, 0]]
            assert said == [*captions(scene), *captions(scene, "zh")]
        starts = both.tokens[..., 0]
        assert (starts[..., :CAPTIONS_A_SCENE] == bilingual.start_of("en")).all()
        assert (starts[..., CAPTIONS_A_SCENE:] == bilingual.start_of("zh")).all()
        ends = (both.tokens == bilingual.end).sum(-1)
        assert (ends == 1).all()

    def test_chinese_is_about_the_objects_that_it_names(self, both, bilingual):
        chinese = LANGUAGES["zh"]
        for row, scene in enumerate(samples_without(TRAINING, BILINGUAL_SCENES)):
            told = zip(both.tokens[row, 0], both.objects[row, 0], strict=True)
            for tokens, objects in list(told)[CAPTIONS_A_SCENE:]:
                first, second = (int(number) for number in dict.fromkeys(objects[objects >= 0]))
                named = "".join(spelt(bilingual, tokens[objects == first]))
                assert named == chinese.name(scene.objects[first].attributes)
                rest = "".join(spelt(bilingual, tokens[objects == second]))
                assert chinese.name(scene.objects[second].attributes) in rest
                assert rest.startswith(("在一个", "位于一个"))
                assert any(
                    rest.endswith(f"的{phrase}")
                    for phrases in chinese.phrases.values()
                    for phrase in phrases
                )

    def test_what_is_held_out_is_not_shown(self, both, data):
        def shown(made):
            return {
                (ATTRIBUTES[2][colour], ATTRIBUTES[3][shape])
                for _, _, colour, shape in made.attributes.reshape(-1, 4)
                if colour >= 0
            }

        assert len(both) == BILINGUAL_SCENES
        assert not shown(both) & set(HELD_OUT)
        assert shown(data) & set(HELD_OUT)

    def test_more_words_than_a_byte_can_number(self, data, tokenizer):
        said = [text for number in range(40) for text in captions(sample(TRAINING + number))]
        others = [f"word{number} word{number} word{number}" for number in range(300)]
        wordy = CaptionTokenizer.train([*said, *others * 99], languages=("en",))
        made = render_scenes(TRAINING, 2, image_size=8, tokenizer=wordy, workers=1)
        assert made.tokens.dtype == np.uint16
        assert data.tokens.dtype == np.uint8
        assert made.tokens.max() > 255
        for row in range(2):
            for one, other in zip(made.tokens[row, 3], data.tokens[row, 3], strict=True):
                assert spelt(wordy, one) == spelt(tokenizer, other)
        (batch,) = SceneBatches(made, 2, seed=0).batches(0)
        assert batch.tokens.max() > 255


class TestTargets:
    SIZE = 48

    @pytest.fixture(scope="class")
    def told(self, tokenizer) -> SceneData:
        """Scenes of which heads are told, too, without what is held out."""
        return render_scenes(
            TRAINING,
            24,
            image_size=self.SIZE,
            tokenizer=tokenizer,
            workers=1,
            hold_out=True,
            targets=True,
        )

    def test_they_are_of_the_scenes_that_are_left(self, told):
        wanted = SceneTargets.of(list(samples_without(TRAINING, 24)), self.SIZE)
        for name, rows in vars(wanted).items():
            assert np.array_equal(getattr(told.targets, name), rows), name

    def test_without_heads_there_are_none(self, data):
        assert data.targets is None
        assert next(SceneBatches(data, 8, seed=0).batches(0)).targets is None

    def test_masks_are_mirrored_as_pixels_are(self, told):
        """Which mirror image it is, only the pixels tell."""
        mirrors = set()
        for epoch in range(4):
            batches = SceneBatches(told, 24, seed=1)
            (batch,) = batches.batches(epoch)
            order = np.random.default_rng((1, epoch)).permutation(24)
            told_of = zip(batch.pixels.numpy(), batch.targets.masks.numpy(), order, strict=True)
            for pixels, mask, row in told_of:
                images = [mirrored(told.pixels[row], mirror) for mirror in MIRRORS]
                (number,) = [n for n, image in enumerate(images) if np.array_equal(image, pixels)]
                assert np.array_equal(mask, mirrored(told.targets.masks[row], MIRRORS[number]))
                mirrors.add(number)
        assert mirrors == set(range(len(MIRRORS)))

    def test_boxes_go_round_what_masks_show(self, told):
        """Of shapes that a scene has once: then the mask is that of the one object."""
        checked = 0
        for epoch in range(3):
            (batch,) = SceneBatches(told, 24, seed=2).batches(epoch)
            targets = batch.targets
            for boxes, classes, mask in zip(
                targets.boxes, targets.classes, targets.masks, strict=True
            ):
                for box, kind in zip(boxes, classes.tolist(), strict=True):
                    if kind >= 0 and classes.tolist().count(kind) == 1:
                        rows, columns = np.argwhere(mask.numpy() == 1 + kind).T
                        extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                        assert (box * self.SIZE).tolist() == pytest.approx(extent, abs=2)
                        checked += 1
        assert checked > 24

    def test_labels_classes_and_centres_tell_the_same(self, told):
        (batch,) = SceneBatches(told, 24, seed=3).batches(0)
        targets = batch.targets
        assert targets.boxes_known.all()
        for labels, classes, attributes in zip(
            targets.labels, targets.classes, batch.attributes, strict=True
        ):
            seen = {name for name, on in zip(truth.LABELS, labels, strict=True) if on}
            shapes = {truth.BOXES[kind] for kind in classes.tolist() if kind >= 0}
            assert shapes == seen & set(truth.BOXES)
            assert shapes == {ATTRIBUTES[3][shape] for *_, shape in attributes if shape >= 0}


def mirrored(pixels: np.ndarray, mirror: tuple[bool, bool, bool]) -> np.ndarray:
    across, down, turn = mirror
    pixels = np.fliplr(pixels) if across else pixels
    pixels = np.flipud(pixels) if down else pixels
    return np.swapaxes(pixels, 0, 1) if turn else pixels
