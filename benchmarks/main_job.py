"""Time the main job on a folder of images: a first run, a second that finds all done, and readers.

    python benchmarks/main_job.py --data FOLDER

The embedded model captions whatever is in the folder; what is measured is the pipeline around it.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


def run(data: Path, output: Path, *flags: str) -> float:
    """Run the main job and return its seconds, start-up included."""
    command = [sys.executable, "-m", "pipelines.cli", "annotate"]
    command += ["--input", str(data), "--output", str(output), *flags]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of images, nested or not")
    data = parser.parse_args().data
    count = sum(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in data.rglob("*"))
    if not count:
        parser.error(f"no JPEG or PNG in {data}; name a folder that has some")
    with tempfile.TemporaryDirectory() as folder:
        first = run(data, Path(folder) / "one")
        again = run(data, Path(folder) / "one")
        two = run(
            data,
            Path(folder) / "two",
            "--direct_running_mode=multi_processing",
            "--direct_num_workers=2",
        )
    versions = ", ".join(f"{name} {version(name)}" for name in ("apache-beam", "torch", "pillow"))
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {versions}")
    print(f"images                          {count:,}")
    print(f"first run                       {first:.1f} s, {count / first:.0f} images/s")
    print(f"second run, all done            {again:.1f} s")
    print(f"first run, two processes        {two:.1f} s, {count / two:.0f} images/s")


if __name__ == "__main__":
    main()
