import csv
import os
import pickle
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import folders, storage
from pipelines.inputs import ListingError, Pattern
from pipelines.listing import ImageRef, ListingCounts, list_images
from pipelines.storage import failures, filesystems
from tests.pipelines.stores import NASTY, Server, content, http_server
from tests.pipelines.test_storage import allowed, make_archive
from tests.servers import ObjectStore

STORES = ["file", "memory", "gs", "s3"]
TREE = (
    "b.png",
    "a.jpg",
    "notes.txt",
    "noextension",
    "frame.0001",
    "sub/c.JPEG",
    "sub/deep/er/d.webp",
    "sub/deep/e.avif",
    "sub.jpg/f.tif",
    "other.heic",
    ".hidden.jpg",
    ".git/g.jpg",
    "__MACOSX/h.jpg",
)
IMAGES = [
    "a.jpg",
    "b.png",
    "frame.0001",
    "noextension",
    "sub.jpg/f.tif",
    "sub/c.JPEG",
    "sub/deep/e.avif",
    "sub/deep/er/d.webp",
]
IGNORED = {".txt": 1, ".heic": 1, "hidden": 3}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture(params=STORES)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The uri of a folder in each store that can be written to."""
    folder = f"{tmp_path}/in put"
    if request.param == "file":
        return f"file://{folder}"
    if request.param == "memory":
        return f"memory://{folder}"
    name = {"gs": "gcs_emulator", "s3": "s3_server"}[request.param]
    server: ObjectStore = request.getfixturevalue(name)
    return f"{server.root}{folder}"


@pytest.fixture
def server() -> Iterator[Server]:
    with http_server() as running:
        yield running


def fill(root: str, names: list[str] | tuple[str, ...] = TREE) -> None:
    for name in names:
        storage.write_bytes_atomically(f"{root}/{name}", content(name))


def names(refs: list[ImageRef], root: str) -> list[str]:
    assert all(ref.kind is None for ref in refs), refs
    return sorted(ref.uri.removeprefix(f"{root}/") for ref in refs)


def listed(*inputs: str, glob: str | None = None) -> list[ImageRef]:
    return list(list_images(inputs, glob))


# --- folders on every store ---------------------------------------------------------------------


def test_images_in_folders_and_what_was_left_out(root: str) -> None:
    fill(root)
    counts = ListingCounts()
    refs = list(list_images([root], counts=counts))
    assert names(refs, root) == IMAGES
    assert counts.ignored == IGNORED
    assert (counts.duplicates, counts.not_matched) == (0, 0)


def test_nasty_names_are_listed_and_read_back(root: str) -> None:
    fill(root, allowed(root))
    refs = listed(root)
    assert names(refs, root) == sorted(allowed(root))
    for ref in refs:
        data = storage.read_bytes(ref.uri, 1000, ref.num_bytes, ref.uri_version)
        assert data == content(ref.uri.removeprefix(f"{root}/"))


def test_the_order_is_the_same_every_time(root: str) -> None:
    fill(root, [f"{a}/{b}/{c}.jpg" for a in "xyz" for b in "pqr" for c in "12"])
    orders = {tuple(list_images([root], threads=threads)) for threads in (1, 2, 16, 16, 16)}
    assert len(orders) == 1
    assert len(next(iter(orders))) == 18


def test_size_and_version_come_with_the_listing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, [f"{n % 3}/{n}.jpg" for n in range(30)])
    monkeypatch.setattr(filesystems, "stat_once", lambda uri: pytest.fail(f"asked for {uri}"))
    if root.startswith(("gs", "s3")):
        filesystem = storage.filesystem_of(root)
        for name in ("info", "_info", "exists", "isdir"):
            monkeypatch.setattr(filesystem, name, lambda *a, **k: pytest.fail(f"asked for {a}"))
    refs = listed(root)
    monkeypatch.undo()
    assert len(refs) == 30
    for ref in refs:
        file = storage.stat(ref.uri)
        assert (ref.num_bytes, ref.uri_version) == (file.num_bytes, file.version)


@pytest.mark.parametrize("method", ["call", "call_s3"])
def test_calls_to_an_object_store_grow_with_folders_and_not_with_objects(
    method: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = request.getfixturevalue("s3_server" if method == "call_s3" else "gcs_emulator")
    root = f"{store.root}{tmp_path}"
    fill(root, [f"{n % 4}/{n}.jpg" for n in range(60)])
    filesystem = storage.filesystem_of(root)
    real, asked = getattr(filesystem, method), []

    def counted(*arguments: object, **options: object) -> object:
        asked.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(filesystem, method, counted)
    assert len(listed(root)) == 60
    assert len(asked) == 1 + 1 + 4  # to tell that it is a folder, the folder, and those in it


def test_pages_of_an_s3_bucket_are_put_together(
    s3_server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"{s3_server.root}{tmp_path}"
    fill(root, [f"{n}.jpg" for n in range(7)])
    filesystem = storage.filesystem_of(root)
    real, asked = filesystem.call_s3, []

    def two_a_page(*arguments: object, **options: object) -> object:
        asked.append(options)
        return real(*arguments, **{**options, "MaxKeys": 2})

    monkeypatch.setattr(filesystem, "call_s3", two_a_page)
    assert names(listed(root), root) == [f"{n}.jpg" for n in range(7)]
    assert len(asked) == 1 + 4


def test_pages_of_a_gcs_bucket_are_put_together(
    gcs_emulator: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The emulator answers with one page whatever it is asked for, so pages are played here."""
    root = f"{gcs_emulator.root}{tmp_path}"
    fill(root, [f"{n}.jpg" for n in range(7)])
    filesystem = storage.filesystem_of(root)
    real, asked = filesystem.call, []

    def two_a_page(*arguments: object, **options: object) -> object:
        start = int(str(options.pop("pageToken", 0)))
        asked.append(start)
        items = real(*arguments, **options)["items"]
        more = {"nextPageToken": str(start + 2)} if start + 2 < len(items) else {}
        return {"items": items[start : start + 2], **more}

    monkeypatch.setattr(filesystem, "call", two_a_page)
    assert names(listed(root), root) == [f"{n}.jpg" for n in range(7)]
    assert asked == [0, 0, 2, 4, 6]


