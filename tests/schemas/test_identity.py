"""Keys and tallies."""

import random

import pyarrow as pa
import pytest

from schemas.identity import config_id, image_id, row_key
from schemas.tables import TABLES
from schemas.tally import Tally


def test_image_id_is_sha256():
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert image_id(b"") == empty


def test_parts_of_a_key_do_not_run_into_each_other():
    keys = [row_key("ab", "c"), row_key("a", "bc"), row_key("abc"), row_key("abc", "")]
    assert len(set(keys)) == 4
    assert {len(key) for key in keys} == {16}


def test_config_id_ignores_order():
    assert config_id({"a": 1, "b": 2}) == config_id({"b": 2, "a": 1})
    assert config_id({"a": 1}) != config_id({"a": 2})


class TestTally:
    keys = [row_key(str(n)) for n in range(100)]

    def test_order_and_grouping_do_not_matter(self):
        mixed = random.Random(0).sample(self.keys, 100)
        assert Tally.of(mixed) == Tally.of(self.keys)
        assert Tally.of(mixed[:30]) + Tally.of(mixed[30:]) == Tally.of(self.keys)

    def test_one_lost_and_another_doubled_shows(self):
        wrong = [*self.keys[:-1], self.keys[0]]
        assert Tally.of(wrong).count == Tally.of(self.keys).count
        assert Tally.of(wrong) != Tally.of(self.keys)


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_described_and_every_table_versioned(name: str):
    schema = TABLES[name]
    assert schema.metadata[b"schema_version"] == b"1"
    assert all(field.metadata and field.metadata[b"description"] for field in schema)


def test_columns_of_the_design():
    assert TABLES["captions"].field("tokens").type == pa.list_(pa.string())
    assert len(TABLES["captions"].field("features").type) == 17
    assert {"attempt", "stage", "kind"} <= set(TABLES["failures"].names)
    assert {"reasons", "inclusion_probability"} <= set(TABLES["review"].names)
    assert {"verdict", "reviewer", "task_id"} <= set(TABLES["reviews"].names)
