import io
import json
import tarfile

import cv2
import numpy as np
import pytest
import torch

from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.folder import ImageFolder
from pretrain.data.images import open_source
from pretrain.data.lists import CocoJson, ImageList
from pretrain.data.masks import CropMasks
from pretrain.data.tar_shards import TarShards
from pretrain.errors import UserError

NAMES = [f"{i}.png" for i in range(6)]


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[type, dict[str, str]]:
    """The same six images as every kind of source: its class and the arguments that open it."""
    top = tmp_path_factory.mktemp("images")
    (top / "folder").mkdir()
    rng = np.random.default_rng(0)
    with tarfile.open(top / "shard-0.tar", "w") as tar:
        for name in NAMES:
            image = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            data = cv2.imencode(".png", image)[1].tobytes()
            (top / "folder" / name).write_bytes(data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (top / "list.txt").write_text("\n".join(NAMES))
    (top / "coco.json").write_text(json.dumps({"images": [{"file_name": name} for name in NAMES]}))
    images = str(top / "folder")
    return {
        ImageFolder: dict(root=images),
        ImageList: dict(root=str(top / "list.txt"), images=images),
        CocoJson: dict(root=str(top / "coco.json"), images=images),
        TarShards: dict(root=str(top / "shard-{0..0}.tar")),
    }


def first_batch(source):
    return next(CropLoader(source, MultiCrop(16, local_size=8, num_local=2), CropMasks((4, 4)), 4, seed=3).batches(5))


@pytest.mark.parametrize("kind", [ImageFolder, ImageList, CocoJson, TarShards])
def test_every_kind_opens_by_its_path_and_gives_the_same_batches(places, kind):
    source = open_source(**places[kind])
    assert type(source) is kind
    expected = first_batch(open_source(**places[ImageFolder]))
    batch = first_batch(source)
    assert batch.keys() == expected.keys()
    for key in batch:
        assert torch.equal(batch[key], expected[key]) if torch.is_tensor(batch[key]) else batch[key] == expected[key]


def test_options_reach_the_source(places, tmp_path):
    for kind in (ImageFolder, TarShards):
        with pytest.raises(UserError, match=r"no image found .*\.jpg"):
            open_source(**places[kind], endings=[".jpg"])
        with pytest.raises(UserError, match="leave it out"):
            open_source(**places[kind], images=tmp_path)
    (tmp_path / "labels.txt").write_text("precious")
    for kind in (ImageFolder, CocoJson, TarShards):
        with pytest.raises(UserError, match="not an index"):
            open_source(**places[kind], index=tmp_path / "labels.txt")


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(UserError, match="absent does not exist: give a folder of images, a .txt"):
        open_source(tmp_path / "absent")
    (tmp_path / "x.jpg").touch()
    with pytest.raises(UserError, match=r"x\.jpg is not a kind of image source: give a folder"):
        open_source(tmp_path / "x.jpg")
    (tmp_path / "x.tgz").touch()
    with pytest.raises(UserError, match="not a plain tar file"):
        open_source(tmp_path / "x.tgz")
