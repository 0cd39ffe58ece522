"""A real Label Studio on loopback, for trying things out and for tests.

``python -m pipelines.labelstudio.server start`` starts it and says where it is; ``stop`` ends
exactly the process that ``start`` made. Password and token are random, made at the first start,
and kept in the server's folder in files that only their owner can read.
"""

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path

VERSION = "1.23.0"
CONSTRAINTS = Path(__file__).parents[2] / "constraints-labelstudio.txt"
DIRECTORY = Path(".run/labelstudio")
VENV = Path(".venv-labelstudio")
USERNAME = "reviewer@localhost"
PORT = 8080
START_SECONDS = 400  # the first start makes the database: half a minute, more when busy
STOP_SECONDS = 15


class ServerError(Exception):
    """A Label Studio that cannot be installed, started or stopped: says why and what to do."""


@dataclass(frozen=True)
class Login:
    """Who may log in; made once for a folder."""

    username: str
    password: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True)
class Process:
    """A process that runs or ran: the moment it began tells it from a later one of its number."""

    pid: int
    began: str
    port: int


@dataclass(frozen=True)
class Server:
    """A running Label Studio."""

    url: str
    login: Login
    pid: int
    token_file: Path


def install(venv: Path = VENV) -> None:
    """Make a virtual environment with Label Studio in it, unless it is there already.

    It is apart from the project's own because the pins of the two disagree. One that somebody
    else has put Label Studio into is left as it is.

    Args:
        venv: the folder of the virtual environment.

    Raises:
        ServerError: if pip fails.
    """
    constraints = CONSTRAINTS.read_bytes()
    marker = venv / "label-studio-installed"
    wanted = f"{VERSION} {hashlib.sha256(constraints).hexdigest()}\n"
    if marker.exists() and marker.read_text() == wanted:
        return
    if not marker.exists() and (venv / "bin" / "label-studio").exists():
        return
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--constraint", str(CONSTRAINTS)]
    for command in (
        [sys.executable, "-m", "venv", str(venv)],
        [*pip, f"label-studio=={VERSION}"],
    ):
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode:
            raise ServerError(
                f"Label Studio was not installed: {command!r} ended with {done.returncode}; "
                f"see above for the reason, then delete {venv} and try again"
            )
    marker.write_text(wanted)


def start(
    directory: Path = DIRECTORY,
    port: int | None = None,
    venv: Path = VENV,
    environment: dict[str, str] | None = None,
) -> Server:
    """Start Label Studio on loopback and wait until it answers; one that runs is left as it is.

    Args:
        directory: where its data, log, login and process id are kept.
        port: where it listens; by default where it did last, else 8080 or the next free port.
        venv: the virtual environment that holds Label Studio.
        environment: variables to set for the server besides this process's own.

    Returns:
        The running server.

    Raises:
        ServerError: if it is not installed, the port is taken, or it does not come up.
    """
    directory = directory.absolute()
    running = _running(directory)
    if running is not None:
        if port not in (None, running.port):
            raise ServerError(
                f"Label Studio in {directory} already runs on port {running.port}, not {port}; "
                "stop it first, or leave out the port"
            )
        return _server(directory, running)
    program = venv.absolute() / "bin" / "label-studio"
    if not program.exists():
        raise ServerError(f"there is no Label Studio at {program}; install it, or name its --venv")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    login = _login(directory)
    process = _launch(program, directory, login, _port(directory, port), environment or {})
    _write_private(directory / "process.json", json.dumps(asdict(process)))
    _write_private(directory / "url", f"http://127.0.0.1:{process.port}\n")
    _wait(process, directory)
    return _server(directory, process)


def stop(directory: Path = DIRECTORY) -> bool:
    """End the Label Studio that was started in this folder, and nothing else.

    Args:
        directory: the folder given to ``start``.

    Returns:
        Whether one ran.
    """
    running = _running(directory)
    if running is None:
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if _began(running.pid) != running.began:
                return True  # the record stays: the next start uses the same port
            time.sleep(0.05)
    raise ServerError(f"process {running.pid} (Label Studio) did not end; end it by hand")


def status(directory: Path = DIRECTORY) -> Server | None:
    """Say where the Label Studio of a folder is, if it runs."""
    directory = directory.absolute()
    running = _running(directory)
    return None if running is None else _server(directory, running)


