"""The shares of a batch that processes take."""

import pytest
import torch

from captioner.annotations import Annotations, Box, Label
from captioner.heads import HeadTargets
from captioner.training.batch import Batch

IMAGES = 4


def targets(*objects: int) -> HeadTargets:
    """Make targets of images that have so many objects; the last one's labels are unknown."""
    known = [
        Annotations(
            labels=(Label("a"),) if number % 2 else (),
            boxes=tuple(Box("b", n, number, 1, 1) for n in range(count)),
        )
        for number, count in enumerate(objects)
    ]
    known[-1] = Annotations(boxes=known[-1].boxes)
    return HeadTargets.of(
        known, [(8, 8)] * len(known), labels=["a"], boxes=["b"], masks=["c"], image_size=4
    )


def batch(*objects: int) -> Batch:
    return Batch(
        tokens=torch.arange(2 * IMAGES * 3).view(2 * IMAGES, 3),
        pixels=torch.arange(IMAGES).view(-1, 1, 1, 1).expand(-1, 4, 4, 3).to(torch.uint8),
        targets=targets(*objects),
    )


def tensors(made: HeadTargets) -> dict[str, torch.Tensor]:
    return dict(vars(made))


@pytest.mark.parametrize("objects", [(2, 0, 1, 3), (0, 0, 0, 0)])
class TestTargets:
    def test_each_process_takes_every_second_image(self, objects):
        whole = batch(*objects)
        for number in range(2):
            part = whole.part(number, 2)
            assert len(part) == 2
            assert part.pixels[:, 0, 0, 0].tolist() == [number, number + 2]
            firsts = [2 * number, 2 * number + 1, 2 * number + 4, 2 * number + 5]
            assert part.tokens[:, 0].tolist() == [3 * caption for caption in firsts]
            for name, rows in tensors(part.targets).items():
                wanted = tensors(whole.targets)[name][number::2]
                assert rows.shape == wanted.shape
                assert rows.dtype == wanted.dtype
                assert torch.equal(rows.nan_to_num(9.0), wanted.nan_to_num(9.0)), name

    def test_everything_goes_to_a_device(self, objects):
        moved = batch(*objects).to(torch.device("meta"))
        assert moved.tokens.is_meta
        assert moved.pixels.is_meta
        assert all(rows.is_meta for rows in tensors(moved.targets).values())
        assert moved.targets.boxes.shape == (IMAGES, max(objects), 4)


def test_what_is_not_there_stays_away():
    whole = Batch(tokens=torch.zeros(2, 3), memory=torch.zeros(2, 1, 1))
    for part in (whole.part(1, 2), whole.to(torch.device("meta"))):
        assert part.pixels is None
        assert part.targets is None