def test_doubled_slashes_in_a_key_are_kept(s3_server: ObjectStore, tmp_path: Path) -> None:
    root = f"{s3_server.root}{tmp_path}"
    filesystem = storage.filesystem_of(root)
    bucket, key = storage.bucket_and_key(root)
    for name in ("a//b.jpg", "a/b.jpg", "/c.jpg", "d/"):
        filesystem.call_s3("put_object", Bucket=bucket, Key=f"{key}/{name}", Body=name.encode())
    refs = listed(root)
    assert names(refs, root) == ["/c.jpg", "a//b.jpg", "a/b.jpg"]
    for ref in refs:
        assert storage.read_bytes(ref.uri).decode() == ref.uri.removeprefix(f"{root}/")


def test_folders_are_listed_at_the_same_time(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, [f"{n}/a.jpg" for n in range(8)])
    real, lock, now, most = folders.scan, threading.Lock(), [0], [0]

    def slow(uri: str) -> Iterator[folders.Entry]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        yield from real(uri)
        with lock:
            now[0] -= 1

    monkeypatch.setattr(folders, "scan", slow)
    assert len(list(list_images([root], threads=8))) == 8
    assert most[0] >= 4


def test_a_listing_that_is_given_up_stops(root: str) -> None:
    fill(root, [f"{n}/{m}.jpg" for n in range(5) for m in range(5)])
    before = threading.active_count()
    found = list_images([root])
    next(found)
    found.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_an_empty_folder_and_a_missing_one(root: str) -> None:
    fill(root, ["a.txt"])
    assert listed(root) == []
    with pytest.raises(ListingError, match="no such file or folder; check the spelling"):
        list_images([f"{root}/nothing"])


