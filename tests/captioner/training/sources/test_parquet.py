import pyarrow as pa
import pytest

from captioner.training.sources import DataError, Example, read_examples
from tests.captioner.training.sources.store import DATA, write, write_table


def uri_of(number: int) -> str:
    return f"gs://bucket/{number}.jpg"


class TestParquet:
    def test_a_file_with_uris(self):
        rows = {"uri": [uri_of(1), uri_of(2)], "caption": ["a dog", None]}
        uri = write_table("x.parquet", pa.table(rows))
        assert read_examples(uri) == [Example(uri_of(1), ("a dog",))]

    def test_a_folder_with_file_names_and_lists(self):
        write_table("1.parquet", pa.table({"file_name": ["1.jpg"], "captions": [["a", "b"]]}))
        write_table("2.parquet", pa.table({"file_name": ["1.jpg"], "text": ["c"]}))
        assert read_examples(DATA) == [Example("memory:///data/1.jpg", ("a", "b", "c"))]

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ({"image": [b""], "caption": ["a"]}, "has the columns image, caption; needed are uri"),
            ({"uri": ["1.jpg"], "caption": ["a"]}, "which is not absolute"),
            ({"uri": ["s3://u:p@b/1.jpg"], "caption": ["a"]}, "a user name or password"),
            ({"uri": [7], "caption": ["a"]}, "its uri 7 is not text"),
            ({"uri": [uri_of(1)], "caption": [7]}, "the caption '7' is not text"),
            ({"file_name": ["../1.jpg"], "caption": ["a"]}, "names the image '../1.jpg'"),
        ],
    )
    def test_what_is_wrong_is_said(self, columns, said):
        uri = write_table("x.parquet", pa.table(columns))
        with pytest.raises(DataError, match=said) as raised:
            read_examples(uri)
        assert "u:p" not in str(raised.value)

    def test_a_file_that_is_none(self):
        uri = write("x.parquet", b"PAR1 and no more")
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            read_examples(uri)
