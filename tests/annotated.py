"""Small data sets with captions, labels, boxes and masks, in the layouts that people have."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioner.annotations import Annotations
from captioner.scenes import captions, render, sample, truth

SIZE = 48


def write_image_folder(folder: Path, count: int, *, captioned: int | None = None) -> str:
    """Write images, and ``metadata.jsonl`` with all that is known of them.

    Args:
        folder: made where missing.
        count: how many images.
        captioned: how many of them, from the first on, have captions; by default all.
    """
    rows = []
    for number, name, said, known in _images(folder, count):
        row: dict[str, Any] = {
            "file_name": name,
            "objects": {
                "bbox": [[box.x, box.y, box.width, box.height] for box in known.boxes or ()],
                "categories": [box.name for box in known.boxes or ()],
            },
            "labels": [label.name for label in known.labels or ()],
            "masks": [
                {"name": mask.name, "size": list(mask.size), "counts": mask.counts}
                for mask in known.masks or ()
            ],
        }
        if captioned is None or number < captioned:
            row["captions"] = said
        rows.append(json.dumps(row) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    return str(folder)


def write_coco(folder: Path, count: int) -> tuple[str, str]:
    """Write images, and COCO's files of their captions and of their boxes."""
    files, said, objects = [], [], []
    kinds = list(truth.BOXES)
    for number, name, sentences, known in _images(folder, count):
        files.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
        said += [{"image_id": number, "caption": caption} for caption in sentences]
        objects += [
            {
                "image_id": number,
                "category_id": kinds.index(box.name),
                "bbox": [box.x, box.y, box.width, box.height],
                "iscrowd": 0,
            }
            for box in known.boxes or ()
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(kinds)]
    contents = {
        "captions.json": {"images": files, "annotations": said},
        "instances.json": {"images": files, "annotations": objects, "categories": categories},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return str(folder / "captions.json"), str(folder / "instances.json")


def _images(folder: Path, count: int) -> Iterator[tuple[int, str, list[str], Annotations]]:
    """Write images; yield number, name, captions and annotations of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        scene, name = sample(number), f"{number:03}.png"
        render(scene).resize((SIZE, SIZE)).save(folder / name)
        yield number, name, list(captions(scene)), truth.annotations(scene, SIZE)
