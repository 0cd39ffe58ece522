"""Several captions an image are what they are with the image given for each of them."""

import pytest
import torch
from torch import nn

from tests.captioner.decoding.helpers import EVERY

IMAGES, CAPTIONS = 3, 4


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
class TestSeveralCaptions:
    def test_they_equal_those_of_repeated_images(self, make):
        decoder = make().double()
        tokens = torch.randint(11, (IMAGES * CAPTIONS, 6))
        found = []
        for repeated in (False, True):
            memory = torch.randn(
                *(IMAGES, 5, 6), dtype=torch.double, generator=torch.Generator().manual_seed(0)
            ).requires_grad_()
            read = memory.repeat_interleave(CAPTIONS, 0) if repeated else memory
            logits, looked = decoder(read, tokens)
            decoder.zero_grad()
            total = logits.square().sum()
            (total if looked is None else total + looked.square().sum()).backward()
            grads = {name: value.grad for name, value in decoder.named_parameters()}
            found.append((logits, looked, memory.grad, grads))
        torch.testing.assert_close(found[0], found[1])
        per_image = found[0][0].unflatten(0, (IMAGES, CAPTIONS))
        assert (per_image[0] - per_image[1]).abs().max() > 1e-3

    def test_images_with_unequal_numbers_of_them_are_refused(self, make):
        with pytest.raises(ValueError, match="7 captions of 3 images; give each image equally"):
            make()(torch.randn(3, 5, 6), torch.zeros(7, 2, dtype=torch.long))

    def test_the_image_is_projected_once(self, make):
        decoder, rows = make(), []
        for layer in decoder.modules():
            if isinstance(layer, nn.Linear) and layer.in_features == 6:  # Reads the image.
                layer.register_forward_hook(
                    lambda layer, inputs, output: rows.append(len(inputs[0]))
                )
        decoder(torch.randn(3, 5, 6), torch.zeros(12, 1, dtype=torch.long))
        assert 3 in rows
        assert rows.count(12) <= 1  # An LSTM's output reads each step's context.
