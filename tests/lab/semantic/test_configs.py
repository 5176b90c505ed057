"""The ADE20K configs hold App. B.3's recipe and Segmenter's data pipeline, and build."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import transforms as T

from cropfield import CropFieldViT
from lab.semantic.segmentor import LinearSegmentationHead, SlidingWindowSegmentor
from pretrain.models.weights import write_backbone

CONFIGS = Path(__file__).parents[3] / "projects" / "Lab" / "configs" / "ADE20K"
ADE20K_IMAGES = 20210
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))


@cache
def loaded(name: str):
    return LazyConfig.load(str(CONFIGS / f"{name}.py"))


def load(name: str):
    return deepcopy(loaded(name))


def test_the_whole_family_is_there():
    recipe = {f"semantic_linear_cropfield_vit{size}_160k" for size in "sb"}
    assert set(NAMES) == recipe | {"semantic_linear_cropfield_tiny"}
    for name in NAMES:
        assert {"model", "dataloader", "dataset", "optimizer", "lr_multiplier", "train"} <= load(name).keys()


@pytest.mark.parametrize("size, width", [("s", 384), ("b", 768)])
def test_the_papers_recipe(size, width):
    cfg = load(f"semantic_linear_cropfield_vit{size}_160k")
    assert cfg.train.max_iter == 160000 and cfg.dataloader.train.total_batch_size == 16
    assert cfg.train.max_iter * 16 / ADE20K_IMAGES == pytest.approx(127, abs=0.5)
    assert cfg.optimizer._target_ is torch.optim.AdamW or "AdamW" in cfg.optimizer._target_
    assert cfg.optimizer.lr in (8e-5, 3e-5, 1e-5, 8e-6) and cfg.optimizer.weight_decay in (1e-2, 1e-4)
    net = cfg.model.backbone.net
    assert (net.embed_dim, net.depth, net.num_heads, net.patch_size) == (width, 12, width // 64, 16)
    assert cfg.model.window == cfg.model.stride == net.square_pad == 512 and not net.frozen


def test_the_schedule_is_polynomial_down_to_a_tenth():
    factor = instantiate(load("semantic_linear_cropfield_vitb_160k").lr_multiplier)
    assert factor(0.0) == 1.0 and factor(1.0) == pytest.approx(0.1)
    assert factor(0.5) == pytest.approx(0.1 + 0.9 * 0.5**0.9)


def test_the_small_recipe_builds_with_its_parameter_groups():
    cfg = load("semantic_linear_cropfield_vits_160k")
    cfg.model.backbone.net.depth = 1
    model = instantiate(cfg.model)
    net = model.backbone.net
    assert isinstance(model, SlidingWindowSegmentor) and isinstance(net, CropFieldViT)
    assert isinstance(net.norm, torch.nn.LayerNorm) and net.cls_token is not None
    assert isinstance(model.sem_seg_head, LinearSegmentationHead)
    assert model.sem_seg_head.classifier.weight.shape == (150, 384, 1, 1)
    cfg.optimizer.params.model = model
    decay = {id(p): g["weight_decay"] for g in instantiate(cfg.optimizer).param_groups for p in g["params"]}
    by_name = {name: decay[id(p)] for name, p in model.named_parameters()}
    decayed = {name for name, value in by_name.items() if value}
    assert all(by_name[name] == 1e-2 for name in decayed)
    assert {name.rpartition(".")[2] for name in decayed} == {"weight"} and not any("norm" in name for name in decayed)
    assert "sem_seg_head.classifier.weight" in decayed and "backbone.net.blocks.0.attn.qkv.weight" in decayed


@pytest.mark.parametrize("token", [True, False])
def test_the_backbone_has_a_class_token_where_its_file_has(tmp_path, token):
    backbone = CropFieldViT(embed_dim=192, depth=1, num_heads=3, patch_size=8, field_size=16, class_token=token)
    write_backbone(tmp_path / "backbone.safetensors", backbone.state_dict(), {})
    cfg = load("semantic_linear_cropfield_tiny")
    cfg.train.init_checkpoint = str(tmp_path / "backbone.safetensors")
    cfg.model.backbone.net.depth = 1
    assert (instantiate(cfg.model).backbone.net.cls_token is not None) == token


def test_a_training_sample_is_a_crop_and_an_evaluation_image_has_a_short_side_of_512():
    cfg = load("semantic_linear_cropfield_vitb_160k")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (300, 640, 3), dtype=np.uint8)
    labels = cv2.resize(rng.integers(0, 150, (6, 8), dtype=np.uint8), (640, 300), interpolation=cv2.INTER_NEAREST)
    train, test = (T.AugmentationList(instantiate(cfg.dataloader[p].mapper.augmentations)) for p in ("train", "test"))
    heights = set()
    for _ in range(8):
        fed = T.AugInput(image.copy(), sem_seg=labels.copy())
        train(fed)
        assert fed.image.shape[:2] == fed.sem_seg.shape and max(fed.image.shape[:2]) == 512
        assert set(np.unique(fed.sem_seg)) <= set(np.unique(labels))  # nearest neighbours: no label is made up
        heights.add(fed.image.shape[0])
    assert len(heights) > 1  # short sides from 256 on
    fed = T.AugInput(image)
    test(fed)
    assert fed.image.shape[:2] == (512, 1092)
