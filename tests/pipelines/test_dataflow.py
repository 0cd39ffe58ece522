"""The graph that Dataflow gets, built without submitting it."""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.utils.shared import Shared

from pipelines.annotate import AnnotateFolders
from pipelines.config import AnnotateConfig
from pipelines.review import ReviewConfig
from pipelines.review_rules import ReviewRules

ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"
TOKEN = "f00dfeed" * 5
OPTIONS = [
    "--project=project",
    "--region=us-central1",
    "--temp_location=gs://bucket-x/tmp",
    "--staging_location=gs://bucket-x/staging",
    "--dry_run=True",
    "--experiments=use_runner_v2",
    "--sdk_container_image=registry.example/captioner:1",
    "--sdk_location=container",
    "--no_auth",
]


@pytest.fixture(scope="module")
def graph() -> Iterator[Any]:
    """The job as Dataflow would run it, with a token in the launcher's environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
        config = AnnotateConfig(
            output="gs://bucket-x/out", run_id="run", model="embedded", model_id="m@1"
        )
        review = ReviewConfig(
            rules=ReviewRules(review_below=0.5), label_studio_url="https://ls.example"
        )
        pipeline = beam.Pipeline(options=PipelineOptions([]))
        _ = pipeline | "AnnotateFolders" >> AnnotateFolders(
            ["gs://bucket-x/a", "gs://bucket-x/b"],
            config,
            Shared(),
            Shared(),
            accelerator=ACCELERATOR,
            min_ram="16GB",
            review=review,
        )
        runner = DataflowRunner()
        runner.run_pipeline(pipeline, PipelineOptions(OPTIONS))
        yield runner.proto_pipeline


COMPOSITE = "AnnotateFolders/Annotate/CaptionImages"
INSIDE = ("ReadAndDecode", "Caption", "ScoreConfidence", "WriteParts")


def step(graph: Any, name: str) -> Any:
    found = [t for t in graph.components.transforms.values() if t.unique_name == name]
    assert len(found) == 1, name
    return found[0]


def hints_of(graph: Any, transform: Any) -> dict[str, bytes]:
    return dict(graph.components.environments[transform.environment_id].resource_hints)


def test_hints_are_on_the_one_composite_and_nowhere_else(graph: Any):
    inside = [step(graph, f"{COMPOSITE}/{name}") for name in INSIDE]
    environments = {transform.environment_id for transform in inside}
    assert len(environments) == 1
    assert ACCELERATOR.encode() in hints_of(graph, inside[0]).values()
    outside = step(graph, "AnnotateFolders/SkipDone")
    assert ACCELERATOR.encode() not in hints_of(graph, outside).values()


def test_promise_4_no_pixels_cross_a_shuffle(graph: Any):
    """From WriteParts back to ReadAndDecode there is nothing but one ParDo after another."""
    producers = {
        output: transform
        for transform in graph.components.transforms.values()
        if not transform.subtransforms
        for output in transform.outputs.values()
    }
    path = []
    transform = step(graph, f"{COMPOSITE}/WriteParts")
    while True:
        path.append((transform.unique_name.rpartition("/")[2], transform.spec.urn))
        if transform.unique_name.endswith("/ReadAndDecode"):
            break
        (source,) = transform.inputs.values()
        transform = producers[source]
    assert [name for name, _ in path] == list(reversed(INSIDE))
    assert {urn for _, urn in path} == {"beam:transform:pardo:v1"}


def test_step_names_are_stable(graph: Any):
    names = {
        transform.unique_name.removeprefix("AnnotateFolders/").split("/")[0]
        for transform in graph.components.transforms.values()
        if transform.unique_name.startswith("AnnotateFolders/")
    }
    assert {"ListImages", "SkipDone", "Annotate", "Balance", "Review"} <= names
    assert not any("bucket" in name or "m@1" in name for name in names)


def test_promise_10_no_secret_travels(graph: Any):
    assert TOKEN.encode() not in graph.SerializeToString()
