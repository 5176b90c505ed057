"""The yaml files build the detectors of the LazyConfig files, to the last number, and their weights are exchanged."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from torch import nn

import cropfield
from cropfield.config import read_keys
from pretrain.engine.lazy_config import load_config, make
from pretrain.errors import UserError

OURS = Path(cropfield.__file__).parents[1] / "configs"
SAME = {
    "faster_rcnn_cropfield_vits": "faster_rcnn_cropfield_vits_12ep",
    "mask_rcnn_cropfield_vits": "mask_rcnn_cropfield_vits_12ep",
    "cascade_mask_rcnn_cropfield_vits": "cascade_mask_rcnn_cropfield_vits_12ep",
    "mask_rcnn_cropfield_tiny": "mask_rcnn_cropfield_tiny",
}


def of_yaml(name: str, *overrides):
    cfg = get_cfg()
    cropfield.add_cropfield_config(cfg)
    cfg.merge_from_file(str(OURS / f"{name}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return cfg, build_model(cfg)


def of_lazy(name: str, *overrides: str) -> tuple:
    cfg = load_config(f"configs/COCO/{name}.py", list(overrides))
    return cfg, make({**cfg.model, "_target_": "detectron2.modeling.GeneralizedRCNN"}, name, "")


NO_MATTER = {
    "loss_weight": {"loss_cls": 1.0, "loss_box_reg": 1.0},
    "square_pad": None,
}  # 1 is the default; see _square_pad


def told(value):
    """What makes a module behave as it does, apart from weights: its class and all that it keeps, in plain values."""
    if isinstance(value, nn.Module):
        kept = {name: part for name, part in vars(value).items() if name[0] != "_" or name == "_square_pad"}
        kept |= {name: NO_MATTER[name] for name in kept.keys() & NO_MATTER.keys()} | dict(value.named_children())
        shapes = {name: tuple(p.shape) for name, p in value.named_parameters(recurse=False)}
        return type(value).__name__.replace("CropFieldROIHeads", "BatchedROIHeads"), shapes, told(kept)
    if isinstance(value, Mapping):
        return {str(key): told(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [told(part) for part in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, Matcher | Box2BoxTransform):
        return told(vars(value))
    return float(value) if isinstance(value, int | float) else str(value)


@pytest.mark.parametrize("name", SAME)
def test_every_part_and_number_is_the_same(name):
    cfg, yaml = of_yaml(name, "MODEL.CROPFIELD.DEPTH", 2)  # for the time that it takes
    lazy_cfg, lazy = of_lazy(SAME[name], "model.backbone.net.depth=2")
    assert told(yaml) == told(lazy)
    assert all(word in str(told(yaml)) for word in ("canonical_box_size", "batch_size_per_image", "thresholds"))
    assert cfg.MODEL.PIXEL_MEAN == list(lazy_cfg.model.pixel_mean) and cfg.INPUT.FORMAT == lazy_cfg.model.input_format
    if cfg.MODEL.MASK_ON:
        assert cfg.INPUT.MASK_FORMAT == lazy_cfg.dataloader.train.mapper.instance_mask_format
    assert cfg.INPUT.MAX_SIZE_TEST == lazy_cfg.dataloader.image_size >= cfg.TEST.AUG.MAX_SIZE


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    cfg, yaml = of_yaml("mask_rcnn_cropfield_tiny", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    _, lazy = of_lazy("mask_rcnn_cropfield_tiny", "model.roi_heads.box_predictor.test_score_thresh=0.0")
    return cfg, yaml.eval(), lazy.eval()


@torch.no_grad()
def test_weights_of_either_give_equal_boxes_in_the_other(tiny):
    _, yaml, lazy = tiny
    image = {"image": torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8), "height": 96, "width": 128}
    for source, target in ((yaml, lazy), (lazy, yaml)):
        for parameter in source.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        target.load_state_dict(source.state_dict())
        (one,), (other,) = source([image]), target([image])
        assert len(one["instances"]) > 10
        for field in ("pred_boxes.tensor", "scores", "pred_classes", "pred_masks"):
            assert torch.equal(*(attribute(found["instances"], field) for found in (one, other))), field


def attribute(value, path: str):
    for name in path.split("."):
        value = getattr(value, name)
    return value


@torch.no_grad()
def test_augmented_tests_run_at_the_files_own_sizes(tiny):
    cfg, yaml, _ = tiny
    image = {"image": torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8), "height": 96, "width": 128}
    (found,) = GeneralizedRCNNWithTTA(cfg, yaml)([image])
    assert len(found["instances"]) > 10 and found["instances"].pred_masks.shape[1:] == (96, 128)


def test_keys_that_a_project_leaves_out_are_the_defaults():
    keys = read_keys(CfgNode({"MODEL": {"CROPFIELD": {"DEPTH": 3}}}))
    assert (keys.DEPTH, keys.MLP_RATIO, keys.EMBED_DIM) == (3, 4.0, 768)
    assert read_keys(CfgNode({"MODEL": {}})).DEPTH == 12
    with pytest.raises(UserError, match="no key DEPHT"):
        read_keys(CfgNode({"MODEL": {"CROPFIELD": {"DEPHT": 3}}}))
