"""The promises of the design, each by name, on the whole chain with a fake model."""

import os
import pickle
import random
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from captioner.checkpoint import embedded_path
from captioner.contract import DecodingConfig, ModelLoadError
from captioner.images import Limits
from captioner.loading import load
from pipelines import storage
from pipelines.compact import compact
from pipelines.listing import ImageRef
from pipelines.local import RunError
from pipelines.manifest import BalanceError
from pipelines.output import Output
from pipelines.writing import WriteParts
from schemas.identity import image_id
from tests.fakes import FakeCaptioner
from tests.pipelines.helpers import annotate, colour, essence, rows, write_images


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


def spoil(folder: Path) -> dict[str, str]:
    """Add files that fail, and say how each does."""
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"no image at all")
    whole = (folder / "00000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (3_000, 2_000)).save(folder / "vast.png")
    (folder / "heavy.bmp").write_bytes(bytes(300_000))
    return {
        "text.png": "not_an_image",
        "cut.png": "truncated",
        "vast.png": "too_many_pixels",
        "heavy.bmp": "too_large",
    }


class TestPromise1ItBalances:
    def test_listed_is_captioned_and_skipped_and_failed(self, tmp_path: Path, output: Output):
        folder = tmp_path / "in"
        write_images(folder, 20)
        annotate(folder, output)
        write_images(folder, 10, first=20)
        spoil(folder)
        limits = Limits(max_bytes=200_000, max_pixels=1_000_000)
        counts = annotate(folder, output, limits=limits)["counts"]
        assert counts == {
            "listed": 35,
            "captioned": 10,
            "skipped": 20,
            "failed": 5,
            "not_reached": 0,
        }
        assert len(rows(output)) == 30
        assert len(rows(output, "failures")) == 5

    @pytest.mark.parametrize("fault", ["lost", "doubled"])
    def test_a_mismatch_is_an_error(
        self, tmp_path: Path, output: Output, monkeypatch: pytest.MonkeyPatch, fault: str
    ):
        write_images(tmp_path / "in", 5)
        process = WriteParts.process

        def faulty(self, item):
            if item.ref.uri.endswith("00003.png"):
                if fault == "lost":
                    return
                other = replace(item.facts, ref=ImageRef("file:///other", "x:1"))
                item = replace(item, facts=other)
            yield from process(self, item)

        monkeypatch.setattr(WriteParts, "process", faulty)
        with pytest.raises(BalanceError, match="does not balance: 5 images to do"):
            annotate(tmp_path / "in", output)


class TestPromise2ItInventsNothing:
    def test_a_bad_image_has_a_failure_and_no_caption(self, tmp_path: Path, output: Output):
        folder = tmp_path / "in"
        write_images(folder, 3)
        kinds = spoil(folder)
        annotate(folder, output, limits=Limits(max_bytes=200_000, max_pixels=1_000_000))
        failed = {Path(row["uri"]).name: row for row in rows(output, "failures")}
        assert {name: failed[name]["kind"] for name in kinds} == kinds
        assert "empty.jpg" in failed
        assert all(row["message"] and row["stage"] for row in failed.values())
        captioned = {Path(row["uri"]).name for row in rows(output)}
        assert captioned == {"00000.png", "00001.png", "00002.png"}

    def test_an_image_that_went_away_or_changed_is_no_other_images_caption(
        self, tmp_path: Path, output: Output
    ):
        paths = write_images(tmp_path / "in", 4)

        def disturb(refs):
            paths[1].unlink()
            Image.new("RGB", (90, 90), (1, 2, 3)).save(paths[2])
            return refs

        annotate(tmp_path / "in", output, change=disturb)
        failed = {Path(row["uri"]).name: row["kind"] for row in rows(output, "failures")}
        assert failed == {"00001.png": "not_found", "00002.png": "changed"}


class TestPromise3ARerunIsFreeAndSafe:
    def test_a_second_run_captions_nothing(self, tmp_path: Path, output: Output):
        write_images(tmp_path / "in", 12)
        annotate(tmp_path / "in", output)
        before = rows(output)
        captioner = FakeCaptioner()
        counts = annotate(tmp_path / "in", output, captioner)["counts"]
        assert (counts["skipped"], counts["captioned"]) == (12, 0)
        assert captioner.batches == []
        assert rows(output) == before

    def test_only_new_changed_and_failed_images_run_again(self, tmp_path: Path, output: Output):
        paths = write_images(tmp_path / "in", 6)
        paths[5].write_bytes(b"broken")
        annotate(tmp_path / "in", output)
        assert [row["attempt"] for row in rows(output, "failures")] == [1]
        annotate(tmp_path / "in", output)
        assert [row["attempt"] for row in rows(output, "failures")] == [2]
        Image.new("RGB", (12, 10), (9, 9, 9)).save(paths[0])
        Image.new("RGB", (12, 10), (8, 8, 8)).save(paths[5])
        write_images(tmp_path / "in", 1, first=6)
        counts = annotate(tmp_path / "in", output)["counts"]
        assert (counts["captioned"], counts["skipped"]) == (3, 4)
        captions = {Path(row["uri"]).name: row["caption"] for row in rows(output)}
        assert len(captions) == len(rows(output)) == 7
        assert captions["00000.png"] == "r9 g9 b9"
        assert rows(output, "failures") == []

    def test_another_model_and_another_decoding_get_rows_of_their_own(
        self, tmp_path: Path, output: Output
    ):
        write_images(tmp_path / "in", 4)
        annotate(tmp_path / "in", output)
        annotate(tmp_path / "in", output, FakeCaptioner(model_id="fake@2"))
        annotate(tmp_path / "in", output, FakeCaptioner(decoding=DecodingConfig(draft=True)))
        keys = {(row["uri"], row["model_id"], row["decoding"]) for row in rows(output)}
        assert len(keys) == len(rows(output)) == 12

    @pytest.mark.parametrize("crash_at", range(1, 9))
    def test_a_crash_at_any_write_leaves_nothing_lost_or_doubled(
        self, tmp_path: Path, output: Output, monkeypatch: pytest.MonkeyPatch, crash_at: int
    ):
        """The store dies at the n-th write or removal, for every n of a run that replaces rows."""
        folder = tmp_path / "in"
        paths = write_images(folder, 8)
        paths[7].write_bytes(b"broken")
        annotate(folder, output, part_rows=3)
        Image.new("RGB", (12, 10), (9, 9, 9)).save(paths[0])
        Image.new("RGB", (12, 10), (8, 8, 8)).save(paths[7])
        write_images(folder, 2, first=8)
        calls = iter(range(1, 1_000))

        class Crash(Exception):
            pass

        def dying(function):
            def call(uri, *args):
                if "lease" not in uri and "runs/" not in uri and next(calls) >= crash_at:
                    raise Crash
                return function(uri, *args)

            return call

        with monkeypatch.context() as patch:
            for name in ("write_bytes_atomically", "remove"):
                patch.setattr(storage, name, dying(getattr(storage, name)))
            with pytest.raises((Crash, RunError)):
                annotate(folder, output, part_rows=3)
        annotate(folder, output, part_rows=3)
        unbroken = Output((tmp_path / "unbroken").as_uri())
        annotate(folder, unbroken)
        assert essence(output) == essence(unbroken)
        assert rows(output, "failures") == []
        named = {file.path for files in output.current().files.values() for file in files}
        for table in ("captions", "failures"):
            on_disk = storage.list_files(output.path(table))
            assert {f"{table}/{file.uri.rpartition('/')[2]}" for file in on_disk} <= named
        assert storage.list_files(output.path("staging")) == []


class TestPromise4PixelsStayPut:
    """That none cross a shuffle on Dataflow either is in ``test_dataflow.py``."""

    def test_memory_is_bounded_by_the_batch_and_not_by_the_data(
        self, tmp_path: Path, output: Output
    ):
        write_images(tmp_path / "in", 600)
        captioner = FakeCaptioner(image_size=(512, 512))  # 470 MB of pixels in all
        tracemalloc.start()
        try:
            annotate(tmp_path / "in", output, captioner, batch_size=16)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(rows(output, "captions", "uri")) == 600
        assert peak < 150e6


class TestPromise5ACaptionDependsOnItsImageAlone:
    @pytest.mark.parametrize(
        ("batch_size", "wave_images", "shuffled"), [(1, 1_000, False), (7, 1_000, True)]
    )
    def test_not_on_batch_order_or_wave(
        self, tmp_path: Path, batch_size: int, wave_images: int, shuffled: bool
    ):
        write_images(tmp_path / "in", 40)
        reference = Output((tmp_path / "reference").as_uri())
        annotate(tmp_path / "in", reference)

        def shuffle(refs):
            return random.Random(1).sample(refs, len(refs)) if shuffled else refs

        other = Output((tmp_path / "other").as_uri())
        annotate(
            tmp_path / "in", other, change=shuffle, batch_size=batch_size, wave_images=wave_images
        )
        assert essence(other) == essence(reference)

    def test_each_caption_is_its_own_images(self, tmp_path: Path, output: Output):
        paths = write_images(tmp_path / "in", 70)
        annotate(tmp_path / "in", output, batch_size=16)
        for index, row in enumerate(rows(output)):
            red, green, blue = colour(index)
            assert row["caption"] == f"r{red} g{green} b{blue}"
            assert row["image_id"] == image_id(paths[index].read_bytes())


class TestPromise8OnePoisonImageCostsOneImage:
    def test_an_error_in_a_batch(self, tmp_path: Path, output: Output):
        paths = write_images(tmp_path / "in", 33)
        Image.new("RGB", (12, 10), (255, 0, 0)).save(paths[20])
        annotate(tmp_path / "in", output, FakeCaptioner(poison=255), batch_size=16)
        (failure,) = rows(output, "failures")
        assert failure["uri"].endswith("00020.png")
        assert (failure["kind"], failure["stage"]) == ("model_error", "caption")
        assert "poison" in failure["message"]
        assert len(rows(output)) == 32

    def test_out_of_memory_shrinks_the_batch_and_loses_nothing(
        self, tmp_path: Path, output: Output
    ):
        write_images(tmp_path / "in", 64)
        captioner = FakeCaptioner(most=5)
        annotate(tmp_path / "in", output, captioner, batch_size=16)
        assert len(rows(output)) == 64
        assert [size for size in captioner.batches if size > 5] == [16, 8, 8]  # the first only

    def test_an_image_too_large_alone_fails_alone(self, tmp_path: Path, output: Output):
        write_images(tmp_path / "in", 3)
        annotate(tmp_path / "in", output, FakeCaptioner(most=0))
        assert [row["kind"] for row in rows(output, "failures")] == ["out_of_memory"] * 3


class TestPromise9NothingRunsCodeThatCameWithData:
    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
    def test_a_pickle_in_place_of_weights(self, tmp_path: Path, name: str):
        class Payload:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "it-ran",))

        folder = shutil.copytree(embedded_path(), tmp_path / "model")
        if name != "model.safetensors":
            (folder / "model.safetensors").unlink()
            (folder / "config.json").write_text('{"model_type": "blip"}')
        (folder / name).write_bytes(pickle.dumps(Payload()))
        with pytest.raises(ModelLoadError):
            load(str(folder), "cpu")
        assert not (tmp_path / "it-ran").exists()


