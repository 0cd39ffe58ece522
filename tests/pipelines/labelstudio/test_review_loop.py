"""The commands `review pull` and `review status`, from a push to what they print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import review_loop
from pipelines.cli import main
from pipelines.labelstudio import config
from pipelines.labelstudio.annotations import failing_tasks
from pipelines.output import Output
from pipelines.report.terminal import LINE_SECONDS
from pipelines.review_loop_options import _time
from tests.pipelines.helpers import rows
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.proxy import Proxy
from tests.pipelines.labelstudio.reviewing import (
    change,
    cut,
    delete,
    fill,
    prediction,
    result,
    submit,
)
from tests.pipelines.planned import DECODING, MODEL, NOON, add, captions
from tests.servers import free_port

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Six captions; images by web address need no upload."""
    output = Output((tmp_path / "out").as_uri())
    uris = [f"https://images.invalid/{number}.jpg" for number in range(6)]
    add(output, "captions", captions([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], uri=uris))
    return output


@pytest.fixture
def command(queue: Queue, output: Output, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run an action of `review` and return its exit status, and what it printed where."""

    def run(action: str, *more: str, **changes: str) -> tuple[int, str, str]:
        options = {
            "url": queue.server.url,
            "project": queue.title,
            "token_file": str(queue.server.token_file),
        } | changes
        flags = [
            text for name, value in options.items() for text in (f"--label_studio_{name}", value)
        ]
        capsys.readouterr()
        status = main(["review", action, output.uri, *flags, *more])
        printed = capsys.readouterr()
        assert queue.server.token not in printed.out + printed.err
        return status, printed.out, printed.err

    return run


def test_from_a_push_to_the_table(
    queue: Queue, output: Output, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["review", "plan", output.uri, "--review_below", "0.45", "--audit", "0"])
    assert command("push")[0] == 0
    tasks = {task["data"]["caption"]: task for task in queue.tasks()}
    one, two, three = (tasks[f"caption {number}"] for number in range(3))
    kept = submit(queue, one, "accept")
    gone = submit(queue, two, "fix", "a dog")
    queue.post(f"/api/tasks/{three['id']}/drafts", {"result": result("half", None)})

    status, printed, _ = command("status")
    assert (status, printed.splitlines()) == (
        0,
        [
            f"project '{queue.title}', number {queue.project()['id']}, at {queue.server.url}",
            "queued             4  captions, 0 of them reviewed since they were planned",
            "deferred           0  near-duplicates of those, which wait",
            "pushed             4  tasks in the project",
            "in progress        1  tasks with a draft",
            "not queued         0  reviewed captions that are in the queue no more",
            "reviews       pulled  not pulled yet",
            "  accepted         0               1",
            "  edited           0               1",
            "  rejected         0               0",
            "  skipped          0               0",
            "Bring them with: captioner review pull " + _flags(queue, output),
        ],
    )
    assert rows(output, "reviews") == []

    status, printed, _ = command("pull")
    assert (status, printed.splitlines()[1:]) == (
        0,
        [
            "reviews: 2 new or changed, 0 replaced or withdrawn, 0 read again and the same",
            "the output has 2 now: 1 accepted, 1 edited, 0 rejected, 0 skipped",
        ],
    )
    assert {row["caption"] for row in rows(output, "reviews")} == {"caption 0", "a dog"}
    _, printed, _ = command("status")
    assert printed.splitlines()[-3:] == [
        "acceptance     50.0%  of the pulled ones that were not skipped, 95% interval 9.5% to "
        "90.5%",
        "agreement          -  no caption has two reviewers who judged it",
        "all is pulled",
    ]

    change(queue, kept, "reject", "caption 0")
    delete(queue, f"/api/annotations/{gone['id']}/")
    _, printed, _ = command("status")
    assert "captions, 2 of them reviewed since" in printed
    assert "2 of the pulled ones were changed or withdrawn since" in printed
    command("pull")
    _, printed, _ = command("status")
    assert printed.splitlines()[-1] == "all is pulled"
    assert "  rejected         1               0" in printed

    main(["review", "plan", output.uri, "--review_below", "0.45", "--audit", "0"])
    _, printed, _ = command("status")
    assert "queued             3  captions, 0 of them reviewed since" in printed
    assert "not queued         1  reviewed captions that are in the queue no more" in printed
    assert main(["quality", output.uri]) == 1  # One review, and no audit.
    assert "1 images are reviewed, none of them drawn by an audit" in capsys.readouterr().err


def test_status_says_how_far_reviewers_agree(
    queue: Queue, output: Output, command: Command
) -> None:
    """Krippendorff's alpha of [a a], [a r], [r r]: 1 - 5 x 2 / (2 x 3 x 3)."""
    fill(queue, 3)
    said = [
        {"image_id": f"{n:064x}", "model_id": MODEL, "decoding": DECODING, "verdict": verdict}
        | {"reviewer": who, "reviewed_at": NOON}
        for who, verdicts in (("ann", "aar"), ("bob", "arr"))
        for n, verdict in enumerate({"a": "accepted", "r": "rejected"}[v] for v in verdicts)
    ]
    add(output, "reviews", [*said, said[0] | {"verdict": "skipped", "reviewer": "cyd"}])
    assert command("status")[1].splitlines()[-3:-1] == [
        "acceptance     50.0%  of the pulled ones that were not skipped, 95% interval 12.5% to "
        "87.5%",
        "agreement       0.44  Krippendorff's alpha; captions with two reviewers or more: 3",
    ]


def _flags(queue: Queue, output: Output) -> str:
    return (
        f"{output.uri} --label_studio_url {queue.server.url} --label_studio_project "
        f"'{queue.title}' --label_studio_token_file {queue.server.token_file}"
    )


def test_what_is_left_out_is_named(
    queue: Queue, output: Output, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_loop, "_NAMED", 2)
    comment = {"from_name": "comment", "to_name": "image", "type": "textarea", "value": {}}
    said = [[{"result": result(f"caption {n}", "accept")}] for n in range(7)]
    for (annotation,) in said[:3]:
        annotation["result"].append(comment)
    theirs = [[prediction("x", "somebody/else")]] * 3
    predictions = [*([prediction(f"caption {n}")] for n in range(4)), *theirs]
    tasks = fill(queue, 7, annotations=said, predictions=predictions)
    status, printed, errors = command("pull")
    assert status == 0
    assert errors.count("with the control 'comment', which the project does not have") == 2
    assert f"not taken: task {tasks[0]['id']}, annotation " in errors
    assert "not taken: 1 more like these" in errors
    assert "annotations that cannot be read and were not taken: 3" in printed
    numbers = f"{tasks[4]['id']}, {tasks[5]['id']}, 1 more like these"
    assert f"of no caption of this output, which were not taken: {numbers}" in printed
    delete(queue, f"/api/tasks/{tasks[3]['id']}/")
    assert "reviewed tasks that are not in the project any more, and kept: 1" in command("pull")[1]


class TestRefused:
    def test_a_project_that_is_not_there(self, queue: Queue, command: Command) -> None:
        status, _, errors = command("pull")
        assert status == 1
        assert f"captioner: there is no project '{queue.title}' at" in errors
        assert command("status")[0] == 1
        assert queue.projects() == []

    def test_a_renamed_control(self, queue: Queue, command: Command) -> None:
        fill(queue, 0, config.LABEL_CONFIG.replace('name="caption"', 'name="text"'))
        status, _, errors = command("pull")
        assert status == 1
        assert "are TextArea 'text', Choices 'verdict'; expected was TextArea 'caption'" in errors

    @pytest.mark.parametrize("action", ["pull", "status"])
    def test_a_project_that_is_deleted_meanwhile(
        self, queue: Queue, proxy: Proxy, output: Output, command: Command, action: str
    ) -> None:
        submit(queue, fill(queue, 2)[0], "accept")
        assert command("pull")[0] == 0
        before, number = rows(output, "reviews"), queue.project()["id"]

        def delete_it(method: str, path: str) -> None:
            if path == "/api/tasks":
                queue.http.delete(f"/api/projects/{number}/")

        proxy.before = delete_it
        status, _, errors = command(action, url=proxy.url)
        assert status == 1
        assert f"project '{queue.title}' (number {number}) was deleted while its rev" in errors
        assert "those that were pulled before stay in the output" in errors
        assert len(before) == 1
        assert rows(output, "reviews") == before

    def test_a_wrong_token(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("0123456789abcdef" * 2)
        status, _, errors = command("pull", token_file=str(tmp_path / "token"))
        assert status == 1
        assert "refuses the token" in errors
        assert "0123456789abcdef" not in errors

    def test_a_server_that_is_down(self, command: Command) -> None:
        status, _, errors = command("pull", url=f"http://127.0.0.1:{free_port()}")
        assert status == 1
        assert "check that it runs and that --label_studio_url is right" in errors

    def test_an_address_with_a_login(self, command: Command) -> None:
        status, _, errors = command("status", url="http://me:secret@localhost")
        assert status == 2
        assert "secret" not in errors

    @pytest.mark.parametrize("action", ["pull", "status"])
    def test_an_output_without_captions(
        self, queue: Queue, tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        nowhere = tmp_path / "typo"
        arguments = ["review", action, str(nowhere), "--label_studio_url", queue.server.url]
        assert main(arguments) == 2
        assert "typo holds no captions; run captioner annotate first" in capsys.readouterr().err
        assert not nowhere.exists()

    @pytest.mark.parametrize("time", ["yesterday", "2026-13-01", "0001-01-01T00:00+14:00"])
    def test_a_time_that_is_none(
        self, command: Command, time: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            command("pull", "--since", time)
        assert f"{time!r} is not a time such as 2026-11-21T18:00" in capsys.readouterr().err


@pytest.mark.usefixtures("no_waiting")
def test_a_task_that_the_server_fails_at_is_named(
    queue: Queue, output: Output, command: Command
) -> None:
    tasks = fill(queue, 3)
    submit(queue, tasks[0], "accept")
    cut(queue.http, tasks[1]["id"])
    for action in ("status", "pull", "status"):
        status, printed, _ = command(action)
        assert status == 4
        assert f"fails at (status 500), which were not read: {tasks[1]['id']}. It does" in printed
        assert "choose these tasks in the project's list and Delete Annotations" in printed
        assert "all is pulled" not in printed
    assert [row["task_id"] for row in rows(output, "reviews")] == [tasks[0]["id"]]


def test_tasks_that_are_many_are_not_all_named() -> None:
    assert "not read: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 1,190 more. It" in failing_tasks(
        range(1, 1_201)
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-21", "2026-11-21T00:00:00+00:00"),
        ("2026-11-21T18:00", "2026-11-21T18:00:00+00:00"),
        ("2026-11-21T18:00+01:00", "2026-11-21T17:00:00+00:00"),
        ("2026-11-21T18:00:00Z", "2026-11-21T18:00:00+00:00"),
    ],
)
def test_a_time_without_a_zone_is_utc(text: str, time: str) -> None:
    assert _time(text).isoformat() == time


def test_a_long_pull_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    clock: Any = type("Clock", (), {"monotonic": staticmethod(lambda: now[0])})
    monkeypatch.setattr(review_loop, "time", clock)
    tick = review_loop._Ticker()
    tick(100)
    now[0] += LINE_SECONDS
    tick(1_200)
    tick(1_300)
    assert capsys.readouterr().err == "1,200 tasks read\n"
