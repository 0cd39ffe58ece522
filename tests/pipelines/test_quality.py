"""The command `quality` as a person meets it, and what it reads."""

import io
import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from captioner.confidence.guarantee import kept_for_guarantees
from captioner.confidence.quality import by_confidence, estimate
from captioner.evaluation.selective import review_budget, risk_coverage
from pipelines.cli import main
from pipelines.committed import captions_by_model
from pipelines.output import Output
from pipelines.parts import encode, publish
from pipelines.planning import ReviewRules, plan_review
from pipelines.quality import folders
from pipelines.report.curves import curves_of, pictures_of
from pipelines.reviewed import Audited, queued_part, read_reviewed
from schemas.tables import TABLES
from tests.pipelines import helpers

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
OURS = {"model_id": "fake@1", "decoding": "d1"}


def caption(number, confidence, image=None, folder="a", kind="calibrated", **others):
    known = {"uri": f"gs://photos/{folder}/{number:04}.jpg", "image_id": image or f"i{number}"}
    filled = {"uri_version": "v", "width": 1, "height": 1, "format": "PNG", "num_bytes": 1}
    made = {"caption": "a dog", "run_id": "r", "created_at": WHEN}
    scored = {"confidence": confidence, "confidence_kind": kind}
    return OURS | known | filled | made | scored | others


def queued(row, *reasons, chance=0.25, **others):
    names = ("uri", "image_id", "model_id", "decoding", "uri_version", "confidence", "run_id")
    known = {name: row[name] for name in names}
    return known | {"reasons": list(reasons), "inclusion_probability": chance} | others


def review(image, verdict, day=0, **others):
    said = {"image_id": image, "verdict": verdict, "reviewed_at": WHEN + timedelta(days=day)}
    return OURS | said | others


def write(folder: Path, **tables) -> Output:
    output = Output(folder.as_uri())
    current = output.current()
    for name, rows in tables.items():
        data = encode(pa.Table.from_pylist(rows, schema=TABLES[name]))
        current = current.replacing(name, [], [publish(output, name, data, len(rows))])
    output.replace_current(current)
    return output


def drawn(folder: Path, count=2000, audit=0.2, below=0.3, kind="calibrated") -> Output:
    """An output of calibrated captions, whose audit and queue are reviewed."""
    rng = np.random.default_rng(0)
    confidence = rng.beta(2, 1, count)
    correct = rng.random(count) < confidence
    places = ["a", "a", "b", "c"]
    captions = [
        caption(number, float(one), folder=places[number % 4], kind=kind)
        for number, one in enumerate(confidence)
    ]
    queue, reviews = [], []
    for row, right in zip(captions, correct, strict=True):
        reasons = ["threshold"] if row["confidence"] < below else []
        reasons += ["audit"] if rng.random() < audit else []
        if reasons:
            queue.append(queued(row, *reasons, chance=audit))
            reviews.append(review(row["image_id"], "accepted" if right else "edited"))
    return write(folder, captions=captions, review=queue, reviews=reviews)


