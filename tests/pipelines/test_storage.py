import gzip
import io
import os
import pickle
import shutil
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from pipelines import storage
from pipelines.storage import StorageError, archives, failures
from schemas.kinds import FailureKind
from tests.pipelines.stores import NASTY, Server, content, http_server
from tests.servers import ObjectStore

STORES = ["file", "memory", "gs", "s3"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture(params=STORES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder in each store that can be written to."""
    if request.param == "file":
        return f"file://{tmp_path}/a b"
    if request.param == "memory":
        return f"memory://{tmp_path}"
    name = {"gs": "gcs_emulator", "s3": "s3_server"}[request.param]
    server: ObjectStore = request.getfixturevalue(name)
    return f"{server.root}{tmp_path}"


@pytest.fixture
def server() -> Iterator[Server]:
    with http_server() as running:
        yield running


def kind_of(uri: str, *arguments: object) -> FailureKind:
    with pytest.raises(StorageError) as caught:
        storage.read_bytes(uri, *arguments)  # type: ignore[arg-type]
    return caught.value.kind


def allowed(folder: str) -> list[str]:
    """Return the names that a store takes: moto has no newlines, s3fs cuts off a version."""
    odd = {"s3": ("\n", "?versionId="), "gs": (), "memory": (), "file": ()}
    return [n for n in NASTY if not any(part in n for part in odd[storage.protocol_of(folder)])]


# --- every store --------------------------------------------------------------------------------


def test_nasty_names_come_back_with_their_own_bytes(folder: str) -> None:
    for name in allowed(folder):
        storage.write_bytes_atomically(storage.join(folder, name), content(name))
    listed = storage.list_files(folder)
    assert {file.uri for file in listed} == {f"{folder}/{name}" for name in allowed(folder)}
    for file in listed:
        data = storage.read_bytes(file.uri, 1000, file.num_bytes, file.version)
        assert data == content(file.uri.removeprefix(f"{folder}/"))
        assert storage.stat(file.uri) == file
        assert storage.exists(file.uri)


def test_versions_say_what_the_store_knows(folder: str) -> None:
    uri = f"{folder}/a.bin"
    storage.write_bytes_atomically(uri, b"one")
    first = storage.stat(uri).version
    kinds = {"file": "mtime", "memory": "created", "gs": "generation", "s3": "etag"}
    assert first.partition(":")[0] == kinds[storage.protocol_of(uri)]
    time.sleep(0.01)
    storage.write_bytes_atomically(uri, b"two")
    assert storage.stat(uri).version != first


def test_a_file_that_changed_its_size_is_not_read(folder: str) -> None:
    uri = f"{folder}/a.bin"
    storage.write_bytes_atomically(uri, b"one")
    file = storage.stat(uri)
    time.sleep(0.01)
    storage.write_bytes_atomically(uri, b"three")
    assert kind_of(uri, None, file.num_bytes, file.version) is FailureKind.CHANGED
    assert kind_of(uri, 100, file.num_bytes) is FailureKind.CHANGED


def test_a_file_that_changed_within_its_size_is_not_read(folder: str) -> None:
    if folder.startswith("gs://"):
        pytest.skip("the emulator gives any generation; see the test of the request")
    uri = f"{folder}/a.bin"
    storage.write_bytes_atomically(uri, b"one")
    file = storage.stat(uri)
    time.sleep(0.01)
    storage.write_bytes_atomically(uri, b"two")
    assert kind_of(uri, None, file.num_bytes, file.version) is FailureKind.CHANGED


def test_limits_hold_to_the_byte(folder: str) -> None:
    uri = f"{folder}/a.bin"
    storage.write_bytes_atomically(uri, b"12345")
    version = storage.stat(uri).version
    assert storage.read_bytes(uri, 5) == b"12345"
    assert storage.read_bytes(uri, 5, 5, version) == b"12345"
    assert kind_of(uri, 4) is FailureKind.TOO_LARGE
    assert kind_of(uri, 4, 5, version) is FailureKind.TOO_LARGE


def test_an_empty_file_is_read(folder: str) -> None:
    uri = f"{folder}/empty"
    storage.write_bytes_atomically(uri, b"")
    file = storage.stat(uri)
    assert storage.read_bytes(uri) == b""
    assert storage.read_bytes(uri, 10) == b""
    assert storage.read_bytes(uri, 10, 0, file.version) == b""


def test_what_is_missing_is_said_to_be(folder: str) -> None:
    uri = f"{folder}/nothing"
    assert kind_of(uri) is FailureKind.NOT_FOUND
    assert kind_of(uri, 10, 3, "generation:1") is FailureKind.NOT_FOUND
    assert not storage.exists(uri)
    assert storage.list_files(f"{folder}/none") == []
    storage.remove(uri)
    with pytest.raises(StorageError, match="nothing.*check the spelling"):
        storage.stat(uri)


def test_what_was_written_is_seen_at_once(folder: str) -> None:
    assert storage.list_files(folder) == []
    for number in range(3):
        storage.write_bytes_atomically(f"{folder}/{number}", b"x")
        assert len(storage.list_files(folder)) == number + 1
        assert storage.read_fresh(f"{folder}/{number}") == b"x"
    storage.write_bytes_atomically(f"{folder}/0", b"changed")
    assert storage.read_fresh(f"{folder}/0") == b"changed"
    storage.remove(f"{folder}/1")
    assert len(storage.list_files(folder)) == 2


def test_files_in_folders_within_are_not_listed(folder: str) -> None:
    storage.write_bytes_atomically(f"{folder}/a", b"x")
    storage.write_bytes_atomically(f"{folder}/in/b", b"x")
    assert [file.uri for file in storage.list_files(folder)] == [f"{folder}/a"]
    assert storage.exists(f"{folder}/in")


def test_of_two_creators_one_wins(folder: str) -> None:
    if folder.startswith("gs://"):
        pytest.skip("the emulator ignores the precondition; see the test of the request")
    uri = f"{folder}/lease"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: storage.create_exclusively(uri, b"%d" % n), range(8)))
    assert won.count(True) == 1
    assert storage.read_fresh(uri) == b"%d" % won.index(True)
    assert storage.list_files(folder)[0].num_bytes == 1


def test_reading_on_many_threads(folder: str) -> None:
    names = [f"{n}.bin" for n in range(20)]
    for name in names:
        storage.write_bytes_atomically(f"{folder}/{name}", content(name) * 50)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda name: storage.read_bytes(f"{folder}/{name}"), names * 5))
    assert read == [content(name) * 50 for name in names * 5]


# --- local disks --------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"file://{tmp_path}/a"
    storage.write_bytes_atomically(uri, b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageError, match="No space left") as caught:
                storage.write_bytes_atomically(uri, b"new")
            assert caught.value.kind is FailureKind.STORAGE_ERROR
    assert os.listdir(tmp_path) == ["a"]
    assert storage.read_fresh(uri) == b"old"


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    uri, stop = f"file://{tmp_path}/a", threading.Event()
    versions = [b"%d" % n * 100_000 for n in range(10)]
    storage.write_bytes_atomically(uri, versions[0])

    def write() -> None:
        while not stop.is_set():
            for version in versions:
                storage.write_bytes_atomically(uri, version)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen, deadline = set(), time.monotonic() + 20
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.add(storage.read_fresh(uri))
    finally:
        stop.set()
        thread.join()
    assert seen <= set(versions)
    assert len(seen) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(0)
    assert kind_of(f"file://{tmp_path}/a") is FailureKind.PERMISSION


def test_a_permission_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refused(*arguments: object) -> None:
        calls.append(arguments)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(StorageError, match="file:///a'.*Permission denied.*ls -ld") as caught:
        storage.read_bytes("file:///a")
    assert caught.value.kind is FailureKind.PERMISSION
    assert len(calls) == 1


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert kind_of(f"file://{tmp_path}") is FailureKind.NOT_FOUND


def test_new_files_get_the_usual_mode(tmp_path: Path) -> None:
    storage.write_bytes_atomically(f"file://{tmp_path}/a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


# --- what a user types --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "uri"),
    [
        ("/data/images/", "file:///data/images"),
        ("/data//a/../b c#?%41", "file:///data/b c#?%41"),
        ("images", "file://{cwd}/images"),
        ("./a::b.jpg", "file://{cwd}/a::b.jpg"),
        ("file:///data/images/", "file:///data/images"),
        ("GS://b/x/", "gs://b/x"),
        ("gcs://b/x", "gs://b/x"),
        ("s3a://b/x", "s3://b/x"),
        ("gs://b", "gs://b"),
        ("memory://x/y/", "memory:///x/y"),
        ("memory:///x", "memory:///x"),
        ("https://host/dir/", "https://host/dir/"),
        ("https://host/a%20b.jpg?x=1", "https://host/a%20b.jpg?x=1"),
        ("a.zip", "zip://::file://{cwd}/a.zip"),
        ("gs://b/a.tar.gz", "tar://::gs://b/a.tar.gz"),
        ("zip://in/::/data/a.zip", None),
        ("zip://in/::file:///data/a.zip", "zip://in::file:///data/a.zip"),
        ("zip://in::gs://b/a.zip", "zip://in::gs://b/a.zip"),
    ],
)
def test_what_is_typed_becomes_a_uri(typed: str, uri: str | None) -> None:
    if uri is None:
        with pytest.raises(ValueError, match="names no archive"):
            storage.absolute_uri(typed)
        return
    expected = uri.format(cwd=os.getcwd())
    assert storage.absolute_uri(typed) == expected
    assert storage.absolute_uri(expected) == expected


def test_a_folder_named_like_an_archive_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    assert storage.absolute_uri(f"{tmp_path}/a.zip") == f"file://{tmp_path}/a.zip"


# --- archives -----------------------------------------------------------------------------------


def make_archive(path: Path, names: list[str] | tuple[str, ...] = NASTY) -> str:
    """Write a zip or tar of files, and return its protocol."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(name, content(name))
        return "zip"
    modes = {".tar": "w", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz", ".tgz": "w:gz"}
    with tarfile.open(path, modes[path.suffix]) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content(name))
            tar.addfile(info, io.BytesIO(content(name)))
    return "tar"


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz"])
def test_members_of_archives_on_many_threads(tmp_path: Path, suffix: str) -> None:
    protocol = make_archive(tmp_path / f"a::b.{suffix}")
    archive = f"file://{tmp_path}/a::b.{suffix}"
    with ThreadPoolExecutor(8) as pool:
        uris = [f"{protocol}://{name}::{archive}" for name in NASTY]
        read = list(pool.map(storage.read_bytes, uris * 20))
    assert read == [content(name) for name in NASTY] * 20
    for uri, name in zip(uris, NASTY, strict=True):
        file = storage.stat(uri)
        assert file.num_bytes == len(content(name))
        assert storage.read_bytes(uri, 1000, file.num_bytes, file.version) == content(name)
        assert kind_of(uri, 5) is FailureKind.TOO_LARGE
    assert kind_of(f"{protocol}://nothing::{archive}") is FailureKind.NOT_FOUND


def test_an_archive_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    make_archive(path, ["one"])
    file = storage.stat(f"zip://one::file://{path}")
    assert storage.read_bytes(file.uri) == content("one")
    make_archive(path, ["one", "two"])
    assert storage.read_bytes(f"zip://two::file://{path}") == content("two")
    assert kind_of(file.uri, None, file.num_bytes, file.version) is FailureKind.CHANGED


@pytest.mark.parametrize("store", ["gcs_emulator", "s3_server"])
def test_archives_on_object_stores(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = request.getfixturevalue(store).root
    for suffix in ("zip", "tar", "tar.gz"):
        protocol = make_archive(tmp_path / f"a.{suffix}")
        archive = f"{root}{tmp_path}/a.{suffix}"
        storage.write_bytes_atomically(archive, (tmp_path / f"a.{suffix}").read_bytes())
        with ThreadPoolExecutor(8) as pool:
            uris = [f"{protocol}://{name}::{archive}" for name in NASTY]
            assert list(pool.map(storage.read_bytes, uris)) == [content(name) for name in NASTY]


def test_a_broken_archive_and_a_broken_member(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK nothing")
    assert kind_of(f"zip://x::file://{tmp_path}/a.zip") is FailureKind.STORAGE_ERROR
    make_archive(tmp_path / "b.zip", ["member"])
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[40] ^= 0xFF
    (tmp_path / "b.zip").write_bytes(data)
    assert kind_of(f"zip://member::file://{tmp_path}/b.zip") is FailureKind.STORAGE_ERROR
    assert kind_of(f"zip://x::file://{tmp_path}/none.zip") is FailureKind.NOT_FOUND


def test_a_tar_that_unpacks_to_more_than_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tgz").write_bytes(gzip.compress(bytes(8 << 20)))
    disk = shutil.disk_usage(tmp_path)._replace(free=4 << 20)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(StorageError, match="half of the free disk.*set TMPDIR"):
        storage.read_bytes(f"tar://x::file://{tmp_path}/a.tgz")


def test_nothing_is_written_into_an_archive(tmp_path: Path) -> None:
    make_archive(tmp_path / "a.zip", ["x"])
    uri = f"zip://y::file://{tmp_path}/a.zip"
    for write in (storage.write_bytes_atomically, storage.create_exclusively):
        with pytest.raises(StorageError, match="nothing can be written there; use a folder"):
            write(uri, b"")


# --- http ---------------------------------------------------------------------------------------


def test_http_files_are_read_and_known_by_their_etag(server: Server) -> None:
    for name in ("a b.jpg", "é.jpg", "50%.jpg"):
        server.files[f"/{name}"] = content(name)
    uris = {"a%20b.jpg": "a b.jpg", "é.jpg": "é.jpg", "50%25.jpg": "50%.jpg"}
    for address, name in uris.items():
        file = storage.stat(f"{server.url}/{address}")
        assert file.num_bytes == len(content(name))
        assert file.version.startswith("etag:")
        assert '"' not in file.version
        assert storage.read_bytes(file.uri, 1000, file.num_bytes, file.version) == content(name)


def test_a_changed_http_file(server: Server) -> None:
    server.files["/a"] = b"one"
    file = storage.stat(f"{server.url}/a")
    server.files["/a"] = b"two"
    assert kind_of(file.uri, None, 3, file.version) is FailureKind.CHANGED


def test_an_http_server_without_etags(server: Server) -> None:
    server.etags = False
    server.files["/a"] = b"one"
    assert storage.stat(f"{server.url}/a").version == "size:3"
    server.headers["/a"] = {"Last-Modified": "Sat, 21 Nov 2026 05:00:00 GMT"}
    file = storage.stat(f"{server.url}/a")
    assert file.version == "modified:Sat, 21 Nov 2026 05:00:00 GMT"
    assert storage.read_bytes(file.uri, 10, 3, file.version) == b"one"


def test_of_a_large_http_file_little_is_read(server: Server) -> None:
    server.files["/a"] = bytes(64 << 20)
    assert kind_of(f"{server.url}/a", 1000) is FailureKind.TOO_LARGE
    assert server.sent < 16 << 20


def test_a_server_that_knows_no_head(server: Server) -> None:
    server.files["/a"] = b"one"
    server.statuses["/a"] = [405]
    assert storage.stat(f"{server.url}/a").num_bytes == 3
    assert [method for method, _ in server.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    ("statuses", "kind", "asked"),
    [
        ([404], FailureKind.NOT_FOUND, 1),
        ([403], FailureKind.PERMISSION, 1),
        ([401], FailureKind.PERMISSION, 1),
        ([503, 503, 503], FailureKind.STORAGE_ERROR, 3),
        ([504, 504, 504], FailureKind.TIMEOUT, 3),
        ([400], FailureKind.STORAGE_ERROR, 1),
        ([503, 404], FailureKind.NOT_FOUND, 2),
    ],
)
def test_only_what_may_pass_is_tried_again(
    server: Server, statuses: list[int], kind: FailureKind, asked: int
) -> None:
    server.files["/a"] = b"one"
    server.statuses["/a"] = [*statuses]
    assert kind_of(f"{server.url}/a") is kind
    assert len(server.requests) == asked


def test_a_failure_that_passes_is_not_noticed(server: Server) -> None:
    server.files["/a"] = b"one"
    server.statuses["/a"] = [503, 429]
    assert storage.read_bytes(f"{server.url}/a") == b"one"


def test_a_server_that_is_not_there() -> None:
    assert kind_of("http://127.0.0.1:9/a.jpg") is FailureKind.STORAGE_ERROR


# --- object stores, by their requests -----------------------------------------------------------


def test_gcs_is_asked_for_the_generation_that_was_listed(
    gcs_emulator: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator ignores generations, so what a real store would answer is played here."""
    uri = f"{gcs_emulator.root}/pinned"
    storage.write_bytes_atomically(uri, b"one")
    filesystem, _ = storage.resolve(uri)
    asked = []

    def cat_file(path: str, **options: str) -> bytes:
        asked.append(options)
        raise FileNotFoundError(path)

    monkeypatch.setattr(filesystem, "cat_file", cat_file)
    assert kind_of(uri, 10, 3, "generation:17") is FailureKind.CHANGED
    assert asked == [{"generation": "17"}]
    assert kind_of(f"{uri}-gone", 10, 3, "generation:17") is FailureKind.NOT_FOUND


def test_an_exclusive_write_to_gcs_carries_its_precondition(
    gcs_emulator: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{gcs_emulator.root}/lease"
    filesystem, _ = storage.resolve(uri)
    modes = []

    def pipe_file(path: str, data: bytes, mode: str = "overwrite") -> None:
        modes.append(mode)
        raise FileExistsError(path)

    monkeypatch.setattr(filesystem, "pipe_file", pipe_file)
    assert storage.create_exclusively(uri, b"x") is False
    assert modes == ["create"]


def test_a_create_whose_answer_was_lost_counts_as_done(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "memory:///lost/answer"
    filesystem, _ = storage.resolve(uri)
    write, tries = filesystem.pipe_file, []

    def pipe_file(path: str, data: bytes, mode: str) -> None:
        tries.append(mode)
        write(path, data, mode=mode)
        raise TimeoutError

    monkeypatch.setattr(filesystem, "pipe_file", pipe_file)
    assert storage.create_exclusively(uri, b"mine")
    assert len(tries) == 2
    monkeypatch.undo()
    assert not storage.create_exclusively(uri, b"other")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("Forbidden: https://storage.googleapis.com/b\nno access"), FailureKind.PERMISSION),
        (FileNotFoundError("b/x"), FailureKind.NOT_FOUND),
        (TimeoutError(), FailureKind.TIMEOUT),
        (OSError(5, "Input/output error"), FailureKind.STORAGE_ERROR),
    ],
)
def test_errors_of_google_are_told_apart(error: Exception, kind: FailureKind) -> None:
    assert storage.failure("gs://b/x", error).kind is kind


def test_missing_logins_are_a_matter_of_permission() -> None:
    from botocore.exceptions import NoCredentialsError
    from gcsfs.retry import HttpError
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

    errors = [NoCredentialsError(), DefaultCredentialsError("x"), RefreshError("x")]
    errors += [HttpError({"code": 401, "message": "Anonymous"}), HttpError({"code": "403"})]
    for error in errors:
        failure = storage.failure("gs://b/x", error)
        assert failure.kind is FailureKind.PERMISSION, error
        assert "gcloud auth application-default login" in failure.message
    assert "FSSPEC_S3_ANON" in storage.failure("s3://b/x", NoCredentialsError()).message


def test_messages_hold_no_secret() -> None:
    error = OSError("GET https://u:S3CR3T@h/a?sig=S3CR3T")
    assert "S3CR3T" not in storage.failure("https://h/a?token=S3CR3T", error).message


def test_what_is_not_installed_or_unknown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str, **options: object) -> None:
        raise ImportError("Please install s3fs")

    with monkeypatch.context() as patch:
        patch.setattr(fsspec, "filesystem", missing)
        with pytest.raises(StorageError, match="s3://.*: pip install s3fs"):
            storage.read_bytes("s3://b/x")
    with pytest.raises(StorageError, match="nope:// is unknown; use file, gs, s3"):
        storage.read_bytes("nope://b/x")


def test_errors_and_files_travel_between_processes() -> None:
    error = StorageError(FailureKind.TIMEOUT, "late")
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, str(again)) == (FailureKind.TIMEOUT, "late")
