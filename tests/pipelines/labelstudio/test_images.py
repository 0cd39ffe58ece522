"""What a reviewer's browser gets when it asks for an image."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from pipelines.labelstudio.images import is_stored
from pipelines.labelstudio.push import LabelStudioError, push
from tests.pipelines.labelstudio.conftest import Queue, make_item, make_item_of
from tests.pipelines.labelstudio.proxy import Proxy
from tests.servers import ObjectStore


def make_picture(size: tuple[int, int] = (900, 600), mode: str = "RGB", kind: str = "PNG") -> bytes:
    image = Image.new(mode, size, (200, 30, 30, 0)[: len(mode)])
    output = io.BytesIO()
    image.save(output, kind)
    return output.getvalue()


def fetch(queue: Queue) -> Image.Image:
    """Get the image of the only task as a browser would: with redirects, as its user."""
    (task,) = queue.tasks()
    shown = queue.get(f"/api/tasks/{task['id']}/")["data"]["image"]
    answer = queue.http.get(shown, follow_redirects=True).raise_for_status()
    return Image.open(io.BytesIO(answer.content))


class TestPreviews:
    def test_a_local_image_is_uploaded_as_a_small_jpeg(self, queue: Queue, tmp_path: Path) -> None:
        path = tmp_path / "a b#é%20.png"
        path.write_bytes(make_picture(mode="RGBA"))
        push([make_item_of(path)], queue.settings)

        image = fetch(queue)
        assert (image.format, image.size, image.mode) == ("JPEG", (512, 341), "RGB")
        assert min(image.getpixel((0, 0))) > 250  # alpha over white
        (task,) = queue.tasks()
        assert len(str(task["data"])) < 1000
        assert task["data"]["uri"] == f"file://{path}"

    def test_orientation_is_applied_and_metadata_left_out(
        self, queue: Queue, tmp_path: Path
    ) -> None:
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "where somebody lives"
        path = tmp_path / "turned.jpg"
        Image.new("RGB", (800, 400)).save(path, exif=exif)
        push([make_item_of(path)], queue.settings)
        image = fetch(queue)
        assert image.size == (256, 512)
        assert not image.getexif()

    def test_a_small_image_is_not_enlarged(self, queue: Queue, tmp_path: Path) -> None:
        path = tmp_path / "small.png"
        path.write_bytes(make_picture((40, 30)))
        push([make_item_of(path)], queue.settings)
        assert fetch(queue).size == (40, 30)

    def test_an_image_that_cannot_be_shown_is_reported(self, queue: Queue, tmp_path: Path) -> None:
        broken, fine = tmp_path / "broken.jpg", tmp_path / "fine.png"
        broken.write_bytes(b"no image")
        fine.write_bytes(make_picture())
        paths = (broken, tmp_path / "gone.jpg", fine)
        items = [make_item(n, uri=f"file://{path}") for n, path in enumerate(paths)]
        items[0], items[2] = make_item_of(broken), make_item_of(fine)

        report = push(items, queue.settings)

        assert report.tasks_created == 1
        assert [uri for uri, _ in report.failed] == [item.uri for item in items[:2]]
        assert all("no preview" in why for _, why in report.failed)
        queue.assert_each_once(items[2:])

    def test_an_image_that_has_changed_is_as_good_as_gone(
        self, queue: Queue, tmp_path: Path
    ) -> None:
        paths = [tmp_path / name for name in ("changed.png", "same.png")]
        for number, path in enumerate(paths):
            path.write_bytes(make_picture((900, 600 + number)))
        items = [make_item_of(path) for path in paths]
        paths[0].write_bytes(make_picture((30, 30)))
        report = push(items, queue.settings)
        why = "no preview: it has changed since it was captioned; run captioner annotate again"
        assert report.failed == ((items[0].uri, why),)
        queue.assert_each_once(items[1:])
        project = queue.project()["id"]
        uploads = queue.get(f"/api/projects/{project}/file-uploads", params={"all": "true"})
        assert [items[1].image_id in upload["file"] for upload in uploads] == [True]

    def test_previews_are_uploaded_once(self, queue: Queue, tmp_path: Path) -> None:
        items = []
        for number in range(30):
            path = tmp_path / f"{number}.png"
            path.write_bytes(make_picture((number + 1, 1)))
            items.append(make_item_of(path, number))
        push(items, queue.settings)
        push(items, queue.settings)
        path = f"/api/projects/{queue.project()['id']}/file-uploads"
        assert len(queue.get(path, params={"all": "true"})) == 30

    @pytest.mark.usefixtures("no_waiting")
    def test_an_upload_whose_answer_is_lost(
        self, queue: Queue, proxy: Proxy, tmp_path: Path
    ) -> None:
        path = tmp_path / "1.png"
        path.write_bytes(make_picture())
        items = [make_item_of(path)]
        proxy.lose_answers("POST", "/import", 1)
        push(items, replace(queue.settings, url=proxy.url))
        assert proxy.lost == 1
        queue.assert_each_once(items)
        project = queue.project()["id"]
        uploads = queue.get(f"/api/projects/{project}/file-uploads", params={"all": "true"})
        assert len(uploads) == 1
        assert fetch(queue).size == (512, 341)

    def test_a_preview_that_a_dead_push_left_is_used(self, queue: Queue, tmp_path: Path) -> None:
        path = tmp_path / "1.png"
        path.write_bytes(make_picture())
        item = make_item_of(path)
        push([make_item(2)], queue.settings)
        project = queue.project()["id"]
        files = {"file": (f"{item.image_id}.jpg", make_picture(kind="JPEG"), "image/jpeg")}
        options = {"commit_to_project": "false"}
        queue.http.post(f"/api/projects/{project}/import", params=options, files=files)
        push([item], queue.settings)
        uploads = queue.get(f"/api/projects/{project}/file-uploads", params={"all": "true"})
        assert len(uploads) == 1


@pytest.fixture
def storage_key(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for Label Studio to read the bucket with."""
    monkeypatch.setenv("LABEL_STUDIO_STORAGE_AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("LABEL_STUDIO_STORAGE_AWS_SECRET_ACCESS_KEY", "testing")


PICTURE_ID = hashlib.sha256(make_picture()).hexdigest()


def put(store: ObjectStore, name: str) -> str:
    fsspec.filesystem(store.protocol).pipe(f"{store.bucket}/{name}", make_picture())
    return f"{store.root}/{name}"


class TestStores:
    @pytest.mark.usefixtures("storage_key")
    @pytest.mark.parametrize("name", ["plain.png", "a b/ü#1 & 100%.png"])
    def test_s3_images_are_signed_when_somebody_looks(
        self, queue: Queue, s3_server: ObjectStore, name: str
    ) -> None:
        uri = put(s3_server, name)
        push([make_item(1, uri=uri)], queue.settings)
        (task,) = queue.tasks()
        resolved = queue.get(f"/api/tasks/{task['id']}/")["data"]["image"]
        signed = queue.http.get(resolved)
        assert signed.status_code == 303
        assert "X-Amz-Signature" in signed.headers["location"]
        assert fetch(queue).size == (900, 600)

    def test_gs_images_are_handed_through_where_nothing_can_sign(
        self, queue: Queue, gcs_emulator: ObjectStore
    ) -> None:
        uri = put(gcs_emulator, "photos/one.png")
        push([make_item(1, uri=uri)], queue.settings)
        assert fetch(queue).size == (900, 600)
        assert (
            queue.get("/api/storages/gcs", params={"project": queue.project()["id"]})[0]["presign"]
            is False
        )

    @pytest.mark.usefixtures("storage_key")
    def test_a_bucket_gets_one_storage_that_imports_nothing(
        self, queue: Queue, s3_server: ObjectStore
    ) -> None:
        items = [make_item(n, uri=put(s3_server, f"{n}.png")) for n in range(2)]
        push(items[:1], queue.settings)
        push(items, queue.settings)
        (storage,) = queue.get("/api/storages/s3", params={"project": queue.project()["id"]})
        queue.post(f"/api/storages/s3/{storage['id']}/sync", {})
        queue.assert_each_once(items)

    def test_credentials_of_this_process_are_not_handed_on(
        self, queue: Queue, s3_server: ObjectStore
    ) -> None:
        uri = put(s3_server, "kept.png")
        with pytest.raises(LabelStudioError, match="docs/label-studio.md"):
            push([make_item(1, uri=uri)], queue.settings)

    def test_previews_of_stored_images_when_asked_for(
        self, queue: Queue, s3_server: ObjectStore
    ) -> None:
        uri = put(s3_server, "asked.png")
        push([make_item(1, uri=uri, image_id=PICTURE_ID)], replace(queue.settings, previews=True))
        assert fetch(queue).size == (512, 341)

    def test_a_name_that_label_studio_cannot_read_becomes_a_preview(
        self, queue: Queue, s3_server: ObjectStore
    ) -> None:
        uri = put(s3_server, "why?.png")
        push([make_item(1, uri=uri, image_id=PICTURE_ID)], queue.settings)
        assert fetch(queue).size == (512, 341)


@pytest.mark.parametrize(
    ("uri", "stored"),
    [
        ("gs://bucket/a.jpg", True),
        ("s3://bucket/folder/no extension", True),
        ("s3://bucket/scan.TIFF", False),
        ("s3://bucket/line\nbreak.jpg", False),
        ("s3://bucket//double.jpg", False),
        ("gs://bucket/what?.jpg", False),
        ("gs://bucket", False),
        ("file:///data/a.jpg", False),
        ("zip://a.jpg::s3://bucket/a.zip", False),
    ],
)
def test_what_label_studio_can_read_itself(uri: str, stored: bool) -> None:
    assert is_stored(uri) is stored