class TestWaves:
    def test_each_wave_ends_in_a_commit(self, tmp_path: Path, output: Output):
        write_images(tmp_path / "in", 2_300)
        manifest = annotate(tmp_path / "in", output, wave_images=1_000)
        waves = [commit["captioned"]["count"] for commit in manifest["commits"].values()]
        assert waves == [1_000, 1_000, 300]
        assert manifest["counts"]["captioned"] == len(rows(output, "captions", "uri")) == 2_300

    def test_a_wave_that_breaks_leaves_the_waves_before_it(
        self, tmp_path: Path, output: Output, monkeypatch: pytest.MonkeyPatch
    ):
        write_images(tmp_path / "in", 1_500)
        setup = WriteParts.setup
        monkeypatch.setattr(
            WriteParts,
            "setup",
            lambda self: setup(self) if not output.current().files else 1 / 0,
        )
        with pytest.raises(RunError, match="ZeroDivisionError.*What was finished is committed"):
            annotate(tmp_path / "in", output, wave_images=1_000)
        assert len(rows(output, "captions", "uri")) == 1_000
        monkeypatch.undo()
        counts = annotate(tmp_path / "in", output, wave_images=1_000)["counts"]
        assert (counts["skipped"], counts["captioned"]) == (1_000, 500)


class TestOutput:
    def test_names_survive(self, tmp_path: Path, output: Output):
        folder = tmp_path / "in"
        names = [
            "a b.png",
            "100%.png",
            "#1.png",
            "é中.png",
            "q?.png",
            "[x].png",
            "a::b.png",
            "n\nl.png",
        ]
        write_images(folder, len(names))
        for name, path in zip(names, sorted(folder.iterdir()), strict=True):
            path.rename(folder / name)
        annotate(folder, output)
        assert sorted(row["uri"] for row in rows(output)) == sorted(
            f"file://{folder}/{name}" for name in names
        )

    def test_two_images_of_the_same_bytes_both_get_their_row(self, tmp_path: Path, output: Output):
        (path,) = write_images(tmp_path / "in", 1)
        shutil.copy(path, path.with_name("copy.png"))
        annotate(tmp_path / "in", output)
        assert len({row["image_id"] for row in rows(output)}) == 1
        assert len(rows(output)) == 2

    def test_parts_are_capped(self, tmp_path: Path, output: Output):
        write_images(tmp_path / "in", 50)
        annotate(tmp_path / "in", output, part_rows=20)
        assert [file.rows for file in output.current().of("captions")].count(20) == 2
        before = rows(output)
        assert compact(output, 10_000_000) == (3, 1)
        assert rows(output) == before
        assert len(os.listdir(tmp_path / "out" / "captions")) == 1
