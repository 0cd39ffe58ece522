"""Heads: what they say, and how they are kept."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from captioner.confidence import score
from captioner.confidence.calibration import Isotonic, Sigmoid
from captioner.confidence.head import (
    ALL_LABELS,
    HEADS_FILE,
    VERIFIED,
    ConfidenceHead,
    HeadError,
    head_for,
    load_heads,
    load_verifier,
    save_heads,
)
from captioner.verifier import Verifier
from schemas.kinds import ConfidenceKind

HEAD = ConfidenceHead(
    model_id="model@1",
    decoding="greedy",
    features=("logprob_mean", "num_tokens"),
    means=(-0.5, 8.0),
    scales=(0.25, 2.0),
    weights=(1.5, -0.75),
    bias=0.3,
    calibration=Sigmoid(0.9, 0.1),
    labels=120,
)
FEATURES = {"logprob_mean": -0.2, "num_tokens": 9.0, "entropy_mean": None}


class TestProbability:
    def test_it_is_the_formula(self):
        logit = 1.5 * (-0.2 + 0.5) / 0.25 - 0.75 * (9 - 8) / 2 + 0.3
        expected = 1 / (1 + math.exp(-(0.9 * logit + 0.1)))
        assert HEAD.probability(FEATURES) == pytest.approx(expected, abs=1e-7)

    def test_a_row_is_as_probable_alone_as_among_others(self):
        table = np.random.default_rng(0).normal(size=(257, 2)).astype(np.float32)
        together = HEAD.probabilities(table)
        alone = [HEAD.probability(dict(zip(HEAD.features, row, strict=True))) for row in table]
        assert together.tolist() == alone

    def test_a_committed_feature_gives_the_same(self):
        committed = {name: value and float(np.float32(value)) for name, value in FEATURES.items()}
        assert HEAD.probability(committed) == HEAD.probability(FEATURES)

    @pytest.mark.parametrize("value", [None, math.nan, math.inf])
    def test_a_feature_that_is_missing_is_named(self, value):
        with pytest.raises(ValueError, match=f"num_tokens is {value}: the confidence head needs"):
            HEAD.probability({**FEATURES, "num_tokens": value})
        with pytest.raises(ValueError, match="logprob_mean is None"):
            HEAD.probability({"num_tokens": 3.0})

    def test_tables_are_checked(self):
        with pytest.raises(ValueError, match="row 1: num_tokens is .*nan"):
            HEAD.probabilities(np.array([[0.0, 1.0], [0.0, math.nan]]))
        with pytest.raises(ValueError, match=r"of shape \(2, 3\); give \[n x 2\]"):
            HEAD.probabilities(np.zeros((2, 3)))


class TestScore:
    def test_with_a_head_it_is_calibrated(self):
        confidence = score(FEATURES, HEAD)
        assert confidence.value == HEAD.probability(FEATURES)
        assert (confidence.kind, confidence.id) == (ConfidenceKind.CALIBRATED, HEAD.id)

    def test_without_one_it_is_not(self):
        confidence = score(FEATURES)
        assert confidence.value == pytest.approx(math.exp(-0.2))
        assert (confidence.kind, confidence.id) == (ConfidenceKind.UNCALIBRATED, None)
        with pytest.raises(ValueError, match="logprob_mean is None: the model gave no"):
            score({})


class TestId:
    def test_it_is_of_the_content(self):
        assert len(HEAD.id) == 12
        assert ConfidenceHead.from_dict(json.loads(json.dumps(HEAD.to_dict()))).id == HEAD.id

    @pytest.mark.parametrize(
        "change",
        [
            {"bias": 0.31},
            {"model_id": "model@2"},
            {"decoding": "beam"},
            {"labels": 121},
            {"calibration": Isotonic((0.0,), (0.5,))},
            {"all_labels": True},
        ],
    )
    def test_all_of_it(self, change):
        assert replace(HEAD, **change).id[:12] != HEAD.id

    def test_it_tells_that_no_guarantee_can_rest_on_the_head(self):
        spent = replace(HEAD, all_labels=True)
        assert spent.id.endswith(ALL_LABELS)
        assert not HEAD.id.endswith(ALL_LABELS)
        assert ConfidenceHead.from_dict(json.loads(json.dumps(spent.to_dict()))).id == spent.id
        assert score(FEATURES, spent).id == spent.id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_id": ""}, "model_id is ''"),
        ({"features": ("logprob_mean", "colour")}, "features has 'colour'; those known are"),
        ({"features": ("num_tokens", "num_tokens")}, "name some, each once"),
        ({"features": (), "means": (), "scales": (), "weights": ()}, "name some, each once"),
        ({"weights": (1.0,)}, "weights are .1.0.; use 2 finite numbers"),
        ({"means": (math.nan, 0.0)}, "means are .nan, 0.0.; use 2 finite numbers"),
        ({"scales": (0.0, 1.0)}, "scales are .0.0, 1.0.; use numbers above 0"),
        ({"bias": math.inf}, "bias is inf; use a finite number"),
        ({"all_labels": 1}, "all_labels is 1; use true or false"),
        ({"labels": 0}, "labels is 0; use a whole number above 0"),
        ({"verifier": "0123456789ab"}, "verifier is '0123456789ab' and features are"),
        ({"features": ("logprob_mean", VERIFIED)}, "verifier is None and features are"),
        ({"verifier": "../../etc/pas"}, "verifier is '../../etc/pas'; use the id of one"),
    ],
)
def test_what_makes_no_head_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(HEAD, **change)


class TestFile:
    def test_heads_come_back_as_they_were(self, tmp_path):
        folder = f"{tmp_path}/a model"
        heads = (replace(HEAD, decoding="beam", calibration=Isotonic((0.0, 1.0), (0.2, 0.7))), HEAD)
        save_heads(folder, heads)
        assert load_heads(folder) == heads
        assert load_heads(f"file://{folder}") == heads

    def test_other_stores(self):
        save_heads("memory:///heads-of-a-model", [HEAD])
        assert load_heads("memory:///heads-of-a-model") == (HEAD,)

    def test_a_crash_leaves_the_old_heads(self, tmp_path, monkeypatch):
        """Whatever is torn, it is not the file that is read."""
        save_heads(str(tmp_path), [HEAD])

        def torn(self, path, value, **kwargs):
            with open(path, "wb") as file:
                file.write(value[:20])
            raise OSError("no space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(LocalFileSystem, "pipe_file", torn)
            with pytest.raises(HeadError, match="cannot be written .*no space left"):
                save_heads(str(tmp_path), [replace(HEAD, bias=0.4)])
        assert load_heads(str(tmp_path)) == (HEAD,)
        save_heads(str(tmp_path), [replace(HEAD, bias=0.4)])
        assert [path.name for path in tmp_path.iterdir()] == [HEADS_FILE]

    def test_no_file_is_no_heads(self, tmp_path):
        assert load_heads(str(tmp_path)) == ()
        assert load_heads(str(tmp_path / "nowhere")) == ()

    def test_two_for_one_decoding_are_refused(self, tmp_path):
        with pytest.raises(HeadError, match="confidence.json: two heads are for decoding greedy"):
            save_heads(str(tmp_path), [HEAD, replace(HEAD, bias=0.0)])
        assert load_heads(str(tmp_path)) == ()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "confidence.json: .*calibrate the model again"),
            ("[]", "confidence.json: "),
            ("{}", "'format_version' is missing"),
            ('{"format_version": 0, "heads": []}', "format_version is 0, not 1"),
            ('{"format_version": 9, "heads": []}', "format_version is 9, newer than 1; install"),
            ('{"format_version": 1, "heads": [{}]}', r"a head has \[\], not"),
        ],
    )
    def test_a_broken_file_is_named(self, tmp_path, content, message):
        (tmp_path / HEADS_FILE).write_text(content)
        with pytest.raises(HeadError, match=message) as caught:
            load_heads(str(tmp_path))
        assert str(tmp_path) in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"weights": 3}, "weights is 3; use a list"),
            ({"features": [["a"], "num_tokens"]}, "features has .'a'."),
            ({"scales": [0, 1]}, "scales are .0, 1."),
            ({"extra": 1}, "a head has .*'extra'"),
            ({"calibration": {"kind": "none"}}, "calibration is of kind 'none'"),
        ],
    )
    def test_a_wrong_value_is_named(self, tmp_path, change, message):
        content = {"format_version": 1, "heads": [{**HEAD.to_dict(), **change}]}
        (tmp_path / HEADS_FILE).write_text(json.dumps(content))
        with pytest.raises(HeadError, match=message):
            load_heads(str(tmp_path))

    def test_a_huge_file_is_not_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr("captioner.confidence.head._MAX_BYTES", 10)
        save_heads(str(tmp_path), [HEAD])
        with pytest.raises(HeadError, match="more than 10"):
            load_heads(str(tmp_path))


class TestVerifiers:
    @pytest.fixture
    def verifier(self) -> Verifier:
        mean, scale, bias, weight, end = map(torch.ones, (3, 3, 2, 2, 1))
        hidden, images = torch.ones(2, 3).half(), torch.zeros(0, dtype=torch.int32)
        return Verifier(mean, scale, hidden, bias, weight, end, images)

    @pytest.fixture
    def head(self, verifier) -> ConfidenceHead:
        return replace(HEAD, features=("logprob_mean", VERIFIED), verifier=verifier.id)

    @pytest.mark.parametrize("store", ["{folder}", "memory:///heads-with-verifiers"])
    def test_it_comes_back_with_the_head_that_names_it(self, tmp_path, store, head, verifier):
        folder = store.format(folder=tmp_path)
        save_heads(folder, [head], [verifier])
        assert load_heads(folder) == (head,)
        assert load_verifier(folder, head.verifier).id == verifier.id

    def test_a_head_without_one_has_no_word_of_it(self, head):
        """So that the ids of heads that are there stay what they are."""
        assert "verifier" not in HEAD.to_dict()
        assert head.to_dict()["verifier"] == head.verifier
        assert head.id != HEAD.id

    def test_what_no_head_names_goes(self, tmp_path, head, verifier):
        save_heads(str(tmp_path), [head], [verifier])
        other = replace(verifier, word_bias=torch.zeros(1))
        save_heads(str(tmp_path), [replace(head, verifier=other.id)], [other])
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == [HEADS_FILE, f"verifier-{other.id}.safetensors"]
        (tmp_path / "verifier-0123456789ab.safetensors.new").write_text("torn")
        (tmp_path / "verifier-mine.safetensors").write_text("somebody's")
        save_heads(str(tmp_path), [HEAD])
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == [HEADS_FILE, "verifier-mine.safetensors"]

    def test_one_that_lies_there_stays(self, tmp_path, head, verifier):
        save_heads(str(tmp_path), [head], [verifier])
        save_heads(str(tmp_path), [head, replace(HEAD, decoding="beam")])
        assert load_verifier(str(tmp_path), verifier.id).id == verifier.id

    def test_a_head_whose_verifier_is_nowhere_is_not_saved(self, tmp_path, head, verifier):
        with pytest.raises(HeadError, match=f"there is no verifier-{verifier.id}.safetensors"):
            save_heads(str(tmp_path), [head])
        assert load_heads(str(tmp_path)) == ()

    def test_a_crash_leaves_the_old_heads_and_theirs(self, tmp_path, head, verifier, monkeypatch):
        save_heads(str(tmp_path), [head], [verifier])
        other = replace(verifier, word_bias=torch.zeros(1))
        moved = LocalFileSystem.mv

        def ends(self, one, two, **kwargs):
            if two.endswith(HEADS_FILE):
                raise OSError("killed")
            moved(self, one, two, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(LocalFileSystem, "mv", ends)
            with pytest.raises(HeadError, match="killed"):
                save_heads(str(tmp_path), [replace(head, verifier=other.id)], [other])
        assert load_heads(str(tmp_path)) == (head,)
        assert load_verifier(str(tmp_path), verifier.id).id == verifier.id

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "is missing, and confidence.json has a head that needs"),
            (b"torn", "cannot be used: not a whole safetensors"),
            ("another", "holds another verifier"),
        ],
    )
    def test_one_that_is_spoilt_is_named(self, tmp_path, head, verifier, content, message):
        save_heads(str(tmp_path), [head], [verifier])
        file = tmp_path / f"verifier-{verifier.id}.safetensors"
        if content is None:
            file.unlink()
        elif content == "another":
            file.write_bytes(replace(verifier, word_bias=torch.zeros(1)).to_bytes())
        else:
            file.write_bytes(content)
        with pytest.raises(HeadError, match=message) as caught:
            load_verifier(str(tmp_path), verifier.id)
        assert "learn it anew (captioner calibrate --verifier" in str(caught.value)


class TestHeadFor:
    def test_the_one_for_the_decoding(self):
        beam = replace(HEAD, decoding="beam")
        assert head_for([HEAD, beam], "model@1", "beam") is beam
        assert head_for([HEAD], "model@1", "beam") is None
        assert head_for([], "model@1", "beam") is None

    def test_one_for_another_model_is_refused(self):
        with pytest.raises(HeadError, match="a head for model model@1, and this is model@2"):
            head_for([HEAD], "model@2", "greedy")
