"""Rules as people write them: flags, a YAML file, and the command that plans by them."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.commands import review_config
from pipelines.options import EXIT_DONE, EXIT_USAGE, parse
from pipelines.output import Output
from pipelines.review_rules import (
    Guarantee,
    ReviewRules,
    RulesError,
    parse_budget,
    parse_guarantee,
    parse_share,
)
from tests.pipelines.helpers import rows
from tests.pipelines.planned import DECODING, MODEL, add, captions, reviews

ANNOTATE = ["annotate", "--input", "in", "--output", "out"]


class TestText:
    @pytest.mark.parametrize(
        ("text", "share"),
        [("2%", 0.02), ("0.02", 0.02), ("0", 0), (" 29 % ", 0.29), ("1e-05", 1e-05)],
    )
    def test_shares(self, text: str, share: float):
        assert parse_share(text) == share

    @pytest.mark.parametrize(
        "text", ["two", "101%", "-1", "nan", "", "%", "1/0", "1e400", "1e-999999999", "9" * 5000]
    )
    def test_what_is_no_share(self, text: str):
        with pytest.raises(RulesError, match="is no share; use one such as 2% or 0.02"):
            parse_share(text)

    def test_budgets(self):
        assert parse_budget("500") == 500
        assert isinstance(parse_budget("100%"), float)
        assert parse_budget("5%") == 0.05

    @pytest.mark.parametrize("text", ["0.05", "-3", "many", "1e3", "", "9" * 5000])
    def test_what_is_no_budget(self, text: str):
        with pytest.raises(RulesError, match="is no budget; use a number of captions, or a share"):
            parse_budget(text)

    @pytest.mark.parametrize("text", ["accuracy>=0.95 @ 0.9", "accuracy >= 95%@90%"])
    def test_guarantees(self, text: str):
        found = parse_guarantee(text)
        assert found == Guarantee(0.95, 0.9)
        assert parse_guarantee(str(found)) == found

    @pytest.mark.parametrize(
        "text", ["accuracy>0.95 @ 0.9", "accuracy>=0.95", "0.95 @ 0.9", "", "accuracy>=high @ 0.9"]
    )
    def test_what_is_no_guarantee(self, text: str):
        with pytest.raises(RulesError, match="is no guarantee; write it like 'accuracy>=0.95 @ 0"):
            parse_guarantee(text)

    def test_a_guarantee_of_everything(self):
        with pytest.raises(RulesError, match="guarantee has accuracy 1; use a number between"):
            parse_guarantee("accuracy>=1 @ 0.9")


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "said"),
        [
            ({"review_below": 7}, "review_below is 7; use a number from 0 to 1"),
            ({"review_below": float("nan")}, "review_below is nan"),
            ({"audit": -0.1}, "audit is -0.1"),
            ({"budget": -1}, "budget is -1; use a number of captions"),
            ({"budget": 1.5}, "budget is 1.5"),
            ({"budget": True}, "budget is True"),
            ({"seed": 0.5}, "seed is 0.5; use a whole number"),
            ({"guarantee": Guarantee(0.9, 0.9), "audit": 0}, "needs an audit"),
        ],
    )
    def test_what_cannot_be_followed_is_named(self, rules: dict[str, object], said: str):
        with pytest.raises(RulesError, match=said):
            ReviewRules(**rules)

    def read(self, tmp_path: Path, text: str) -> ReviewRules:
        path = tmp_path / "rules.yaml"
        path.write_text(text)
        return ReviewRules.from_yaml(path.as_uri())

    def test_a_file(self, tmp_path: Path):
        text = "review_below: 0.6\nbudget: 5%\nguarantee: accuracy>=0.95 @ 0.9\naudit: 3%\nseed: 7"
        found = self.read(tmp_path, text)
        assert found == ReviewRules(0.6, 0.05, Guarantee(0.95, 0.9), 0.03, 7)
        assert found.as_dict()["guarantee"] == "accuracy>=0.95 @ 0.9"
        assert self.read(tmp_path, "budget: 500") == ReviewRules(budget=500)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "holds no rules; write lines such as 'budget: 5%'"),
            ("- budget", "holds no rules"),
            ("a: [", "cannot be read as YAML"),
            ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
            ("budgets: 3", "unknown rule 'budgets'; did you mean budget"),
            ("xyz: 3", "unknown rule 'xyz'; there are: review_below, budget"),
            ("budget: yes", "True is no budget"),
            ("audit: much", "'much' is no share"),
            ("review_below: low", "review_below is 'low'"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named(self, tmp_path: Path, text: str, said: str):
        with pytest.raises(RulesError, match=said) as error:
            self.read(tmp_path, text)
        assert "rules.yaml" in str(error.value)

    def test_a_file_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(RulesError, match="none.yaml cannot be read as YAML"):
            ReviewRules.from_yaml((tmp_path / "none.yaml").as_uri())


class TestFlags:
    def rules(self, *flags: str) -> ReviewRules:
        return review_config(parse([*ANNOTATE, *flags])[0]).rules

    def test_annotate_has_rules_by_default(self):
        assert self.rules() == ReviewRules(review_below=0.5, audit=0.02)
        assert self.rules("--audit", "5%") == ReviewRules(review_below=0.5, audit=0.05)
        assert self.rules("--review_budget", "5%") == ReviewRules(budget=0.05)

    def test_each_flag_is_a_rule(self):
        flags = ["--review_below", "0.4", "--review_budget", "500", "--audit", "3%"]
        flags += ["--guarantee", "accuracy>=0.95 @ 0.9", "--review_seed", "7"]
        assert self.rules(*flags) == ReviewRules(0.4, 500, Guarantee(0.95, 0.9), 0.03, 7)


class TestCommand:
    @pytest.fixture
    def output(self, tmp_path: Path) -> Output:
        output = Output((tmp_path / "out").as_uri())
        add(output, "captions", captions(np.linspace(0, 1, 60)))
        return output

    def plan(self, output: Output, *flags: object) -> int:
        return main(["review", "plan", output.uri, *map(str, flags)])

    def test_it_says_what_was_queued_and_why(self, output: Output, capsys):
        flags = ["--review_below", "0.2", "--review_budget", "5%", "--audit", "50%"]
        assert self.plan(output, *flags) == EXIT_DONE
        said = capsys.readouterr().out
        found = rows(output, "review")
        audited = sum("audit" in row["reasons"] for row in found)
        assert f"{MODEL} {DECODING}\nto review: {len(found)} captions" in said
        assert "threshold       12  confidence below 0.2\n" in said
        assert "budget           3  the least confident\n" in said
        assert f"audit     {audited:>8}  a random 50% of all captions\n" in said

    def test_it_says_what_is_missing_for_a_guarantee(self, output: Output, capsys):
        assert self.plan(output, "--guarantee", "accuracy>=0.95 @ 0.9") == EXIT_DONE
        said = capsys.readouterr().out
        assert "guarantee       60  not certified for accuracy>=0.95 @ 0.9\n" in said
        assert "0 labels of distinct images cannot show that any are 95% correct with" in said
        assert "until then all captions are to be reviewed" in said

    def test_it_says_what_is_certified(self, output: Output, capsys):
        images = [row["image_id"] for row in rows(output)]
        add(output, "reviews", reviews(images, ["accepted"] * 60))
        assert self.plan(output, "--guarantee", "accuracy>=0.9 @ 0.9", "--audit", "100%") == 0
        said = capsys.readouterr().out
        assert "guarantee: confidence 0 and above is 90% correct with 90% confidence" in said
        assert "until then" not in said

    def test_rules_from_a_file(self, output: Output, tmp_path: Path):
        (tmp_path / "rules.yaml").write_text("budget: 4\naudit: 0\n")
        assert self.plan(output, "--review_rules", tmp_path / "rules.yaml") == EXIT_DONE
        assert len(rows(output, "review")) == 4

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            ([], "no rule says what to review; give --review_below"),
            (["--review_seed", "3"], "no rule says what to review"),
            (["--review_budget", "61"], "budget is 61, but there are only 60 captions"),
            (["--review_rules", "x.yaml", "--audit", "0"], "--review_rules and --audit are both"),
            (["--review_rules", "https://u:hunter2@host/x"], "carries"),
            (["--guarantee", "accuracy>=0.9 @ 0.9", "--audit", "0"], "needs an audit"),
            (["--audit", "2%", "--model_id", "x@1"], "--model_id x@1 has no captions here"),
        ],
    )
    def test_what_cannot_be_used_is_named_and_changes_nothing(
        self, output: Output, capsys, flags: list[str], said: str
    ):
        before = output.current()
        assert self.plan(output, *flags) == EXIT_USAGE
        error = capsys.readouterr().err
        assert said in error
        assert "hunter2" not in error
        assert output.current() == before

    def test_one_of_several_kinds_is_to_be_chosen(self, output: Output, capsys):
        more = captions([0.1, 0.2, 0.3], decoding=["d2"] * 3)
        add(output, "captions", more)
        before = output.current()
        assert self.plan(output, "--review_budget", "2", "--audit", "0") == EXIT_USAGE
        error = capsys.readouterr().err
        assert f"choose by --decoding: --model_id {MODEL} --decoding {DECODING}" in error
        assert output.current() == before
        flags = ["--review_budget", "2", "--audit", "0", "--decoding", "d2"]
        assert self.plan(output, *flags) == EXIT_DONE
        assert [row["decoding"] for row in rows(output, "review")] == ["d2"] * 2
        add(output, "captions", captions([0.1, 0.2], model_id="fake@2"))
        assert self.plan(output, *flags, "--model_id", MODEL) == EXIT_DONE
        assert self.plan(output, "--review_budget", "3", "--model_id", "fake@2") == EXIT_USAGE
        assert "budget is 3, but there are only 2 captions" in capsys.readouterr().err
