"""``captioner explain`` as a person runs it."""

from pathlib import Path

import fsspec
import pytest
from PIL import Image

from captioner.scenes import write_folder
from tests.pipelines.test_main_job import captioner
from tests.servers import ObjectStore


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_folder(str(folder), count=1, seed=5)
    return folder / "scene-000000.jpg"


def test_a_picture_of_each_word(image: Path, tmp_path: Path):
    done = captioner("explain", image, "--output", tmp_path / "why.png", "--strategy", "beam")
    assert done.returncode == 0, done.stderr
    caption = done.stdout.splitlines()[0]
    with Image.open(tmp_path / "why.png") as drawn:
        panels = len(caption.split()) + 1
        assert drawn.size[0] == 6 * 232 + 8
        assert drawn.size[1] > (panels // 6) * 224


def test_to_and_from_a_bucket(image: Path, gcs_emulator: ObjectStore):
    store, folder = fsspec.filesystem("gs"), f"{gcs_emulator.bucket}/explained"
    store.pipe_file(f"{folder}/a b.jpg", image.read_bytes())
    done = captioner("explain", f"gs://{folder}/a b.jpg", "--output", f"gs://{folder}/why.png")
    assert done.returncode == 0, done.stderr
    store.invalidate_cache()
    assert store.cat_file(f"{folder}/why.png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.jpg"], "nothing.jpg"),
        (["zip://no-archive.zip"], "IMAGE 'zip://no-archive.zip': "),
        ([__file__], "no image: it begins with"),
        (["IMAGE", "--top_k", "3"], "--top_k is for --strategy sample"),
        (["https://user:hunter2@host/a.jpg"], "carries"),
        (["IMAGE", "--modle", "x"], "did you mean --model?"),
    ],
)
def test_what_cannot_be_used_is_named(image: Path, tmp_path: Path, arguments: list[str], said: str):
    given = [str(image) if argument == "IMAGE" else argument for argument in arguments]
    done = captioner("explain", *given, "--output", tmp_path / "why.png")
    assert done.returncode == 2
    assert said in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "why.png").exists()
