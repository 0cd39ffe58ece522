import pytest
import torch

from captioner.training.losses import (
    ObjectLoss,
    attention_loss,
    caption_loss,
    doubly_stochastic_loss,
)


class TestLosses:
    def test_padding_counts_for_nothing(self):
        logits = torch.randn(2, 4, 7)
        tokens = torch.tensor([[1, 4, 5, 2, 0], [1, 6, 2, 0, 0]])
        chosen = logits.log_softmax(2)
        by_hand = -(
            chosen[0, 0, 4] + chosen[0, 1, 5] + chosen[0, 2, 2] + chosen[1, 0, 6] + chosen[1, 1, 2]
        )
        torch.testing.assert_close(caption_loss(logits, tokens, 0), by_hand / 5)

    def test_words_count_as_much_as_they_weigh(self):
        logits = torch.randn(1, 2, 4)
        tokens = torch.tensor([[1, 3, 2]])
        weights = torch.tensor([[9.0, 5.0, 1.0]])
        chosen = logits.log_softmax(2)
        by_hand = -(5 * chosen[0, 0, 3] + chosen[0, 1, 2]) / 6
        torch.testing.assert_close(caption_loss(logits, tokens, 0, weights), by_hand)

    def test_a_weight_holds_for_smoothing_too_and_not_for_padding(self):
        logits = torch.randn(1, 3, 4)
        tokens, weights = torch.tensor([[1, 3, 2, 0]]), torch.tensor([[1.0, 3.0, 1.0, 7.0]])
        chosen = logits.log_softmax(2)[0]
        costs = [-(0.8 * chosen[i, n] + 0.2 * chosen[i].mean()) for i, n in ((0, 3), (1, 2))]
        by_hand = (3 * costs[0] + costs[1]) / 4
        torch.testing.assert_close(caption_loss(logits, tokens, 0, weights, 0.2), by_hand)

    def test_attention_is_held_against_where_objects_are(self):
        looked = torch.full((1, 3, 4), 0.1)
        looked[0, 0, 1] = 0.7  # The second position, for the first word after <start>.
        looked[0, 1, 2] = 0.7
        centres = torch.tensor([[[0.9, 0.2], [0.1, 0.6]]])  # The second position, the third.
        about = torch.tensor([[-1, 0, 1, -1]])
        loss = attention_loss(looked, about, centres, (2, 2))
        torch.testing.assert_close(loss, -torch.tensor(0.7).log())
        swapped = attention_loss(looked, torch.tensor([[-1, 1, 0, -1]]), centres, (2, 2))
        torch.testing.assert_close(swapped, -torch.tensor(0.1).log())

    def test_attention_far_off_is_still_taught(self):
        scores = torch.tensor([[[40.0, 0.0, 0.0, 0.0]]], requires_grad=True)
        centres, about = torch.tensor([[[0.9, 0.2]]]), torch.tensor([[-1, 0]])
        attention_loss(scores.softmax(2), about, centres, (2, 2)).backward()
        assert scores.grad[0, 0].tolist() == pytest.approx([1, -1, 0, 0], abs=1e-6)

    def test_captions_about_no_object_teach_attention_nothing(self):
        looked = torch.full((1, 2, 4), 0.25, requires_grad=True)
        loss = attention_loss(looked, torch.full((1, 3), -1), torch.zeros(1, 1, 2), (2, 2))
        loss.backward()
        assert loss.item() == 0
        assert looked.grad.abs().max() == 0

    def test_objects_are_looked_for_where_their_centres_are(self):
        naming = ObjectLoss(3, (2, 2), [2, 2])
        with torch.no_grad():
            naming.head.weight.zero_()
            naming.head.bias.zero_()
            naming.head.weight[0, 0] = naming.head.weight[2, 1] = naming.head.weight[3, 2] = 20.0
        centres = torch.tensor([[[0.9, 0.2], [float("nan")] * 2]])  # The second position.
        attributes = torch.tensor([[[1, 0], [-1, -1]]])
        memory = torch.tensor([[[-1.0, 0, 0], [1, 1, 1], [-1, 0, 0], [-1, 0, 0]]])
        assert naming(memory, centres, attributes).item() < 1e-4
        moved = memory.roll(1, 1)
        assert naming(moved, centres, attributes).item() > 1

    def test_smoothing_spreads_a_share_over_all_words(self):
        logits, tokens = torch.randn(1, 1, 4), torch.tensor([[1, 3]])
        chosen = logits[0, 0].log_softmax(0)
        by_hand = -(0.9 * chosen[3] + 0.1 * chosen.mean())
        torch.testing.assert_close(caption_loss(logits, tokens, 0, label_smoothing=0.1), by_hand)


class TestDoublyStochastic:
    def test_by_hand(self):
        """Two words, two positions: each should be looked at once in all."""
        looked = torch.tensor([[[0.75, 0.25], [1.0, 0.0], [0.3, 0.7]]])
        tokens = torch.tensor([[1, 5, 2, 0]])  # The third step is padding.
        loss = doubly_stochastic_loss(looked, tokens, 0)
        assert loss.item() == pytest.approx(((1 - 1.75) ** 2 + (1 - 0.25) ** 2) / 2)

    def test_an_even_look_costs_nothing(self):
        looked = torch.full((2, 6, 49), 1 / 49)
        tokens = torch.randint(1, 9, (2, 7))
        assert doubly_stochastic_loss(looked, tokens, 0).item() == pytest.approx(0, abs=1e-9)