class TestReading:
    def test_each_label_is_joined_to_its_captions(self, tmp_path: Path):
        """Every way in which a label may count, or not."""
        rows = [
            caption(0, 0.1),
            caption(1, 0.2, image="copied"),
            caption(2, 0.3, image="copied"),
            caption(3, 0.4),
            caption(4, 0.5),
            caption(5, 0.6, kind="uncalibrated"),
            caption(6, 0.7),
            caption(7, 0.8),
            caption(7, 0.9, model_id="fake@2"),
            caption(8, 0.35),
        ]
        output = write(
            tmp_path,
            captions=rows,
            review=[
                queued(rows[0], "threshold", chance=None),
                queued(rows[1], "threshold", "audit"),
                queued(rows[2], "deferred"),
                queued(rows[3], "audit"),
                queued(rows[4], "audit", chance=0.5),
                queued(rows[6], "audit", image_id="as it was before"),
                queued(rows[8], "threshold"),
            ],
            reviews=[
                review("i0", "rejected", day=1),
                review("i0", "accepted", day=2),
                review("i0", "skipped", day=3),
                review("copied", "edited"),
                review("i3", "skipped"),
                review("i4", "accepted", day=2),
                review("i4", "rejected", day=1),
                review("i5", "accepted"),  # Was neither queued nor drawn.
                review("i6", "accepted"),
                review("i7", "rejected", model_id="fake@2"),
                review("elsewhere", "accepted"),
            ],
        )
        assert captions_by_model(output) == {("fake@1", "d1"): 9, ("fake@2", "d1"): 1}
        found = read_reviewed(output, "fake@1", "d1")
        labels = found.reviewed
        surest_last = sorted(rows, key=lambda row: row["confidence"])
        assert found.uris == [row["uri"] for row in surest_last if row["model_id"] == "fake@1"]
        assert labels.accepted.tolist() == [False] * 3 + [True] * 6
        assert labels.index.tolist() == [0, 1, 2, 5]
        assert labels.correct.tolist() == [True, False, False, True]
        assert labels.inclusion_probability[3] == 0.5
        assert found.audited.confidence == pytest.approx([0.2, 0.5])
        assert found.audited.correct.tolist() == [False, True]
        assert found.audited.inclusion_probability.tolist() == [0.25, 0.5]
        assert (found.audit, found.deferred, found.uncalibrated) == (3, 1, 1)
        assert (found.judged, found.unused, found.elsewhere) == (5, 2, 1)

    def test_one_verdict_on_many_rows_is_one_label(self, tmp_path: Path):
        """A wrong placeholder has 8% of the rows; a tenth of them was drawn, a tenth reviewed."""
        rng = np.random.default_rng(0)
        held = []
        for trial in range(20):
            confidence = rng.random(1000)
            confidence[::12] = 0.9
            right = rng.random(1000) < 0.8
            right[::12] = False
            captions = [
                caption(number, float(one), image=None if number % 12 else "placeholder")
                for number, one in enumerate(confidence)
            ]
            drawn = np.flatnonzero(rng.random(1000) < 0.1)
            queue = [queued(captions[row], "audit", chance=0.1) for row in drawn]
            reviewed = {captions[row]["image_id"]: right[row] for row in drawn[::3]}
            reviewed |= {"placeholder": False}
            reviews = [
                review(image, "accepted" if good else "edited") for image, good in reviewed.items()
            ]
            output = write(tmp_path / str(trial), captions=captions, review=queue, reviews=reviews)
            found = read_reviewed(output, "fake@1", "d1")
            assert found.reviewed.known.sum() in (83, 84)  # All, unless its first row was drawn.
            assert found.audited.correct.size <= len(reviewed)
            one = estimate(found.reviewed)
            held.append(one.low <= right.mean() <= one.high)
        assert np.mean(held) >= 0.85

    def test_a_queue_that_was_reviewed_counts_when_it_is_planned_anew(self, tmp_path: Path):
        """What was reviewed leaves the live queue; estimates must not lose it."""
        rng = np.random.default_rng(0)
        captions = [caption(number, float(one)) for number, one in enumerate(rng.random(500))]
        output = write(tmp_path, captions=captions)
        rules = ReviewRules(review_below=0.2, audit=0.2)
        plan_review(output, "fake@1", "d1", rules)
        queue = helpers.rows(output, "review")
        reviews = [
            review(row["image_id"], "accepted" if row["confidence"] > 0.15 else "edited")
            for row in queue
        ]
        before = read_reviewed(write(tmp_path, reviews=reviews), "fake@1", "d1")
        plan_review(output, "fake@1", "d1", rules)
        assert len(helpers.rows(output, "review")) < len(queue)
        after = read_reviewed(output, "fake@1", "d1")
        assert asdict(estimate(after.reviewed)) == asdict(estimate(before.reviewed))
        found = estimate(after.reviewed, ~after.reviewed.accepted)
        assert (found.method, found.low) == ("known", found.value)
        below = sum(row["confidence"] < 0.2 for row in captions)
        assert found.rows == pytest.approx(below, abs=3)  # The last may be the audit's.
        assert after.unused == 0

    def test_what_is_queued_ends_where_not_all_are(self):
        audited = np.arange(1000) % 10 == 3
        sent = np.arange(1000) < 300
        assert queued_part(sent & ~audited, audited).tolist() == sent.tolist()
        holes = sent & (np.arange(1000) % 50 > 0)
        assert queued_part(holes, audited).tolist() == sent.tolist()
        by_another_head = sent & (np.arange(1000) % 2 > 0)
        assert not queued_part(by_another_head, audited).any()
        few = np.arange(1000) % 97 == 96  # Reviewed for a reason that is not known.
        assert queued_part(sent | few, audited).tolist() == sent.tolist()
        assert not queued_part(audited, audited).any()

    def test_folders_are_those_below_what_all_share(self):
        assert folders(["gs://b/x/a/1.jpg", "gs://b/x/a/deep/2.jpg", "gs://b/x/c.jpg"]) == [
            *("a", "a", "."),
        ]
        assert folders(["gs://b/1.jpg", "s3://b/2.jpg"]) == ["gs:", "s3:"]
        assert folders(["zip://in/1.jpg::file:///x/a.zip", "file:///x/b/2.jpg"]) == ["a.zip", "b"]
        assert folders(["file:///x/1.jpg"]) == ["."]


