"""What scores of labels, boxes and masks are made of: the counting of torchmetrics and COCO.

Shapes: n images; c classes, in the order that they are given.
"""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner.annotations import Box, Label, Mask

_THRESHOLD = 0.5
_MOST_BOXES = 100

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def require_torchmetrics() -> None:
    """Make sure that annotations can be scored, before time is spent on making them.

    Raises:
        ModuleNotFoundError: if torchmetrics or pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
        import torchmetrics.functional.classification  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"scores need {error.name}; install it: pip install 'captioner[evaluation]'"
        ) from error


def count_labels(
    found: Sequence[Sequence[Label]], truth: Sequence[Sequence[Label]], classes: Sequence[str]
) -> tuple[Counts, Floats]:
    """Count what is right at a probability above 0.5, and summarise all probabilities.

    Returns:
        Rightly found, wrongly found and missed, [n x c x 3]; average precision, [c], NaN for a
        class that the truth lacks.
    """
    import torch
    from torchmetrics.functional.classification import (
        binary_average_precision,
        multilabel_stat_scores,
    )

    probabilities = torch.from_numpy(_probabilities(found, classes))
    present = torch.from_numpy(_probabilities(truth, classes) > 0).long()
    each = multilabel_stat_scores(
        probabilities[..., None],
        present[..., None],
        num_labels=len(classes),
        threshold=_THRESHOLD,
        average="none",
        multidim_average="samplewise",
        validate_args=False,  # It refuses a single class.
    )
    precisions = [
        float(binary_average_precision(said, there)) if there.any() else np.nan
        for said, there in zip(probabilities.T, present.T, strict=True)
    ]
    return _errors(each.reshape(*present.shape, 5)), np.array(precisions)


def _probabilities(every: Sequence[Sequence[Label]], classes: Sequence[str]) -> Floats:
    """Return the probability of each class, [n x c]; 0 where it is not named."""
    number = {name: place for place, name in enumerate(classes)}
    table = np.zeros((len(every), len(classes)))
    for row, labels in zip(table, every, strict=True):
        for label in labels:
            if not 0 <= label.probability <= 1:
                raise ValueError(f"the probability of {label} is not from 0 to 1")
            row[number[label.name]] = max(label.probability, row[number[label.name]])
    return table


def _errors(stat_scores: Any) -> Counts:
    """Of torchmetrics' five counts, leave out the true negatives and the sum: [... x 3]."""
    counts: Counts = stat_scores[..., [0, 1, 3]].numpy()
    return counts


def box_precisions(
    found: Sequence[Sequence[Box]], truth: Sequence[Sequence[Box]], classes: Sequence[str]
) -> Floats:
    """Return the average precision at each IoU of 0.5, 0.55 ... 0.95 as COCO has it.

    Of each class the 100 most probable boxes an image count.

    Returns:
        [10 x c], NaN for a class that the truth lacks.
    """
    # Not torchmetrics' MeanAveragePrecision: it calls the same function, but refuses to without
    # torchvision, which nothing else here needs.
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth, classes), _coco(found, classes), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
        evaluation.params.maxDets = [_MOST_BOXES]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # (10, recalls, c), -1 where no truth is.
    means: Floats = np.where(precision < 0, np.nan, precision).mean(1)
    return means


def _coco(every: Sequence[Sequence[Box]], classes: Sequence[str]) -> Any:
    from pycocotools.coco import COCO

    number = {name: place for place, name in enumerate(classes)}
    boxes = [(image, box) for image, each in enumerate(every) for box in each]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(len(every))],
        "categories": [{"id": place} for place in number.values()],
        "annotations": [
            {
                "id": place,
                "image_id": image,
                "category_id": number[box.name],
                "bbox": [box.x, box.y, box.width, box.height],
                "area": box.width * box.height,
                "iscrowd": 0,
                "score": box.probability,
            }
            for place, (image, box) in enumerate(boxes, start=1)  # A box numbered 0 is never found.
        ],
    }
    coco.createIndex()
    return coco


def count_masks(
    found: Sequence[Sequence[Mask]], truth: Sequence[Sequence[Mask]], classes: Sequence[str]
) -> Counts:
    """Count pixels, of one image at a time.

    Returns:
        Rightly found, wrongly found and missed, of the background and each class,
        [n x 1 + c x 3]. All 0 where neither has a mask: how large such an image is is not known.

    Raises:
        ValueError: if the masks of an image differ in size.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_stat_scores

    number = {name: place for place, name in enumerate(classes, start=1)}
    counts = np.zeros((len(truth), 1 + len(classes), 3), np.int64)
    for row, said, there in zip(counts, found, truth, strict=True):
        sizes = sorted({mask.size for mask in (*said, *there)})
        if len(sizes) > 1:
            raise ValueError(
                f"masks of one image are of the sizes {sizes}, in height and width; give all of "
                "them the size of the original"
            )
        for size in sizes:
            each = multiclass_stat_scores(
                torch.from_numpy(_pixels(said, size, number)),
                torch.from_numpy(_pixels(there, size, number)),
                num_classes=1 + len(classes),
                average="none",
                validate_args=False,
            )
            row[:] = _errors(each)
    return counts


def _pixels(masks: Sequence[Mask], size: tuple[int, int], number: dict[str, int]) -> Counts:
    """Return the class of each pixel [height * width], column by column as the encoding goes."""
    import pycocotools.mask

    pixels = np.zeros(size[0] * size[1], np.int64)
    for mask in masks:
        area = pycocotools.mask.decode({"size": list(size), "counts": mask.counts.encode()})
        pixels[area.ravel(order="F") > 0] = number[mask.name]
    return pixels
