"""What decoding tells confidence."""

import difflib
import itertools

import numpy as np
import pytest
import torch

from captioner.decoding import Decoded, features
from captioner.decoding.features import agreement

END = 9


def decoded(**changes) -> Decoded:
    plain = Decoded([4, 5, END], [-0.5, -1.5, -0.1], [0.3, 0.9, 0.3], [0.4, -0.1, 0.8])
    plain.end_probability = 0.9
    for name, value in changes.items():
        setattr(plain, name, value)
    return plain


class TestFeatures:
    def test_of_a_single_caption(self):
        found = features(decoded(n_best=[([4, 5, END], -2.1)]), END)
        assert found == {
            "logprob_mean": pytest.approx(-0.7),
            "logprob_min": -1.5,
            "logprob_sum": pytest.approx(-2.1),
            "num_tokens": 3.0,
            "entropy_mean": pytest.approx(0.5),
            "entropy_max": 0.9,
            "margin_min": -0.1,
            "eos_probability": 0.9,
        }

    def test_beams_that_agree_but_for_a_word(self):
        said = [([4, 5, 6, END], -2.0), ([4, 7, 6, END], -2.5), ([4, 5, 6], -4.0)]
        found = features(decoded(n_best=said), END)
        assert found["beam_gap"] == pytest.approx(0.5)
        assert found["beam_agreement"] == pytest.approx((2 / 3 + 1) / 2)

    def test_the_best_by_length_may_be_the_less_probable(self):
        found = features(decoded(n_best=[([4, 5, 6, END], -2.5), ([4, END], -2.0)]), END)
        assert found["beam_gap"] == pytest.approx(-0.5)

    def test_attention_spread_evenly_and_attention_at_one_place(self):
        even = features(decoded(attention=[torch.full((4,), 0.25)] * 3))
        assert even["attention_entropy"] == pytest.approx(np.log(4))
        assert even["attention_coverage"] == 1
        sharp = features(decoded(attention=[torch.eye(4)[0]] * 3))
        assert (sharp["attention_entropy"], sharp["attention_coverage"]) == (0, 0.25)

    def test_coverage_is_what_positions_got_of_their_even_share(self):
        """Words that look elsewhere cover more together; more than its share counts no more."""
        looked = [torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.5, 0.25, 0.25, 0])]
        found = features(decoded(attention=looked))["attention_coverage"]
        assert found == pytest.approx((1 + 0.5 + 0.5 + 0) / 4)

    def test_attention_next_to_even_covers_next_to_everything(self):
        """A bound that cells have to pass would leave out half of them."""
        signs = torch.tensor([1.0, -1.0] * 18)
        looked = [(torch.full((36,), 1 / 36) * (1 + 1e-6 * signs))] * 5
        found = features(decoded(attention=looked))["attention_coverage"]
        assert found == pytest.approx(1, abs=1e-6)


class TestAgreement:
    @pytest.mark.parametrize(
        ("one", "other", "wanted"),
        [
            ([], [], 1),
            ([1], [], 0),
            ([1, 2, 3], [1, 2, 3], 1),
            ([1, 2], [3, 4], 0),
            ([1, 2, 3], [3, 2, 1], 1 / 3),
            ([1, 2, 3, 4], [1, 9, 3, 4, 4], 6 / 9),
        ],
    )
    def test_by_hand(self, one, other, wanted):
        assert agreement(one, other) == agreement(other, one) == pytest.approx(wanted)

    def test_it_is_the_longest_common_subsequence(self):
        rng = np.random.default_rng(0)
        for _ in range(30):
            one, other = (rng.integers(0, 4, rng.integers(1, 7)).tolist() for _ in range(2))
            common = max(
                len(chosen)
                for size in range(len(one) + 1)
                for chosen in itertools.combinations(one, size)
                if chosen in itertools.combinations(other, size)
            )
            assert agreement(one, other) == pytest.approx(2 * common / (len(one) + len(other)))
            found = difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
            assert agreement(one, other) >= found - 1e-9