@pytest.mark.parametrize("store", ["gcs_emulator", "s3_server"])
def test_an_empty_bucket_folder_with_a_marker(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = f"{request.getfixturevalue(store).root}{tmp_path}"
    filesystem, path = storage.resolve(f"{root}/empty/")
    filesystem.pipe_file(path, b"")
    assert listed(f"{root}/empty") == []


@pytest.mark.parametrize("store", ["gcs_emulator", "s3_server"])
def test_a_missing_bucket_is_named(store: str, request: pytest.FixtureRequest) -> None:
    protocol = request.getfixturevalue(store).protocol
    with pytest.raises(ListingError, match="there is no bucket 'nowhere-to-be-found'; check"):
        list_images([f"{protocol}://nowhere-to-be-found/images"])


# --- globs and filters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*", ["a.jpg", "b.png", "frame.0001", "noextension"]),
        ("**", IMAGES),
        ("*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg"]),
        ("sub/*", ["sub/c.JPEG"]),
        ("sub/**", ["sub/c.JPEG", "sub/deep/e.avif", "sub/deep/er/d.webp"]),
        ("**/deep/*", ["sub/deep/e.avif"]),
        ("sub*/?.[tJ]*", ["sub.jpg/f.tif", "sub/c.JPEG"]),
    ],
)
def test_a_glob_takes_files_by_their_path_in_the_input(
    root: str, glob: str, expected: list[str]
) -> None:
    fill(root)
    assert names(listed(root, glob=glob), root) == expected
    assert names(listed(f"{root}/{glob}"), root) == expected


def test_a_glob_with_folders_on_its_way(root: str) -> None:
    fill(root, ["2024-01/x/a.jpg", "2024-02/y/b.jpg", "2025/x/c.jpg", "2024-03/d.jpg"])
    found = names(listed(f"{root}/2024-*/**/*.jpg"), root)
    assert found == ["2024-01/x/a.jpg", "2024-02/y/b.jpg", "2024-03/d.jpg"]
    assert names(listed(f"{root}/2024-*/x/*"), root) == ["2024-01/x/a.jpg"]
    assert names(listed(f"{root}/2024-*/*", glob="**/*.png"), root) == []


def test_what_a_glob_leaves_out_is_counted(root: str) -> None:
    fill(root)
    counts = ListingCounts()
    assert len(list(list_images([root], "**/*.jpg", counts=counts))) == 1
    # those seen before the glob says no, and the hidden file ".hidden.jpg" which it means
    assert counts.not_matched == 9
    assert counts.ignored["hidden"] == 3


