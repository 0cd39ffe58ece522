"""Time the push of a review queue to a Label Studio on this machine, and measure its memory.

    python benchmarks/review_loop.py

Starts a Label Studio of its own in a temporary folder (installed into .venv-labelstudio, once).
Pushes queues of captions whose images have web addresses, so that none is uploaded, by the command
that users run, start-up included: the first time, again, and again without what was remembered.
Then the captions of a second model for the same images, and images that are uploaded as previews.
What the server computes is told apart from what the push does.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from training_runs import machine

from pipelines.labelstudio import server
from pipelines.output import Output
from pipelines.parts import encode, publish
from pipelines.planning import ReviewRules, plan_review
from pipelines.review_queue import review_items
from schemas.tables import CAPTIONS

DECODING = "benchmark"


@dataclass(frozen=True)
class Pushed:
    """What a push cost.

    Attributes:
        seconds: from start to end.
        own: seconds that its process computed.
        server: seconds that the server's process computed meanwhile.
        memory: most MiB that its process held.
    """

    seconds: float
    own: float
    server: float
    memory: float

    def line(self, what: str, count: int) -> str:
        """Return a row of the table."""
        return (
            f"| {what} | {count:,} | {self.seconds:.1f} s | {self.server:.1f} s | {self.own:.1f} s "
            f"| {self.memory:.0f} MiB |"
        )


def write_output(
    folder: Path, uris: list[str], model_id: str, image_ids: Sequence[str] = ()
) -> Output:
    """Write captions of images, all of them queued."""
    image_ids = image_ids or [hashlib.sha256(uri.encode()).hexdigest() for uri in uris]
    output = Output(folder.as_uri())
    confidence = np.random.default_rng(0).random(len(uris))
    rows = [
        {
            "image_id": image_ids[number],
            "uri": uri,
            "uri_version": "generation:1",
            "width": 640,
            "height": 480,
            "format": "JPEG",
            "num_bytes": 100_000,
            "phash": hashlib.sha256(uri.encode()).hexdigest()[:16],
            "caption": f"a large red square to the left of a small blue circle, number {number}",
            "confidence": float(confidence[number]),
            "confidence_kind": "uncalibrated",
            "model_id": model_id,
            "decoding": DECODING,
            "run_id": "benchmark",
            "created_at": datetime.now(UTC),
        }
        for number, uri in enumerate(uris)
    ]
    part = publish(
        output, "captions", encode(pa.Table.from_pylist(rows, schema=CAPTIONS)), len(rows)
    )
    output.replace_current(output.current().replacing("captions", [], [part]))
    plan_review(output, model_id, DECODING, ReviewRules(review_below=1.0, audit=0))
    return output


def push(output: Output, running: server.Server, project: str) -> Pushed:
    """Run ``captioner review push`` and measure it."""
    command = [sys.executable, "-m", "pipelines.cli", "review", "push", output.uri]
    command += ["--label_studio_url", running.url, "--label_studio_project", project]
    command += ["--label_studio_token_file", str(running.token_file)]
    before, began = _computed(running.pid), time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            said.seek(0)
            sys.exit(said.read().decode())
    own = used.ru_utime + used.ru_stime
    return Pushed(seconds, own, _computed(running.pid) - before, used.ru_maxrss / 1024)


def _computed(pid: int) -> float:
    """Return the seconds that a process of Linux has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print what goes into RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000], help="of items")
    parser.add_argument("--previews", type=int, default=300, help="images that are uploaded")
    args = parser.parse_args()
    server.install()
    print("| push | items | in all | server computes | push computes | most memory |")
    print("|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = server.start(folder / "label-studio")
        try:
            for count in args.counts:
                output = measure_queue(folder, running, count)
            measure_previews(folder, running, args.previews)
        finally:
            server.stop(folder / "label-studio")
        rows = review_items(output).rows
    print(f"\n- a queued item takes {rows.nbytes / rows.num_rows:.0f} bytes of the push's memory")
    print(f"{machine()}, Label Studio {server.VERSION} on SQLite")


def measure_queue(folder: Path, running: server.Server, count: int) -> Output:
    """Push a queue again and again; return its output."""
    uris = [f"https://images.invalid/{count}/{number:07}.jpg" for number in range(count)]
    output = write_output(folder / f"output-{count}", uris, "first")
    project = f"{count} items"
    for what in ("first", "again"):
        print(push(output, running, project).line(what, count), flush=True)
    shutil.rmtree(folder / f"output-{count}" / "labelstudio")
    print(push(output, running, project).line("again, nothing remembered", count), flush=True)
    other = write_output(folder / f"output-{count}-second", uris, "second")
    print(push(other, running, project).line("another model's captions", count), flush=True)
    return output


def measure_previews(folder: Path, running: server.Server, count: int) -> None:
    """Push images that are uploaded."""
    images = folder / "images"
    images.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        noise = Image.fromarray(draw.integers(0, 256, (30, 40, 3), np.uint8))
        noise.resize((640, 480)).save(images / f"{number}.jpg")
    uris = [path.as_uri() for path in sorted(images.iterdir())]
    ids = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(images.iterdir())]
    output = write_output(folder / "output-previews", uris, "first", ids)
    print(push(output, running, "previews").line("first, with previews", count), flush=True)


if __name__ == "__main__":
    main()
