"""What `doctor` sees of inputs, output and disks, on a disk and in real object stores."""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from pipelines import folders, storage
from pipelines.cli import main
from pipelines.doctor import files
from pipelines.doctor.checks import Finding, Mark, run
from pipelines.folders import Entry
from pipelines.output import Lease, Output
from pipelines.storage import StorageError, StoredFile
from schemas.kinds import FailureKind
from tests.pipelines.helpers import write_images
from tests.pipelines.planned import add, captions
from tests.servers import ObjectStore, clear_filesystems, environment


def look_at_input(text: str) -> tuple[str | None, Finding]:
    """Run the check of an input; return what it hands on and what it found."""
    image: Future[str | None] = Future()
    (finding,) = run([[files.input_check(text, image)]], lambda subject, finding: None)
    return image.result(timeout=0), finding


def look_at_output(output: Output) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    run(files.output_checks(output), lambda subject, finding: found.update({subject: finding}))
    return found


def marks(found: dict[str, Finding]) -> set[Mark]:
    return {finding.mark for finding in found.values()}


class TestInput:
    def test_the_first_image_is_read(self, tmp_path: Path) -> None:
        (first, _) = write_images(tmp_path, 2)
        image, found = look_at_input(str(tmp_path))
        assert image == f"file://{first}"
        assert found.mark is Mark.OK
        assert f"file://{first}: PNG, 12 x 10, {first.stat().st_size} bytes" in found.found

    def test_a_broken_image_before_it_is_a_warning(self, tmp_path: Path) -> None:
        (good,) = write_images(tmp_path, 1)
        (tmp_path / "00000-a.jpg").write_bytes(b"no image")
        image, found = look_at_input(str(tmp_path))
        assert image == f"file://{good}"
        assert found.mark is Mark.WARNING
        assert "not the 1 before it: no image" in found.found

    def test_none_that_can_be_read(self, tmp_path: Path) -> None:
        for name in "abcd":
            (tmp_path / f"{name}.jpg").write_bytes(b"no image")
        image, found = look_at_input(str(tmp_path))
        assert image is None
        assert found.mark is Mark.FAILED
        assert found.found.startswith("none of the first 3 images can be read: no image")

    def test_no_image_in_it(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("x")
        image, found = look_at_input(str(tmp_path))
        assert image is None
        assert found.found == "no image is in it; ignored 1 other files: 1 .txt"

    @pytest.mark.parametrize(
        ("text", "said", "remedy"),
        [
            ("gone", "no such file or folder", "check the spelling"),
            ("https://me:secret@host/a.jpg", "carries a user name or password", "name the file"),
            ("zip://a.jpg", "names no archive", "write zip://MEMBER::"),
            ("nosuch://a/b", "nosuch:// is unknown", "use file, gs, s3"),
        ],
    )
    def test_what_cannot_be_listed(
        self, text: str, said: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        image, found = look_at_input(text)
        assert image is None
        assert found.mark is Mark.FAILED
        assert said in f"{found.found}; {found.remedy}"
        assert remedy in found.remedy
        assert "secret" not in f"{found}"

    def test_an_endless_folder_is_not_listed_to_its_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (path,) = write_images(tmp_path, 1)
        status = path.stat()
        version = storage.local_version(status)
        listed = itertools.count()

        def endless(uri: str) -> Iterator[Entry]:
            for _ in listed:
                yield Entry(StoredFile(f"file://{path}", status.st_size, version))

        monkeypatch.setattr(folders, "scan", endless)
        image, found = look_at_input(str(tmp_path))
        assert found.mark is Mark.OK
        assert next(listed) < 5_000

    @pytest.mark.parametrize("store", ["s3_server", "gcs_emulator"])
    def test_buckets(self, store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        server: ObjectStore = request.getfixturevalue(store)
        (path,) = write_images(tmp_path, 1)
        fsspec.filesystem(server.protocol).pipe(
            f"{server.bucket}/doctor/in/a.png", path.read_bytes()
        )
        image, found = look_at_input(f"{server.root}/doctor/in")
        assert (image, found.mark) == (f"{server.root}/doctor/in/a.png", Mark.OK)

        _, found = look_at_input(f"{server.protocol}://no-such-bucket-here/in")
        assert found.mark is Mark.FAILED
        assert found.found == "there is no bucket 'no-such-bucket-here'"

        _, found = look_at_input(f"{server.root}/doctor/nothing")
        assert found.found == "no such file or folder"

    def test_nobody_to_log_in_as(self, s3_server: ObjectStore, tmp_path: Path) -> None:
        nobody = {name: None for name in os.environ if name.startswith("AWS_")}
        nothing = str(tmp_path / "none")
        nowhere = {
            "AWS_CONFIG_FILE": nothing,
            "AWS_SHARED_CREDENTIALS_FILE": nothing,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": s3_server.endpoint,
        }
        with environment(nobody | nowhere):
            clear_filesystems()
            _, found = look_at_input(f"{s3_server.root}/in")
        clear_filesystems()
        assert found.mark is Mark.FAILED
        assert found.found.endswith("Unable to locate credentials")
        assert "aws sts get-caller-identity" in found.remedy


class TestOutput:
    def test_a_new_folder_is_left_as_it_was(self, tmp_path: Path) -> None:
        found = look_at_output(Output(f"file://{tmp_path}/a/b"))
        assert marks(found) == {Mark.OK}
        assert list(found) == [
            "output",
            "create-if-absent",
            "lease",
            "current.json",
            "output's disk",
        ]
        assert not list(tmp_path.iterdir())

    def test_one_with_captions_is_left_as_it_was(self, tmp_path: Path) -> None:
        output = Output(f"file://{tmp_path}")
        add(output, "captions", captions([0.5, 0.6]))
        before = sorted(tmp_path.rglob("*"))
        found = look_at_output(output)
        assert marks(found) == {Mark.OK}
        assert found["current.json"].found == "rows: captions 2"
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_bucket_is_left_as_it_was(self, s3_server: ObjectStore) -> None:
        found = look_at_output(Output(f"{s3_server.root}/doctor/out"))
        assert marks(found) == {Mark.OK}
        assert "output's disk" not in found
        assert storage.list_files(f"{s3_server.root}/doctor/out") == []

    def test_a_store_where_two_can_create_the_same(self, gcs_emulator: ObjectStore) -> None:
        # The emulator does not know the condition that Google's own store holds to.
        found = look_at_output(Output(f"{gcs_emulator.root}/doctor/out"))
        assert found["output"].mark is Mark.OK
        assert found["create-if-absent"].mark is Mark.FAILED
        assert "two runs could write at the same time" in found["create-if-absent"].found
        assert storage.list_files(f"{gcs_emulator.root}/doctor/out") == []

    def test_a_bucket_that_is_not_there(self, s3_server: ObjectStore) -> None:
        found = look_at_output(Output("s3://no-such-bucket-here/out"))
        assert found["output"].mark is Mark.FAILED
        assert "The specified bucket does not exist" in found["output"].found
        assert found["create-if-absent"].mark is Mark.NOT_CHECKED

    def test_a_folder_that_may_only_be_read(self, tmp_path: Path) -> None:
        folder = Path("/sys/captioner") if os.geteuid() == 0 else tmp_path / "closed" / "out"
        if os.geteuid() != 0:
            folder.parent.mkdir(mode=0o500)
        found = look_at_output(Output(f"file://{folder}"))
        assert found["output"].mark is Mark.FAILED
        assert "not permitted" in found["output"].found or "denied" in found["output"].found
        assert found["output"].remedy == "check who may read and write it with `ls -ld`"

    def test_one_from_which_nothing_may_be_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def remove(uri: str) -> None:
            raise StorageError(FailureKind.PERMISSION, f"cannot remove {uri!r}: denied; ask for it")

        monkeypatch.setattr(storage, "remove", remove)
        found = look_at_output(Output(f"file://{tmp_path}"))["output"]
        assert found.mark is Mark.FAILED
        assert found.found.startswith("cannot remove 'file://")

    def test_what_reads_back_otherwise(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "read_fresh", lambda uri: b"of yesterday")
        found = files.takes_files(Output(f"file://{tmp_path}"))
        assert found.mark is Mark.FAILED
        assert not list(tmp_path.iterdir())

    def test_who_writes_to_it_now(self, tmp_path: Path) -> None:
        output = Output(f"file://{tmp_path}")
        with Lease(output, "run-7"):
            found = files.held(output)
            assert files.takes_files(output).mark is Mark.OK
        assert found.mark is Mark.WARNING
        assert f"run run-7 (process {os.getpid()} on " in found.found
        assert files.held(output).found == "nobody writes to the output"

    def test_a_run_that_is_gone_holds_nothing(self, tmp_path: Path) -> None:
        stale = {"run_id": "run-6", "renewed_at": time.time() - 100, "seconds": 90}
        (tmp_path / "lease.json").write_text(json.dumps(stale))
        found = files.held(Output(f"file://{tmp_path}"))
        assert found.mark is Mark.OK
        assert "run run-6" in found.found
        assert "the next run takes over" in found.found

    @pytest.mark.parametrize("harm", ["gone", "cut"])
    def test_a_live_file_that_is_not_there(self, harm: str, tmp_path: Path) -> None:
        output = Output(f"file://{tmp_path}")
        add(output, "captions", captions([0.5]))
        add(output, "captions", captions([0.6], first=1))
        (path, _) = sorted((tmp_path / "captions").iterdir())
        path.unlink() if harm == "gone" else path.write_bytes(path.read_bytes()[:-1])
        found = files.live_files(output)
        assert found.mark is Mark.FAILED
        assert found.found == (
            "1 of the 2 files that it names are gone or of another size, "
            f"such as captions/{path.name}"
        )

    def test_a_damaged_current(self, tmp_path: Path) -> None:
        (tmp_path / "current.json").write_text("{")
        found = look_at_output(Output(f"file://{tmp_path}"))["current.json"]
        assert found.mark is Mark.FAILED
        assert "is not what this program writes" in found.found
        assert found.remedy.startswith("Choose another output, or put back a copy")


class TestDisk:
    @pytest.mark.parametrize(
        ("free", "mark"),
        [(10**12, Mark.OK), (10**9, Mark.WARNING), (10**8, Mark.FAILED), (0, Mark.FAILED)],
    )
    def test_how_full_it_is(
        self, free: int, mark: Mark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []

        def disk_usage(folder: str) -> SimpleNamespace:
            asked.append(folder)
            return SimpleNamespace(free=free)

        monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
        found = files.room_for_captions(Output(f"file://{tmp_path}/not/there/yet"))
        assert found.mark is mark
        assert f"enough for about {free // files.CAPTION_BYTES:,} captions" in found.found
        assert files.room_for_list().mark is mark
        assert asked == [str(tmp_path), tempfile.gettempdir()]

    def test_an_output_says_what_its_captions_weigh(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        output = Output(f"file://{tmp_path}")
        add(output, "captions", captions([0.5] * 1_000))
        (file,) = output.current().of("captions")
        usage = SimpleNamespace(free=file.bytes * 10**6)
        monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
        assert "about 1,000,000,000 captions" in files.room_for_captions(output).found

    def test_a_full_disk_ends_the_command_with_status_1(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        usage = SimpleNamespace(free=5_000)
        monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
        assert main(["doctor", "--output", str(tmp_path)]) == 1
        said = capsys.readouterr().out
        assert f"FAILED       output's disk: 0.0 GB free in {tmp_path}, enough for about 5 " in said
        assert "-> free some of it, or choose another --output" in said
