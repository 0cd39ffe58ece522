"""What a verifier says, and how it is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from captioner.verifier import Verifier, hash_of


def verifier(size: int = 5, units: int = 3, images=("a", "b")) -> Verifier:
    torch.manual_seed(0)
    numbers = np.unique(np.array([hash_of(image) for image in images], np.int32))
    return Verifier(
        torch.randn(size),
        torch.rand(size) + 0.5,
        torch.randn(units, size).half(),
        torch.randn(units),
        torch.randn(units),
        torch.randn(1),
        torch.from_numpy(numbers),
    )


def captions(*lengths: int, size: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(length, size) for length in lengths]


class TestLogits:
    def test_a_caption_is_right_where_all_its_words_are(self):
        """The formula, by numpy."""
        made, found = verifier(), captions(4, 1, 7)
        for evidence, logit in zip(found, made.logits(found), strict=True):
            standard = (evidence - made.mean) / made.scale
            hidden = standard.double().numpy() @ made.hidden_weight.double().numpy().T
            hidden = np.maximum(hidden + made.hidden_bias.double().numpy(), 0)
            words = hidden @ made.word_weight.double().numpy() + made.word_bias.item()
            right = np.prod(1 / (1 + np.exp(-words)))
            assert logit == pytest.approx(np.log(right / (1 - right)), abs=1e-4)

    def test_the_batch_makes_no_difference(self):
        made, found = verifier(), captions(4, 9, 2)
        alone = [made.logits([one])[0] for one in found]
        assert made.logits(found) == pytest.approx(alone, abs=1e-5)

    def test_one_wrong_word_is_enough(self):
        made = replace(verifier(), word_weight=torch.zeros(3), word_bias=torch.tensor([9.0]))
        made.hidden_weight[0] = torch.tensor([1.0, 0, 0, 0, 0])
        made.hidden_bias[0] = 0.0
        made.word_weight[0] = -20.0
        right = made.mean.repeat(8, 1)
        wrong = right.clone()
        wrong[5, 0] = 5.0
        sure, unsure = made.logits([right, wrong])
        assert sure > 3
        assert unsure < -10

    @pytest.mark.parametrize(("bias", "least", "most"), [(900.0, 20, 21), (-900.0, -4600, -4400)])
    def test_it_is_a_number_however_sure_it_is(self, bias, least, most):
        made = replace(verifier(), word_weight=torch.zeros(3), word_bias=torch.tensor([bias]))
        (logit,) = made.logits([torch.zeros(5, 5)])
        assert least < logit < most

    def test_half_precision_of_what_was_kept(self):
        made, found = verifier(), captions(4, 6)
        halves = made.logits([one.half() for one in found])
        assert halves == pytest.approx(made.logits(found), abs=0.02)

    def test_no_captions(self):
        assert verifier().logits([]) == []


class TestImages:
    def test_it_remembers_what_it_learned_from(self):
        images = [f"image-{number}" for number in range(300)]
        made = verifier(images=images)
        assert all(made.saw(image) for image in images)
        assert not any(made.saw(f"other-{number}") for number in range(300))

    def test_it_may_have_seen_none(self):
        assert not verifier(images=()).saw("a")


class TestFile:
    def test_it_comes_back_as_it_was(self):
        made = verifier()
        again = Verifier.parse(made.to_bytes())
        assert again.id == made.id
        assert again.logits(captions(4, 1)) == made.logits(captions(4, 1))
        assert again.saw("b")

    def test_the_id_is_that_of_its_content(self):
        made = verifier()
        assert len(made.id) == 12
        assert replace(made, word_bias=made.word_bias + 1).id != made.id
        assert verifier(images=("a",)).id != made.id

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"hidden_weight": torch.randn(2, 5).half()}, r"hidden_weight is .* \(2, 5\); use"),
            ({"hidden_weight": torch.randn(3, 5)}, "hidden_weight is torch.float32"),
            ({"scale": torch.zeros(5)}, "scale holds a number that is not above 0"),
            (
                {"word_weight": torch.randn(4)},
                r"word_weight is .* \(4,\); use torch.float32 \(3,\)",
            ),
            ({"word_bias": torch.randn(1).double()}, "word_bias is torch.float64"),
            ({"hidden_bias": torch.tensor([0.0, torch.nan, 0.0])}, "hidden_bias holds what is no"),
            ({"images": torch.tensor([3, 1], dtype=torch.int32)}, "images is not sorted"),
            ({"images": torch.zeros(2)}, "images is torch.float32"),
            ({"mean": torch.zeros(5, 1)}, r"mean is torch.float32 \(5, 1\)"),
        ],
    )
    def test_what_makes_no_verifier_is_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            replace(verifier(), **change)

    @pytest.mark.parametrize("cut", [0, 1, 40, -1])
    def test_a_torn_file_is_refused(self, cut):
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            Verifier.parse(verifier().to_bytes()[:cut])
