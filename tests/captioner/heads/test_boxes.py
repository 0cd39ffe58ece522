"""Against numbers worked out by hand, and plain loops over boxes one by one."""

import pytest
import torch

from captioner.heads.boxes import (
    BACKGROUND,
    anchors,
    from_offsets,
    giou,
    iou,
    kept,
    match,
    to_offsets,
)


def some_boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, generator=generator) * 0.7
    sizes = 0.05 + torch.rand(*shape, 2, generator=generator) * 0.25
    return torch.cat((corners, corners + sizes), -1)


def overlap(first: list[float], second: list[float]) -> float:
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    common = max(wide, 0) * max(high, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return common / (sum(areas) - common)


class TestOverlap:
    first = torch.tensor([0.0, 0.0, 0.2, 0.2])

    @pytest.mark.parametrize(
        ("second", "share", "general"),
        [
            ((0.0, 0.0, 0.2, 0.2), 1.0, 1.0),
            ((0.1, 0.1, 0.3, 0.3), 1 / 7, 1 / 7 - 2 / 9),  # In a square of 9, 2 are of neither.
            ((0.4, 0.0, 0.6, 0.2), 0.0, -1 / 3),
            ((0.0, 0.0, 0.1, 0.2), 0.5, 0.5),
        ],
    )
    def test_by_hand(self, second, share, general):
        second = torch.tensor(second)
        assert iou(self.first, second).item() == pytest.approx(share, abs=1e-6)
        assert giou(self.first, second).item() == pytest.approx(general, abs=1e-6)

    def test_what_is_apart_is_drawn_together(self):
        box = torch.tensor([0.5, 0.5, 0.6, 0.6], requires_grad=True)
        giou(box, self.first).backward()
        assert (box.grad[:2] < 0).all()

    def test_boxes_of_no_area_give_numbers(self):
        point = torch.zeros(4)
        assert iou(point, point).item() == 0
        assert giou(point, point).isfinite()


class TestAnchors:
    def test_they_are_centred_on_cells_row_by_row(self):
        places = anchors((1, 2), (0.2, 0.4), (1.0, 4.0))
        by_hand = [
            [0.15, 0.4, 0.35, 0.6],
            [0.05, 0.45, 0.45, 0.55],  # Four times as wide as high, of the same area.
            [0.05, 0.3, 0.45, 0.7],
            [-0.15, 0.4, 0.65, 0.6],
        ]
        torch.testing.assert_close(places[:4], torch.tensor(by_hand))
        shift = torch.tensor([0.5, 0.0, 0.5, 0.0])
        torch.testing.assert_close(places[4:], torch.tensor(by_hand) + shift)

    def test_offsets_by_hand_and_back(self):
        anchor, box = torch.tensor([0.2, 0.2, 0.4, 0.6]), torch.tensor([0.3, 0.2, 0.7, 0.4])
        offsets = to_offsets(box, anchor)
        by_hand = torch.tensor([1.0, -0.25, 2.0, 0.5])
        torch.testing.assert_close(offsets, torch.cat((by_hand[:2], by_hand[2:].log())))
        torch.testing.assert_close(from_offsets(offsets, anchor), box)

    def test_offsets_without_measure_give_numbers(self):
        assert (
            from_offsets(torch.full((4,), 1e4), torch.tensor([0.2, 0.2, 0.4, 0.6])).isfinite().all()
        )


def matched_by_hand(boxes, present, places, matched_iou):
    """One image: each pair looked at by itself, the best first."""
    table = {
        (m, a): overlap(boxes[m].tolist(), places[a].tolist())
        for m in range(len(boxes))
        if present[m]
        for a in range(len(places))
    }
    result = []
    for a in range(len(places)):
        best = max(((table[m, a], -m) for m in range(len(boxes)) if present[m]), default=(0, 0))
        result.append(-best[1] if best[0] >= matched_iou else BACKGROUND)
    things, free = {m for m, _ in table}, set(range(len(places)))
    middles = [(boxes[:, s] + boxes[:, s + 2]) / 2 for s in (0, 1)]
    centres = [(places[:, s] + places[:, s + 2]) / 2 for s in (0, 1)]

    def order(pair):
        m, a = pair
        apart = [float(middles[s][m] - centres[s][a]) for s in (0, 1)]
        return -table[pair], apart[0] ** 2 + apart[1] ** 2 if not table[pair] else 0

    for m, a in sorted(table, key=order):
        if m in things and a in free:
            result[a] = m
            things.remove(m)
            free.remove(a)
    return result


class TestMatch:
    @pytest.mark.parametrize("seed", range(4))
    def test_by_brute_force(self, seed):
        """Many boxes, so that several want one anchor."""
        boxes, places = some_boxes(3, 12, seed=seed), some_boxes(40, seed=seed + 10)
        present = torch.rand(3, 12, generator=torch.Generator().manual_seed(seed)) > 0.3
        result = match(boxes, present, places, 0.3)
        for n in range(3):
            assert result[n].tolist() == matched_by_hand(boxes[n], present[n], places, 0.3)
            assert set(present[n].nonzero().flatten().tolist()) <= set(result[n].tolist())

    def test_from_a_limit_on_anchors_are_for_what_they_overlap(self):
        """Besides the first, which is the object's own in any case."""
        shares = torch.tensor([0.8, 0.55, 0.45])
        places = torch.stack((shares * 0, shares * 0, shares, shares * 0 + 1), 1)
        boxes, present = torch.tensor([[[0.0, 0, 1, 1]]]), torch.ones(1, 1, dtype=torch.bool)
        assert match(boxes, present, places, 0.5).tolist() == [[0, 0, BACKGROUND]]
        assert match(boxes, present, places, 0.9).tolist() == [[0, BACKGROUND, BACKGROUND]]

    def test_of_two_on_one_anchor_the_other_takes_its_next_best(self):
        places = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4], [0.6, 0.6, 1.0, 1.0]])
        boxes = torch.tensor([[[0.02, 0.0, 0.42, 0.4], [0.0, 0.0, 0.4, 0.4]]])
        result = match(boxes, torch.ones(1, 2, dtype=torch.bool), places, 0.5)
        assert result.tolist() == [[1, 0, BACKGROUND]]

    def test_what_overlaps_no_anchor_takes_the_nearest(self):
        places = anchors((2, 2), (0.1,), (1.0,))
        boxes = torch.tensor([[[0.9, 0.05, 0.95, 0.1]]])
        result = match(boxes, torch.ones(1, 1, dtype=torch.bool), places, 0.5)
        assert result.tolist() == [[BACKGROUND, 0, BACKGROUND, BACKGROUND]]

    @pytest.mark.parametrize("count", [0, 2])
    def test_an_empty_image_is_background(self, count):
        places = anchors((2, 2), (0.5,), (1.0,))
        absent = torch.zeros(1, count, dtype=torch.bool)
        result = match(torch.zeros(1, count, 4), absent, places, 0.5)
        assert result.tolist() == [[BACKGROUND] * 4]

    def test_more_objects_than_anchors_fill_all(self):
        places = anchors((1, 2), (0.5,), (1.0,))
        result = match(some_boxes(1, 5), torch.ones(1, 5, dtype=torch.bool), places, 0.5)
        assert len(set(result[0].tolist())) == 2
        assert result.min() >= 0


