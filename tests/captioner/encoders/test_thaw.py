import pytest
import torch

from captioner.encoders import GridEncoder, GridEncoderConfig, ViTEncoder, ViTEncoderConfig, thaw


@pytest.fixture
def encoder() -> ViTEncoder:
    config = ViTEncoderConfig(
        image_size=16, patch_size=8, width=8, layers=3, heads=2, feedforward_size=8, stem="patches"
    )
    return ViTEncoder(config)


def trained(encoder) -> list[str]:
    return [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]


class TestThaw:
    def test_none_and_all(self, encoder):
        names = [name for name, _ in encoder.named_parameters()]
        assert thaw(encoder, "none") == trained(encoder) == []
        assert thaw(encoder, "all") == trained(encoder) == names

    def test_the_last_layers_and_what_comes_after_them(self, encoder):
        found = thaw(encoder, "last:2")
        assert found == trained(encoder)
        assert {name.partition(".")[0] for name in found} == {"blocks", "norm"}
        assert {name.split(".")[1] for name in found if name.startswith("blocks")} == {"1", "2"}
        wanted = [*encoder.blocks[1:].parameters(), *encoder.norm.parameters()]
        assert len(found) == len(wanted)

    def test_what_was_thawed_before_is_frozen(self, encoder):
        thaw(encoder, "all")
        assert thaw(encoder, "last:1") == trained(encoder)

    def test_a_pattern_is_searched_in_names(self, encoder):
        found = thaw(encoder, r"blocks\.[01]\.norm\d")
        assert found == trained(encoder)
        assert len(found) == 8  # Weight and bias of two norms in each of two blocks.

    def test_only_the_thawed_learns(self):
        grid = GridEncoder(GridEncoderConfig(image_size=16, widths=(4, 8), blocks=(1, 1)))
        thaw(grid, "last:1")
        grid(torch.rand(2, 3, 16, 16)).square().sum().backward()
        learned = [name for name, value in grid.named_parameters() if value.grad is not None]
        assert learned == trained(grid)
        assert {name.rsplit(".", 3)[0] for name in learned} == {"stages.5"}

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            ("last:5", "'last:5' names no layers; use last:1 to last:4"),
            ("last:0", "use last:1 to last:4"),
            ("last:two", "use last:1 to last:4"),
            ("decoder", "'decoder' is in the name of no parameter; they are learned, .*norm.bias"),
            ("(", "is no regular expression"),
            ("", "what is to be trained is not said"),
        ],
    )
    def test_what_names_nothing_is_refused(self, encoder, what, message):
        thaw(encoder, "last:1")
        before = trained(encoder)
        with pytest.raises(ValueError, match=message):
            thaw(encoder, what)
        assert trained(encoder) == before
