import pytest
import torch

from captioner.encoders import GridEncoder, GridEncoderConfig, positions


class TestPositions:
    def test_an_attended_mean_is_the_place_that_was_looked_at(self):
        weights = torch.zeros(3, 5)
        weights[1, 2], weights[1, 4] = 0.5, 0.5  # Middle row; third and last column.
        place = weights.flatten() @ positions(3, 5)
        assert place[:2].tolist() == pytest.approx([1.0, 0.0])
        assert place[2:5].tolist() == [0.0, 1.0, 0.0]
        assert place[5:].tolist() == [0.0, 0.0, 0.5, 0.0, 0.5]


class TestGridEncoder:
    @pytest.fixture
    def encoder(self) -> GridEncoder:
        torch.manual_seed(0)
        config = GridEncoderConfig(image_size=64, widths=(4, 8, 8), blocks=(0, 1, 0))
        return GridEncoder(config).eval()

    def test_rows_of_the_grid_are_rows_of_the_picture(self, encoder):
        """A spot in the picture changes the features near it, row by row from the top left."""
        dark, lit = torch.zeros(2, 1, 3, 64, 64)
        lit[:, :, 16:24, 40:48] = 1.0  # Row 2 and column 5 of the 8 x 8 grid.
        with torch.inference_mode():
            changed = (encoder(lit) - encoder(dark)).abs().sum((0, 2)).view(8, 8)
        places = torch.arange(8.0)
        row, column = (float((changed.sum(d) * places).sum() / changed.sum()) for d in (1, 0))
        assert (row, column) == pytest.approx((2, 5), abs=1)
        assert changed[7, 0] == 0

    def test_the_feature_size_is_what_comes_out(self, encoder):
        with torch.inference_mode():
            features = encoder(torch.rand(2, 3, 64, 64))
        assert features.shape == (2, 64, encoder.feature_size)

    def test_it_hands_out_what_each_stage_made(self, encoder):
        """The next stage, applied to what was handed out, makes what comes after it."""
        images = torch.rand(2, 3, 64, 64)
        with torch.inference_mode():
            memory, finer = encoder.see(images)
            parts = [encoder.stages[n] for n in range(len(encoder.stages))]
            second = torch.nn.Sequential(*parts[2:5])(finer[0])  # Its block is the fifth.
            last = torch.nn.Sequential(*parts[5:])(finer[1]).flatten(2).transpose(1, 2)
            features = encoder.stages((images - 0.5) * 4).flatten(2).transpose(1, 2)
            assert torch.equal(memory, encoder(images))
        assert torch.equal(finer[1], second)
        assert torch.equal(memory[:, :, :8], last)
        assert torch.equal(memory[:, :, :8], features)
        assert [(m.shape[1], m.shape[2], m.shape[3]) for m in finer] == [(4, 32, 32), (8, 16, 16)]
        assert encoder.finer == ((4, 32), (8, 16))


class TestGridEncoderConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": 100}, "image_size is 100; use a multiple of 16"),
            ({"image_size": 4096}, "image_size is 4096"),
            ({"widths": (8, 8)}, "differ in length"),
            ({"widths": (), "blocks": ()}, "differ in length"),
            ({"widths": (8, 8, 8, 0)}, "widths is"),
            ({"blocks": (1, 1, 1, 999)}, "blocks is"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            GridEncoderConfig(**changes)
