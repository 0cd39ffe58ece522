import pytest

from captioner.training.sources import DataError, Example, read_examples, splits_of
from tests.captioner.training.sources.store import DATA, write, write_lines


class TestSplits:
    def test_subfolders_with_metadata_by_any_of_their_names(self):
        for folder in ("train", "dev", "test"):
            write_lines(f"{folder}/metadata.jsonl", {"file_name": "1.jpg", "text": folder})
        write("other/metadata.jsonl", "{}")
        splits = splits_of(DATA)
        assert list(splits) == ["train", "validation", "test"]
        assert read_examples(splits["validation"]) == [
            Example("memory:///data/dev/1.jpg", ("dev",))
        ]

    def test_a_folder_of_splits_is_no_data_itself(self):
        write_lines("train/metadata.jsonl", {"file_name": "1.jpg", "text": "a dog"})
        with pytest.raises(DataError, match=r"has splits \(train\).*memory:///data/train"):
            read_examples(DATA)

    def test_folders_without_metadata_are_none(self):
        write("train/1.jpg", b"")
        assert splits_of(DATA) == {}

    def test_two_names_of_one_split(self):
        for folder in ("val", "dev"):
            write(f"{folder}/metadata.csv", "file_name,text\n")
        with pytest.raises(DataError, match="dev and val, which both mean validation"):
            splits_of(DATA)


class TestLooking:
    def test_what_was_looked_for_and_found_is_said(self):
        write("1.jpg", b"")
        write("notes.md", b"")
        with pytest.raises(DataError) as raised:
            read_examples(DATA)
        for words in ("metadata.jsonl", "*.parquet", "found 1.jpg, notes.md", "COCO"):
            assert words in str(raised.value)

    def test_what_is_not_there(self):
        with pytest.raises(DataError, match="no file or folder memory:///nowhere"):
            read_examples("memory://nowhere")

    def test_an_unknown_protocol(self):
        with pytest.raises(DataError, match="cannot read wrong://data.*not known"):
            read_examples("wrong://data")

    def test_a_secret_in_the_name(self):
        with pytest.raises(DataError, match="carries a user name or password") as raised:
            read_examples("s3://user:word@bucket/data")
        assert "word@" not in str(raised.value)

    @pytest.mark.parametrize("content", [b"hello\nworld", b"", b"a,b\n1,2\n", b"\xff\xfe\0"])
    def test_a_text_of_no_known_kind(self, content):
        uri = write("notes.txt", content)
        with pytest.raises(DataError, match="is of no known kind: its first line is"):
            read_examples(uri)

    def test_text_in_another_encoding(self):
        write("metadata.csv", "file_name,text\n1.jpg,Hündin\n".encode("latin-1"))
        with pytest.raises(DataError, match="is not text in UTF-8"):
            read_examples(DATA)

    def test_images_where_they_cannot_be_elsewhere(self):
        write_lines("metadata.jsonl", {"file_name": "1.jpg", "text": "a dog"})
        with pytest.raises(DataError, match="leave out `images`"):
            read_examples(DATA, images="memory://elsewhere")
