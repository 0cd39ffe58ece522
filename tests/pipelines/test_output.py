"""The lease and ``current.json``."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.output import Current, Lease, LiveFile, Output, OutputError, read_lease


@pytest.fixture(params=["file", "memory"])
def output(tmp_path: Path, request: pytest.FixtureRequest) -> Output:
    if request.param == "memory":
        return Output(f"memory://{tmp_path.name}-{time.time_ns()}")
    return Output((tmp_path / "out").as_uri())


class TestLease:
    def test_a_second_run_says_who_holds_it(self, output: Output):
        with Lease(output, "first"), pytest.raises(OutputError, match="run first .process"):
            Lease(output, "second").__enter__()

    def test_is_given_back(self, output: Output):
        with Lease(output, "first"):
            pass
        with Lease(output, "second"):
            assert storage.exists(output.path("lease.json"))
        assert not storage.exists(output.path("lease.json"))

    def test_is_renewed_while_it_is_held(self, output: Output):
        with Lease(output, "first", seconds=0.6):
            time.sleep(1.5)
            with pytest.raises(OutputError):
                Lease(output, "second").__enter__()

    def test_a_stale_one_is_taken_over(self, output: Output):
        other = {"run_id": "old", "host": "elsewhere", "pid": 1, "seconds": 60}
        content = json.dumps({**other, "renewed_at": time.time() - 61}).encode()
        storage.write_bytes_atomically(output.path("lease.json"), content)
        with Lease(output, "new"):
            assert read_lease(output)["run_id"] == "new"

    def test_a_fresh_one_of_another_machine_is_respected(self, output: Output):
        other = {"run_id": "old", "host": "elsewhere", "pid": 1, "seconds": 60}
        content = json.dumps({**other, "renewed_at": time.time() - 30}).encode()
        storage.write_bytes_atomically(output.path("lease.json"), content)
        with pytest.raises(OutputError, match="on elsewhere, last seen 30 s"):
            Lease(output, "new").__enter__()

    def test_one_of_a_killed_process_of_this_machine_is_taken_over_at_once(self, tmp_path: Path):
        output = Output((tmp_path / "out").as_uri())
        code = (
            "import time; from pipelines.output import Lease, Output\n"
            f"with Lease(Output({output.uri!r}), 'killed'): print('held', flush=True); "
            "time.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"process {process.pid} "):
            Lease(output, "new").__enter__()
        process.kill()
        process.wait()
        with Lease(output, "new"):
            holder = json.loads(storage.read_fresh(output.path("lease.json")))
            assert holder["pid"] == os.getpid()

    def test_of_eight_at_once_one_gets_it(self, output: Output):
        held: list[str] = []
        refused: list[str] = []
        start = threading.Barrier(8)

        def race(name: str) -> None:
            start.wait()
            try:
                with Lease(output, name):
                    held.append(name)
                    time.sleep(1)
            except OutputError:
                refused.append(name)

        threads = [threading.Thread(target=race, args=(f"run-{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 7)


class TestCurrent:
    def test_a_new_output_has_none(self, output: Output):
        assert output.current() == Current()

    def test_round_trip(self, output: Output):
        current = Current().replacing("captions", [], [LiveFile("captions/part-1.parquet", 3, 99)])
        output.replace_current(current)
        assert output.current().of("captions") == current.of("captions")

    def test_a_newer_version_is_refused(self, output: Output):
        content = json.dumps({"schema_version": 99, "files": {}}).encode()
        storage.write_bytes_atomically(output.path("current.json"), content)
        with pytest.raises(OutputError, match="schema version 99, newer than 1"):
            output.current()

    @pytest.mark.parametrize("content", [b"", b"[]", b'{"schema_version": 1}', b"{torn"])
    def test_a_damaged_one_is_refused(self, output: Output, content: bytes):
        storage.write_bytes_atomically(output.path("current.json"), content)
        with pytest.raises(OutputError, match="not what this program writes"):
            output.current()
