"""Starting and stopping Label Studio: nothing else is ever ended, nothing secret is readable."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from pipelines.labelstudio import server
from pipelines.labelstudio.server import Process, ServerError
from tests.servers import LabelStudio, free_port


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has nothing to do with Label Studio."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield child
    child.kill()
    child.wait()


def record(directory: Path, process: Process) -> None:
    (directory / "process.json").write_text(json.dumps(asdict(process)))


def test_starting_again_only_reports(label_studio: LabelStudio) -> None:
    again = server.start(label_studio.directory, venv=Path("/nowhere"))
    assert (again.url, again.login.token) == (label_studio.url, label_studio.token)


def test_another_port_for_one_that_runs_is_refused(label_studio: LabelStudio) -> None:
    with pytest.raises(ServerError, match="already runs on port"):
        server.start(label_studio.directory, free_port(), Path("/nowhere"))


def test_only_the_owner_can_read_its_files(label_studio: LabelStudio) -> None:
    for name in ("login.json", "token", "process.json", "log"):
        assert stat.S_IMODE((label_studio.directory / name).stat().st_mode) == 0o600, name


def test_no_secret_on_its_command_line(label_studio: LabelStudio) -> None:
    pid = json.loads((label_studio.directory / "process.json").read_text())["pid"]
    command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "label-studio" in shown.stdout
    assert label_studio.password not in shown.stdout
    assert label_studio.token not in shown.stdout


def test_a_recycled_pid_is_left_alone(tmp_path: Path, stranger: "subprocess.Popen[bytes]") -> None:
    record(tmp_path, Process(stranger.pid, "another time", 8080))
    assert server.stop(tmp_path) is False
    assert stranger.poll() is None


def test_stop_ends_the_process_that_was_recorded(
    tmp_path: Path, stranger: "subprocess.Popen[bytes]"
) -> None:
    began = server._began(stranger.pid)
    assert began is not None
    record(tmp_path, Process(stranger.pid, began, 8080))
    assert server.stop(tmp_path) is True
    assert server._began(stranger.pid) is None
    assert server.stop(tmp_path) is False


def test_a_port_that_is_taken_is_refused(label_studio: LabelStudio, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "label-studio").touch()
    port = int(label_studio.url.rpartition(":")[2])
    with pytest.raises(ServerError, match=f"port {port} is taken"):
        server.start(tmp_path / "run", port, venv)


def test_data_without_a_login_is_not_started(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "label-studio"
    program.parent.mkdir()
    program.touch()
    (tmp_path / "run" / "data").mkdir(parents=True)
    with pytest.raises(ServerError, match="login.json"):
        server.start(tmp_path / "run", venv=tmp_path)


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "label-studio"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho out of order\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ServerError, match="out of order"):
        server.start(tmp_path / "run", free_port(), tmp_path)


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no Label Studio at"):
        server.start(tmp_path, venv=tmp_path / "venv")


def test_constraints_pin_every_package_and_nothing_else() -> None:
    lines = server.CONSTRAINTS.read_text().splitlines()
    assert f"label-studio=={server.VERSION}" in lines
    assert all(line.count("==") == 1 and os.sep not in line and "@" not in line for line in lines)
