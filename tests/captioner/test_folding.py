import copy

import pytest
import torch
from torch import nn

from captioner.encoders import GridEncoder, GridEncoderConfig, ViTEncoder, ViTEncoderConfig
from captioner.folding import fold


def trained(model: nn.Module) -> nn.Module:
    """Give batch norms means, variances and weights of their own."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 2.0)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values)
    return model.eval()


@pytest.mark.parametrize(
    "encoder",
    [
        lambda: GridEncoder(GridEncoderConfig(image_size=32, widths=(4, 8), blocks=(1, 1))),
        lambda: ViTEncoder(
            ViTEncoderConfig(
                image_size=32, patch_size=8, width=16, layers=1, heads=2, stem="convolutions"
            )
        ),
    ],
)
def test_no_batch_norm_is_left_and_features_stay(encoder):
    before = trained(encoder())
    after = copy.deepcopy(before)
    fold(after)
    assert any(isinstance(module, nn.BatchNorm2d) for module in before.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in after.modules())
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(after(images), before(images), atol=1e-5, rtol=1e-4)


class Standardised(nn.Conv2d):
    def forward(self, images):
        weight = self.weight / self.weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(images, weight, self.bias)


class Rectified(nn.BatchNorm2d):
    def forward(self, images):
        return super().forward(images).relu()


@pytest.mark.parametrize(
    "parts",
    [
        lambda: (Standardised(3, 4, 1), nn.BatchNorm2d(4)),
        lambda: (nn.Conv2d(3, 4, 1), Rectified(4)),
        lambda: (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
    ],
)
def test_kinds_that_do_more_stay(parts):
    torch.manual_seed(0)
    model = nn.Sequential(*parts()).eval()
    images = torch.rand(2, 3, 5, 5)
    wanted = model(images)
    fold(model)
    assert torch.equal(model(images), wanted)


def test_what_follows_no_convolution_stays():
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    images = torch.rand(2, 3, 5, 5)
    wanted = model(images)
    fold(model)
    assert torch.equal(model(images), wanted)