def remembered(folder: Path, seed: int, verifier: str | None, count=1500, audit=0.4):
    """An output whose verifier knows by heart what reviewers said of the images it learned from."""
    rng = np.random.default_rng(seed)
    true = rng.beta(3, 2, count)
    correct = rng.random(count) < true
    captions, queue, reviews = [], [], []
    for number in range(count):
        image, is_drawn = f"i{seed}-{number}", bool(rng.random() < audit)
        by_heart = is_drawn and not kept_for_guarantees(image)
        confidence = (0.97 if correct[number] else 0.03) if by_heart else float(true[number])
        captions.append(caption(number, confidence, image, verifier_id=verifier))
        if is_drawn:
            queue.append(queued(captions[-1], "audit", chance=audit))
            reviews.append(review(image, "accepted" if correct[number] else "edited"))
    correct_of = dict(zip([row["uri"] for row in captions], correct, strict=True))
    return write(folder, captions=captions, review=queue, reviews=reviews), correct_of


def test_what_a_verifier_may_know_by_heart_stands_for_no_other(tmp_path: Path):
    """Intervals of bins of confidence, of several draws, hold what is true."""
    held = []
    for seed in range(8):
        output, correct = remembered(tmp_path / str(seed), seed, "0123456789ab")
        found = read_reviewed(output, "fake@1", "d1")
        right = np.array([correct[uri] for uri in found.uris])
        confidence = found.reviewed.confidence
        least = confidence.min()
        for low, high, one in by_confidence(found.reviewed):
            inside = (confidence > low) | ((confidence == least) & (low == least))
            held.append(one.low <= right[inside & (confidence <= high)].mean() <= one.high)
        assert found.learned == len(found.reviewed.index) - len(found.audited.correct) > 200
        assert found.audited.kept.all()
    assert np.mean(held) > 0.92


def test_half_of_the_audit_stands_for_twice_as_many(tmp_path: Path, capsys):
    output, _ = remembered(tmp_path / "verified", 0, "0123456789ab", audit=0.4)
    plain, _ = remembered(tmp_path / "plain", 0, None, audit=0.4)
    found, other = (read_reviewed(one, "fake@1", "d1") for one in (output, plain))
    # Of 100 captions 20 are in the other half and known; of the other 80, 20 are drawn.
    assert found.audited.inclusion_probability == pytest.approx(0.25)
    assert set(other.audited.inclusion_probability) == {0.4}
    assert (found.drawn_for_one, other.drawn_for_one) == (2.0, 1.0)
    assert other.learned == 0
    assert found.audit + found.learned == other.audit
    main(["quality", output.uri])
    said = capsys.readouterr().out
    assert f"{found.learned:,} audited captions more are known, but stand for no others" in said


