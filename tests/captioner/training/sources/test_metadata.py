import zipfile

import pytest

from captioner.training.sources import DataError, Example, files, read_examples
from tests.captioner.training.sources.store import DATA, by_name, write, write_lines


class TestImageFolder:
    @pytest.mark.parametrize(
        "row",
        [
            {"captions": ["a dog", "two dogs"]},
            {"caption": ["a dog", "two dogs"]},
            {"text": ["a dog", "two dogs"]},
        ],
    )
    def test_json_lines(self, row):
        write_lines("metadata.jsonl", {"file_name": "sub/1.jpg", **row})
        assert read_examples(DATA) == [
            Example("memory:///data/sub/1.jpg", ("a dog", "two dogs")),
        ]

    def test_one_text_a_line_and_other_fields(self):
        write_lines("metadata.jsonl", {"file_name": "1.jpg", "text": "a dog", "height": 3})
        assert by_name(read_examples(DATA)) == {"1.jpg": ("a dog",)}

    @pytest.mark.parametrize("column", ["text", "caption"])
    def test_table(self, column):
        write("metadata.csv", f'\ufefffile_name,{column}\n1.jpg,"a dog, asleep"\n2.jpg,a cat\n')
        captions = by_name(read_examples(DATA))
        assert captions == {"1.jpg": ("a dog, asleep",), "2.jpg": ("a cat",)}

    def test_a_local_path_with_blanks_and_colons(self, tmp_path, monkeypatch):
        folder = tmp_path / "my data"
        write("metadata.jsonl", '{"file_name": "a::b.jpg", "text": "a"}', f"file://{folder}")
        monkeypatch.chdir(tmp_path)
        (example,) = read_examples("my data")
        assert example.uri == f"file://{folder}/a::b.jpg"
        (folder / "a::b.jpg").write_bytes(b"picture")
        assert files.read(example.uri) == b"picture"

    def test_an_image_that_comes_twice_has_each_caption_once(self):
        write_lines(
            "metadata.jsonl",
            {"file_name": "1.jpg", "text": "a dog"},
            {"file_name": "2.jpg", "text": "a cat"},
            {"file_name": "./1.jpg", "captions": ["a  dog\n", "it sleeps"]},
        )
        assert by_name(read_examples(DATA)) == {
            "1.jpg": ("a dog", "it sleeps"),
            "2.jpg": ("a cat",),
        }

    def test_empty_captions_are_left_out_and_counted(self, caplog):
        write_lines(
            "metadata.jsonl",
            {"file_name": "1.jpg", "captions": ["a dog", " "]},
            {"file_name": "2.jpg", "captions": [""]},
            {"file_name": "3.jpg", "captions": None},
        )
        assert by_name(read_examples(DATA)) == {"1.jpg": ("a dog",)}
        assert "left out 2 empty captions and 2 images without captions" in caplog.text

    @pytest.mark.parametrize(
        "name",
        [
            "../1.jpg",
            "a/../../1.jpg",
            "/etc/1.jpg",
            "http://host/1.jpg",
            "a\\..\\1.jpg",
            "C:\\1.jpg",
        ],
    )
    def test_no_name_leads_out_of_the_folder(self, name):
        write_lines("metadata.jsonl", {"file_name": name, "text": "a dog"})
        with pytest.raises(DataError, match="line 1, names the image") as raised:
            read_examples(DATA)
        assert repr(name) in str(raised.value)

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("{", "line 1, is not JSON"),
            ("[" * 100_000, "line 1, is not JSON"),
            ("[]", "line 1, is not an object"),
            ('{"image": "1.jpg"}', "line 1, has no file_name but image"),
            ('{"file_name": "1.jpg", "text": 7}', "field 'text' is '7'"),
            ('{"file_name": "1.jpg", "label": 7}', "fields captions, caption, text"),
            ('{"file_name": "1.jpg", "text": ""}', "captions of none of its 1 images"),
        ],
    )
    def test_what_is_wrong_with_a_line_is_said(self, line, said):
        write("metadata.jsonl", line)
        with pytest.raises(DataError, match=said):
            read_examples(DATA)

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            (
                "file_name,label\n1.jpg,7\n",
                "has the columns file_name, label; needed are file_name",
            ),
            ("file_name,text\n1.jpg,a dog, asleep\n", "line 2, has not 2 values"),
            ("file_name,text\n1.jpg\n", "line 2, has not 2 values"),
            ('file_name,text\n1.jpg,"a dog\n', "after line 1: unexpected end"),
        ],
    )
    def test_what_is_wrong_with_a_table_is_said(self, table, said):
        write("metadata.csv", table)
        with pytest.raises(DataError, match=said):
            read_examples(DATA)

    def test_a_folder_with_two_kinds_of_metadata_is_asked_about(self):
        write_lines("metadata.jsonl", {"file_name": "1.jpg", "text": "a dog"})
        csv = write("metadata.csv", "file_name,text\n1.jpg,a cat\n")
        with pytest.raises(DataError, match="metadata.jsonl and metadata.csv; name the one"):
            read_examples(DATA)
        assert by_name(read_examples(csv)) == {"1.jpg": ("a cat",)}

    def test_images_in_an_archive(self, tmp_path):
        path = tmp_path / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.jsonl", '{"file_name": "sub/1.jpg", "text": "a dog"}')
            archive.writestr("sub/1.jpg", b"picture")
        (example,) = read_examples(str(path))
        assert example == Example(f"zip://sub/1.jpg::file://{path}", ("a dog",))
        assert files.read(example.uri) == b"picture"
