"""The command as a person runs it: real processes, the embedded model, real stores."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from captioner.scenes import write_folder
from pipelines.output import Lease, Output
from tests.pipelines.helpers import rows
from tests.servers import ObjectStore

COUNT = 240
SMALL_PARTS = (
    "import functools, pipelines.job as job; from pipelines.cli import run;"
    "job.AnnotateConfig = functools.partial(job.AnnotateConfig, part_rows=20, batch_size=8); run()"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_folder(str(folder), count=COUNT, seed=5)
    return folder


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    output = Output((tmp_path_factory.mktemp("unbroken") / "out").as_uri())
    done = captioner("annotate", "--input", images, "--output", output.uri)
    assert done.returncode == 0, done.stderr
    return output


def captioner(*arguments: object, **settings: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, **settings
    )


class Slow:
    """A run in a process group of its own, with small parts, that can be hit half way."""

    def __init__(self, images: Path, output: Output, tmp: Path, *flags: str) -> None:
        command = [sys.executable, "-c", SMALL_PARTS, "annotate", "--input", str(images)]
        command += ["--output", output.uri, *flags]
        tmp.mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(tmp)}
        self._tmp = tmp
        self._staging = Path(output.uri.removeprefix("file://")) / "staging"
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_parts(self, count: int = 2) -> None:
        deadline = time.monotonic() + 120
        while len(list(self._staging.glob("*.parquet"))) < count:
            assert self.process.poll() is None, "it ended before it could be hit"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def hit(self, number: signal.Signals) -> str:
        """Signal the whole group, as a terminal does, and return what was said."""
        os.killpg(self.process.pid, number)
        return self.process.communicate(timeout=120)[1]


MULTI = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


class TestBrokenRuns:
    @pytest.mark.parametrize("flags", [(), MULTI], ids=["one process", "two processes"])
    def test_killed_half_way_and_run_again(
        self, images: Path, unbroken: Output, tmp_path: Path, flags: tuple[str, ...]
    ):
        output = Output((tmp_path / "out").as_uri())
        run = Slow(images, output, tmp_path / "tmp", *flags)
        run.wait_for_parts()
        run.hit(signal.SIGKILL)
        assert rows(output) == []
        again = captioner("annotate", "--input", images, "--output", output.uri)
        assert again.returncode == 0, again.stderr
        assert essence_of_caption(output) == close_to(unbroken)
        (manifest,) = manifests(output, "done")
        assert manifest["counts"]["skipped"] >= 40  # what the killed run had staged
        assert manifest["counts"]["listed"] == COUNT

    @pytest.mark.parametrize("flags", [(), MULTI], ids=["one process", "two processes"])
    def test_stopped_half_way_and_run_again(
        self, images: Path, unbroken: Output, tmp_path: Path, flags: tuple[str, ...]
    ):
        output = Output((tmp_path / "out").as_uri())
        run = Slow(images, output, tmp_path / "tmp", *flags)
        run.wait_for_parts()
        started = time.monotonic()
        said = run.hit(signal.SIGINT)
        assert run.process.returncode == 130, said
        assert time.monotonic() - started < 20
        assert "Run the same command again to do the rest" in said
        (manifest,) = manifests(output, "stopped")
        counts = manifest["counts"]
        assert counts["not_reached"] > 0
        assert counts["captioned"] == len(rows(output)) >= 40
        assert counts["captioned"] + counts["not_reached"] == COUNT
        again = captioner("annotate", "--input", images, "--output", output.uri)
        assert again.returncode == 0, again.stderr
        assert essence_of_caption(output) == close_to(unbroken)

    def test_two_processes_give_the_same_rows(self, images: Path, unbroken: Output, tmp_path: Path):
        output = Output((tmp_path / "out").as_uri())
        done = captioner("annotate", "--input", images, "--output", output.uri, *MULTI)
        assert done.returncode == 0, done.stderr
        assert essence_of_caption(output) == close_to(unbroken)

    def test_a_portable_runner_gives_the_same_rows(
        self, images: Path, unbroken: Output, tmp_path: Path
    ):
        """The one graph that Dataflow runs too, listing and balance included."""
        output = Output((tmp_path / "out").as_uri())
        flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"]
        done = captioner("annotate", "--input", images, "--output", output.uri, *flags)
        assert done.returncode == 0, done.stderr
        assert essence_of_caption(output) == close_to(unbroken)
        (manifest,) = manifests(output, "done")
        assert manifest["counts"]["captioned"] == manifest["counts"]["listed"] == COUNT
        again = captioner("annotate", "--input", images, "--output", output.uri, *flags)
        assert again.returncode == 0, again.stderr
        assert len(rows(output)) == COUNT


class TestStores:
    @pytest.mark.parametrize("server", ["gcs_emulator", "s3_server"])
    def test_in_and_out_of_a_bucket(
        self, server: str, images: Path, unbroken: Output, request: pytest.FixtureRequest
    ):
        store: ObjectStore = request.getfixturevalue(server)
        filesystem = fsspec.filesystem(store.protocol)
        names = ["a b.png", "100%.png", "é中.png", "deep/er/+.png"]
        sources = sorted(images.glob("*.jpg"))
        for name, path in zip(names, sources, strict=False):
            filesystem.pipe_file(f"{store.bucket}/job/in/{name}", path.read_bytes())
        inputs, uri = f"{store.root}/job/in", f"{store.root}/job/out"
        first = captioner("annotate", "--input", inputs, "--output", uri, "--review_below", "1")
        assert first.returncode == 0, first.stderr
        again = captioner("annotate", "--input", inputs, "--output", uri, "--review_below", "1")
        assert again.returncode == 0, again.stderr
        assert "all 4 images have their captions already" in again.stderr
        filesystem.invalidate_cache()
        found = {row["uri"].removeprefix(f"{inputs}/"): row["caption"] for row in rows(Output(uri))}
        expected = {Path(row["uri"]).name: row["caption"] for row in rows(unbroken)}
        assert found == {
            name: expected[path.name] for name, path in zip(names, sources, strict=False)
        }
        assert len(rows(Output(uri), "review")) == 4

    def test_a_bucket_that_is_not_there(self, gcs_emulator: ObjectStore, tmp_path: Path):
        done = captioner("annotate", "--input", "gs://no-such-bucket/x", "--output", tmp_path)
        assert done.returncode == 2
        assert "gs://no-such-bucket/x" in done.stderr


class TestBadInput:
    def test_an_empty_folder(self, tmp_path: Path):
        (tmp_path / "in").mkdir()
        done = captioner("annotate", "--input", tmp_path / "in", "--output", tmp_path / "out")
        assert done.returncode == 0
        assert "no images in" in done.stderr

    def test_a_folder_that_is_not_there(self, tmp_path: Path):
        done = captioner("annotate", "--input", tmp_path / "in", "--output", tmp_path / "out")
        assert done.returncode == 2
        assert str(tmp_path / "in") in done.stderr
        assert "Traceback" not in done.stderr

    def test_too_many_failures(self, tmp_path: Path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").write_bytes(b"not an image")
        flags = ["--input", tmp_path / "in", "--output", tmp_path / "out"]
        assert captioner("annotate", *flags).returncode == 3
        assert captioner("annotate", *flags, "--max_failure_rate", "1").returncode == 0

    def test_an_output_that_cannot_be_written(self, images: Path, tmp_path: Path):
        (tmp_path / "file").write_text("in the way")
        done = captioner("annotate", "--input", images, "--output", tmp_path / "file" / "out")
        assert done.returncode == 1
        assert str(tmp_path / "file") in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_model_that_is_not_there(self, images: Path, tmp_path: Path):
        flags = ["--input", images, "--output", tmp_path / "out", "--model", tmp_path / "model"]
        done = captioner("annotate", *flags)
        assert done.returncode == 2
        assert str(tmp_path / "model") in done.stderr
        assert "Traceback" not in done.stderr

    def test_an_output_that_another_run_writes(self, images: Path, tmp_path: Path):
        output = Output((tmp_path / "out").as_uri())
        with Lease(output, "first"):
            second = captioner("annotate", "--input", images, "--output", output.uri)
        assert second.returncode == 1
        assert f"run first (process {os.getpid()} on" in second.stderr

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--dry_run=True"], "--dry_run is for --runner DataflowRunner"),
            (["--min_ram", "plenty"], "--min_ram 'plenty'"),
            (["--top_k", "3"], "--top_k is for --strategy sample; add it, or leave it out"),
            (["--strategy", "beam", "--beam_size", "65"], "--beam_size is 65; use 1 to 64"),
            (["--runner", "PortableRunner", "--limit", "3"], "--limit works for runs in this"),
            (["--model", "https://user:hunter2@host/model"], "carries"),
            (["--input", "zip://no-archive.zip"], "zip://no-archive.zip"),
            (["--output", "https://host/out"], "cannot be written"),
            (["--guarantee", "accuracy>=0.9 @ 0.9", "--audit", "0"], "needs an audit"),
            (["--review_rules", "no.yaml"], "no.yaml cannot be read"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_leaves_nothing(
        self, images: Path, tmp_path: Path, flags: list[str], said: str
    ):
        done = captioner("annotate", "--input", images, "--output", tmp_path / "out", *flags)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "hunter2" not in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()

    def test_captions_decoded_in_another_way_are_rows_of_their_own(
        self, images: Path, tmp_path: Path
    ):
        output = Output((tmp_path / "out").as_uri())
        flags = ["--input", images, "--output", output.uri, "--limit", 6]
        assert captioner("annotate", *flags).returncode == 0
        beam = [*flags, "--strategy", "beam", "--beam_size", "4", "--forbidden_words", "a"]
        assert captioner("annotate", *beam).returncode == 0
        greedy, searched = (
            [row for row in rows(output) if row["decoding"] == decoding]
            for decoding in dict.fromkeys(row["decoding"] for row in rows(output))
        )
        if len(greedy[0]["n_best"]) > 1:
            greedy, searched = searched, greedy
        assert len(greedy) == len(searched) == 6
        for row in searched:
            assert len(row["n_best"]) == 4
            assert row["n_best"][0]["caption"] == row["caption"]
            assert "a" not in row["caption"].split()

    def test_a_rerun_over_few_old_failures_is_no_alarm(self, images: Path, tmp_path: Path):
        (tmp_path / "in").mkdir()
        for path in sorted(images.glob("*.jpg"))[:15]:
            shutil.copy(path, tmp_path / "in")
        (tmp_path / "in" / "a.png").write_bytes(b"not an image")
        flags = ["--input", tmp_path / "in", "--output", tmp_path / "out"]
        assert captioner("annotate", *flags).returncode == 0
        assert captioner("annotate", *flags).returncode == 0

    def test_a_budget_above_the_data_set_costs_no_caption(self, images: Path, tmp_path: Path):
        output = Output((tmp_path / "out").as_uri())
        flags = ["--output", output.uri, "--limit", 6, "--review_budget", 7]
        done = captioner("annotate", "--input", images, *flags)
        assert done.returncode == 2, done.stderr
        assert "budget is 7, but there are only 6 captions" in done.stderr
        row = rows(output)[0]
        kind = f"--model_id {row['model_id']} --decoding {row['decoding']}"
        advice = done.stderr.strip().splitlines()[-1].strip()
        assert advice == f"captioner review plan {output.uri} --review_budget 5% {kind}"
        assert len(rows(output)) == 6

    def test_credentials_are_refused_and_not_repeated(self, tmp_path: Path):
        secret = "https://user:hunter2@host/x.jpg?X-Amz-Signature=abcdef0123"
        for flags in (
            ["--input", secret, "--output", tmp_path],
            ["--input", tmp_path, "--output", secret],
        ):
            done = captioner("annotate", *flags)
            assert done.returncode == 2
            assert "hunter2" not in done.stderr + done.stdout
            assert "abcdef0123" not in done.stderr + done.stdout


class TestReaders:
    """The output needs none of our code to be read."""

    def test_pandas_duckdb_and_datasets(self, unbroken: Output, tmp_path: Path):
        import datasets
        import duckdb
        import pandas as pd

        folder = unbroken.uri.removeprefix("file://") + "/captions"
        captions = sorted(row["caption"] for row in rows(unbroken))
        frame = pd.read_parquet(folder)
        assert sorted(frame["caption"]) == captions
        query = f"select caption, features.logprob_mean from '{folder}/*.parquet' order by caption"
        found = duckdb.sql(query).fetchall()
        assert [caption for caption, _ in found] == captions
        dataset = datasets.load_dataset(
            "parquet", data_files=f"{folder}/*.parquet", cache_dir=str(tmp_path), split="train"
        )
        assert sorted(dataset["caption"]) == captions


def essence_of_caption(output: Output) -> list[tuple[object, ...]]:
    """What promise 5 says is the same on every runner: the tokens to the letter, and the rest."""
    return [
        (row["uri"], row["uri_version"], row["image_id"], row["caption"], tuple(row["tokens"]))
        + (row["confidence"],)
        for row in rows(output)
    ]


def close_to(output: Output) -> list[tuple[object, ...]]:
    """Return the same of an output, as what another's may differ from by what promise 5 allows."""
    captions = essence_of_caption(output)
    return [(*rest, pytest.approx(confidence, abs=1e-5)) for *rest, confidence in captions]


def manifests(output: Output, status: str) -> Iterator[dict[str, object]]:
    folder = Path(output.uri.removeprefix("file://")) / "runs"
    found = [json.loads(path.read_text()) for path in sorted(folder.iterdir())]
    return iter([manifest for manifest in found if manifest["status"] == status][:1])
