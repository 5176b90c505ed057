"""Cached features: what the heads learn is what they would have learnt, and a cache of something else is never used."""

import json
import logging
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.data import transforms as T
from detectron2.utils.events import EventStorage

from cropfield.feature_cache import SEED, FeatureCache
from cropfield.forms import Detection
from cropfield.random_numbers import augmenting
from pretrain.engine.lazy_config import load_config
from pretrain.engine.signals import EXIT_STOPPED
from pretrain.errors import UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py"
SMALL = (
    "train.device=cpu", "train.freeze_backbone=True", "dataloader.image_size=64", "dataloader.train.num_workers=0",
    "model.backbone.net.embed_dim=32", "model.backbone.net.depth=2", "model.backbone.net.num_heads=2",
    "dataloader.train.total_batch_size=2", "dataloader.train.max_broken=0.5",
)  # fmt: skip
IMAGES = 5


@pytest.fixture
def cfg(tmp_path):
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for i in range(1, IMAGES + 1):
        height, width = 40 + 9 * i, 90 - 8 * i
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        content["images"].append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        box, polygon = [6, 5, 20, 24], [6, 5, 26, 5, 26, 29, 6, 29]
        thing = {"id": i, "image_id": i, "category_id": 1, "bbox": box, "area": 480, "iscrowd": 0}
        content["annotations"].append(thing | {"segmentation": [polygon]})
    (tmp_path / "labels.json").write_text(json.dumps(content))
    data = [f"dataset.{part}_json={tmp_path}/labels.json" for part in ("train", "val")]
    data += [f"dataset.{part}_images={tmp_path}" for part in ("train", "val")]
    return load_config(CONFIG, [*data, *SMALL], Detection)


def detector(cfg, seed: int = 0):
    torch.manual_seed(seed)
    return instantiate(cfg.model).train()


def cache_of(cfg, model, tmp_path, **options) -> FeatureCache:
    still = instantiate(cfg.dataloader.test.mapper).augmentations
    return FeatureCache(model, instantiate(cfg.dataloader.train), tmp_path / "cache", still=still, **options)


def first_batch(loader) -> list[dict]:
    batches = loader.batches(3, seed=1)
    batch = next(batches)
    batches.close()
    return batch


def losses_and_gradients(model, batch) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return [*losses.values(), *(p.grad for p in model.parameters() if p.requires_grad)]


@pytest.mark.parametrize("augmentations", [0, 1])
def test_without_drawing_all_that_is_learnt_is_the_same_to_the_bit(cfg, tmp_path, augmentations):
    cfg.model.backbone.net.out_features = {"last_feat": [0, 1]}
    cfg.dataloader.train.mapper.augmentations = cfg.dataloader.test.mapper.augmentations
    model, loader = detector(cfg), instantiate(cfg.dataloader.train)
    expected = losses_and_gradients(model, first_batch(loader))
    cache = cache_of(cfg, model, tmp_path, augmentations=augmentations, dtype="float32")
    cache.attach(model)
    model.backbone.net.feature_maps = None  # is not called again
    batch = first_batch(cache.loader)
    assert not any("image" in entry for entry in batch)
    for mine, theirs in zip(losses_and_gradients(model, batch), expected, strict=True):
        assert torch.equal(mine, theirs)
    del model.backbone.net.feature_maps
    with torch.no_grad():  # images are still taken
        assert "instances" in model.eval()([{"image": torch.zeros(3, 30, 60, dtype=torch.uint8)}])[0]


def test_boxes_and_masks_are_those_of_the_view(cfg, tmp_path):
    model = detector(cfg)
    cache = cache_of(cfg, model, tmp_path, augmentations=3)
    mapper = cache.loader.dataset.mapper
    cache.attach(model)
    seen = set()
    for number, entry in enumerate(cache.entries):
        for draw in range(8):
            np.random.seed(draw)
            found = cache.features_of(entry)
            np.random.seed(draw)
            row = 3 * number + np.random.randint(3)
            with augmenting(SEED, row):
                live = mapper(entry)
            seen.add(row)
            assert found.keys() ^ live.keys() == {"image", "features", "image_size"}
            assert found["image_size"] == live["image"].shape[-2:]
            assert torch.equal(found["instances"].gt_boxes.tensor, live["instances"].gt_boxes.tensor)
            assert torch.equal(found["instances"].gt_masks.tensor, live["instances"].gt_masks.tensor)
            with torch.no_grad(), torch.autocast("cpu", cache.precision, enabled=cache.precision is not None):
                exact = model.backbone.net(model.preprocess_image([live]).tensor)["last_feat"][0].permute(1, 2, 0)
            assert found["features"].dtype == torch.bfloat16
            torch.testing.assert_close(found["features"].float(), exact.float(), rtol=2**-8, atol=1e-6)
    assert seen == set(range(3 * IMAGES))


