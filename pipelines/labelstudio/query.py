"""Asking Label Studio for tasks of a project, by filters as its data manager has them."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pipelines.labelstudio.client import Client, LabelStudioError

Filter = dict[str, Any]


def where(column: str, operator: str, value: object, kind: str = "Number") -> Filter:
    """Return the filter of tasks that hold a value in a column, in the data manager's words."""
    name = f"filter:tasks:{column}"
    return {"filter": name, "operator": operator, "type": kind, "value": value}


def when(column: str, operator: str, moment: datetime) -> Filter:
    """Return the filter of tasks by a time.

    Args:
        column: that holds a time.
        operator: as for `where`.
        moment: in the server's zone, which it takes times of filters to be in.
    """
    # The one form that it reads: with microseconds, and Z whatever the zone.
    return where(column, operator, f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z", "Datetime")


def ask(
    client: Client,
    project_id: int,
    filters: Sequence[Filter] = (),
    *,
    numbers: Sequence[int] | None = None,
    ordering: str | None = None,
    failing: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the first page of the tasks that fit all filters, with their number.

    Args:
        client: a connection to Label Studio.
        project_id: the number of the project.
        filters: what has to be so.
        numbers: only of these tasks, if given.
        ordering: the column to order by, such as ``-tasks:updated_at``.
        failing: after how many answers with status 500 to believe them; see `Client.get`.
        options: what else ``/api/tasks`` takes, such as ``page_size`` and ``include``.

    Raises:
        FailingError: if the server answers with status 500.
        LabelStudioError: if that is not what the server answers.
    """
    query: dict[str, Any] = {"filters": {"conjunction": "and", "items": list(filters)}}
    if ordering is not None:
        query["ordering"] = [ordering]
    if numbers is not None:
        query["selectedItems"] = {"all": False, "included": list(numbers)}
    written = json.dumps(query, separators=(",", ":"))
    # Signed addresses are of no use here, and take time.
    fixed = {"project": project_id, "resolve_uri": "false", "query": written}
    answer = client.get("/api/tasks", params=fixed | options, failing=failing)
    if not isinstance(answer, dict) or "tasks" not in answer:
        raise LabelStudioError(
            f"{client.url} did not answer with tasks; is it Label Studio 1.20 or later?"
        )
    return answer
