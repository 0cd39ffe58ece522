"""Fitting heads: what they recover, and that cross-validation does not flatter them."""

import json
import logging
import math

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from captioner.confidence.calibration import Isotonic, Sigmoid, Temperature
from captioner.confidence.fitting import _CALIBRATE, FitError, _table, fit, splits_of
from captioner.evaluation.selective import aurc, auroc, expected_calibration_error
from schemas.tables import FEATURES

OF = {"model_id": "model@1", "decoding": "greedy"}


def labelled(count: int, seed: int = 0):
    """Return features, labels, images and true probabilities."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 15, count)
    means, entropies = -rng.gamma(2.0, 0.2, count), rng.normal(1.0, 0.3, count)
    true = 1 / (1 + np.exp(-(3.5 + 5 * means - 2 * (entropies - 1) - 0.1 * (lengths - 6))))
    rows = [
        {"logprob_mean": mean, "entropy_mean": entropy, "num_tokens": length}
        for mean, entropy, length in zip(
            means.tolist(), entropies.tolist(), map(float, lengths), strict=True
        )
    ]
    return rows, rng.random(count) < true, [f"image-{i}" for i in range(count)], true


class Logits(ClassifierMixin, BaseEstimator):
    """Says the logits that it is given."""

    def fit(self, features, right):
        self.classes_ = np.unique(right)
        return self

    def predict(self, features):
        return self.decision_function(features) > 0

    def decision_function(self, features):
        return features[:, 0]


@pytest.fixture(scope="module")
def some():
    """Labels, and what is fitted on them."""
    rows, right, images, _ = labelled(300)
    for number, row in enumerate(rows):
        row["num_tokens"] = float(6 + number % 9)
        row["margin_min"] = None if number < 3 else number / 300
        row["beam_gap"] = None
        row["beam_agreement"] = 1.0
    return rows, right, images, fit(rows, right, images, **OF)


class TestHead:
    def test_it_finds_the_true_probabilities(self):
        rows, right, images, true = labelled(1500)
        fitted = fit(rows, right, images, **OF, calibration="sigmoid")
        found = np.array([fitted.head.probability(row) for row in rows])
        assert np.abs(found - true).mean() < 0.03
        assert fitted.head.features == ("logprob_mean", "num_tokens", "entropy_mean")
        assert (fitted.head.model_id, fitted.head.decoding) == ("model@1", "greedy")
        assert fitted.head.labels == 1500

    def test_the_same_labels_and_seed_make_the_same_head(self, some):
        rows, right, images, fitted = some
        assert fit(rows, right, images, **OF) == fitted
        assert fit(rows, right, images, **OF, seed=1).head.id != fitted.head.id

    def test_features_that_tell_nothing_are_left_out(self, some, caplog):
        rows, right, images, fitted = some
        assert fitted.head.features == ("logprob_mean", "num_tokens", "entropy_mean")
        with caplog.at_level(logging.WARNING):
            _table(rows)
        assert [record.getMessage() for record in caplog.records] == [
            "margin_min is null in 3 of 300 rows and is left out"
        ]


class TestCalibration:
    @pytest.mark.parametrize("kind", ["sigmoid", "temperature", "isotonic"])
    def test_it_is_scikit_learns(self, kind):
        rng = np.random.default_rng(3)
        logits = rng.normal(size=400)
        right = rng.random(400) < 1 / (1 + np.exp(-(2 * logits - 0.4)))
        known = Logits().fit(logits[:, None], right)
        reference = CalibratedClassifierCV(FrozenEstimator(known), method=kind)
        made = _CALIBRATE[kind](logits, right)
        # An isotonic curve has scikit-learn's stretches, and their values in the middle of each.
        at = np.array(made.logits) if kind == "isotonic" else logits
        expected = reference.fit(logits[:, None], right).predict_proba(at[:, None])[:, 1]
        least = 1 / 402 if kind == "isotonic" else 0.0  # Ours is never certain.
        assert made(at) == pytest.approx(np.clip(expected, least, 1 - least), abs=2e-3)
        assert len(at) == (400 if kind != "isotonic" else len(np.unique(expected)))

    def test_a_centred_isotonic_curve_by_hand(self):
        """Labels 0 0 | 1 0 | 1 1, the last of them at one logit."""
        logits = np.array([3.0, 0.0, 1.0, 6.0, 2.0, 6.0])
        right = np.array([False, False, False, True, True, True])
        made = _CALIBRATE["isotonic"](logits, right)
        assert made == Isotonic((0.5, 2.5, 6.0), (1 / 8, 0.5, 7 / 8))
        assert made(np.array([-9.0, 1.5, 9.0])) == pytest.approx([1 / 8, 5 / 16, 7 / 8])

    def test_an_isotonic_curve_never_turns_the_order_round(self):
        logits = np.linspace(-2, 2, 60)
        made = _CALIBRATE["isotonic"](logits, logits < 0)
        assert made.probabilities == (0.5,)

    def test_labels_that_a_logit_tells_apart_are_not_certain(self):
        logits = np.linspace(-2, 2, 60)
        found = _CALIBRATE["sigmoid"](logits, logits > 0)(logits)
        assert 0 < found.min() < found.max() < 1

    def test_a_sigmoid_never_turns_the_order_round(self):
        logits = np.linspace(-2, 2, 60)
        right = np.arange(60) < 42  # the surer, the less often right
        made = _CALIBRATE["sigmoid"](logits, right)
        # The best level there is, by Platt's targets: 43/44 of 42 and 1/20 of 18.
        assert made(logits) == pytest.approx((42 * 43 / 44 + 18 / 20) / 60)
        assert made.a == 0

    def test_neither_does_a_temperature(self):
        logits = np.linspace(-2, 2, 60)
        assert np.all(np.diff(_CALIBRATE["temperature"](logits, logits < 0)(logits)) > 0)

    @pytest.mark.parametrize(
        ("count", "calibration", "kinds"),
        [
            (200, "temperature", Temperature),
            (1000, "isotonic", Isotonic),
        ],
    )
    def test_kinds(self, count, calibration, kinds):
        rows, right, images, _ = labelled(count)
        fitted = fit(rows, right, images, **OF, calibration=calibration)
        assert isinstance(fitted.head.calibration, kinds)
        assert fitted.report.slices[0].after.ece < fitted.report.slices[0].before.ece

    def test_auto_takes_isotonic_where_no_sigmoid_fits(self):
        rng = np.random.default_rng(5)
        means = -rng.random(1500)
        rows = [{"logprob_mean": mean} for mean in means.tolist()]
        right = rng.random(1500) < np.where(means > -0.5, 0.9, 0.6)
        images = list(map(str, range(1500)))
        assert isinstance(fit(rows, right, images, **OF).head.calibration, Isotonic)


class TestReport:
    def test_noise_is_worth_nothing(self):
        """A calibration, or a head, that had seen the captions would find some worth."""
        found = []
        for seed in range(2):
            rng = np.random.default_rng(seed)
            names = ("logprob_mean", "logprob_min", "entropy_mean", "entropy_max", "margin_min")
            rows = [dict(zip(names, row, strict=True)) for row in -rng.random((100, 5))]
            right = rng.random(100) < 0.5
            fitted = fit(rows, right, list(map(str, range(100))), **OF, calibration="temperature")
            slices = fitted.report.slices
            found.append(slices[0].after.auroc)
        assert 0.3 < np.mean(found) < 0.55

    def test_who_saw_an_image_is_not_asked_about_it(self):
        """Each image comes six times, with noise for features: who saw one knows the others."""
        rng = np.random.default_rng(7)
        images = np.arange(24).repeat(6)
        noise = -rng.random((24, len(FEATURES)))
        rows = [{name: noise[image, i] for i, (name, _) in enumerate(FEATURES)} for image in images]
        right = (rng.permutation(24) < 12)[images]
        kind = {**OF, "calibration": "temperature"}  # which makes a head of noise, too
        grouped = fit(rows, right, list(map(str, images)), **kind).report.slices[0].after
        apart = fit(rows, right, list(map(str, range(144))), **kind).report.slices[0].after
        assert grouped.auroc < 0.65 < 0.8 < apart.auroc

    def test_folds_share_no_image_and_have_their_share_of_wrong_captions(self):
        images = np.array([str(i // 2) for i in range(200)])
        right = np.arange(200) >= 40  # both captions of 20 images are wrong
        held_out = []
        for training, rest in splits_of(right, images, seed=0):
            assert not set(images[training]) & set(images[rest])
            assert (~right[rest]).sum() == 8
            held_out += rest.tolist()
        assert sorted(held_out) == list(range(200))

    def test_figures_are_those_of_the_scores(self):
        rows, right, images, true = labelled(600)
        fitted = fit(rows, right, images, **OF)
        assert isinstance(fitted.head.calibration, Sigmoid)
        report = fitted.report
        scores = np.exp([row["logprob_mean"] for row in rows])
        every = report.slices[0]
        assert every.before.auroc == pytest.approx(auroc(scores, right))
        assert every.before.aurc == pytest.approx(aurc(scores, right))
        assert every.before.ece == pytest.approx(expected_calibration_error(scores, right))
        assert every.after.auroc == pytest.approx(auroc(true, right), abs=0.01)
        assert every.after.excess_aurc < every.before.excess_aurc
        assert (every.captions, every.correct, report.images) == (600, right.sum(), 600)

    def test_lengths_are_told_apart(self, some):
        rows, right, _, fitted = some
        bins = fitted.report.slices[1:]
        assert [part.name for part in bins] == [
            "6 to 8 tokens",
            "9 to 11 tokens",
            "12 to 14 tokens",
        ]
        assert sum(part.captions for part in bins) == 300
        lengths = np.array([row["num_tokens"] for row in rows])
        assert bins[0].correct == right[lengths <= 8].sum()

    def test_captions_of_one_length_are_one_slice(self):
        rows, right, images, _ = labelled(100)
        for row in rows:
            row["num_tokens"] = 7.0
        assert [part.name for part in fit(rows, right, images, **OF).report.slices] == ["all"]

    def test_what_cannot_be_told_is_null_and_a_dash(self):
        rows, right, images, _ = labelled(200)
        for row, ok in zip(rows, right, strict=True):
            row["num_tokens"] = 9.0 if ok else 5.0 + len(row)
        rows[int(np.argmin(right))]["num_tokens"] = 20.0
        report = fit(rows, right, images, **OF).report
        content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
        alone = [part for part in content["slices"] if part["after"]["auroc"] is None]
        assert alone
        lines = report.lines()
        assert lines[0] == f"200 captions of 200 images, {right.sum()} of them right (" + (
            f"{right.mean():.1%})"
        )
        assert lines[3].startswith("of these labels; captioner quality tells of all captions")
        assert len(lines) == 5 + 2 * len(report.slices)
        assert any("      -" in line for line in lines)


class TestBadLabels:
    def test_one_class_only(self):
        rows, right, images, _ = labelled(80)
        with pytest.raises(FitError, match="none of the 80 captions is wrong; label some that are"):
            fit(rows, np.ones(80, bool), images, **OF)
        with pytest.raises(FitError, match="none of the 80 captions is right"):
            fit(rows, np.zeros(80, bool), images, **OF)

    def test_too_few(self):
        rows, right, images, _ = labelled(49)
        with pytest.raises(FitError, match="there are 49 labels; give at least 50"):
            fit(rows, right, images, **OF)

    def test_too_few_of_one_class(self):
        rows, _, images, _ = labelled(80)
        with pytest.raises(FitError, match="only 9 images have a caption that is wrong, of 80"):
            fit(rows, np.arange(80) >= 9, images, **OF)
        with pytest.raises(FitError, match="only 1 images have a caption that is right, of 80"):
            fit(rows, np.arange(80) < 40, ["same"] * 40 + images[40:], **OF)

    def test_lengths_that_differ(self):
        rows, right, images, _ = labelled(80)
        with pytest.raises(FitError, match="80 rows, 79 labels and 80 groups"):
            fit(rows, right[:-1], images, **OF)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_features_that_are_no_numbers(self, value):
        rows, right, images, _ = labelled(80)
        rows[17]["entropy_mean"] = value
        with pytest.raises(FitError, match=f"entropy_mean is {value} in row 17; leave such"):
            fit(rows, right, images, **OF)

    def test_no_log_probability(self):
        rows, right, images, _ = labelled(80)
        rows[3]["logprob_mean"] = None
        with pytest.raises(FitError, match="logprob_mean is null in 1 of 80 rows; it is needed"):
            fit(rows, right, images, **OF)

    def test_features_that_tell_nothing(self):
        """Of noise a head is made only where, by chance, it ranks unseen captions rightly."""
        refusals = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            names = [name for name, _ in FEATURES[:12]]
            rows = [dict(zip(names, row, strict=True)) for row in -rng.random((60, 12))]
            try:
                made = fit(rows, rng.random(60) < 0.5, list(map(str, range(60))), **OF).head
                assert made.calibration.a > 0
            except FitError as error:
                refusals.append(str(error))
        assert 1 <= len(refusals) <= 4
        assert all("tell nothing about these 60 labels" in refusal for refusal in refusals)
        assert all("label more, or leave confidence uncal" in refusal for refusal in refusals)

    def test_nothing_to_learn_from(self):
        _, right, images, _ = labelled(80)
        with pytest.raises(FitError, match="every feature is the same in all rows"):
            fit([{"logprob_mean": -0.5}] * 80, right, images, **OF)

    @pytest.mark.parametrize(
        ("calibration", "message"),
        [
            ("isotonic", "calibration is 'isotonic' and there are 80 labels; it needs 1,000"),
            ("beta", "calibration is 'beta'; use one of auto, sigmoid, temperature, isotonic"),
        ],
    )
    def test_calibrations(self, calibration, message):
        rows, right, images, _ = labelled(80)
        with pytest.raises(FitError, match=message):
            fit(rows, right, images, **OF, calibration=calibration)


class TestVerifier:
    def test_its_feature_is_looked_at_only_beside_its_name(self):
        rows, right, images, true = labelled(300)
        for row, probability in zip(rows, true.tolist(), strict=True):
            row["verifier_logit"] = math.log(probability / (1 - probability))
        without = fit(rows, right, images, **OF)
        assert without.head.verifier is None
        assert "verifier_logit" not in without.head.features
        found = fit(rows, right, images, verifier="0123456789ab", **OF)
        assert found.head.verifier == "0123456789ab"
        assert "verifier_logit" in found.head.features

    def test_a_head_that_cannot_use_it_names_none(self):
        rows, right, images, _ = labelled(300)
        found = fit(rows, right, images, verifier="0123456789ab", **OF)
        assert found.head.verifier is None
