"""What is remembered of a project's tasks, and that nothing is believed that may be wrong."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.labelstudio import ledger as ledger_module
from pipelines.labelstudio.ledger import Ledger, LedgerFile
from pipelines.labelstudio.tasks import Page, Task
from pipelines.output import Lease, Output, OutputError
from pipelines.storage import StorageError

NOON, LATER = "2026-01-01T12:00:00Z", "2026-01-01T12:00:00.000001Z"


def task(number: int, image_id: str | None = None, *versions: str, predictions: int = 0) -> Task:
    count = predictions or len(versions)
    return Task(number, image_id or f"image {number}", frozenset(versions), count, False)


class TestLedger:
    def test_tasks_are_found_by_image_lowest_number_first(self) -> None:
        ledger = Ledger([task(9, "a", "m"), task(3, "a"), task(5, "b")])
        assert [found.id for found in ledger.of("a")] == [3, 9]
        assert ledger.of("c") == []
        assert (len(ledger), ledger.highest, Ledger().highest) == (3, 9, 0)
        assert [[one.id for one in tasks] for tasks in ledger.several()] == [[3, 9]]

    def test_what_goes_is_counted(self) -> None:
        ledger = Ledger([task(1, "a", "m", "n"), task(2, "b")])
        ledger.put(task(1, "a", "m", "n", "o"))
        assert ledger.lost == 0
        ledger.put(task(1, "a", "m"))
        assert ledger.lost == 1
        ledger.drop(2)
        ledger.drop(2)
        assert (ledger.lost, ledger.of("b")) == (2, [])

    def test_a_number_that_the_server_gave_anew_is_of_another_image(self) -> None:
        ledger = Ledger([task(1, "a")])
        ledger.put(task(1, "b"))
        assert (ledger.of("a"), len(ledger.of("b")), ledger.lost) == ([], 1, 1)

    def test_tasks_that_no_push_made_are_of_no_image(self) -> None:
        ledger = Ledger([Task(1, "", frozenset(), 0, False), Task(2, "", frozenset("m"), 5, False)])
        assert (ledger.of(""), ledger.several(), ledger.unsettled()) == ([], [], [])
        assert ledger.count([1, 2]) == (2, 5)

    def test_replacing_forgets_what_is_not_there_any_more(self) -> None:
        ledger = Ledger([task(number) for number in range(1, 6)])
        ledger.replace([2, 3, 4], [Page((task(2), task(4, "new")), NOON)])
        assert [(one.id, one.image_id) for one in ledger] == [
            (1, "image 1"),
            (2, "image 2"),
            (4, "new"),
            (5, "image 5"),
        ]

    def test_pages_move_the_time_up_to_which_all_was_read(self) -> None:
        ledger = Ledger()
        ledger.add([Page((task(1),), LATER), Page((task(2),), NOON)])
        assert (ledger.newest, len(ledger)) == (LATER, 2)
        ledger.add([])
        assert ledger.newest == LATER

    def test_tasks_with_a_version_are_counted_as_a_server_does(self) -> None:
        ledger = Ledger([task(1, "a", "m/1"), task(2, "b", "M/12", "n"), task(3, "c", "n")])
        assert ledger.count([1, 2, 3]) == (3, 4)
        assert ledger.count([1, 2, 3], "m/1")[0] == 2
        assert ledger.count([3], "m/1")[0] == 0

    def test_repeated_predictions_are_looked_at_once_for_each_count(self) -> None:
        ledger = Ledger([task(1, "a", "m", predictions=2), task(2, "b", "m")])
        (found,) = ledger.unsettled()
        ledger.settle(found)
        ledger.put(replace(found))
        assert ledger.unsettled() == []
        ledger.put(replace(found, predictions=3))
        assert [one.id for one in ledger.unsettled()] == [1]

    def test_blocks_cover_all_numbers_and_are_few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "BLOCK", 3)
        assert Ledger(map(task, (8, 2, 5, 9))).blocks() == [[2, 5, 8], [9]]
        blocks = Ledger(map(task, range(1, 1000))).blocks()
        assert sum(blocks, []) == list(range(1, 1000))
        assert len(blocks) == ledger_module.BLOCKS
        assert Ledger().blocks() == []


@pytest.fixture
def file(tmp_path: Path) -> LedgerFile:
    return LedgerFile(Output(tmp_path.as_uri()), "http://127.0.0.1:8080", 7, NOON)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger([task(1, "a", "m"), task(2, "b", "m", "n", predictions=3)], LATER)
    ledger.put(Task(3, "", frozenset(), 0, True))
    ledger.settle(ledger.unsettled()[0])
    return ledger


def path_of(file: LedgerFile) -> Path:
    (path,) = Path(file.output.uri.removeprefix("file://"), "labelstudio").iterdir()
    return path


class TestFile:
    def test_it_comes_back_as_it_was(self, file: LedgerFile, ledger: Ledger) -> None:
        file.save(ledger)
        found, why = file.load()
        assert why is None
        assert list(found) == list(ledger)
        assert (found.newest, found.unsettled()) == (LATER, [])
        assert [one.id for one in found if found.is_settled(one)] == [2]

    def test_there_is_none_at_first(self, file: LedgerFile) -> None:
        found, why = file.load()
        assert (len(found), found.newest, why) == (0, "", None)

    def test_an_empty_one_comes_back(self, file: LedgerFile) -> None:
        file.save(Ledger())
        found, why = file.load()
        assert (len(found), found.newest, why) == (0, "", None)

    def test_each_project_of_each_server_has_its_own(self, file: LedgerFile) -> None:
        others = [replace(file, project=8), replace(file, url="http://127.0.0.1:8081"), file]
        assert len({one.path for one in others}) == 3

    def test_a_torn_one_is_not_used(self, file: LedgerFile, ledger: Ledger) -> None:
        file.save(ledger)
        path = path_of(file)
        whole = path.read_bytes()
        for length in range(0, len(whole), 97):
            path.write_bytes(whole[:length])
            found, why = file.load()
            assert len(found) == 0
            assert why is not None
            assert "remembered of this project is not used" in why

    def test_a_damaged_one_is_not_used(self, file: LedgerFile, ledger: Ledger) -> None:
        file.save(ledger)
        path = path_of(file)
        whole = path.read_bytes()
        for index in range(0, pq.ParquetFile(path).metadata.row_group(0).total_byte_size, 7):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :])
            found, why = file.load()
            assert why is not None or list(found) == list(ledger)

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            ({"url": "http://127.0.0.1:9"}, "another server"),
            ({"project": 8}, "another project"),
            ({"created_at": LATER}, "another project"),
        ],
    )
    def test_one_of_another_project_is_not_used(
        self, file: LedgerFile, ledger: Ledger, change: dict[str, object], what: str
    ) -> None:
        other = replace(file, **change)  # type: ignore[arg-type]
        other.save(ledger)
        path_of(file).rename(Path(file.path.removeprefix("file://")))
        found, why = file.load()
        assert len(found) == 0
        assert why is not None
        assert what in why

    def test_one_of_another_version_is_not_used(
        self, file: LedgerFile, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.save(ledger)
        monkeypatch.setattr(ledger_module, "VERSION", "2")
        found, why = file.load()
        assert len(found) == 0
        assert why is not None
        assert "another ledger version" in why

    def test_another_parquet_file_is_not_used(self, file: LedgerFile, ledger: Ledger) -> None:
        file.save(ledger)
        pq.write_table(pq.read_table(path_of(file)).replace_schema_metadata({}), path_of(file))
        _, why = file.load()
        assert why is not None
        assert "another ledger version and server and project" in why

    def test_a_run_that_lost_its_lease_does_not_write(self, tmp_path: Path) -> None:
        output = Output(tmp_path.as_uri(), "run-1")
        file = LedgerFile(output, "http://127.0.0.1:8080", 7, NOON)
        with Lease(output, "run-1"):
            file.save(Ledger([task(1)]))
        with Lease(output, "run-2"), pytest.raises(OutputError, match="taken over by run run-2"):
            file.save(Ledger())
        assert len(file.load()[0]) == 1

    def test_a_place_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "labelstudio").write_text("in the way")
        file = LedgerFile(Output(tmp_path.as_uri()), "http://127.0.0.1:8080", 7, NOON)
        with pytest.raises(StorageError, match="labelstudio"):
            file.save(Ledger())
        found, _ = file.load()
        assert len(found) == 0
