"""Real servers for tests: an emulator of Google Cloud Storage, moto's S3 and Label Studio.

Each is a process of its own on a free port of loopback, started at the first test that asks for
it and ended, by its pid, when the test session ends. The environment variables that point clients
at a server are set for the whole session, so that child processes see them too.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from pipelines.labelstudio import server

START_SECONDS = 60
STOP_SECONDS = 10


@dataclass(frozen=True)
class ObjectStore:
    """A running object store with an empty bucket.

    Attributes:
        protocol: how its uris begin: ``gs`` or ``s3``.
        endpoint: its address on loopback, such as ``http://127.0.0.1:4443``.
        bucket: the name of the bucket that was made in it.
    """

    protocol: str
    endpoint: str
    bucket: str

    @property
    def root(self) -> str:
        """The bucket as a uri without a slash at its end."""
        return f"{self.protocol}://{self.bucket}"


def free_port() -> int:
    """Return a port of loopback that nothing listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables (None: unset) while the block runs; put the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def process(
    command: Sequence[str], log: Path, ready: Callable[[], bool], cwd: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server for as long as the block runs; enter when it is ready.

    Args:
        command: program and arguments.
        log: where its output goes.
        ready: says whether the server answers.
        cwd: the folder it runs in.

    Raises:
        RuntimeError: if it ends or does not answer in time.
    """
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd)
    try:
        _wait(child, ready, log)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(child: "subprocess.Popen[bytes]", ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{child.args!r} did not start (exit {child.poll()}): {tail}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Say whether something that speaks HTTP answers at this address, whatever it says."""
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def clear_filesystems() -> None:
    """Forget the clients that fsspec keeps: each holds the address it was made with."""
    for protocol in ("gs", "s3"):
        filesystem = fsspec.get_filesystem_class(protocol)
        filesystem.clear_instance_cache()


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An emulator of Google Cloud Storage, in memory, with a bucket."""
    port, bucket = free_port(), "captioner-gcs"
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--in-memory", "--default-bucket", bucket, "--quiet"]
    folder = tmp_path_factory.mktemp("gcs")
    variables = {
        "STORAGE_EMULATOR_HOST": endpoint,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # its calls are not in the emulator
    }
    ready = lambda: answers(f"{endpoint}/storage/v1/b/{bucket}")  # noqa: E731
    with process(command, folder / "log", ready, folder), environment(variables):
        clear_filesystems()
        yield ObjectStore("gs", endpoint, bucket)
        clear_filesystems()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Moto's S3 server with a bucket."""
    port, bucket = free_port(), "captioner-s3"
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    folder = tmp_path_factory.mktemp("s3")
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    ready = lambda: answers(f"{endpoint}/moto-api/")  # noqa: E731
    with process(command, folder / "log", ready, folder), environment(variables):
        clear_filesystems()
        fsspec.filesystem("s3").mkdir(bucket)
        yield ObjectStore("s3", endpoint, bucket)
        clear_filesystems()


@dataclass(frozen=True)
class LabelStudio:
    """A running Label Studio and its first user, who may do everything.

    Attributes:
        url: its address on loopback.
        username: who logs in in a browser.
        password: with what.
        token: the user's legacy API token.
        token_file: a file that holds the token.
        directory: where its log is.
    """

    url: str
    username: str
    password: str
    token: str
    token_file: Path
    directory: Path


def _label_studio_venv() -> Path:
    """Find Label Studio: as told, else in the repository, installed there if need be."""
    told = os.environ.get("CAPTIONER_TEST_LABEL_STUDIO")
    if told:
        return Path(told)
    venv = Path(__file__).parents[1] / server.VENV
    server.install(venv)
    return venv


@pytest.fixture(scope="session")
def label_studio(
    tmp_path_factory: pytest.TempPathFactory, gcs_emulator: ObjectStore
) -> Iterator[LabelStudio]:
    """A real Label Studio with an empty database.

    Of object stores it reaches the emulator of GCS, without a key to sign with; it has no
    credentials for S3 but those that a project's storage brings. To save its start, the folder of
    one that runs may be named; tests of stores fail with that one.
    """
    running = os.environ.get("CAPTIONER_TEST_LABEL_STUDIO_RUNNING")
    if running:
        found = server.status(Path(running))
        assert found is not None, f"no Label Studio runs in {running}"
        yield _label_studio(found, Path(running))
        return
    directory = tmp_path_factory.mktemp("label-studio")
    objects = f"{gcs_emulator.endpoint}/download/storage/v1/b/{{bucket_name}}/o/{{blob_name}}"
    variables = {name: None for name in os.environ if name.startswith(("AWS_", "LABEL_STUDIO_"))}
    own = {
        "STORAGE_EMULATOR_HOST": gcs_emulator.endpoint,
        "RESOLVER_PROXY_GCS_DOWNLOAD_URL": f"{objects}?alt=media",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with environment(variables):
        started = server.start(directory, free_port(), _label_studio_venv(), own)
    try:
        yield _label_studio(started, directory)
    finally:
        server.stop(directory)


def _label_studio(started: server.Server, directory: Path) -> LabelStudio:
    login = started.login
    return LabelStudio(
        started.url, login.username, login.password, login.token, started.token_file, directory
    )
