"""The command `review agreement` as a person meets it, and what it reads."""

import json
import math
from collections import Counter
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from captioner.evaluation import agreement as statistics
from captioner.evaluation.agreement import cider, edit_distances, figures
from pipelines.agreement import measured, read_reviews
from pipelines.cli import main
from pipelines.output import Output, OutputError
from tests.pipelines.planned import DECODING, MODEL, NOON, add, captions

FIGURES = ("accepted", "characters", "words", "cider", "seconds", "same_verdict", "alpha")


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output((tmp_path / "out").as_uri())


def review(number, verdict, reviewer="ann", left=None, minute=0, model_id=MODEL, **others):
    """Return a review of the caption of image ``number``."""
    text = f"caption {number}"
    return {
        "image_id": f"{number:064x}",
        "model_id": model_id,
        "decoding": DECODING,
        "shown_caption": text,
        "verdict": verdict,
        "caption": text if verdict == "accepted" else left,
        "reviewer": reviewer,
        "reviewed_at": NOON + timedelta(minutes=minute),
        **others,
    }


def simulated(output: Output, count: int = 200) -> list[dict]:
    """Write captions of three folders, reviewed by one or two people; return the reviews."""
    rng = np.random.default_rng(0)
    places = ["a", "a", "b", "c"]
    uris = [f"gs://photos/{places[n % 4]}/{n:04}.jpg" for n in range(count)]
    confidence = rng.permutation(np.linspace(0.01, 0.99, count))
    add(output, "captions", captions(confidence, uri=uris))
    found = []
    for number in range(count - 20):
        for reviewer in ("ann", "bob")[: 1 + (number % 3 == 0)]:
            right = rng.random() < confidence[number]
            verdict = "accepted" if right else str(rng.choice(["edited", "rejected", "skipped"]))
            left = f"a small caption {number}" if verdict == "edited" else None
            seconds = float(np.float32(rng.uniform(3, 30)))
            found.append(review(number, verdict, reviewer, left, seconds=seconds))
    add(output, "reviews", found)
    return found


class TestReading:
    def test_of_several_reviews_by_one_of_one_caption_the_newest_counts(self, output: Output):
        add(output, "captions", captions([0.5] * 3))
        add(output, "captions", captions([0.5], model_id="other@1"))
        said = [
            review(0, "edited", minute=5, left="a cat"),
            review(0, "rejected", minute=1),
            review(0, "accepted", "bob", minute=3),
            review(0, "accepted", minute=9, model_id="other@1"),
            review(1, "rejected", minute=1),
            review(1, "accepted", minute=2),
            review(2, "accepted", None, minute=2),
            review(2, "rejected", None, minute=4),
        ]
        add(output, "reviews", said[::2])
        add(output, "reviews", said[1::2])
        found = read_reviews(output)
        verdicts = Counter(found.judgements.verdict.tolist())
        assert verdicts == {"accepted": 3, "edited": 1, "rejected": 1}
        assert found.superseded == 3
        assert len({*found.judgements.image.tolist()}) == 3
        assert len({*found.judgements.caption.tolist()}) == 4
        assert figures(found.judgements).compared == 1

    def test_they_are_joined_to_the_first_caption_of_their_image(self, output: Output):
        names = [f"{n:064x}" for n in (0, 1, 1)]
        uris = ["file:///in/a/0.jpg", "file:///in/c/1.jpg", "file:///in/b/1.jpg"]
        add(output, "captions", captions([0.1, 0.2, 0.3], image_id=names, uri=uris))
        add(output, "captions", captions([0.9] * 2, model_id="other@1"))
        add(output, "reviews", [review(n, "accepted") for n in (0, 1, 7)])
        found = read_reviews(output)
        assert found.uris == ["file:///in/a/0.jpg", "file:///in/b/1.jpg", None]
        assert found.confidence[:2] == pytest.approx([0.1, 0.3])
        assert math.isnan(found.confidence[2])

    def test_edits_are_measured_from_what_was_shown(self, output: Output):
        add(output, "captions", captions([0.5] * 4))
        said = [
            review(0, "edited", left="caption nought"),
            review(1, "edited", left="a long caption", shown_caption="a caption", minute=1),
            review(2, "edited", left="caption 3", shown_caption=None, minute=2),
            review(3, "accepted", minute=3),
            review(9, "edited", left="a", shown_caption=None, minute=4),
        ]
        add(output, "reviews", said)
        judgements = read_reviews(output).judgements
        shown = ["caption 0", "a caption", "caption 2"]
        left = ["caption nought", "a long caption", "caption 3"]
        for name, wanted in zip(("characters", "words"), edit_distances(shown, left), strict=True):
            found = getattr(judgements, name)
            assert found[:3] == pytest.approx(wanted)
            assert np.isnan(found[3:]).all()
        assert judgements.cider[:3] == pytest.approx(cider(shown, left))
        assert figures(judgements).edits == 3

    def test_one_model_or_way_of_decoding_can_be_chosen(self, output: Output):
        said = [
            review(0, "accepted"),
            review(0, "rejected", decoding="beams"),
            review(0, "edited", model_id="other@1"),
        ]
        add(output, "reviews", said)
        assert read_reviews(output, "other@1").judgements.verdict.tolist() == ["edited"]
        assert read_reviews(output, MODEL, "beams").judgements.verdict.tolist() == ["rejected"]
        assert len(read_reviews(output, decoding=DECODING).models) == 2

    def test_another_verdict_is_refused(self, output: Output):
        add(output, "reviews", [review(0, "fine")])
        with pytest.raises(OutputError, match="verdict 'fine'; use one of accepted, edited"):
            read_reviews(output)