def test_folders_that_a_glob_does_not_lead_to_are_not_listed(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(root, ["keep/a.jpg", "skip/b.jpg", "skip/deep/c.jpg"])
    real, scanned = folders.scan, []
    monkeypatch.setattr(folders, "scan", lambda uri: (scanned.append(uri), real(uri))[1])
    assert len(listed(root, glob="k*/*.jpg")) == 1
    assert not any("skip" in uri for uri in scanned)


def test_a_pattern_leads_where_its_files_may_be() -> None:
    pattern = Pattern("a*/b/**/c?.jpg")
    assert [pattern.leads_to(path) for path in ("ax", "ax/b", "ax/b/q/r")] == [True] * 3
    assert [pattern.leads_to(path) for path in ("x", "ax/c", "ax/c/b")] == [False] * 3
    assert not Pattern("*.jpg").leads_to("a")
    assert pattern.matches("ax/b/c1.jpg")
    assert not pattern.matches("ax/b/c12.jpg")


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    fill(f"file://{tmp_path}", ["a[1].jpg", "a1.jpg", "x[2]/b.jpg", "x2/c.jpg"])
    assert names(listed(f"{tmp_path}/a[1].jpg"), f"file://{tmp_path}") == ["a[1].jpg"]
    assert names(listed(f"{tmp_path}/x[2]"), f"file://{tmp_path}") == ["x[2]/b.jpg"]
    assert names(listed(f"{tmp_path}/x[2]/*"), f"file://{tmp_path}") == ["x[2]/b.jpg"]
    assert names(listed(f"{tmp_path}/x[23]/*"), f"file://{tmp_path}") == ["x2/c.jpg"]


# --- single files, several inputs ---------------------------------------------------------------


def test_a_file_that_was_named_is_listed_whatever_its_name(root: str) -> None:
    fill(root, ["picture.dat", ".hidden"])
    for name in ("picture.dat", ".hidden"):
        (ref,) = listed(f"{root}/{name}")
        file = storage.stat(f"{root}/{name}")
        assert ref == ImageRef(file.uri, file.version, file.num_bytes)


def test_overlapping_inputs_are_listed_once(root: str) -> None:
    fill(root)
    counts = ListingCounts()
    inputs = [root, f"{root}/sub", f"{root}/a.jpg", f"{root}/**/*.webp"]
    assert names(list(list_images(inputs, counts=counts)), root) == IMAGES
    assert counts.duplicates == 3 + 1 + 1


def test_paths_are_taken_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(f"file://{tmp_path}", ["in/a.jpg"])
    monkeypatch.chdir(tmp_path)
    expected = [f"file://{tmp_path}/in/a.jpg"]
    for typed in ("in", "in/", "./in", "in/a.jpg", "in/*", "../" + tmp_path.name + "/in"):
        assert [ref.uri for ref in listed(typed)] == expected


def test_references_travel_between_processes() -> None:
    ref = ImageRef("file:///a", "mtime:1-2", 2, attempt=2, replaces=True)
    assert pickle.loads(pickle.dumps(ref)) == ref


# --- local disks --------------------------------------------------------------------------------


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "out"
    fill(f"file://{root}", ["sub/a.jpg"])
    fill(f"file://{outside}", ["b.jpg", "more/c.jpg"])
    (root / "sub" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "out").symlink_to(outside)
    (outside / "more" / "again").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "link.jpg").symlink_to(outside / "b.jpg")
    refs = [ref for ref in listed(str(root)) if not ref.uri.endswith("/self")]
    found = {ref.uri.removeprefix(f"file://{root}/") for ref in refs}
    assert {"sub/a.jpg", "out/b.jpg", "out/more/c.jpg", "link.jpg"} <= found
    assert len(refs) == len(found) < 10


