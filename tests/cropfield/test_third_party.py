"""Somebody else's project: its own yaml file, other detectors than ours, and of ours only `import cropfield`."""

from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import cropfield
from cropfield import CropFieldFeaturePyramid, CropFieldViT
from cropfield.backbone import pyramid_scales

OURS = Path(cropfield.__file__).parents[1] / "configs"

THEIR_BACKBONE = """
  DEVICE: cpu
  BACKBONE: {NAME: build_cropfield_vit_fpn_backbone}
  CROPFIELD: {PATCH_SIZE: 8, EMBED_DIM: 32, DEPTH: 2, NUM_HEADS: 2, FIELD_SIZE: [6, 6], FPN_CHANNELS: 16,
    FPN_SCALE_FACTORS: [1.0, 0.5]}
  PIXEL_MEAN: [123.675, 116.28, 103.53]
  PIXEL_STD: [58.395, 57.12, 57.375]
"""
RETINANET = f"""
MODEL:
  META_ARCHITECTURE: RetinaNet{THEIR_BACKBONE}
  RETINANET: {{NUM_CLASSES: 3, IN_FEATURES: [p3, p4, p5], NUM_CONVS: 1, SCORE_THRESH_TEST: 0.0}}
  ANCHOR_GENERATOR: {{SIZES: [[16], [32], [64]]}}
"""
FASTER_RCNN = f"""
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN{THEIR_BACKBONE}
  RPN: {{IN_FEATURES: [p3, p4, p5], POST_NMS_TOPK_TRAIN: 20, POST_NMS_TOPK_TEST: 20}}
  ANCHOR_GENERATOR: {{SIZES: [[16], [32], [64]]}}
  ROI_HEADS: {{NAME: StandardROIHeads, NUM_CLASSES: 3, IN_FEATURES: [p3, p4], SCORE_THRESH_TEST: 0.0}}
  ROI_BOX_HEAD: {{NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 32, POOLER_RESOLUTION: 3}}
"""


def build(path: Path, *overrides):
    cfg = get_cfg()
    cropfield.add_cropfield_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(list(overrides))
    return cfg, build_model(cfg)


def sample(height: int, width: int) -> dict:
    objects = Instances((height, width), gt_boxes=Boxes([[8.0, 8, 40, 40]]), gt_classes=torch.tensor([1]))
    return {"image": torch.randint(0, 255, (3, height, width)), "height": height, "width": width, "instances": objects}


@pytest.mark.parametrize("text", [RETINANET, FASTER_RCNN], ids=["retinanet", "faster_rcnn"])
def test_their_detector_trains_and_detects(tmp_path, text):
    (tmp_path / "theirs.yaml").write_text(text)
    torch.manual_seed(0)
    _, model = build(tmp_path / "theirs.yaml")
    assert isinstance(model.backbone.net, cropfield.CropFieldViT)
    with EventStorage():
        losses = model.train()([sample(72, 56), sample(64, 80)])  # two sizes, neither a multiple of the last stride
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.backbone.parameters())
    with torch.no_grad():
        (found,) = model.eval()([sample(72, 56)])
    assert len(found["instances"]) > 0 and found["instances"].image_size == (72, 56)


@pytest.mark.parametrize("name", ["faster_rcnn_cropfield_vits.yaml", "retinanet_cropfield_vits.yaml"])
def test_our_example_files_build_and_train(name):
    small = ("MODEL.DEVICE", "cpu", "MODEL.CROPFIELD.DEPTH", 1, "MODEL.CROPFIELD.SQUARE_PAD", 0)
    cfg, model = build(OURS / name, *small)
    assert cfg.INPUT.FORMAT == "RGB" and model.backbone.net.embed_dim == 384
    with EventStorage():
        losses = model.train()([sample(96, 128)])
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_plain_backbone_without_pyramid(tmp_path):
    plain = FASTER_RCNN.replace("_fpn_backbone", "_backbone").replace("[p3, p4, p5]", "[last_feat]")
    plain = plain.replace("[p3, p4]", "[last_feat]").replace("[[16], [32], [64]]", "[[16, 32, 64]]")
    (tmp_path / "plain.yaml").write_text(plain)
    _, model = build(tmp_path / "plain.yaml")
    assert type(model.backbone) is cropfield.CropFieldViT
    with torch.no_grad():
        (found,) = model.eval()([sample(72, 56)])
    assert len(found["instances"]) > 0


def test_torchvisions_mask_rcnn_trains_and_detects_on_the_pyramid():
    torch.manual_seed(0)
    names = ["p2", "p3", "p4", "p5"]
    net = CropFieldViT(patch_size=16, embed_dim=32, depth=1, num_heads=2, field_size=4, out_feature="last_feat")
    pyramid = CropFieldFeaturePyramid(net, "last_feat", 16, pyramid_scales(16, [4, 8, 16, 32]), norm="LN")
    pyramid.out_channels = 16  # which torchvision asks for
    model = torchvision.models.detection.MaskRCNN(
        pyramid,
        num_classes=3,
        min_size=128,
        max_size=128,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4),
        box_roi_pool=MultiScaleRoIAlign(names, 7, 2),
        mask_roi_pool=MultiScaleRoIAlign(names, 14, 2),
    )
    image, masks = torch.rand(3, 128, 96), torch.ones(1, 128, 96, dtype=torch.uint8)
    target = {"boxes": torch.tensor([[10.0, 10, 60, 60]]), "labels": torch.tensor([1]), "masks": masks}
    sum(model([image], [target]).values()).backward()
    assert net.pos_embed.grad.abs().sum() > 0
    (found,) = model.eval()([image])
    assert len(found["boxes"]) and found["masks"].shape[-2:] == image.shape[-2:]


@torch.no_grad()
def test_torch_export_keeps_the_features():
    net = CropFieldViT(patch_size=16, embed_dim=32, depth=1, num_heads=2, field_size=4, out_feature="last_feat").eval()
    images = torch.randn(2, 3, 64, 96)
    program = torch.export.export(net, (images,))
    torch.testing.assert_close(program.module()(images)["last_feat"], net(images)["last_feat"])