class TestGroups:
    def test_each_is_what_its_reviews_come_to(self, output: Output):
        said = simulated(output)
        found = measured(read_reviews(output))
        rows = {row["image_id"]: row for row in output_rows(output)}
        assert found.everything.reviews == len(said) == 240
        assert list(found.by_folder) == ["a", "b", "c"]
        for folder, one in found.by_folder.items():
            of_it = [row for row in said if rows[row["image_id"]]["uri"].split("/")[3] == folder]
            assert_like(one, of_it)
        assert len(found.by_confidence) == 5
        for least, most, one in found.by_confidence:
            first = least == found.by_confidence[0][0]
            of_it = [
                row
                for row in said
                if least < rows[row["image_id"]]["confidence"] <= most
                or (first and rows[row["image_id"]]["confidence"] == least)
            ]
            assert 45 <= len(of_it) <= 51
            assert_like(one, of_it)
        accepted = [one.accepted for _, _, one in found.by_confidence]
        assert accepted[0] < 0.5 < accepted[-1]
        assert found.by_model == {f"{MODEL} {DECODING}": found.everything}
        assert_like(found.everything, said)

    def test_the_ten_largest_folders(self, output: Output):
        places = [n for n in range(12) for _ in range(n + 1)]
        uris = [f"file:///in/{place:02}/{n}.jpg" for n, place in enumerate(places)]
        add(output, "captions", captions([0.5] * len(uris), uri=uris))
        add(output, "reviews", [review(n, "accepted") for n in range(len(uris))])
        found = measured(read_reviews(output)).by_folder
        assert list(found) == [f"{place:02}" for place in range(11, 1, -1)]
        assert [one.reviews for one in found.values()] == list(range(12, 2, -1))

    def test_by_model_and_decoding(self, output: Output):
        said = [review(0, "accepted"), review(0, "rejected", model_id="other@1")]
        add(output, "reviews", [*said, review(1, "edited", decoding="beams")])
        found = measured(read_reviews(output)).by_model
        assert {name: (one.accepted, one.edited) for name, one in found.items()} == {
            f"{MODEL} {DECODING}": (1, 0),
            f"{MODEL} beams": (0, 1),
            f"other@1 {DECODING}": (0, 0),
        }


def output_rows(output: Output) -> list[dict]:
    return [row for _, part in output.tables("captions") for row in part.to_pylist()]