def test_a_dangling_link_is_listed_and_fails(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    (ref,) = listed(str(tmp_path))
    with pytest.raises(storage.StorageError) as caught:
        storage.read_bytes(ref.uri, 10, ref.num_bytes, ref.uri_version)
    assert caught.value.kind == "not_found"


def test_a_name_that_is_no_utf8_is_a_failure_and_not_lost(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"\xff.jpg", b"\xfe.jpg", b"ok.jpg"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"x")
    refs = listed(str(tmp_path))
    assert len({ref.uri for ref in refs}) == 3
    bad = [ref for ref in refs if ref.kind]
    assert [ref.kind for ref in bad] == ["unsupported"] * 2
    for ref in bad:
        assert "rename the file" in str(ref.message)
        pa.array([ref.uri, ref.message])  # fits a column


def test_a_folder_that_may_not_be_listed_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(f"file://{tmp_path}", ["a.jpg", "locked/b.jpg", "open/c.jpg"])
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(folders.os, "scandir", scandir)
    refs = listed(str(tmp_path))
    (bad,) = [ref for ref in refs if ref.kind]
    assert bad.uri == f"file://{tmp_path}/locked"
    assert bad.kind == "permission"
    assert "its images were not listed" in str(bad.message)
    assert len(refs) == 3
    with pytest.raises(ListingError, match="locked.*Permission denied.*ls -ld"):
        listed(f"{tmp_path}/locked")


def test_a_large_folder_takes_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = (
        folders.Entry(storage.StoredFile(f"file:///x/{n}.jpg", 1, "v")) for n in range(10**6)
    )
    taken = [0]

    def endless(uri: str) -> Iterator[folders.Entry]:
        for entry in entries:
            taken[0] += 1
            yield entry

    monkeypatch.setattr(folders, "scan", endless)
    found = list_images([str(tmp_path)])
    for _ in range(5000):
        next(found)
    assert taken[0] <= 5000 + 3 * 1000
    found.close()


# --- archives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_archives_are_folders(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a b.{suffix}"
    protocol = make_archive(path, TREE)
    counts = ListingCounts()
    refs = list(list_images([str(path)], counts=counts))
    assert sorted(ref.uri for ref in refs) == [f"{protocol}://{n}::file://{path}" for n in IMAGES]
    assert counts.ignored == IGNORED
    for ref in refs:
        assert ref.uri_version.startswith(f"{protocol}:mtime:")
        data = storage.read_bytes(ref.uri, 1000, ref.num_bytes, ref.uri_version)
        assert data == content(ref.uri.removeprefix(f"{protocol}://").partition("::")[0])
        assert storage.stat(ref.uri).version == ref.uri_version


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_parts_of_archives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    protocol = make_archive(path, TREE)

    def members(member: str, glob: str | None = None) -> list[str]:
        refs = listed(f"{protocol}://{member}::file://{path}", glob=glob)
        return sorted(ref.uri.removeprefix(f"{protocol}://").partition("::")[0] for ref in refs)

    assert members("sub") == ["sub/c.JPEG", "sub/deep/e.avif", "sub/deep/er/d.webp"]
    assert members("a.jpg") == ["a.jpg"]
    assert members("sub/**/*.webp") == ["sub/deep/er/d.webp"]
    assert members("sub", "*.JPEG") == ["sub/c.JPEG"]
    with pytest.raises(ListingError, match="no such file or folder"):
        members("nothing")


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_nasty_names_in_archives(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    make_archive(path)
    refs = listed(str(path))
    assert len(refs) == len(NASTY)
    read = [storage.read_bytes(ref.uri, 999, ref.num_bytes, ref.uri_version) for ref in refs]
    assert read == [content(name) for name in NASTY]


def test_odd_members_of_archives(tmp_path: Path) -> None:
    odd = ["./dot.jpg", "x::file:///y.jpg", "/rooted.jpg", "twice.jpg", "twice.jpg"]
    with pytest.warns(UserWarning, match="Duplicate"):
        make_archive(tmp_path / "a.zip", odd)
    make_archive(tmp_path / "a.tar", odd)
    for suffix in ("zip", "tar"):
        refs = listed(f"{tmp_path}/a.{suffix}")
        assert len(refs) == 4
        assert [ref.kind for ref in refs].count("unsupported") == 1
        for ref in refs:
            if ref.kind is None:
                name = ref.uri.partition("://")[2].partition("::")[0]
                assert storage.read_bytes(ref.uri) == content(name)


def test_an_encrypted_member_is_a_failure(tmp_path: Path) -> None:
    make_archive(tmp_path / "a.zip", ["a.jpg", "b.jpg"])
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    first, second = listed(f"{tmp_path}/a.zip")
    assert (first.kind, second.kind) == ("unsupported", None)
    assert "encrypted" in str(first.message)


def test_a_new_version_of_an_archive_is_a_new_version_of_its_members(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    make_archive(path, ["a.jpg"])
    (before,) = listed(str(path))
    make_archive(path, ["a.jpg", "b.jpg"])
    assert len(listed(str(path))) == 2
    assert listed(str(path))[0].uri_version != before.uri_version


def test_an_archive_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(ListingError, match=r"a\.zip.*not a zip file"):
        list_images([f"{tmp_path}/a.zip"])
    with pytest.raises(ListingError, match=r"none\.zip.*check the spelling"):
        list_images([f"{tmp_path}/none.zip"])


def test_an_archive_on_an_object_store(s3_server: ObjectStore, tmp_path: Path) -> None:
    make_archive(tmp_path / "a.zip", TREE)
    uri = f"{s3_server.root}{tmp_path}/a.zip"
    storage.write_bytes_atomically(uri, (tmp_path / "a.zip").read_bytes())
    refs = listed(uri)
    assert len(refs) == len(IMAGES)
    assert refs[0].uri_version.startswith("zip:etag:")
    assert storage.read_bytes(refs[0].uri, 99, refs[0].num_bytes, refs[0].uri_version)


# --- list files ---------------------------------------------------------------------------------


def write_list(path: Path, lines: list[str | None]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(
            pa.table({"id": range(len(lines)), "uri": pa.array(lines, pa.string())}), path
        )
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["id", "uri"], *([n, line] for n, line in enumerate(lines))])
    else:
        path.write_text("\ufeff" + "\r\n".join(line or "" for line in lines), newline="")


@pytest.mark.parametrize("suffix", ["txt", "csv", "parquet"])
def test_list_files_name_images(tmp_path: Path, suffix: str) -> None:
    fill(f"file://{tmp_path}", TREE)
    make_archive(tmp_path / "in.zip", ["z.jpg"])
    lines = [
        f"file://{tmp_path}/a.jpg",
        f"{tmp_path}/b.png",
        "sub/c.JPEG",
        "./sub/../notes.txt",
        f"zip://z.jpg::file://{tmp_path}/in.zip",
        "gone.jpg",
        "https://user:S3CR3T@host/a.jpg",
        "https://host/a.jpg?X-Amz-Signature=S3CR3T",
        "",
        "a.jpg",
        ".hidden.jpg",
    ]
    write_list(tmp_path / f"list.{suffix}", lines)
    counts = ListingCounts()
    refs = list(list_images([f"{tmp_path}/list.{suffix}"], counts=counts))
    prefix = f"file://{tmp_path}/"
    assert [(ref.uri.removeprefix(prefix), ref.kind) for ref in refs] == [
        ("a.jpg", None),
        ("b.png", None),
        ("sub/c.JPEG", None),
        ("notes.txt", None),
        (f"zip://z.jpg::{prefix}in.zip", None),
        ("gone.jpg", "not_found"),
        ("https://***@host/a.jpg", "unsupported"),
        ("https://host/a.jpg?X-Amz-Signature=***", "unsupported"),
        (".hidden.jpg", None),
    ]
    assert "S3CR3T" not in repr(refs)
    assert "carries the parameter X-Amz-Signature" in str(refs[7].message)
    assert (counts.duplicates, counts.ignored["empty row"]) == (1, 1)
    assert refs[0].uri_version == storage.stat(refs[0].uri).version
    assert refs[4].uri_version == listed(f"{tmp_path}/in.zip")[0].uri_version


@pytest.mark.parametrize("name", [name for name in NASTY if "\n" not in name])
def test_nasty_names_in_list_files(tmp_path: Path, name: str) -> None:
    fill(f"file://{tmp_path}", [name])
    for suffix in ("txt", "csv", "parquet"):
        write_list(tmp_path / f"list.{suffix}", [name])
        (ref,) = listed(f"{tmp_path}/list.{suffix}")
        assert (ref.uri, ref.kind) == (f"file://{tmp_path}/{name}", None)


@pytest.mark.parametrize("store", ["gcs_emulator", "s3_server"])
def test_list_files_on_object_stores(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    root = f"{request.getfixturevalue(store).root}{tmp_path}"
    fill(root, TREE)
    lines = f"a.jpg\nsub/../b.png\n{root}/sub/c.JPEG\nnothing.jpg"
    storage.write_bytes_atomically(f"{root}/list.txt", lines.encode())
    refs = listed(f"{root}/list.txt")
    assert [ref.uri.removeprefix(f"{root}/") for ref in refs] == [
        "a.jpg",
        "b.png",
        "sub/c.JPEG",
        "nothing.jpg",
    ]
    assert [ref.kind for ref in refs] == [None, None, None, "not_found"]
    assert refs[0] in listed(root)


def test_files_of_a_list_are_looked_at_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(8, timeout=10)

    def together(uri: str) -> storage.StoredFile:
        if not uri.endswith(".txt"):
            barrier.wait()
        return storage.StoredFile(uri, 1, "v")

    monkeypatch.setattr(storage, "stat", together)
    (tmp_path / "list.txt").write_text("\n".join(f"{n}.jpg" for n in range(64)))
    refs = list(list_images([f"{tmp_path}/list.txt"], threads=8))
    assert [ref.uri for ref in refs] == [f"file://{tmp_path}/{n}.jpg" for n in range(64)]


def test_a_glob_filters_lists_too(tmp_path: Path) -> None:
    fill(f"file://{tmp_path}")
    (tmp_path / "list.txt").write_text("a.jpg\nb.png\nsub/c.JPEG")
    counts = ListingCounts()
    refs = list(list_images([f"{tmp_path}/list.txt"], "*.jpg", counts=counts))
    assert names(refs, f"file://{tmp_path}") == ["a.jpg"]
    assert counts.not_matched == 2


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"id,path\n1,a.jpg\n", "no column 'uri', only 'id', 'path'; rename"),
        ("b.csv", b"", "no column 'uri', only none"),
        ("c.csv", b"uri\n", "names no image"),
        ("d.txt", b"\n\n", "names no image"),
        ("e.parquet", b"PAR1 nothing", "cannot be read"),
    ],
)
def test_a_list_file_that_is_none(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ListingError, match=message):
        listed(f"{tmp_path}/{name}")


