"""What the tests of the pipeline share: folders of images, runs, and reading an output."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image

from captioner.checkpoint import embedded_path
from captioner.confidence.head import HEADS_FILE, VERIFIER_FILES
from captioner.contract import Captioner
from pipelines.config import AnnotateConfig
from pipelines.listing import ImageRef, list_images
from pipelines.local import LocalRun, opened
from pipelines.manifest import start_run
from pipelines.output import Output, new_run_id
from tests.fakes import FakeCaptioner


def colour(index: int) -> tuple[int, int, int]:
    """Return a colour that no other index has."""
    return (index * 7 % 251, index // 251 * 5 % 256, index * 13 % 256)


def write_images(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Write small images, each of its own colour."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:05}.png" for index in range(first, first + count)]
    for index, path in enumerate(paths, first):
        Image.new("RGB", (12, 10), colour(index)).save(path)
    return paths


def bare_model(folder: Path) -> Path:
    """Copy the embedded model without its statistics and confidence heads."""
    besides = shutil.ignore_patterns("statistics.safetensors", HEADS_FILE, VERIFIER_FILES)
    return Path(shutil.copytree(embedded_path(), folder, ignore=besides))


def annotate(
    inputs: str | Path,
    output: Output,
    captioner: Captioner | None = None,
    change: Callable[[list[ImageRef]], list[ImageRef]] | None = None,
    wave_images: int = 1_000,
    flags: tuple[str, ...] = (),
    **settings: Any,
) -> dict[str, Any]:
    """Run the main job in this process with a fake model and return its manifest."""
    captioner = captioner or FakeCaptioner()
    config = AnnotateConfig(
        output=output.uri,
        run_id=new_run_id(),
        model="fake",
        model_id=captioner.model_id,
        decoding=captioner.decoding,
        **settings,
    )
    uri = inputs if isinstance(inputs, str) else inputs.as_uri().replace("%20", " ")
    refs = list(list_images([uri]))
    with opened(output, config.run_id):
        start_run(output, config.run_id, {})
        run = LocalRun(captioner, config, PipelineOptions(list(flags)), wave_images)
        return run.run(change(refs) if change else refs)


def rows(output: Output, table: str = "captions", *columns: str) -> list[dict[str, Any]]:
    """Return the live rows of a table, by uri."""
    found = [
        row for _, part in output.tables(table, list(columns) or None) for row in part.to_pylist()
    ]
    return sorted(found, key=lambda row: row.get("uri", ""))


def essence(output: Output) -> list[tuple[Any, ...]]:
    """Return what must be the same however a run went: all but run and time."""
    return [
        tuple(str(value) for key, value in row.items() if key not in ("run_id", "created_at"))
        for row in rows(output)
    ]
