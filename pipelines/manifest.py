"""A run's manifest: what was asked, what came of it, and that it balances (promise 1)."""

import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from captioner.annotations import NO_CLASSES, ClassNames
from pipelines.commit import Committed
from pipelines.output import Output
from schemas.tables import SCHEMA_VERSION
from schemas.tally import Tally
from schemas.uris import redact

_NONE = Tally()
_PACKAGES = ("apache-beam", "torch", "pillow", "pyarrow", "fsspec")


class BalanceError(Exception):
    """A run whose committed rows are not the images that it listed."""


def start_run(
    output: Output, run_id: str, config: dict[str, Any], classes: ClassNames = NO_CLASSES
) -> None:
    """Write the manifest of a run that begins.

    Args:
        output: the output.
        run_id: the run.
        config: what was asked for.
        classes: what labels, boxes and masks of its captions may be.
    """
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "status": "running",
        "started_at": datetime.now(UTC).isoformat(),
        "config": config,
        "classes": asdict(classes),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "commits": {},
    }
    output.write_manifest(run_id, manifest)


def record_commit(output: Output, run_id: str, name: str, committed: Committed) -> None:
    """Add a commit to the manifest; one that is there already stays as it is."""
    manifest = output.read_manifest(run_id)
    manifest.setdefault("commits", {}).setdefault(
        name,
        {
            "committed_at": datetime.now(UTC).isoformat(),
            "captioned": _tally_json(committed.captioned),
            "failed": _tally_json(committed.failed),
        },
    )
    output.write_manifest(run_id, manifest)


def committed_tallies(manifest: dict[str, Any]) -> tuple[Tally, Tally]:
    """Return the tallies of captions and of failures over all commits of a run."""
    totals = []
    for name in ("captioned", "failed"):
        tallies = (_tally(commit[name]) for commit in manifest.get("commits", {}).values())
        totals.append(sum(tallies, Tally()))
    return totals[0], totals[1]


def finish_run(
    output: Output,
    run_id: str,
    *,
    listed: Tally,
    to_do: Tally,
    reached: tuple[Tally, Tally] | None = None,
    not_reached: Tally = _NONE,
    stopped: bool = False,
    seconds: dict[str, float] | None = None,
    error: str | None = None,
) -> dict[str, Any]:
    """Check that the run balances, write its manifest for the last time and return it.

    Args:
        output: the output.
        run_id: the run.
        listed: all that was listed.
        to_do: those without a caption when the run began.
        reached: those captioned and those failed; what the commits recorded if None.
        not_reached: those that were given up because the run was stopped or failed.
        stopped: whether the user stopped the run.
        seconds: time by stage, summed over threads and processes.
        error: why the run failed, if it did.

    Raises:
        BalanceError: if what was to do is not exactly what was captioned, failed or not reached.
    """
    manifest = output.read_manifest(run_id)
    captioned, failed = reached or committed_tallies(manifest)
    balances = to_do == captioned + failed + not_reached
    manifest["status"] = "stopped" if stopped else "done"
    manifest["seconds"] = seconds or {}
    if error is not None:
        manifest["status"], manifest["error"] = "failed", redact(error)
    elif not balances:
        manifest["status"] = "does not balance"
    manifest["finished_at"] = datetime.now(UTC).isoformat()
    manifest["counts"] = {
        "listed": listed.count,
        "captioned": captioned.count,
        "skipped": listed.count - to_do.count,
        "failed": failed.count,
        "not_reached": not_reached.count,
    }
    manifest["files"] = {
        table: [file.path for file in files] for table, files in output.current().files.items()
    }
    output.write_manifest(run_id, manifest)
    if not balances and error is None:
        raise BalanceError(
            f"run {run_id} does not balance: {to_do.count} images to do, but "
            f"{captioned.count} captioned, {failed.count} failed and {not_reached.count} not "
            "reached were committed, or other images than those. What was committed is whole; "
            "run the same command again to do the rest."
        )
    return manifest


def _tally_json(tally: Tally) -> dict[str, Any]:
    return {"count": tally.count, "checksum": f"{tally.checksum:032x}"}


def _tally(content: dict[str, Any]) -> Tally:
    return Tally(int(content["count"]), int(content["checksum"], 16))