def test_a_parquet_file_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "a.parquet")
    with pytest.raises(ListingError, match="no column 'uri', only 'path'; rename"):
        listed(f"{tmp_path}/a.parquet")


# --- http ---------------------------------------------------------------------------------------


def test_folders_of_an_http_server(server: Server) -> None:
    server.files.update({f"/in/{name}": content(name) for name in TREE})
    counts = ListingCounts()
    refs = list(list_images([f"{server.url}/in/"], counts=counts))
    assert names(refs, f"{server.url}/in") == IMAGES
    assert counts.ignored == IGNORED
    assert all(ref.uri_version.startswith("etag:") and ref.num_bytes for ref in refs)
    looked = [path for method, path in server.requests if method == "HEAD"]
    assert sorted(looked) == sorted(f"/in/{name}" for name in IMAGES)


def test_nasty_names_on_an_http_server(server: Server) -> None:
    nasty = [name for name in NASTY if "\\" not in name and "\n" not in name]
    server.files.update({f"/in/{name}": content(name) for name in nasty})
    refs = listed(f"{server.url}/in/")
    assert {storage.read_bytes(r.uri, 999, r.num_bytes, r.uri_version) for r in refs} == {
        content(name) for name in nasty
    }


def test_files_lists_and_missing_files_of_an_http_server(server: Server) -> None:
    server.files.update({"/a.jpg": b"x", "/b": b"y"})
    server.files["/list.txt"] = f"a.jpg\n{server.url}/b\n{server.url}/gone.jpg".encode()
    assert [ref.kind for ref in listed(f"{server.url}/a.jpg", f"{server.url}/gone")] == [
        None,
        "not_found",
    ]
    refs = listed(f"{server.url}/list.txt")
    assert [(ref.uri, ref.kind) for ref in refs] == [
        (f"{server.url}/a.jpg", None),
        (f"{server.url}/b", None),
        (f"{server.url}/gone.jpg", "not_found"),
    ]
    with pytest.raises(ListingError, match="nothing/"):
        list_images([f"{server.url}/nothing/"])


