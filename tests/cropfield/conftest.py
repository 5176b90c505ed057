"""What several tests of the detection probe use."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

COLOURS = ((250, 30, 30), (30, 250, 30), (30, 30, 250))


def _write_scenes(
    root: Path, count: int = 24, side: int = 64, seed: int = 0, order: int | None = None
) -> tuple[str, str]:
    """A COCO dataset of rectangles in their class's colour on noise -> annotation file and image folder.

    order: seed of the order in which the file lists things.
    """
    rng, images, annotations = np.random.default_rng(seed), [], []
    (root / "images").mkdir(parents=True)
    for number in range(1, count + 1):
        image = rng.integers(90, 150, (side, side * 3 // 4, 3), dtype=np.uint8)
        for top in (0, side // 2):  # one object in each half
            kind, height, width = rng.integers(0, 3), *rng.integers(side // 5, side // 2 - 4, 2).tolist()
            y, x = top + rng.integers(0, side // 2 - height), rng.integers(0, side * 3 // 4 - width)
            image[y : y + height, x : x + width] = COLOURS[kind]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 10 + int(kind), "iscrowd": 0,
                "bbox": [int(x), int(y), width, height], "area": width * height, "segmentation": [],
            })  # fmt: skip
        cv2.imwrite(str(root / "images" / f"{seed}_{number}.png"), image[..., ::-1])
        images.append({"id": number, "file_name": f"{seed}_{number}.png", "height": side, "width": side * 3 // 4})
    if order is not None:
        images, annotations = (
            np.random.default_rng(order).permutation(part).tolist() for part in (images, annotations)
        )
    categories = [{"id": 10 + kind, "name": name} for kind, name in enumerate(("red", "green", "blue"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "scenes.json").write_text(json.dumps(content))
    return str(root / "scenes.json"), str(root / "images")


@pytest.fixture(scope="session")
def write_scenes():
    return _write_scenes
