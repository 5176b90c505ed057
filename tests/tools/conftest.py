"""A small dataset for the tools, and the tools as modules."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from pycocotools import mask as run_lengths

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def small_coco(tmp_path_factory) -> Path:
    """Folder of labels.json and its four images with a bright box each; masks as polygons and as run lengths."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        picture = rng.integers(0, 80, (128, 96 + 32 * (i % 2), 3), dtype=np.uint8)
        x, y = 8 + 10 * i, 20
        picture[y : y + 40, x : x + 30] = 220
        cv2.imwrite(str(folder / f"{i}.png"), picture)
        height, width = picture.shape[:2]
        inside = np.zeros((height, width), np.uint8, order="F")
        inside[y : y + 40, x : x + 30] = 1
        counts = run_lengths.encode(inside)
        polygon = [[x, y, x + 30, y, x + 30, y + 40, x, y + 40]]
        segmentation = polygon if i % 2 else counts | {"counts": counts["counts"].decode()}
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 3 + i % 2, "bbox": [x, y, 30, 40], "area": 1200, "iscrowd": 0}
            | {"segmentation": segmentation}
        )
    categories = [{"id": 3, "name": "left"}, {"id": 4, "name": "right"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "labels.json").write_text(json.dumps(content))
    (folder / "boxes.json").write_text(
        json.dumps(content | {"annotations": [a | {"segmentation": []} for a in annotations]})
    )
    return folder


@pytest.fixture(scope="session")
def dataset(small_coco) -> list[str]:
    """The overrides that choose it."""
    return of_dataset(small_coco, "labels.json")


@pytest.fixture(scope="session")
def dataset_of_boxes(small_coco) -> list[str]:
    """The same without masks."""
    return of_dataset(small_coco, "boxes.json")


def of_dataset(folder: Path, name: str) -> list[str]:
    return [f"dataset.{p}_{what}" for p in ("train", "val") for what in (f"json={folder}/{name}", f"images={folder}")]


@pytest.fixture(scope="session")
def load_tool():
    """load_tool(name) -> tools/name.py, of the repository or one of its projects, as a module."""

    def load(name: str) -> ModuleType:
        (path,) = [*ROOT.glob(f"tools/{name}.py"), *ROOT.glob(f"projects/*/tools/{name}.py")]
        spec = importlib.util.spec_from_file_location(name, path)
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        return tool

    return load


@pytest.fixture(scope="session")
def run_tool(load_tool):
    """run_tool(name, *arguments): a tool's main, in this process."""

    def run(name: str, *arguments: str) -> None:
        tool = load_tool(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
            tool.main()

    return run
