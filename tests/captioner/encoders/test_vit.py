from typing import get_args

import pytest
import torch

from captioner.encoders import ViTEncoder, ViTEncoderConfig, positions
from captioner.encoders.vit import Stem

SMALL = {"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "heads": 2}


@pytest.fixture
def encoder() -> ViTEncoder:
    torch.manual_seed(0)
    return ViTEncoder(ViTEncoderConfig(**SMALL, feedforward_size=32, stem="patches")).eval()


class TestViTEncoder:
    def test_features_are_those_of_the_paper(self, encoder):
        """Written out anew from 2010.11929, equations 1 to 4, without the class token."""
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            memory = encoder(images)
            expected = [paper(encoder, image) for image in images]
        assert torch.allclose(memory[:, :, :16], torch.stack(expected), atol=1e-5)
        assert torch.equal(memory[:, :, 16:], positions(4, 4).expand(2, -1, -1))
        assert memory.shape == (2, 16, encoder.feature_size)

    def test_each_position_tells_its_patch(self, encoder):
        """What comes out in a place depends most on what is seen there."""
        images = torch.rand(1, 3, 32, 32, requires_grad=True)
        encoder(images)[0, 6, 0].backward()  # Row 1 and column 2 of the 4 x 4 grid.
        strength = patches_of(images.grad)
        assert strength.flatten().argmax() == 6
        assert (strength > 0).all()

    def test_layers_are_the_patches_and_the_blocks(self, encoder):
        assert encoder.layers() == [encoder.patches, *encoder.blocks]

    def test_it_hands_out_no_finer_maps(self, encoder):
        images = torch.rand(1, 3, 32, 32)
        with torch.no_grad():
            memory, finer = encoder.see(images)
            assert torch.equal(memory, encoder(images))
        assert finer == encoder.finer == ()

    @pytest.mark.parametrize("stem", get_args(Stem))
    def test_it_trains_in_half_precision(self, stem):
        encoder = ViTEncoder(ViTEncoderConfig(**SMALL, stem=stem)).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = encoder(torch.rand(2, 3, 32, 32)).square().mean()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


class TestConvolutions:
    """The stem of 2106.14881: 3 x 3 convolutions that halve the sides, then one to the width."""

    @pytest.mark.parametrize(
        ("patch_size", "image_size", "finer", "last"),
        [
            (8, 32, ((2, 16), (4, 8)), 1),
            (12, 24, ((2, 12), (4, 6)), 3),
            (5, 20, (), 5),
            (32, 64, ((2, 32), (4, 16), (8, 8), (16, 4)), 2),
        ],
    )
    def test_they_end_in_one_position_a_patch(self, patch_size, image_size, finer, last):
        sizes = {"patch_size": patch_size, "image_size": image_size}
        encoder = ViTEncoder(ViTEncoderConfig(**{**SMALL, **sizes})).eval()
        images = torch.rand(1, 3, image_size, image_size)
        with torch.no_grad():
            memory, maps = encoder.see(images)
        assert memory.shape == (1, (image_size // patch_size) ** 2, encoder.feature_size)
        assert encoder.finer == finer == tuple((m.shape[1], m.shape[2]) for m in maps)
        assert encoder.patches.kernel_size == encoder.patches.stride == (last, last)

    def test_layers_go_upwards(self):
        encoder = ViTEncoder(ViTEncoderConfig(**SMALL))
        assert encoder.layers() == [*encoder.stem, encoder.patches, *encoder.blocks]
        assert len(encoder.stem) == 3

    def test_a_position_sees_all_of_the_picture(self):
        encoder = ViTEncoder(ViTEncoderConfig(**SMALL)).eval()
        images = torch.rand(1, 3, 32, 32, requires_grad=True)
        encoder(images)[0, 6, 0].backward()
        assert (patches_of(images.grad) > 0).all()


def test_half_precision_changes_no_gradient_much():
    """On a CPU another kernel of attention makes the gradients than in full precision."""
    torch.manual_seed(0)
    encoder, images = ViTEncoder(ViTEncoderConfig(**SMALL)).eval(), torch.rand(4, 3, 32, 32)
    found = []
    for half in (False, True):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = encoder(images)[:, :, :16].square().mean()
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in encoder.blocks.parameters()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


class TestViTEncoderConfig:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": 100}, "image_size is 100; use a multiple of 16"),
            ({"patch_size": 0}, "patch_size is 0"),
            ({"patch_size": 1}, "more than 64 x 64 positions"),
            ({"stem": "tokens"}, "stem is 'tokens'; use one of convolutions, patches"),
            ({"heads": 5}, "width is 192; use a multiple of the 5 heads"),
            ({"layers": 0}, "layers is 0"),
            ({"feedforward_size": 0}, "feedforward_size is 0"),
            ({"dropout": 1.0}, "dropout is 1.0"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message):
            ViTEncoderConfig(**changes)


def patches_of(gradient: torch.Tensor) -> torch.Tensor:
    """How much each patch of 8 x 8 pixels matters, [4 x 4]."""
    return gradient.abs().sum((0, 1)).unfold(0, 8, 8).unfold(1, 8, 8).sum((2, 3))


def paper(encoder: ViTEncoder, image: torch.Tensor) -> torch.Tensor:
    """One image [3 x 32 x 32] to its last features [16 x 16], patch by patch, head by head."""
    rows = []
    for y in range(0, 32, 8):
        for x in range(0, 32, 8):
            patch = ((image[:, y : y + 8, x : x + 8] - 0.5) * 4).flatten()
            rows.append(encoder.patches.weight.flatten(1) @ patch + encoder.patches.bias)
    z = torch.stack(rows) + encoder.learned[0]
    for block in encoder.blocks:
        z = z + attended(block.self_attn, block.norm1(z))
        inner = torch.nn.functional.gelu(block.linear1(block.norm2(z)))
        z = z + block.linear2(inner)
    return encoder.norm(z)


def attended(attention: torch.nn.MultiheadAttention, z: torch.Tensor) -> torch.Tensor:
    query, key, value = (z @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, 1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        scores = query[:, part] @ key[:, part].T / 8**0.5
        heads.append(scores.softmax(1) @ value[:, part])
    return attention.out_proj(torch.cat(heads, 1))
