"""Words read wrong: how many, which, and never the start."""

import torch

from captioner.training.noise import noisy

CAPTIONS = torch.arange(400).view(1, 400) * torch.ones(50, 1, dtype=torch.int64)
"""At each place every caption says the same..."""


def drawn(share: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """...plus a thousand for each caption, so that each token tells where it came from."""
    torch.manual_seed(seed)
    tokens = CAPTIONS + 1000 * torch.arange(50).view(50, 1)
    return tokens, noisy(tokens, share)


def test_without_noise_nothing_is_drawn():
    state = torch.get_rng_state()
    tokens = CAPTIONS.clone()
    assert noisy(tokens, 0.0) is tokens
    assert torch.equal(torch.get_rng_state(), state)


def test_words_come_from_the_same_place_of_other_captions():
    tokens, read = drawn(0.3)
    assert torch.equal(read % 1000, CAPTIONS)
    assert len(set((read // 1000)[read != tokens].tolist())) == 50


def test_as_many_are_drawn_as_was_asked_for():
    tokens, read = drawn(0.3)
    assert abs((read != tokens)[:, 1:].float().mean() - 0.3 * 49 / 50) < 0.02


def test_the_start_stays_since_it_says_the_language():
    tokens, read = drawn(0.9)
    assert torch.equal(read[:, 0], tokens[:, 0])


def test_the_same_seed_draws_the_same():
    assert torch.equal(drawn(0.3, seed=4)[1], drawn(0.3, seed=4)[1])
    assert not torch.equal(drawn(0.3, seed=4)[1], drawn(0.3, seed=5)[1])
