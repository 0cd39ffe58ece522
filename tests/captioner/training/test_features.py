import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from captioner.tokenizer import CaptionTokenizer
from captioner.training import features
from captioner.training.augment import AugmentConfig, swap_sides
from captioner.training.captions import LoaderConfig
from captioner.training.features import FeatureCache, ViewConfig, cache_features
from captioner.training.loader import ExampleLoader, FeatureLoader
from captioner.training.sources import DataError, Example

IMAGES = 7
ALL = ViewConfig(views=3, augment=AugmentConfig(crop_scale=0.5, colour=0.2, flip=True), seed=5)
MIRRORS = ViewConfig(views=4, augment=AugmentConfig(flip=True))


def write(path: Path, number: int) -> None:
    """Write an image whose left half tells its number, and whose right half is black."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 30 * number + 10
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def examples(tmp_path) -> list[Example]:
    for number in range(IMAGES):
        write(tmp_path / f"{number}.png", number)
    return [
        Example(f"file://{tmp_path}/{number}.png", (f"{number} left", f"{number} to the left"))
        for number in range(IMAGES)
    ]


@pytest.fixture
def tokenizer(examples) -> CaptionTokenizer:
    texts = [caption for example in examples for caption in example.captions]
    return CaptionTokenizer.train([*texts, "right"])


def prepare(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((4, 4), Image.Resampling.NEAREST))


class Encoder:
    """Gives rows of pixels as positions; counts the pictures that it sees, and may break off."""

    def __init__(self, breaks_at: int = 1000) -> None:
        self.seen = 0
        self._breaks_at = breaks_at

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        self.seen += len(pixels)
        if self.seen > self._breaks_at:
            raise KeyboardInterrupt
        return torch.from_numpy(pixels).flatten(2).float() / 255


def cached(folder: Path, examples, encoder=None, encoder_id="e", config=ALL, **options):
    return cache_features(
        folder / "cache",
        examples,
        encoder or Encoder(),
        encoder_id,
        prepare=prepare,
        config=config,
        **{"batch_size": 6, "threads": 2, **options},
    )


class TestCache:
    def test_the_first_view_is_plain(self, tmp_path, examples):
        cache = cached(tmp_path, examples)
        assert cache.features.shape == (IMAGES * 3, 4, 12)
        assert cache.features.dtype == np.float16
        assert not cache.flipped[::3].any()
        for number in range(IMAGES):
            plain = prepare(Image.open(tmp_path / f"{number}.png")).reshape(4, 12) / 255
            assert np.array_equal(cache.features[3 * number], plain.astype(np.float16))

    def test_other_views_are_changed(self, tmp_path, examples):
        cache = cached(tmp_path, examples)
        views = [
            {cache.features[3 * number + view].tobytes() for view in range(3)}
            for number in range(IMAGES)
        ]
        # In a picture so small two changes may come to the same.
        assert sum(map(len, views)) > 2.5 * IMAGES

    def test_which_views_are_mirrored_is_recorded(self, tmp_path, examples):
        cache = cached(tmp_path, examples, config=MIRRORS)
        mirrored = cache.features[:, 0, :3].max(1) == 0  # the dark half comes first
        assert np.array_equal(mirrored, cache.flipped)
        assert 0 < mirrored.sum() < IMAGES * 3

    def test_computed_once(self, tmp_path, examples):
        encoder = Encoder()
        first = cached(tmp_path, examples, encoder)
        again = cached(tmp_path, examples, encoder, threads=1, batch_size=2)
        assert encoder.seen == IMAGES * 3
        assert np.array_equal(first.features, again.features)
        assert isinstance(again.features, np.memmap)

    def test_neither_threads_nor_batches_matter(self, tmp_path, examples):
        one = cached(tmp_path / "a", examples, threads=1, batch_size=1)
        other = cached(tmp_path / "b", examples, threads=4, batch_size=100)
        assert np.array_equal(one.features, other.features)

    @pytest.mark.parametrize("change", ["encoder", "config", "image", "examples", "order"])
    def test_computed_anew_when_what_it_depends_on_changes(self, tmp_path, examples, change):
        options = {}
        cached(tmp_path, examples)
        if change == "encoder":
            options["encoder_id"] = "f"
        elif change == "config":
            options["config"] = ViewConfig(views=3, augment=ALL.augment, seed=6)
        elif change == "image":
            write(tmp_path / "3.png", 0)
        else:
            examples = examples[:4] if change == "examples" else examples[::-1]
        encoder = Encoder()
        cache = cached(tmp_path, examples, encoder, **options)
        assert encoder.seen == len(cache.features) == len(examples) * 3

    def test_other_features_are_left_alone(self, tmp_path, examples):
        encoder = Encoder()
        for encoder_id in ("e", "f", "e"):
            cached(tmp_path, examples, encoder, encoder_id)
        assert encoder.seen == 2 * IMAGES * 3

    def test_goes_on_where_it_was_interrupted(self, tmp_path, examples, monkeypatch):
        monkeypatch.setattr(features, "_SAVE_EVERY_SECONDS", -1.0)
        whole = cached(tmp_path / "whole", examples)
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path, examples, Encoder(breaks_at=12))
        assert not list(tmp_path.glob("cache/*/features.npy"))
        encoder = Encoder()
        cache = cached(tmp_path, examples, encoder)
        assert encoder.seen == IMAGES * 3 - 12
        assert np.array_equal(cache.features, whole.features)
        assert np.array_equal(cache.flipped, whole.flipped)
        assert sorted(p.name for p in tmp_path.glob("cache/*/*")) == ["features.npy", "flipped.npy"]

    def test_begins_anew_where_nothing_was_saved(self, tmp_path, examples):
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path, examples, Encoder(breaks_at=12))
        encoder = Encoder()
        cached(tmp_path, examples, encoder)
        assert encoder.seen == IMAGES * 3

    def test_a_count_of_features_that_are_gone_is_not_believed(
        self, tmp_path, examples, monkeypatch
    ):
        cached(tmp_path, examples)
        (path,) = tmp_path.glob("cache/*/features.npy")
        path.unlink()
        (path.parent / "done.json").write_text("6")
        with pytest.raises(KeyboardInterrupt):
            cached(tmp_path, examples, Encoder(breaks_at=6))
        encoder = Encoder()
        cached(tmp_path, examples, encoder)
        assert encoder.seen == IMAGES * 3

    def test_a_broken_image_is_named(self, tmp_path, examples):
        (tmp_path / "3.png").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"3\.png cannot be decoded"):
            cached(tmp_path, examples)

    @pytest.mark.parametrize(
        ("encode", "said"),
        [
            (lambda pixels: torch.full((len(pixels), 2, 3), 1e5), "not finite in float16"),
            (lambda pixels: torch.zeros(len(pixels), 3), r"\(6, 3\) of 6 pictures"),
            (lambda pixels: torch.zeros(1, 2, 3), r"\(1, 2, 3\) of 6 pictures"),
        ],
    )
    def test_features_that_cannot_be_kept(self, tmp_path, examples, encode, said):
        with pytest.raises(ValueError, match=said):
            cached(tmp_path, examples, encode)

    def test_too_little_room_is_said_before_it_runs_out(self, tmp_path, examples, monkeypatch):
        usage = shutil._ntuple_diskusage(10, 10, 2 * IMAGES * 3 * 4 * 12 - 1)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(DataError, match="use fewer views"):
            cached(tmp_path, examples)

    def test_a_damaged_cache_is_not_used(self, tmp_path, examples):
        cached(tmp_path, examples)
        (path,) = tmp_path.glob("cache/*/features.npy")
        np.save(path, np.zeros((2, 4, 12), np.float16))
        with pytest.raises(DataError, match="are damaged; delete that folder"):
            cached(tmp_path, examples)

    @pytest.mark.parametrize(
        "wrong", [{"views": 0}, {"views": 2}, {"augment": AugmentConfig(flip=True)}]
    )
    def test_views_that_would_be_alike(self, wrong):
        with pytest.raises(ValueError, match="views is"):
            ViewConfig(**wrong)


class TestLoader:
    CONFIG = LoaderConfig(batch_size=3, captions_per_image=2)

    @pytest.fixture
    def cache(self, tmp_path, examples) -> FeatureCache:
        return cached(tmp_path, examples, config=MIRRORS)

    def number(self, memory: torch.Tensor) -> int:
        return round((float(memory.max()) * 255 - 10) / 30)

    def test_captions_go_with_the_view(self, cache, examples, tokenizer):
        flips = set()
        loader = FeatureLoader(cache, examples, tokenizer, self.CONFIG)
        for batch in (batch for epoch in range(4) for batch in loader.batches(epoch)):
            assert batch.pixels is None
            assert batch.memory.shape == (3, 4, 12)
            assert batch.memory.dtype == torch.float16
            lines = [[tokenizer.word(t) for t in line] for line in batch.tokens.tolist()]
            for place, memory in enumerate(batch.memory):
                flipped = bool(memory[0, :3].max() == 0)
                flips.add(flipped)
                captions = examples[self.number(memory)].captions
                told = {swap_sides(caption) if flipped else caption for caption in captions}
                own = {tokenizer.text(line) for line in lines[2 * place : 2 * place + 2]}
                assert own == told
        assert flips == {True, False}

    def test_all_views_come_at_some_time(self, tmp_path, examples, tokenizer):
        cache = cached(tmp_path, examples)
        loader = FeatureLoader(cache, examples, tokenizer, LoaderConfig(batch_size=IMAGES))
        seen = {m.numpy().tobytes() for e in range(30) for b in loader.batches(e) for m in b.memory}
        assert seen == {view.tobytes() for view in cache.features}

    def test_without_shuffling_only_plain_views_in_order(self, cache, examples, tokenizer):
        config = LoaderConfig(batch_size=3, shuffle=False)
        loader = FeatureLoader(cache, examples, tokenizer, config)
        memory = torch.cat([batch.memory for batch in loader.batches(0)])
        assert np.array_equal(memory, cache.features[::4])
        assert len(loader) == 3

    def test_a_pass_may_begin_anywhere(self, cache, examples, tokenizer):
        loader = FeatureLoader(cache, examples, tokenizer, self.CONFIG)
        unbroken, rest = list(loader.batches(3)), list(loader.batches(3, first=1))
        assert len(unbroken) == len(loader) == len(rest) + 1 == 2
        assert torch.equal(unbroken[1].memory, rest[0].memory)
        assert torch.equal(unbroken[1].tokens, rest[0].tokens)

    def test_the_same_captions_as_with_pixels(self, tmp_path, examples, tokenizer):
        cache = cached(tmp_path, examples, config=ViewConfig())
        of_features = FeatureLoader(cache, examples, tokenizer, self.CONFIG).batches(2)
        pixels = ExampleLoader(examples, tokenizer, self.CONFIG, prepare=prepare).batches(2)
        for one, other in zip(of_features, pixels, strict=True):
            assert torch.equal(one.tokens, other.tokens)
            assert torch.equal(one.memory, Encoder()(other.pixels.numpy()).half())

    def test_a_cache_of_other_images(self, cache, examples, tokenizer):
        with pytest.raises(ValueError, match="has 28 features, 4 of an image, but there are 6"):
            FeatureLoader(cache, examples[:6], tokenizer, self.CONFIG)