def assert_like(found: statistics.Figures, said: list[dict]) -> None:
    """Check against counting the reviews one by one."""
    verdicts = Counter(row["verdict"] for row in said)
    judged = len(said) - verdicts["skipped"]
    assert (found.reviews, found.judged) == (len(said), judged)
    shares = [verdicts[verdict] / judged for verdict in ("accepted", "edited", "rejected")]
    assert (found.accepted, found.edited, found.rejected) == pytest.approx(shares)
    assert found.skipped == pytest.approx(verdicts["skipped"] / len(said))
    assert found.edits == verdicts["edited"]
    assert found.seconds == pytest.approx(np.median([row["seconds"] for row in said]))
    pairs: dict[str, list[str]] = {}
    for row in said:
        if row["verdict"] != "skipped":
            pairs.setdefault(row["image_id"], []).append(row["verdict"])
    both = [pair for pair in pairs.values() if len(pair) == 2]
    assert (found.images, found.compared) == (len(pairs), len(both))
    assert found.same_verdict == pytest.approx(np.mean([one == other for one, other in both]))


class TestCommand:
    def test_it_says_what_reviews_come_to(self, output: Output, capsys):
        simulated(output)
        assert main(["review", "agreement", output.uri]) == 0
        said = capsys.readouterr().out
        found = measured(read_reviews(output))
        one = found.everything
        lines = said.splitlines()
        assert lines[:2] == ["240 reviews by 2 reviewers", f"of {MODEL} {DECODING}"]
        said_of_all, changed_in_all = (line.split() for line in lines if line.startswith("all "))
        assert said_of_all == [
            *("all", "240", f"{one.accepted:.1%}", f"{one.accepted_low:.1%}", "to"),
            *(f"{one.accepted_high:.1%}", f"{one.edited:.1%}", f"{one.rejected:.1%}"),
            *(f"{one.skipped:.1%}", f"{one.seconds:.1f}"),
        ]
        assert changed_in_all == [
            *("all", f"{one.edits}", f"{one.characters:.1%}", f"{one.words:.1%}"),
            *(f"{100 * one.cider:.1f}", f"{one.compared}", f"{one.same_verdict:.1%}"),
            f"{one.alpha:.2f}",
        ]
        titles = [line for line in lines if line.startswith("by ")]
        assert titles == ["by confidence", "by folder"] * 2
        assert sum(line.startswith("  b ") for line in lines) == 2
        assert f"captioner quality {output.uri}" in lines[-1]
        assert not any(line.startswith("- for") for line in lines)

    def test_what_cannot_be_had_is_a_dash_with_its_reason(self, output: Output, capsys):
        add(output, "captions", captions([0.5] * 3))
        said = [review(0, "accepted"), review(1, "edited", left="a cat"), review(2, "rejected")]
        add(output, "reviews", said)
        assert main(["review", "agreement", output.uri]) == 0
        lines = capsys.readouterr().out.splitlines()
        first, second = (line.split() for line in lines if line.startswith("all "))
        assert first[-1] == "-"
        assert second[1:] == ["1", "88.9%", "100.0%", "-", "0", "-", "-"]
        notes = [line for line in lines if line.startswith("- for")]
        assert notes == [
            "- for CIDEr: CIDEr needs two edited captions at least, and there are 1",
            "- for seconds: no review says how long it took",
            "- for same verdict, alpha: no caption has two reviewers who judged it",
        ]
        assert "nan" not in " ".join(lines).lower()

    def test_a_dash_of_some_rows_names_them(self, output: Output, capsys):
        add(output, "captions", captions([0.25, 0.5, 0.75, 1.0]))
        said = [review(n, "edited", left=f"a cat {n}", seconds=2.0) for n in range(2)]
        add(output, "reviews", [*said, *(review(n, "accepted", seconds=2.0) for n in (2, 3))])
        assert main(["review", "agreement", output.uri]) == 0
        notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- for")]
        assert notes == [
            "- for same verdict, alpha: no caption has two reviewers who judged it",
            "- for characters, words, CIDEr in rows 0.500 to 0.750, 0.750 to 1.000: no caption was "
            "edited",
        ]

    def test_skipped_reviews_alone(self, output: Output, capsys):
        add(output, "captions", captions([0.5]))
        add(output, "reviews", [review(0, "skipped", seconds=2.0)])
        assert main(["review", "agreement", output.uri]) == 0
        lines = capsys.readouterr().out.splitlines()
        (first, _) = (line.split() for line in lines if line.startswith("all "))
        assert first == ["all", "1", "-", "-", "-", "-", "100.0%", "2.0"]
        assert "- for accepted, edited, rejected: every review was skipped" in lines

    def test_without_pycocoevalcap_the_rest_is_there(
        self, output: Output, capsys, monkeypatch: pytest.MonkeyPatch
    ):
        def missing():
            raise ModuleNotFoundError("scores need pycocoevalcap; install it: pip install 'x'")

        monkeypatch.setattr(statistics, "require_pycocoevalcap", missing)
        simulated(output, 60)
        assert main(["review", "agreement", output.uri]) == 0
        said = capsys.readouterr().out
        assert "- for CIDEr: scores need pycocoevalcap; install it" in said

    def test_what_else_is_to_be_known(self, output: Output, capsys):
        add(output, "captions", captions([0.5, 0.6]))
        add(output, "captions", captions([0.5], model_id="other@1"))
        said = [
            *(review(0, "accepted"), review(0, "rejected", minute=1)),
            *(review(0, "accepted", model_id="other@1"), review(77, "accepted")),
        ]
        add(output, "reviews", said)
        assert main(["review", "agreement", output.uri]) == 0
        said = capsys.readouterr().out
        assert "3 reviews by 1 reviewer\n" in said
        assert "1 older reviews do not count" in said
        assert "1 reviews are of captions that are not here" in said
        assert "confidences of several models do not compare" in said
        assert f"\n  other@1 {DECODING}  " in said
        main(["review", "agreement", output.uri, "--model_id", "other@1"])
        said = capsys.readouterr().out
        assert said.startswith(f"1 reviews by 1 reviewer\nof other@1 {DECODING}\n")
        assert "do not compare" not in said

    def test_the_report(self, output: Output, tmp_path: Path, capsys):
        simulated(output)
        report = tmp_path / "report"
        assert main(["review", "agreement", output.uri, "--report", str(report)]) == 0
        assert f"agreement.json in {report}" in capsys.readouterr().out
        content = json.loads((report / "agreement.json").read_text())
        found = measured(read_reviews(output))
        assert content["everything"] == asdict(found.everything)
        assert content["by_folder"] == {n: asdict(one) for n, one in found.by_folder.items()}
        assert list(content["by_model"]) == [f"{MODEL} {DECODING}"]
        (least, most, first), *_ = found.by_confidence
        assert content["by_confidence"][0] == {"least": least, "most": most, **asdict(first)}
        assert (content["reviewers"], content["superseded"], content["elsewhere"]) == (2, 0, 0)

    def test_the_report_says_null_and_why(self, output: Output, tmp_path: Path):
        add(output, "reviews", [review(0, "skipped")])
        main(["review", "agreement", output.uri, "--report", str(tmp_path / "report")])
        content = json.loads((tmp_path / "report" / "agreement.json").read_text())
        assert [content["everything"][name] for name in FIGURES] == [None] * len(FIGURES)
        assert set(content["everything"]["missing"]) >= set(FIGURES)
        assert content["by_confidence"] == []


