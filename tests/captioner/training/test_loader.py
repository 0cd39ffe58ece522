import io
import json
import threading
import time

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from captioner.annotations import Annotations, Box, Label
from captioner.heads import HeadTargets
from captioner.tokenizer import CaptionTokenizer
from captioner.training.augment import UNCHANGED, AugmentConfig, swap_sides
from captioner.training.batch import Batch
from captioner.training.captions import CaptionBatches, LoaderConfig
from captioner.training.images import check, in_order
from captioner.training.loader import ExampleLoader
from captioner.training.losses import caption_loss, doubly_stochastic_loss
from captioner.training.sources import DataError, Example
from captioner.training.sources.marks import mask_from_pixels

IMAGES = 11
WORDS = [*"abcdefghijk", "left", "right", *map(str, range(IMAGES))]


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    """Words first and special tokens last, so that padding is not 0."""
    trained = CaptionTokenizer.train(WORDS)
    content = json.loads(trained.to_json())
    words = {word: number for number, word in enumerate(sorted(WORDS))}
    content["model"]["vocab"] = {**words, "<unknown>": len(words)}
    content["added_tokens"] = []
    adopted = CaptionTokenizer.adopt(json.dumps(content))
    assert adopted.pad > len(WORDS)
    return adopted


def picture(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """Make an image whose left half tells its number, and whose right half is black."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2] = 20 * number + 10
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def examples():
    """Images number 0 to 10; number n has n % 4 + 1 captions, which begin with n."""
    memory = fsspec.filesystem("memory")
    made = []
    for number in range(IMAGES):
        uri = f"memory:///loader/{number}.png"
        memory.pipe_file(uri, picture(number))
        said = tuple(f"{number} {letter} left" for letter in "abcd"[: number % 4 + 1])
        made.append(Example(uri, said))
    yield made
    memory.rm("/loader", recursive=True)


def prepare(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((4, 4), Image.Resampling.NEAREST))


def loader(examples, tokenizer, *, threads=2, augment=UNCHANGED, **config) -> ExampleLoader:
    config = LoaderConfig(**{"batch_size": 3, "captions_per_image": 2, **config})
    return ExampleLoader(
        examples, tokenizer, config, prepare=prepare, augment=augment, threads=threads
    )


def said(batch: Batch, tokenizer: CaptionTokenizer) -> list[str]:
    return [tokenizer.text([tokenizer.word(t) for t in line]) for line in batch.tokens.tolist()]


def numbers(batch: Batch) -> list[int]:
    """Tell by the pixels which images are in a batch."""
    brightest = batch.pixels.flatten(1).max(1).values
    return ((brightest.int() - 10) // 20).tolist()


def same(ones: list[Batch], others: list[Batch]) -> bool:
    return len(ones) == len(others) and all(
        torch.equal(one.pixels, other.pixels) and torch.equal(one.tokens, other.tokens)
        for one, other in zip(ones, others, strict=True)
    )


class TestBatches:
    def test_shapes_and_kinds(self, examples, tokenizer):
        data = loader(examples, tokenizer)
        batches = list(data.batches(0))
        assert len(batches) == len(data) == 3
        assert batches[0].pixels.shape == (3, 4, 4, 3)
        assert batches[0].pixels.dtype == torch.uint8
        assert batches[0].tokens.shape == (6, 5)
        assert batches[0].tokens.dtype == torch.int64

    def test_captions_follow_their_image(self, examples, tokenizer):
        for batch in loader(examples, tokenizer).batches(0):
            captions = said(batch, tokenizer)
            for place, number in enumerate(numbers(batch)):
                own = captions[2 * place : 2 * place + 2]
                assert set(own) <= set(examples[number].captions)

    def test_each_image_comes_once_and_in_another_order(self, examples, tokenizer):
        data = loader(examples, tokenizer)
        orders = [
            [number for batch in data.batches(epoch) for number in numbers(batch)]
            for epoch in range(2)
        ]
        assert all(len(set(order)) == 9 for order in orders)
        assert orders[0] != orders[1]

    def test_every_image_comes_at_some_time(self, examples, tokenizer):
        captions = CaptionBatches(examples, tokenizer, LoaderConfig(batch_size=3), mirrored=False)
        seen = {int(row) for epoch in range(10) for batch in captions.rows(epoch) for row in batch}
        assert seen == set(range(IMAGES))

    def test_without_shuffling_all_come_in_order(self, examples, tokenizer):
        data = loader(examples, tokenizer, shuffle=False)
        batches = list(data.batches(0))
        assert [len(batch) for batch in batches] == [3, 3, 3, 2]
        assert len(data) == 4
        assert [number for batch in batches for number in numbers(batch)] == list(range(IMAGES))

    def test_fewer_images_than_a_batch_holds(self, examples, tokenizer):
        data = loader(examples[:2], tokenizer, batch_size=64)
        assert len(data) == 1
        assert [sorted(numbers(batch)) for batch in data.batches(0)] == [[0, 1]]

    def test_no_images(self, tokenizer):
        with pytest.raises(DataError, match="no images"):
            loader([], tokenizer)

    @pytest.mark.parametrize("name", ["batch_size", "captions_per_image", "max_tokens", "seed"])
    def test_a_value_that_is_too_small_is_named(self, name):
        with pytest.raises(ValueError, match=f"{name} is -1; use"):
            LoaderConfig(**{"batch_size": 3, name: -1})


class TestDeterminism:
    AUGMENT = AugmentConfig(crop_scale=0.5, colour=0.2, flip=True)

    def all_of(self, examples, tokenizer, first: int = 0, epoch: int = 0, **options) -> list[Batch]:
        data = loader(examples, tokenizer, augment=self.AUGMENT, **options)
        return list(data.batches(epoch, first))

    def test_threads_make_no_difference(self, examples, tokenizer):
        four = self.all_of(examples, tokenizer, threads=4)
        assert same(self.all_of(examples, tokenizer, threads=1), four)

    @pytest.mark.parametrize("first", [1, 2, 3])
    def test_a_pass_may_begin_anywhere(self, examples, tokenizer, first):
        unbroken = self.all_of(examples, tokenizer, epoch=2)
        assert same(self.all_of(examples, tokenizer, first, epoch=2), unbroken[first:])

    def test_another_seed_or_epoch_gives_other_batches(self, examples, tokenizer):
        batches = self.all_of(examples, tokenizer)
        assert not same(batches, self.all_of(examples, tokenizer, epoch=1))
        assert not same(batches, self.all_of(examples, tokenizer, seed=1))


class TestCaptions:
    def test_drawn_without_replacement_and_in_a_circle(self, examples, tokenizer):
        data = loader(examples, tokenizer, captions_per_image=3, shuffle=False)
        for epoch in range(5):
            lines = [line for batch in data.batches(epoch) for line in said(batch, tokenizer)]
            for number, example in enumerate(examples):
                own = lines[3 * number : 3 * number + 3]
                assert len(set(own)) == min(3, len(example.captions))
                if len(example.captions) == 2:
                    assert own[0] == own[2]

    def test_all_captions_come_at_some_time(self, examples, tokenizer):
        data = loader(examples[3:4], tokenizer, captions_per_image=1)
        lines = {said(batch, tokenizer)[0] for epoch in range(40) for batch in data.batches(epoch)}
        assert lines == set(examples[3].captions)

    def test_start_end_and_padding(self, examples, tokenizer):
        uri = examples[0].uri
        both = [Example(uri, ("a b c",)), Example(uri, ("a",))]
        data = loader(both, tokenizer, shuffle=False, captions_per_image=1)
        (batch,) = data.batches(0)
        a, b, c = tokenizer.encode(["a b c"])[0]
        start, end, pad = tokenizer.start, tokenizer.end, tokenizer.pad
        assert batch.tokens.tolist() == [[start, a, b, c, end], [start, a, end, pad, pad]]

    def test_long_captions_are_cut_without_an_end_and_counted(self, examples, tokenizer, caplog):
        captions = ("a b c", "a b", "a b c d e f")
        example = Example(examples[0].uri, captions)
        data = loader([example], tokenizer, captions_per_image=3, max_tokens=4)
        (batch,) = data.batches(0)
        assert sorted(said(batch, tokenizer)) == ["a b", "a b c", "a b c"]
        assert batch.tokens.shape == (3, 4)
        assert (batch.tokens == tokenizer.end).sum() == 1
        assert data.cut == 2
        assert "2 of 3 captions are cut to 4 tokens" in caplog.text


class TestFlips:
    def test_sides_swap_in_captions_of_mirrored_images(self, examples, tokenizer):
        data = loader(examples, tokenizer, augment=AugmentConfig(flip=True), shuffle=False)
        flips = set()
        for batch in data.batches(0):
            captions = said(batch, tokenizer)
            for place, number in enumerate(numbers(batch)):
                flipped = bool(batch.pixels[place, :, 0].max() == 0)
                flips.add(flipped)
                own = set(examples[number].captions)
                told = {swap_sides(caption) for caption in own} if flipped else own
                assert set(captions[2 * place : 2 * place + 2]) <= told
        assert flips == {True, False}


SIDE = 32
WIDE, HIGH = 96, 64


def scaled(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.NEAREST))


class TestTargets:
    """A white block on black, of which everything is known."""

    AUGMENT = AugmentConfig(crop_scale=0.5, flip=True)

    @pytest.fixture
    def block(self):
        pixels = np.zeros((HIGH, WIDE, 3), np.uint8)
        pixels[16:40, 24:48] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        memory = fsspec.filesystem("memory")
        memory.pipe_file("/block/0.png", buffer.getvalue())
        known = Annotations(
            labels=(Label("block"),),
            boxes=(Box("block", 24, 16, 24, 24),),
            masks=(mask_from_pixels("block", pixels[:, :, 0] > 0),),
        )
        yield Example("memory:///block/0.png", ("a",), known)
        memory.rm("/block", recursive=True)

    def loader(self, examples, tokenizer, *, augment=UNCHANGED, **config) -> ExampleLoader:
        def targets(known, sizes):
            names = {"labels": ["sky", "block"], "boxes": ["block"], "masks": ["sky", "block"]}
            return HeadTargets.of(known, sizes, image_size=SIDE, **names)

        return ExampleLoader(
            examples,
            tokenizer,
            LoaderConfig(batch_size=3, **config),
            prepare=scaled,
            augment=augment,
            targets=targets,
            threads=2,
        )

    def test_they_fit_the_changed_pixels(self, block, tokenizer):
        data = self.loader([block], tokenizer, augment=self.AUGMENT)
        changed = 0
        for epoch in range(30):
            (batch,) = data.batches(epoch)
            white = batch.pixels[0, :, :, 0].numpy() > 0
            mask = batch.targets.masks[0].numpy()
            # Pillow and the targets may round a row's nearest pixel differently.
            assert np.mean((mask == 2) != white) < 0.08
            assert set(np.unique(mask)) <= {0, 2}
            if batch.targets.boxes.shape[1]:
                rows, columns = np.argwhere(white).T
                extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                box = SIDE * batch.targets.boxes[0, 0]
                assert box.tolist() == pytest.approx(extent, abs=1)
            assert batch.targets.labels.tolist() == [[0.0, float(white.any())]]
            changed += not np.array_equal(white[:, :16], white[:, 16:])
        assert changed > 20

    def test_unchanged_they_are_exact(self, block, tokenizer):
        (batch,) = self.loader([block], tokenizer).batches(0)
        white = batch.pixels[0, :, :, 0].numpy() > 0
        assert np.array_equal(batch.targets.masks[0].numpy(), 2 * white)
        assert batch.targets.boxes.tolist() == [[[0.25, 0.25, 0.5, 0.625]]]

    def test_mirrored_and_plain_ones_come(self, block, tokenizer):
        data = self.loader([block], tokenizer, augment=AugmentConfig(flip=True))
        places = {tuple(next(data.batches(epoch)).targets.boxes[0, 0]) for epoch in range(8)}
        assert {tuple(map(float, place)) for place in places} == {
            (0.25, 0.25, 0.5, 0.625),
            (0.5, 0.25, 0.75, 0.625),
        }

    def test_of_an_image_of_which_nothing_is_known(self, block, tokenizer):
        examples = [block, Example(block.uri, ("b",)), Example(block.uri, (), Annotations((), ()))]
        (batch,) = self.loader(examples, tokenizer, shuffle=False).batches(0)
        targets = batch.targets
        assert targets.labels.isnan().all(1).tolist() == [False, True, False]
        assert targets.boxes_known.tolist() == [True, False, True]
        assert (targets.masks == 255).flatten(1).all(1).tolist() == [False, True, True]
        assert targets.classes.tolist() == [[0], [-1], [-1]]

    def test_images_without_captions_have_no_word_to_learn(self, block, tokenizer):
        silent = Example(block.uri, (), block.annotations)
        (batch,) = self.loader([silent], tokenizer, captions_per_image=2).batches(0)
        assert batch.tokens.tolist() == [[tokenizer.start, tokenizer.pad]] * 2
        logits = torch.randn(2, 1, len(tokenizer), requires_grad=True)
        loss = caption_loss(logits, batch.tokens, tokenizer.pad, label_smoothing=0.1)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()
        evenness = doubly_stochastic_loss(torch.rand(2, 1, 4), batch.tokens, tokenizer.pad)
        assert evenness.item() == 0

    def test_beside_others_they_change_nothing(self, block, tokenizer):
        silent = Example(block.uri, (), block.annotations)
        (both,) = self.loader([block, silent], tokenizer, shuffle=False).batches(0)
        (alone,) = self.loader([block], tokenizer, shuffle=False).batches(0)
        assert torch.equal(both.tokens[:1], alone.tokens)
        logits = torch.randn(2, both.tokens.shape[1] - 1, len(tokenizer))
        losses = [
            caption_loss(logits[: len(batch.tokens)], batch.tokens, tokenizer.pad)
            for batch in (both, alone)
        ]
        torch.testing.assert_close(*losses)


class TestBrokenImages:
    @pytest.fixture
    def broken(self, examples):
        memory = fsspec.filesystem("memory")
        memory.pipe_file("/loader/2.png", picture(2)[:-30])
        memory.rm_file("/loader/5.png")
        memory.pipe_file("/loader/7.png", b"no image")
        return examples

    @pytest.mark.parametrize("threads", [1, 4])
    def test_they_are_found_before_training(self, broken, threads):
        good, bad = check(broken, threads=threads)
        assert good == [broken[n] for n in (0, 1, 3, 4, 6, 8, 9, 10)]
        assert list(bad) == [broken[n].uri for n in (2, 5, 7)]
        assert "broken or cut off" in bad[broken[2].uri]
        assert "cannot read memory:///loader/5.png" in bad[broken[5].uri]
        assert "no image: it begins with b'no image'" in bad[broken[7].uri]

    def test_a_jpeg_that_was_cut_off_is_found(self, examples):
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, "JPEG")
        memory = fsspec.filesystem("memory")
        memory.pipe_file("/loader/0.png", buffer.getvalue())
        assert not check(examples[:1])[1]
        memory.pipe_file("/loader/0.png", buffer.getvalue()[:-2000])
        assert check(examples[:1])[1].keys() == {examples[0].uri}

    def test_one_that_breaks_later_is_named(self, examples, tokenizer):
        data = loader(examples, tokenizer, shuffle=False)
        fsspec.filesystem("memory").pipe_file("/loader/4.png", b"no image")
        batches = data.batches(0)
        assert numbers(next(batches)) == [0, 1, 2]
        with pytest.raises(DataError, match="memory:///loader/4.png cannot be decoded"):
            next(batches)


class TestInOrder:
    def test_slow_ones_do_not_change_the_order(self):
        def slow(number: int) -> int:
            time.sleep(0.02 if number % 3 == 0 else 0)
            return number

        assert list(in_order(slow, range(20), threads=4, ahead=6)) == list(range(20))

    def test_no_more_than_asked_for_is_computed_beforehand(self):
        begun = []
        results = in_order(begun.append, range(1000), threads=2, ahead=5)
        next(results)
        time.sleep(0.05)
        assert len(begun) == 6
        results.close()

    def test_threads_end_with_the_iterator(self, examples, tokenizer):
        before = threading.active_count()
        batches = loader(examples, tokenizer, threads=3).batches(0)
        next(batches)
        assert threading.active_count() > before
        batches.close()
        assert threading.active_count() == before
