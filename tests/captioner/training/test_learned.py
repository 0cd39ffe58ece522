import hashlib
import json
import logging
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner.annotations import Annotations, Label
from captioner.contract import ModelLoadError
from captioner.scenes import render, sample
from captioner.training.assemble import assemble
from captioner.training.config import TrainingConfig
from captioner.training.learned import images_learned, learned_from
from captioner.training.options import TrainingOptions
from captioner.training.sources import DataError, Example
from captioner.training.state import StateError
from schemas.tables import CAPTIONS, REVIEW, REVIEWS
from tests.captioner.training.sources.test_reviews import BLANK


def image(path: Path, number: int) -> str:
    """Write a scene; return the id of its image, read past the code that is tested."""
    path.parent.mkdir(parents=True, exist_ok=True)
    render(sample(number)).resize((48, 48)).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_output(folder: Path, reviewed: int, audited: int) -> list[str]:
    """Write an output of reviewed images, the last of which are audited; return their ids."""
    photos = folder.parent / "photos"
    ids = [image(photos / f"{number}.png", number) for number in range(reviewed)]
    rows = {
        "captions": [
            {"image_id": one, "uri": f"file://{photos}/{number}.png"}
            for number, one in enumerate(ids)
        ],
        "reviews": [
            {"image_id": one, "verdict": "accepted", "shown_caption": f"scene {number}"}
            for number, one in enumerate(ids)
        ],
        "review": [{"image_id": one, "reasons": ["audit"]} for one in ids[reviewed - audited :]],
    }
    schemas = {"captions": CAPTIONS, "reviews": REVIEWS, "review": REVIEW}
    folder.mkdir()
    for name, those in rows.items():
        table = [{"model_id": "m", "decoding": "d", **BLANK[name], **row} for row in those]
        pq.write_table(pa.Table.from_pylist(table, schemas[name]), folder / f"{name}.parquet")
    files = {name: [{"path": f"{name}.parquet"}] for name in rows}
    (folder / "current.json").write_text(json.dumps({"schema_version": 1, "files": files}))
    return ids


def options(data: Path, output: Path, **changes) -> TrainingOptions:
    settings = {"embedding_size": 16, "hidden_size": 24, "attention_size": 16}
    return TrainingOptions(
        data=str(data),
        output=str(output),
        image_size=32,
        device="cpu",
        config=TrainingConfig(epochs=1, batch_size=4, thaw="all"),
        decoder_settings=settings,
        **changes,
    )


class TestTraining:
    def test_from_an_output(self, tmp_path, caplog):
        ids = write_output(tmp_path / "output", reviewed=12, audited=3)
        with caplog.at_level(logging.INFO):
            run = assemble(options(tmp_path / "output", tmp_path / "model"))
        used = [*run._material.examples, *run._material.validation]
        assert {example.image_id for example in used} == set(ids[:9])
        assert "3 images that were reviewed are left out (3 drawn for the audit)" in caplog.text
        run.run()
        for folder in ("best", "last"):
            assert images_learned(str(tmp_path / "model" / folder)) == set(ids[:9])
        record = json.loads((tmp_path / "model" / "reviews.json").read_text())
        assert record["captions"] == 9
        assert f"reviews {record['version']}: 9 captions of 9 images" in caplog.text
        card = (tmp_path / "model" / "best" / "README.md").read_text()
        assert f"- reviews: {record['version']}\n" in card

    def test_other_reviews_are_another_training(self, tmp_path):
        write_output(tmp_path / "output", reviewed=6, audited=1)
        assemble(options(tmp_path / "output", tmp_path / "model")).run()
        shutil.rmtree(tmp_path / "output")
        write_output(tmp_path / "output", reviewed=6, audited=2)
        with pytest.raises(StateError, match="reviews"):
            assemble(options(tmp_path / "output", tmp_path / "model"))

    def test_the_audit_is_spared_wherever_its_bytes_lie(self, tmp_path, caplog):
        write_output(tmp_path / "output", reviewed=8, audited=2)
        other = tmp_path / "other"
        for number in (6, 20, 21):  # 6 is audited in the output
            image(other / f"{number}.png", number)
        rows = [{"file_name": f"{n}.png", "caption": "a scene"} for n in (6, 20, 21)]
        (other / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = options(tmp_path / "output", tmp_path / "model", validation=str(other))
        scored = assemble(made)._material.validation
        assert {Path(example.uri).name for example in scored} == {"20.png", "21.png"}
        (bad,) = (tmp_path / "model" / "bad_images.txt").read_text().splitlines()
        assert "6.png was drawn for an audit, from which nothing learns" in bad

    def test_an_image_that_has_changed_is_left_out(self, tmp_path):
        ids = write_output(tmp_path / "output", reviewed=6, audited=1)
        image(tmp_path / "photos" / "2.png", 50)
        material = assemble(options(tmp_path / "output", tmp_path / "model"))._material
        used = {example.image_id for example in [*material.examples, *material.validation]}
        assert used == set(ids[:5]) - {ids[2]}
        assert (
            "has changed since it was reviewed"
            in (tmp_path / "model" / "bad_images.txt").read_text()
        )

    def test_all_of_it_audited(self, tmp_path):
        write_output(tmp_path / "output", reviewed=4, audited=4)
        with pytest.raises(DataError, match="4 drawn for the audit"):
            assemble(options(tmp_path / "output", tmp_path / "model"))


class TestLearned:
    def test_the_version_is_of_what_was_said_of_which_image(self):
        examples = [
            Example("file:///1.png", ("a", "b"), image_id="i1"),
            Example("file:///2.png", ("c",), image_id="i2"),
            Example("file:///3.png", ("d",)),
        ]
        learned = learned_from(examples)
        assert learned is not None
        assert (learned.images, learned.captions) == (("i1", "i2"), 3)
        moved = [
            Example("gs://other/2.png", ("c",), image_id="i2"),
            Example("gs://other/1.png", ("b", "a"), image_id="i1"),
        ]
        assert learned_from(moved) == learned
        labels = Annotations((Label("dog"),))
        for changed in (
            Example("file:///2.png", ("e",), image_id="i2"),
            Example("file:///2.png", ("c",), image_id="i9"),
            Example("file:///2.png", ("c",), labels, image_id="i2"),
        ):
            other = learned_from([examples[0], changed])
            assert other is not None
            assert other.version != learned.version

    def test_data_without_reviews(self):
        assert learned_from([Example("file:///1.png", ("a",))]) is None

    def test_a_folder_without_the_file(self, tmp_path):
        assert images_learned(str(tmp_path)) == frozenset()

    @pytest.mark.parametrize("content", ["{", "[]", "{}"])
    def test_a_broken_file(self, tmp_path, content):
        (tmp_path / "reviews.json").write_text(content)
        with pytest.raises(ModelLoadError, match=r"reviews.json of model .* cannot be read"):
            images_learned(str(tmp_path))
