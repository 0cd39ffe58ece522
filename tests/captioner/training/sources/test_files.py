import pytest

from captioner.training.sources import DataError, files
from tests.captioner.training.sources.store import write


def test_a_file_that_is_too_large():
    uri = write("1.jpg", b"12345")
    assert files.read(uri, 5) == b"12345"
    with pytest.raises(DataError, match="larger than 4 bytes"):
        files.read(uri, 4)


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("file:///a/b.json", "file:///a"),
        ("file:///b.json", "file:///"),
        ("gs://bucket/b.json", "gs://bucket"),
        ("gs://bucket", "gs://bucket"),
        ("zip://a/b.json::file:///x.zip", "zip://a::file:///x.zip"),
        ("zip://b.json::file:///x.zip", "zip://::file:///x.zip"),
    ],
)
def test_the_folder_above(uri, folder):
    assert files.parent(uri) == folder
    if uri != folder:
        assert files.join(folder, "b.json") == uri
