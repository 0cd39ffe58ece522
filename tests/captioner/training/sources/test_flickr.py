import pytest

from captioner.training.sources import DataError, Example, read_examples
from tests.captioner.training.sources.store import DATA, write


class TestFlickr:
    @pytest.mark.parametrize("folder", ["Images/", "Flicker8k_Dataset/", ""])
    def test_token_file(self, folder):
        write(
            "Flickr8k.token.txt", "1_a.jpg#0\tA child .\r\n1_a.jpg#1\tA girl .\n2#b.jpg#0\tA dog ."
        )
        write(f"{folder}1_a.jpg", b"")
        assert read_examples(DATA) == [
            Example(f"memory:///data/{folder}1_a.jpg", ("A child .", "A girl .")),
            Example(f"memory:///data/{folder}2#b.jpg", ("A dog .",)),
        ]

    def test_table(self):
        uri = write("captions.txt", 'image,caption\n1.jpg,"A child, asleep"\n1.jpg,A girl\n')
        write("1.jpg", b"", "memory://pictures")
        assert read_examples(uri, images="memory://pictures/") == [
            Example("memory:///pictures/1.jpg", ("A child, asleep", "A girl"))
        ]

    def test_a_broken_line_is_named(self):
        write("Flickr8k.token.txt", "1.jpg#0\tA child .\n2.jpg A dog .\n")
        with pytest.raises(DataError, match="line 2, is not NAME#NUMBER"):
            read_examples(DATA)