# --- secrets ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:S3CR3T@host/a.jpg",
        "https://host/a.jpg?sig=S3CR3T",
        "gs://bucket/a.jpg?X-Goog-Signature=S3CR3T",
        "zip://::https://host/a.zip?token=S3CR3T",
    ],
)
def test_an_input_with_credentials_is_refused_without_showing_them(uri: str) -> None:
    with pytest.raises(ListingError, match="carries .* let the environment log in") as caught:
        list_images([uri])
    assert "S3CR3T" not in str(caught.value)


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ListingError, match="ftpx:// is unknown; use file, gs"):
        list_images(["ftpx://host/a"])


def test_zip_files_are_closed(tmp_path: Path) -> None:
    """More archives than may be open at once are still listed and read."""
    for number in range(filesystems.OPEN_ARCHIVES + 4):
        make_archive(tmp_path / f"{number:02}.zip", [f"{number}.jpg"])
    archives = [str(path) for path in sorted(tmp_path.glob("*.zip"))]
    refs = listed(*archives)
    assert len(refs) == filesystems.OPEN_ARCHIVES + 4
    assert len({storage.read_bytes(ref.uri) for ref in refs}) == len(refs)
    assert len(filesystems._archives) <= filesystems.OPEN_ARCHIVES
    assert zipfile.is_zipfile(archives[0])
