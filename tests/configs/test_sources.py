"""Every kind of image source by the overrides that `configs/common/distillation.py` names."""

import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate

from pretrain.data.folder import ImageFolder
from pretrain.data.lists import CocoJson, ImageList
from pretrain.data.tar_shards import TarShards
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "cropfield_tiny.py"
SOURCE = "dataloader.train.source"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    top = tmp_path_factory.mktemp("data")
    (top / "images").mkdir()
    for name in ("n01440764_18.JPEG", "n01440764_36.JPEG"):
        picture = cv2.imencode(".jpg", np.full((8, 8, 3), 9, np.uint8))[1].tobytes()
        (top / "images/n01440764").mkdir(exist_ok=True)
        (top / "images/n01440764" / name).write_bytes(picture)
    (top / "1percent.txt").write_text("n01440764_36.JPEG\n")
    (top / "coco.json").write_text(json.dumps({"images": [{"file_name": "n01440764/n01440764_18.JPEG"}]}))
    for shard in range(2):
        with tarfile.open(top / f"train-{shard:06}.tar", "w") as tar:
            tar.add(top / "images/n01440764/n01440764_18.JPEG", f"{shard}.jpg")
    return top


@pytest.mark.parametrize(
    ("overrides", "kind", "count"),
    [
        (["root={}/images"], ImageFolder, 2),
        (["root={}/1percent.txt", "images={}/images"], ImageList, 1),
        (["root={}/coco.json", "images={}/images"], CocoJson, 1),
        (["root={}/train-*.tar"], TarShards, 2),
        (['root="{}/train-{{000000..000001}}.tar"'], TarShards, 2),
        (["root={}/train-{{000000..000001}}.tar"], TarShards, 2),
    ],
)
def test_overrides_open_every_kind(data, tmp_path, overrides, kind, count):
    cfg = load_config(CONFIG, [f"{SOURCE}.{override.format(data)}" for override in overrides])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))  # as a run keeps it
    for config in (cfg, LazyConfig.load(str(tmp_path / "config.yaml"))):
        source = instantiate(config.dataloader.train.source)
        assert type(source) is kind and len(source) == count
        assert source.load(0).shape == (8, 8, 3)


def test_a_misspelt_option_is_refused():
    with pytest.raises(UserError, match="no key dataloader.train.source.imges"):
        load_config(CONFIG, [f"{SOURCE}.imges=DIR"])
