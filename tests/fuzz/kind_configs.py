"""Configs: each key of a pretraining's and a detector's config set to what it should not be; damaged config files.

What is not refused takes one step (a detector: the tool's check, which trains and evaluates on one image).
"""

import functools
import json
import shutil
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
from harness import Wrong
from omegaconf import DictConfig, ListConfig
from PIL import Image

from pretrain.engine.forms import Pretraining
from pretrain.engine.lazy_config import load_config, read_file
from pretrain.engine.run import pretrain
from pretrain.errors import UserError

SECONDS, MEMORY = 60, 6 * 2**30
ROOT = Path(__file__).resolve().parents[2]
VALUES = (
    "null", "text", "-1", "0", "nan", "-inf", "1e9", "1000000000", "[1]", "true", "0.5", "{a: 1}", "[]", "''", "${x.y}",
    "[null,text]", "1e-30", "-0.5", "7", "[0,0]",
)  # fmt: skip
SMALL = ("train.device=cpu", "train.max_iter=1", "train.log_period=1", "dataloader.train.num_workers=0")
NET = ("embed_dim=32", "depth=1", "num_heads=2")
BACKBONE = [f"model.backbone.{value}" for value in NET]
CONFIGS = {
    "cropfield": (
        "configs/pretrain/cropfield_tiny.py",
        (*SMALL, *BACKBONE, "dataloader.train.batch_size=4", "model.num_prototypes=32", "model.head_hidden_dim=32"),
    ),
    "stop": (
        "projects/StoP/configs/stop_tiny.py",
        (*SMALL, *BACKBONE, *(f"model.predictor.{value}" for value in NET), "dataloader.train.batch_size=4"),
    ),
    "detector": (
        "configs/COCO/mask_rcnn_cropfield_tiny.py",
        (*SMALL, *(f"model.backbone.net.{value}" for value in NET), "dataloader.train.total_batch_size=8"),
    ),
}


def attempt(rng: np.random.Generator, folder: Path) -> None:
    """See harness.py. A refusal is right when it names the key or the file that is wrong."""
    kind = str(rng.choice(list(CONFIGS)))
    if rng.random() < 0.2:
        config, overrides, named = damaged_file(kind, rng, folder), [], "x.py"
    else:
        key, value = str(rng.choice(keys(kind))), str(rng.choice(VALUES))
        if key == "train.max_iter" and value in ("1000000000", "7"):
            return  # right, and long
        config, overrides, named = ROOT / CONFIGS[kind][0], [f"{key}={value}"], key.split(".")[0]
    try:
        run(kind, config, overrides, make_data(folder / "data"), folder / "output")
    except UserError as error:
        if named not in str(error) and "the first step failed" not in str(error) and named != "x.py":
            raise Wrong(f"{overrides}, and the sentence names no key: {error}") from error
        raise UserError(f"{folder}: {error}") from error  # the harness wants a file named


def run(kind: str, config: Path, overrides: list[str], data: Path, output: Path) -> None:
    """Do what the kind's tool does with the config."""
    small = [*CONFIGS[kind][1], f"train.output_dir={output}", *overrides]
    if kind != "detector":
        pretrain(load_config(config, [f"dataloader.train.source.root={data}", *small], Pretraining))
        return
    files = {"json": data / "labels.json", "images": data}
    dataset = [f"dataset.{part}_{what}={path}" for part in ("train", "val") for what, path in files.items()]
    tool = detector_tool()
    args = tool.parse_args(["--config-file", str(config), *dataset, *small])
    tool.check(tool.read_config(args)[0], args)


@functools.cache
def detector_tool():
    spec = spec_from_file_location("lazyconfig_train_net", ROOT / "tools" / "lazyconfig_train_net.py")
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@functools.cache
def keys(kind: str) -> list[str]:
    return list(leaves(read_file(str(ROOT / CONFIGS[kind][0]))))


def leaves(node: DictConfig | ListConfig, prefix: str = "") -> Iterator[str]:
    """Keys of everything in a config that holds no keys of its own."""
    for name in range(len(node)) if isinstance(node, ListConfig) else node:
        child = node._get_node(name)
        if isinstance(child, DictConfig | ListConfig) and not child._is_interpolation() and len(child):
            yield from leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def damaged_file(kind: str, rng: np.random.Generator, folder: Path) -> Path:
    """The kind's config, in a copy of its folders, with some characters lost, doubled or replaced."""
    path = Path(CONFIGS[kind][0])
    shutil.copytree(ROOT / "configs", folder / "configs")
    if not (folder / path.parent).exists():
        shutil.copytree(ROOT / path.parent, folder / path.parent)
    text = (ROOT / path).read_text()
    for _ in range(int(rng.integers(1, 3))):
        place = int(rng.integers(len(text)))
        length = int(rng.integers(0, 6))
        text = text[:place] + str(rng.choice(["", ",", "(", "=", "x", "\0", "é", "\n"])) + text[place + length :]
    (folder / path.parent / "x.py").write_text(text)
    return folder / path.parent / "x.py"


def make_data(folder: Path) -> Path:
    """Six photographs of noise, and a COCO file of them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 7):
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 128, "height": 96})
        outline = [20, 20, 80, 20, 80, 60, 20, 60]
        thing = {"id": i, "image_id": i, "category_id": 1, "bbox": [20, 20, 60, 40], "area": 2400, "iscrowd": 0}
        annotations.append(thing | {"segmentation": [outline]})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labels.json").write_text(json.dumps(coco))
    return folder