class TestCommand:
    def test_it_says_what_the_estimates_are(self, tmp_path: Path, capsys):
        output = drawn(tmp_path / "out")
        assert main(["quality", output.uri, "--width", "0.05"]) == 0
        said = capsys.readouterr().out
        labels = read_reviewed(output, "fake@1", "d1").reviewed
        for name, rows in (("all captions", None), ("accepted  ", labels.accepted)):
            found = estimate(labels, rows)
            numbers = f"{found.value:.1%}  {found.low:.1%} to {found.high:.1%}"
            (line,) = (line for line in said.splitlines() if line.startswith(name))
            assert line.endswith(numbers)
            assert f" {found.rows:,} " in line
            assert f" {found.labels:,} " in line
        queue = int((~labels.accepted).sum())
        assert f"{queue / 2000:.1%} of the captions are queued and reviewed, so known" in said
        assert "more audited captions bring the interval of all to width 0.05" in said
        assert f"captioner review plan {output.uri} --audit " in said
        assert [line.split()[:2] for line in said.splitlines()[-3:]] == [
            *(["a", "1,000"], ["b", "500"], ["c", "500"]),
        ]
        assert "uncalibrated" not in said
        assert "not used" not in said

    def test_what_the_audit_had_reviewed_is_not_called_unreviewed(self, tmp_path: Path, capsys):
        """Of ten captions two are queued; of the eight others the audit had two reviewed."""
        rows = [caption(number, number / 10) for number in range(10)]
        queue = [queued(row, "threshold") for row in rows[:2]]
        queue += [queued(rows[number], "audit") for number in (4, 6, 8)]
        said = [review(f"i{number}", "accepted") for number in (0, 1, 4, 6)]
        said += [review("i8", "skipped")]
        output = write(tmp_path, captions=rows, review=queue, reviews=said)
        assert main(["quality", output.uri]) == 0
        told = capsys.readouterr().out
        sentence = (
            "8 captions, surer than the queued ones, are accepted; 6 of them are not reviewed"
        )
        assert sentence in told.splitlines()
        assert "unreviewed" not in told

    def test_the_audit_it_proposes_is_large_enough(self, tmp_path: Path, capsys):
        output = drawn(tmp_path)
        main(["quality", output.uri, "--width", "0.05"])
        said = capsys.readouterr().out
        needed = int(said.partition(" more audited")[0].rpartition("\n")[2])
        share = float(said.partition("--audit ")[2].partition("%")[0]) / 100
        found = read_reviewed(output, "fake@1", "d1")
        more = (share - found.audit / 2000) * found.reviewed.accepted.sum()
        assert needed <= more < needed + 3

    def test_the_report(self, tmp_path: Path, capsys):
        output = drawn(tmp_path / "out")
        report = tmp_path / "report"
        assert main(["quality", output.uri, "--report", str(report)]) == 0
        assert f"review_budget.png in {report}" in capsys.readouterr().out
        content = json.loads((report / "quality.json").read_text())
        found = read_reviewed(output, "fake@1", "d1")
        assert content["captions"] == asdict(estimate(found.reviewed))
        assert content["accepted"] == asdict(estimate(found.reviewed, found.reviewed.accepted))
        assert [one["rows"] for one in content["by_confidence"]] == [400] * 5
        assert set(content["by_folder"]) == {"a", "b", "c"}
        curves, audited = content["curves"], found.audited
        assert content["audit"] == content["audited"] == len(audited.correct)
        scores, correct = audited.confidence[audited.kept], audited.correct[audited.kept]
        assert 0.4 * len(audited.correct) < curves["labels"] < 0.6 * len(audited.correct)
        assert curves["labels"] == len(correct)
        assert "kept for guarantees, so that no confidence head has seen" in curves["rest_on"]
        coverage, risk = risk_coverage(scores, correct)
        assert (curves["coverage"], curves["risk"]) == (coverage.tolist(), risk.tolist())
        reviewed, final = review_budget(scores, correct)
        assert (curves["reviewed"], curves["final"]) == (reviewed.tolist(), final.tolist())
        assert sum(one["count"] for one in curves["bins"]) == len(correct)
        for name in ("reliability", "risk_coverage", "review_budget"):
            picture = Image.open(report / f"{name}.png")
            assert picture.size == (1200, 900)
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20

    def test_what_weakens_the_estimates_is_said(self, tmp_path: Path, capsys):
        output = drawn(tmp_path, kind="uncalibrated")
        reviews = output.current().of("reviews")
        kept = output.read_part(reviews[0].path).to_pylist()[::2]
        kept += [review("elsewhere", "accepted")]
        row = caption(3000, 0.9, kind="uncalibrated")
        rows = [*output.read_part(output.current().of("captions")[0].path).to_pylist(), row]
        queue = output.read_part(output.current().of("review")[0].path).to_pylist()
        again = tmp_path / "again"
        kept += [review("i3000", "accepted")]
        write(again, captions=rows, review=queue, reviews=kept)
        assert main(["quality", again.as_uri(), "--width", "0.1"]) == 0
        said = capsys.readouterr().out
        assert "audited captions are not reviewed yet; taken to be like" in said
        assert "queued captions are not reviewed yet; taken to be like" in said
        assert "1 reviewed images are neither audited nor among the least confident" in said
        assert "1 reviews are of images without such a caption; not used" in said
        assert "the confidence of 2,001 captions is uncalibrated" in said

    def test_what_no_label_tells_of_is_not_estimated(self, tmp_path: Path, capsys):
        output = drawn(tmp_path / "out", below=0.4)
        queue = output.read_part(output.current().of("review")[0].path).to_pylist()
        reviews = output.read_part(output.current().of("reviews")[0].path).to_pylist()
        captions = output.read_part(output.current().of("captions")[0].path).to_pylist()
        of_both = {row["image_id"] for row in queue if row["reasons"] == ["threshold", "audit"]}
        again = tmp_path / "again"
        kept = [row for row in reviews if row["image_id"] not in of_both]
        write(again, captions=captions, review=queue, reviews=kept)
        assert main(["quality", again.as_uri(), "--report", str(tmp_path / "report")]) == 0
        said = capsys.readouterr().out
        assert "no estimate of all captions: none that the audit drew" in said
        (line,) = (line for line in said.splitlines() if line.startswith("all captions"))
        assert line.split()[4] == "-"
        content = json.loads((tmp_path / "report" / "quality.json").read_text())
        assert content["captions"]["value"] is None
        assert content["accepted"]["value"] > 0.5

    def test_where_all_is_queued_no_audit_is_needed(self, tmp_path: Path, capsys):
        output = drawn(tmp_path / "out", count=50, audit=0.0, below=1.1)
        assert main(["quality", output.uri, "--report", str(tmp_path / "report")]) == 0
        said = capsys.readouterr().out
        assert "accepted" not in said
        assert "100.0% of the captions are queued and reviewed" in said
        assert "the interval of all captions is no wider than 0.02" in said
        assert "nothing to draw" in said
        assert [path.name for path in (tmp_path / "report").iterdir()] == ["quality.json"]