class TestSuppression:
    @pytest.mark.parametrize("seed", range(4))
    def test_by_a_plain_loop(self, seed):
        generator = torch.Generator().manual_seed(seed)
        boxes = some_boxes(3, 60, seed=seed)
        classes = torch.randint(2, (3, 60), generator=generator)
        valid = torch.rand(3, 60, generator=generator) > 0.2
        result = kept(boxes, classes, valid, 0.3)
        for n in range(3):
            stay: list[int] = []
            for k in range(60):
                rivals = [s for s in stay if classes[n, s] == classes[n, k]]
                shares = [overlap(boxes[n, s].tolist(), boxes[n, k].tolist()) for s in rivals]
                if valid[n, k] and all(share <= 0.3 for share in shares):
                    stay.append(k)
            assert result[n].nonzero().flatten().tolist() == stay
            assert len(stay) < valid[n].sum()

    def test_what_a_suppressed_box_overlaps_stays(self):
        """A chain: the first silences the second, which so cannot silence the third."""
        left = torch.arange(4) * 0.1
        boxes = torch.stack((left, left * 0, left + 0.3, left * 0 + 0.3), 1)[None]
        stays = kept(boxes, torch.zeros(1, 4).long(), torch.ones(1, 4).bool(), 0.4)
        assert stays.tolist() == [[True, False, True, False]]

    def test_nothing_of_nothing(self):
        none = torch.zeros(2, 0)
        assert kept(torch.zeros(2, 0, 4), none.long(), none.bool(), 0.5).shape == (2, 0)
