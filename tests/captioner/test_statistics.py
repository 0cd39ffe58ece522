"""How far an image is from those that a model was trained on."""

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.covariance import LedoitWolf

from captioner.statistics import FeatureStatistics

PLACES = 3


def memories(images: int, features: int, positions: int = 5, seed: int = 0) -> torch.Tensor:
    """Make features that vary more along some directions, and places that are always the same."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(features, features)) / features**0.5
    scale = np.geomspace(5, 0.1, features)
    pooled = 3 + rng.normal(size=(images, 1, features)) * scale @ mixing
    seen = pooled + rng.normal(size=(images, positions, features)) * 0.1
    places = np.broadcast_to(rng.normal(size=(1, positions, PLACES)), (images, positions, PLACES))
    return torch.from_numpy(np.concatenate((seen, places), 2)).float()


def pooled(memory: torch.Tensor) -> np.ndarray:
    return memory[..., :-PLACES].double().mean(1).numpy()


@pytest.fixture(scope="module")
def training() -> torch.Tensor:
    return memories(400, 20)


@pytest.fixture(scope="module")
def statistics(training) -> FeatureStatistics:
    return FeatureStatistics.fit(training.split(64), PLACES)


class TestDistance:
    def test_it_is_mahalanobis_distance_by_scikit_learn(self, training, statistics):
        known = LedoitWolf().fit(pooled(training))
        others = memories(30, 20, seed=1) * torch.linspace(0.5, 4, 30)[:, None, None]
        squares = known.mahalanobis(pooled(others)) / known.mahalanobis(pooled(training)).mean()
        found = statistics.distance(others)
        assert found.shape == (30,)
        np.testing.assert_allclose(found.numpy(), np.sqrt(squares), rtol=1e-4)

    def test_directions_beyond_128_count_by_their_mean_variance(self):
        training, others = memories(300, 200), memories(20, 200, seed=1) * 1.5
        found = FeatureStatistics.fit([training], PLACES)
        assert found.directions.shape == (200, 128)
        known = LedoitWolf().fit(pooled(training))
        variances, vectors = np.linalg.eigh(known.covariance_)
        variances[:-128] = variances[:-128].mean()
        inverse = np.linalg.inv(vectors * variances @ vectors.T)

        def squares(memory):
            off = pooled(memory) - known.location_
            return np.einsum("bi,ij,bj->b", off, inverse, off)

        wanted = np.sqrt(squares(others) / squares(training).mean())
        np.testing.assert_allclose(found.distance(others).numpy(), wanted, rtol=1e-4)

    def test_images_like_those_of_training_have_about_one(self, statistics):
        alike = statistics.distance(memories(500, 20, seed=2))
        assert float(alike.square().mean()) == pytest.approx(1, abs=0.1)
        assert float(alike.max()) < 2
        other = torch.rand(50, 1, 23).expand(-1, 5, -1) * 12
        assert float(statistics.distance(other).min()) > float(alike.max())

    def test_where_a_position_lies_is_no_part_of_it(self, statistics):
        memory = memories(8, 20, seed=3)
        moved = torch.cat((memory[..., :-PLACES], memory[..., -PLACES:] + 9), 2)
        torch.testing.assert_close(statistics.distance(moved), statistics.distance(memory))

    def test_the_batch_makes_no_difference(self, statistics):
        memory = memories(16, 20, seed=4)
        alone = torch.cat([statistics.distance(one) for one in memory.split(1)])
        torch.testing.assert_close(statistics.distance(memory), alone, rtol=0, atol=1e-5)

    def test_what_never_varied_does_not_decide_alone(self):
        training = memories(400, 20)
        training[..., 4] = 0
        found = FeatureStatistics.fit([training], PLACES)
        hardly = memories(8, 20, seed=5)
        hardly[..., 4] = 1e-4
        assert float(found.distance(hardly).max()) < 3


class TestFit:
    def test_the_mean_memory_has_its_places(self, training, statistics):
        torch.testing.assert_close(statistics.memory, training.mean(0))
        torch.testing.assert_close(statistics.mean, training[..., :-PLACES].mean((0, 1)))

    def test_how_images_come_in_batches_makes_no_difference(self, training, statistics):
        again = FeatureStatistics.fit(training.split(1), PLACES)
        torch.testing.assert_close(again.distance(training), statistics.distance(training))

    @pytest.mark.parametrize(("images", "features"), [(2, 20), (5, 300), (19, 160)])
    def test_few_images_suffice(self, images, features):
        """Also where they leave most variances the same."""
        found = FeatureStatistics.fit([memories(images, features)], PLACES)
        assert found.distance(memories(3, features, seed=1)).isfinite().all()

    @pytest.mark.parametrize(
        ("training", "message"),
        [
            ([], "0 images tell nothing of how images differ; give 2 or more"),
            ([memories(1, 4)], "1 images tell nothing"),
            ([memories(1, 4)] * 3, "all images look the same to the encoder"),
            ([torch.full((3, 5, 7), float("nan"))], "not all numbers"),
        ],
    )
    def test_images_that_tell_nothing(self, training, message):
        with pytest.raises(ValueError, match=message):
            FeatureStatistics.fit(training, PLACES)


class TestBytes:
    def test_they_come_back(self, statistics):
        data = statistics.to_bytes()
        again = FeatureStatistics.parse(data)
        assert again.to_bytes() == data
        memory = memories(4, 20, seed=6)
        assert torch.equal(again.distance(memory), statistics.distance(memory))
        assert again.fits(23, PLACES)
        assert not again.fits(24, PLACES)
        assert not again.fits(23, 4)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mean": torch.zeros(19)}, r"shapes \(\(19,\), \(20, 20\), \(21,\)\)"),
            ({"mean": torch.full((20,), float("inf"))}, "mean holds what is no number"),
            ({"precisions": -torch.ones(21)}, "precisions holds a number below 0"),
            ({"precisions": torch.ones(21).double()}, "precisions holds what is no number"),
            ({"memory": torch.zeros(0, 23)}, r"\(0, 23\), which do not fit"),
            ({"surprise": torch.zeros(1)}, "its tensors are .*surprise"),
        ],
    )
    def test_what_is_no_such_file(self, statistics, change, message):
        tensors = safetensors.torch.load(statistics.to_bytes()) | change
        with pytest.raises(ValueError, match=message):
            FeatureStatistics.parse(safetensors.torch.save(tensors))

    def test_a_torn_one(self, statistics):
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            FeatureStatistics.parse(statistics.to_bytes()[:200])