class TestRefuses:
    def fails(self, capsys, status, *arguments):
        assert main(["quality", *arguments]) == status
        return capsys.readouterr().err

    def test_no_captions(self, tmp_path: Path, capsys):
        message = self.fails(capsys, 2, tmp_path.as_uri())
        assert "holds no captions; run captioner annotate first" in message

    def test_no_reviews(self, tmp_path: Path, capsys):
        row = caption(0, 0.5)
        output = write(tmp_path, captions=[row], review=[queued(row, "audit")])
        message = self.fails(capsys, 1, output.uri)
        assert "holds no reviews of these captions" in message
        assert f"captioner review plan {output.uri} --audit 2%" in message

    def test_reviews_of_other_images_alone(self, tmp_path: Path, capsys):
        reviews = [review("x", "accepted"), review("y", "rejected")]
        output = write(tmp_path, captions=[caption(0, 0.5)], reviews=reviews)
        message = self.fails(capsys, 1, output.uri)
        assert "no reviews of these captions (2 reviews are of images without such" in message

    def test_no_audit(self, tmp_path: Path, capsys):
        rows = [caption(0, 0.2), caption(1, 0.9)]
        output = write(
            tmp_path,
            captions=rows,
            review=[queued(rows[0], "threshold", chance=None)],
            reviews=[review("i0", "accepted")],
        )
        message = self.fails(capsys, 1, output.uri)
        assert "1 images are reviewed, none of them drawn by an audit" in message
        assert f"Draw one: captioner review plan {output.uri} --audit 2%" in message

    def test_the_plan_that_comes_next_is_of_the_model_that_was_named(self, tmp_path: Path, capsys):
        rows = [caption(0, 0.5), caption(1, 0.5, model_id="fake@2")]
        output = write(tmp_path, captions=rows)
        message = self.fails(capsys, 1, output.uri, "--model_id", "fake@2")
        assert f"(captioner review plan {output.uri} --audit 2% --model_id fake@2)" in message

    def test_an_audit_that_nobody_reviewed(self, tmp_path: Path, capsys):
        rows = [caption(0, 0.2), caption(1, 0.9)]
        output = write(
            tmp_path,
            captions=rows,
            review=[queued(rows[0], "threshold"), queued(rows[1], "audit")],
            reviews=[review("i0", "accepted")],
        )
        message = self.fails(capsys, 1, output.uri)
        assert "1 images are reviewed, but none of the 1 that the audit drew" in message

    def test_several_models(self, tmp_path: Path, capsys):
        rows = [caption(0, 0.5), caption(0, 0.5, decoding="d2"), caption(0, 0.5, model_id="b@2")]
        uri = write(tmp_path, captions=rows).uri
        message = self.fails(capsys, 2, uri)
        assert "choose by --model_id: --model_id b@2 --decoding d1, --model_id fake@1" in message
        assert "choose by --decoding: " in self.fails(capsys, 2, uri, "--model_id", "fake@1")
        message = self.fails(capsys, 2, uri, "--model_id", "b@2", "--decoding", "d2")
        assert "--model_id b@2 --decoding d2 has no captions here; there are: " in message
        message = self.fails(capsys, 1, uri, "--model_id", "b@2")
        assert "holds no reviews" in message

    def test_a_confidence_that_is_no_number(self, tmp_path: Path, capsys):
        rows = [caption(0, float("nan")), caption(1, 0.5)]
        reviews = [review("i0", "accepted")]
        uri = write(tmp_path, captions=rows, review=[queued(rows[0], "audit")], reviews=reviews).uri
        assert "confidence of 1 captions is outside [0, 1] or not" in self.fails(capsys, 1, uri)

    def test_an_audit_without_its_probability(self, tmp_path: Path, capsys):
        row = caption(0, 0.5)
        queue = [queued(row, "audit", chance=None)]
        uri = write(tmp_path, captions=[row], review=queue, reviews=[review("i0", "accepted")]).uri
        message = self.fails(capsys, 1, uri)
        assert "inclusion_probability of an audited caption is nan" in message

    @pytest.mark.parametrize("width", ["0", "1", "2%"])
    def test_no_width(self, width, capsys):
        with pytest.raises(SystemExit) as exit_:
            main(["quality", "out", "--width", width])
        assert exit_.value.code == 2
        assert "is not a number between 0 and 1, such as 0.02" in capsys.readouterr().err


class TestCurves:
    def test_labels_count_by_how_rarely_they_are_drawn(self):
        confidence, correct = np.array([0.2, 0.8]), np.array([False, True])
        curves = curves_of(Audited(confidence, correct, np.array([0.2, 0.1]), np.ones(2, np.bool_)))
        assert curves is not None
        assert (curves.labels, curves.accuracy) == (2, pytest.approx(2 / 3))
        assert curves.coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
        assert curves.risk.tolist() == pytest.approx([0, 0, 1 / 3])

    @pytest.mark.parametrize("right", [True, False])
    def test_verdicts_that_agree_can_be_drawn(self, right):
        everyone = np.ones(30, np.bool_)
        curves = curves_of(
            Audited(np.full(30, 0.9), np.full(30, right), np.full(30, 0.1), everyone)
        )
        assert curves is not None
        assert curves.figures["auroc"] is None
        for data in pictures_of(curves, 0.5).values():
            assert Image.open(io.BytesIO(data)).size == (1200, 900)