def test_what_features_depend_on_has_a_cache_of_its_own(cfg, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="cropfield")
    model = detector(cfg)
    first = cache_of(cfg, model, tmp_path)
    first.attach(model)
    again = cache_of(cfg, model, tmp_path)
    again.compute = None  # is not called
    again.attach(model)
    assert again.path == first.path and "not used" not in caplog.text
    flips = []
    for prob in (0.5, 0.5, 0.6):
        cfg.dataloader.train.mapper.augmentations.append(
            LazyCall(T.RandomApply)(tfm_or_aug=LazyCall(T.RandomFlip)(), prob=prob)
        )
        flips.append(cache_of(cfg, model, tmp_path, augmentations=1).path)
        cfg.dataloader.train.mapper.augmentations.pop()
    assert flips[0] == flips[1] != flips[2]  # Detectron2 describes this one by its address

    others = {"precision": cache_of(cfg, model, tmp_path, dtype="float32")}
    others["augmentations"] = cache_of(cfg, model, tmp_path, augmentations=2)
    with torch.no_grad():
        model.backbone.net.pos_embed[0, 0, 0] += 1e-3
    others["weights"] = cache_of(cfg, model, tmp_path)
    with torch.no_grad():
        model.backbone.net.pos_embed[0, 0, 0] = detector(cfg).backbone.net.pos_embed[0, 0, 0]
    model.backbone._square_pad = 72
    others["pixels"] = cache_of(cfg, model, tmp_path)
    model.backbone._square_pad = 64
    assert cache_of(cfg, model, tmp_path).path == first.path
    os.utime(tmp_path / "2.png", ns=(1, 1))
    others["images"] = cache_of(cfg, model, tmp_path)
    assert len({first.path, *(cache.path for cache in others.values())}) == 1 + len(others)
    for what, cache in others.items():
        caplog.clear()
        cache.tell_others()
        assert f"{first.path} is of other {what} and is not used" in caplog.text


def test_what_a_cut_off_file_has_lost_is_computed_again(cfg, tmp_path):
    model = detector(cfg)
    cache = cache_of(cfg, model, tmp_path)
    cache.attach(model)
    file = cache.path / "features.bin"
    whole = file.read_bytes()
    for size in (0, len(whole) // 2):
        os.truncate(file, size)
        cache_of(cfg, detector(cfg), tmp_path).attach(detector(cfg))
        assert file.read_bytes() == whole


@pytest.mark.parametrize("end", ["killed", "told to stop"])
def test_an_interrupted_cache_is_not_used_and_goes_on(cfg, tmp_path, end):
    model, rows = detector(cfg), []
    whole = cache_of(cfg, model, tmp_path / "whole", augmentations=2)
    whole.attach(model)
    cache = cache_of(cfg, model, tmp_path, augmentations=2)
    maps = cache.maps

    def interrupted(model, batch):
        if end == "told to stop":
            os.kill(os.getpid(), signal.SIGTERM)
        elif rows:
            raise KeyboardInterrupt
        rows.extend(entry["row"] for entry in batch)
        return maps(model, batch)

    cache.maps = interrupted
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stopped:
        cache.attach(model)
    assert stopped.value.args in ((EXIT_STOPPED,), ()) and len(rows) == 2 and not cache.is_whole()

    cache = cache_of(cfg, model, tmp_path, augmentations=2)
    cache.maps = lambda model, batch: rows.extend(entry["row"] for entry in batch) or maps(model, batch)
    cache.attach(model)
    assert rows == [*range(2 * IMAGES)]
    for name in ("features.bin", "views.bin"):
        assert (cache.path / name).read_bytes() == (whole.path / name).read_bytes()

    os.truncate(cache.path / "features.bin", 3 * cache.row_bytes + 1)
    cache.attach(model)
    assert rows == [*range(2 * IMAGES), *range(3, 2 * IMAGES)]


def test_processes_share_the_images(cfg, tmp_path, on_ranks):
    def work():
        model, rows = detector(cfg), []
        cache = cache_of(cfg, model, tmp_path, augmentations=2)
        maps = cache.maps
        cache.maps = lambda model, batch: rows.extend(entry["row"] for entry in batch) or maps(model, batch)
        cache.attach(model)
        return rows, torch.from_numpy(cache.stored[0].copy().view(np.int16)), torch.from_numpy(cache.stored[1])

    (mine, maps, views), (theirs, *_) = on_ranks(work)
    assert (mine, theirs) == ([0, 2, 4, 6, 8], [1, 3, 5, 7, 9]) and (views > 0).all()
    model = detector(cfg)
    alone = cache_of(cfg, model, tmp_path / "alone", augmentations=2)
    alone.attach(model)
    as_numbers = [torch.as_tensor(kept).view(torch.bfloat16) for kept in (maps, alone.stored[0].copy().view(np.int16))]
    torch.testing.assert_close(*as_numbers, rtol=2**-7, atol=1e-6)


def test_a_broken_image_stays_broken(cfg, tmp_path):
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:60])
    model = detector(cfg)
    cache = cache_of(cfg, model, tmp_path)
    cache.attach(model)
    assert cache.is_whole()
    batches = cache.loader.batches(0, seed=0)
    names = {Path(entry["file_name"]).name for _ in range(8) for entry in next(batches)}
    batches.close()
    assert names == {f"{i}.png" for i in range(1, IMAGES)}
    assert [*cache.loader.broken.reasons] == [str(tmp_path / "5.png")]


def test_a_full_disk_and_a_folder_that_is_none_are_told_before_anything_is_written(cfg, tmp_path, monkeypatch):
    model = detector(cfg)
    cache = cache_of(cfg, model, tmp_path, dtype="float32")
    assert cache.row_bytes == 8 * 8 * 32 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30 + IMAGES * cache.row_bytes - 1))
    with pytest.raises(UserError, match=r"features of 5 images take 4.1e-05 GB .* has 1.07 GB left"):
        cache.attach(model)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30 + IMAGES * cache.row_bytes))
    cache.check_disk()
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match="cache is not a folder that can be written"):
        cache.check_disk()
