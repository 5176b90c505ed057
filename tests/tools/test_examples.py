"""The examples run as they are, on small data and small backbones."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch.testing import assert_close

from cropfield import CropFieldViT, load_pretrained
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPE = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "field_size": 4}


def test_lazyconfig_retinanet(run_tool, dataset, tmp_path):
    net = CropFieldViT(**SHAPE)
    write_backbone(tmp_path / "backbone.safetensors", net.state_dict(), {})
    run_tool(
        "lazyconfig_train_net", "--config-file", EXAMPLES / "lazyconfig/retinanet.py", *dataset,
        *(f"model.backbone.net.{name}={value}" for name, value in SHAPE.items()), "dataloader.image_size=128",
        "model.head.conv_dims=[16]", f"train.output_dir={tmp_path}/out",
        f"train.init_checkpoint={tmp_path}/backbone.safetensors",
        "train.device=cpu", "train.amp.enabled=False", "train.max_iter=2", "dataloader.train.total_batch_size=2",
        "train.lr_rule=none", "dataloader.train.num_workers=0", "dataloader.test.num_workers=0",
    )  # fmt: skip
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert "AP" in result["bbox"] and "segm" not in result
    trained = torch.load(tmp_path / "out/model_final.pth", weights_only=True)["model"]
    assert trained["head.cls_score.weight"].shape[0] == 9 * 2  # anchors times classes of the file
    moved = [
        name for name, value in net.state_dict().items() if not torch.equal(trained[f"backbone.net.{name}"], value)
    ]
    assert {"pos_embed", "patch_embed.proj.weight"} <= {*moved}


def test_yaml_project(small_coco, tmp_path):
    net = CropFieldViT(**SHAPE)
    write_backbone(tmp_path / "backbone.pth", net.state_dict(), {})
    spec = importlib.util.spec_from_file_location("yaml_example", EXAMPLES / "yaml/train_net.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    labels, images = str(small_coco / "labels.json"), str(small_coco)
    options = (
        f"MODEL.WEIGHTS {tmp_path}/backbone.pth OUTPUT_DIR {tmp_path} MODEL.DEVICE cpu MODEL.CROPFIELD.EMBED_DIM 32 "
        "MODEL.CROPFIELD.DEPTH 1 MODEL.CROPFIELD.NUM_HEADS 2 MODEL.CROPFIELD.FIELD_SIZE [4,4] SOLVER.BASE_LR 0.0 "
        "MODEL.CROPFIELD.FPN_CHANNELS 16 MODEL.ROI_BOX_HEAD.FC_DIM 16 INPUT.MIN_SIZE_TRAIN (96,) "
        "INPUT.MIN_SIZE_TEST 96 SOLVER.MAX_ITER 2 SOLVER.STEPS () SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0 "
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 MODEL.RPN.POST_NMS_TOPK_TEST 20"
    )
    config = str(EXAMPLES / "yaml/faster_rcnn.yaml")
    command = ["--config-file", config, "--train", labels, images, "--val", labels, images, *options.split()]

    def run(*changes):
        try:
            return example.main([*command, *changes])
        finally:
            for name in ("train", "val"):
                DatasetCatalog.pop(name, None)
                MetadataCatalog.pop(name, None)

    trainer = run()
    assert "bbox/AP" in trainer.storage.latest()
    trained = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert trained["roi_heads.box_predictor.cls_score.weight"].shape[0] == 3  # two classes and background
    for name, value in net.state_dict().items():  # the learning rate is zero
        assert torch.equal(trained[f"backbone.net.{name}"], value)
    with pytest.raises(SystemExit, match="has no weights for this backbone"):
        run("MODEL.CROPFIELD.EMBED_DIM", "48", "OUTPUT_DIR", str(tmp_path / "other"))


@pytest.mark.parametrize("layer_scale", [1.0, None])
def test_look_at_features(tmp_path, monkeypatch, layer_scale):
    torch.manual_seed(0)
    backbone = VisionTransformer(**SHAPE, layer_scale=layer_scale)
    write_backbone(tmp_path / "backbone.safetensors", backbone.state_dict(), backbone.metadata)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), np.uint8)).save(tmp_path / "photo.png")
    words = ["backbone.safetensors", "photo.png", "features.png"]
    monkeypatch.setattr(sys, "argv", ["look", *(str(tmp_path / word) for word in words)])
    found = runpy.run_path(str(EXAMPLES / "look_at_features.py"))
    rows, columns = found["rows"], found["columns"]
    assert (rows, columns) == (19, 32)
    assert Image.open(tmp_path / "features.png").size == (3 * 512, 19 * 16)
    pixels = (torch.tensor(np.array(found["image"])) - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
    with torch.no_grad():
        ours = load_pretrained(tmp_path / "backbone.safetensors", class_token=True, final_norm=True)
        (features,) = ours(pixels.permute(2, 0, 1)[None])["last_feat"]
    assert_close(found["patches"].T.unflatten(1, (rows, columns)), features, atol=1e-4, rtol=1e-4)
    assert found["attention"].max() == 1 and 0 <= found["colors"].min() <= found["colors"].max() <= 1