class TestRefuses:
    def fails(self, capsys, status, *arguments):
        assert main(["review", "agreement", *arguments]) == status
        return capsys.readouterr().err

    def test_no_reviews(self, output: Output, capsys):
        add(output, "captions", captions([0.5]))
        message = self.fails(capsys, 1, output.uri)
        assert "holds no reviews" in message
        assert f"captioner review push {output.uri}" in message
        assert f"captioner review pull {output.uri}" in message

    def test_no_output(self, tmp_path: Path, capsys):
        message = self.fails(capsys, 2, str(tmp_path / "nosuch"))
        assert "nosuch holds no captions; run captioner annotate first" in message

    def test_none_of_that_model(self, output: Output, capsys):
        add(output, "reviews", [review(0, "accepted")])
        message = self.fails(capsys, 2, output.uri, "--model_id", "x@1", "--decoding", "beams")
        assert "--model_id x@1 --decoding beams has no reviews here; there are: --mod" in message
        assert f"--model_id {MODEL} --decoding {DECODING}" in message
        assert "--decoding beams has no reviews here" in self.fails(
            capsys, 2, output.uri, "--decoding", "beams"
        )

    def test_a_report_with_a_secret_in_its_name(self, output: Output, capsys):
        message = self.fails(capsys, 2, output.uri, "--report", "s3://me:pass@bucket/x")
        assert "--report s3://***@bucket/x carries a user name or password" in message
