"""A worker process of a local run, in a session of its own.

A terminal sends Ctrl-C to every process of its session. Workers must not die of it: they finish
their images, and the launcher tells them when to stop.
"""

import os
import shlex
import sys
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.worker import sdk_worker_main


class LocalRunner(FnApiRunner):
    """Beam's in-process runner; its worker processes, if it has any, are those of this module."""

    def run_via_runner_api(self, pipeline_proto: Any, options: PipelineOptions) -> Any:
        """Run a pipeline."""
        # Each process would take a thread a core for the model, and they would fight for them.
        threads = max(1, (os.cpu_count() or 1) // self._num_workers)
        command = (
            f"OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{threads}}} "
            f"exec {shlex.quote(sys.executable)} -m {__name__}"
        )
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                environment.payload = command.encode()
        return super().run_via_runner_api(pipeline_proto, options)


if __name__ == "__main__":
    os.setsid()
    sdk_worker_main.main(sys.argv)