def _server(directory: Path, process: Process) -> Server:
    url = f"http://127.0.0.1:{process.port}"
    return Server(url, _login(directory), process.pid, directory / "token")


def _running(directory: Path) -> Process | None:
    """Return the process that the folder's record names, if it is still that process."""
    try:
        recorded = Process(**json.loads((directory / "process.json").read_text()))
    except FileNotFoundError:
        return None
    return recorded if _began(recorded.pid) == recorded.began else None


def _began(pid: int) -> str | None:
    """Say when a process began, in whatever unit the system uses; None if it has ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a child of ours that has ended stays a zombie until asked
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        found = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return found.stdout.strip() or None
    fields = status.rpartition(")")[2].split()  # the name before it may hold anything
    return None if fields[0] == "Z" else fields[19]


def _login(directory: Path) -> Login:
    """Read who may log in, or make it up at the first start."""
    path = directory / "login.json"
    if not path.exists():
        if (directory / "data").exists():
            raise ServerError(
                f"{directory} holds a Label Studio's data but not its login.json; put the file "
                "back, or name another --directory"
            )
        login = Login(USERNAME, secrets.token_urlsafe(12), secrets.token_hex(20))
        _write_private(path, json.dumps(asdict(login)))
        _write_private(directory / "token", login.token)
    return Login(**json.loads(path.read_text()))


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, all of it or nothing."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _port(directory: Path, asked: int | None) -> int:
    """Choose a port: Label Studio itself would move on in silence from one that is taken."""
    if asked is not None:
        if not _free(asked):
            raise ServerError(f"port {asked} is taken by another program; name another --port")
        return asked
    candidates = [PORT, 0]
    with contextlib.suppress(FileNotFoundError):
        candidates.insert(0, json.loads((directory / "process.json").read_text())["port"])
    return next(_bound(port) for port in candidates if _free(port))


def _free(port: int) -> bool:
    try:
        _bound(port)
    except OSError:
        return False
    return True


def _bound(port: int) -> int:
    """Bind a port (0: any that is free) for a moment and return it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return int(listener.getsockname()[1])


def _launch(
    program: Path, directory: Path, login: Login, port: int, environment: dict[str, str]
) -> Process:
    command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1"]
    command += ["--port", str(port)]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_"))}
    variables |= environment | {
        "LABEL_STUDIO_BASE_DATA_DIR": str(directory / "data"),
        "LABEL_STUDIO_USERNAME": login.username,  # by environment: every user can see arguments
        "LABEL_STUDIO_PASSWORD": login.password,
        "LABEL_STUDIO_USER_TOKEN": login.token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "COLLECT_ANALYTICS": "False",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        server = subprocess.Popen(
            command,
            cwd=directory,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is not meant for it
        )
    finally:
        os.close(log)
    return Process(server.pid, _began(server.pid) or "", port)


def _wait(process: Process, directory: Path) -> None:
    url = f"http://127.0.0.1:{process.port}/health"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _began(process.pid) != process.began:
            tail = (directory / "log").read_text(errors="replace")[-2000:]
            raise ServerError(f"Label Studio ended at once; its log, {directory}/log, says: {tail}")
        try:
            with opener.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    stop(directory)
    raise ServerError(
        f"Label Studio did not answer at {url} in {START_SECONDS} s and was stopped; "
        f"its log is {directory}/log"
    )


def _report(server: Server) -> str:
    return (
        f"Label Studio  {server.url}\n"
        f"login         {server.login.username}\n"
        f"password      {server.login.password}\n"
        f"token         in {server.token_file}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.labelstudio.server",
        description="A Label Studio on this machine, for trying things out.",
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=("install", "start", "status", "stop"))
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="its data and login")
    parser.add_argument("--port", type=int, help="where it listens (8080 or the next free one)")
    parser.add_argument("--venv", type=Path, default=VENV, help="where Label Studio is installed")
    options = parser.parse_args(arguments)
    try:
        if options.action == "install":
            install(options.venv)
        elif options.action == "start":
            if status(options.directory) is None:
                install(options.venv)
            print(_report(start(options.directory, options.port, options.venv)))
        elif options.action == "status":
            running = status(options.directory)
            print(_report(running) if running else "no Label Studio runs")
        else:
            print("Label Studio stopped" if stop(options.directory) else "no Label Studio runs")
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
