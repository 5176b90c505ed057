"""visualize_data.py, analyze_model.py and export_onnx.py of projects/CropField/tools."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from cropfield import CropFieldViT
from cropfield.onnx_export import Detections, write_detector
from cropfield.recipe import build_detector, detector_config
from pretrain.errors import UserError
from pretrain.models.weights import write_backbone

CONFIG = str(Path(__file__).parents[2] / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py")
PRETRAINING = str(Path(__file__).parents[2] / "configs" / "pretrain" / "cropfield_tiny.py")
ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def test_the_loaders_images_are_drawn(run_tool, dataset, tmp_path, capsys):
    run_tool("visualize_data", "--config-file", CONFIG, "--output", tmp_path, "--images", "5", *dataset)
    pictures = sorted(tmp_path.glob("[!.]*"))
    assert len(pictures) == 5 and capsys.readouterr().out.count(", 1 objects") == 5
    sizes = [cv2.imread(str(picture)).shape[:2] for picture in pictures]
    assert max(map(max, sizes)) == 128 and len(set(sizes)) > 1  # jittered, then cut to the config's 128 pixels
    assert any(
        np.ptp(cv2.imread(str(p)).astype(int), axis=2).max() > 60 for p in pictures
    )  # grey scenes, coloured boxes


def test_the_evaluations_images_too(run_tool, dataset, tmp_path, capsys):
    options = ["--split", "test", "--images", "9", *dataset]
    run_tool("visualize_data", "--config-file", CONFIG, "--output", tmp_path, *options)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4 and all("0 objects" in line for line in printed)


def test_what_these_tools_refuse(run_tool, tmp_path, capsys):
    unfit = [("visualize_data", "--output", tmp_path / "out"), ("analyze_model",)]
    other = ["--config-file", CONFIG, "--weights", tmp_path / "w.pth", "--output", tmp_path / "out"]
    for tool, options, words in (
        ("visualize_data", ["--config-file", CONFIG, "--output", tmp_path, "--images", "0"], "--images 0: give 1"),
        *(
            (
                "visualize_data",
                ["--config-file", CONFIG, "--output", tmp_path, "--seed", seed],
                f"--seed {seed}: give a whole",
            )
            for seed in ("-1", str(2**32))
        ),
        ("analyze_model", ["--config-file", CONFIG, "--image-size", "512x512"], "makes every image 128 x 128 pixels"),
        ("analyze_model", ["--config-file", CONFIG, "model.backbone.net.num_heads=5"], "model.backbone.net: "),
        *((tool, ["--config-file", PRETRAINING, *rest], "is no detector's config") for tool, *rest in unfit),
        ("export_bgr", other, "is no yaml config"),
    ):
        with pytest.raises(UserError, match=words):
            run_tool(tool, *options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        run_tool("analyze_model", "--config-file", CONFIG, "--image-size", "0x0")
    assert "'0x0' is not HEIGHTxWIDTH in pixels" in capsys.readouterr().err


def test_a_detector_of_four_bands_is_analyzed(load_tool):
    model = build_detector(
        detector_config(
            CONFIG,
            [
                "model.backbone.net.depth=1",
                "model.backbone.net.in_chans=4",
                "model.pixel_mean=[1,2,3,4]",
                "model.pixel_std=[1,1,1,1]",
            ],
        )
    )
    assert load_tool("analyze_model").analyze(model, 128, 128)["backbone.net.patch_embed"][1] == 256 * 192 * 4 * 64


def test_polygon_masks_are_drawn_too(run_tool, small_coco, tmp_path, capsys):
    content = json.loads((small_coco / "labels.json").read_text())
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tmp_path / "polygons.json").write_text(json.dumps(content))
    options = ["--images", "4", "dataloader.train.mapper.instance_mask_format=polygon"]
    for split in ("train", "val"):
        options += [f"dataset.{split}_json={tmp_path}/polygons.json", f"dataset.{split}_images={small_coco}"]
    run_tool("visualize_data", "--config-file", CONFIG, "--output", tmp_path / "out", *options)
    assert capsys.readouterr().out.count(", 1 objects") == 4


def test_flops_of_the_backbone_are_those_of_the_formula(load_tool):
    """12 N D² + 2 N² D multiply-adds a block, the patch embedding and the field's sampling beside them."""
    cfg = LazyConfig.load(CONFIG)
    cfg.model.backbone.net.depth = 2
    model = instantiate(cfg.model).eval()
    counts = load_tool("analyze_model").analyze(model, 128, 128)
    patches, width, hidden = 16 * 16, 192, 4 * 192
    block = 4 * patches * width**2 + 2 * patches * width * hidden + 2 * patches**2 * width
    parameters, flops, activations = counts["backbone.net.blocks.0"]
    assert parameters == sum(p.numel() for p in model.backbone.net.blocks[0].parameters())
    norms_and_scales = 20 * patches * width
    assert block <= flops <= block + norms_and_scales
    assert activations >= patches * (3 * width + width + hidden + width)
    assert counts["backbone.net.patch_embed"][1] == patches * width * 3 * 8 * 8
    assert counts[""][0] == sum(p.numel() for p in model.parameters())


@pytest.mark.skipif(not ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
def test_onnx_features_are_torchs(run_tool, tmp_path, capsys):
    net = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16)
    write_backbone(tmp_path / "backbone.safetensors", net.state_dict(), {"num_heads": "3"})
    options = ["--config-file", CONFIG, "--weights", tmp_path / "backbone.safetensors", "model.backbone.net.depth=1"]
    run_tool("export_onnx", *options, "-o", tmp_path / "backbone.onnx", "--image-size", "64x96")
    assert "onnxruntime differs by at most" in capsys.readouterr().out
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "backbone.onnx"))
    images = torch.randn(3, 3, 64, 96)  # a batch that was not exported with
    (features,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(features), net.eval()(images)["last_feat"], atol=1e-4, rtol=1e-4)


@pytest.fixture
def detector(tmp_path):
    """A config, weights and the module of a tiny detector that finds something everywhere."""
    options = ["model.backbone.net.depth=1", "model.roi_heads.box_predictor.test_score_thresh=0.013"]
    cfg = LazyConfig.apply_overrides(LazyConfig.load(CONFIG), options)
    model = instantiate(cfg.model).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    return ["--config-file", CONFIG, "--weights", tmp_path / "model_final.pth", *options], model


def test_a_traced_detector_finds_the_same_at_other_sizes(detector):
    model = Detections(detector[1])
    with torch.no_grad():
        traced = torch.jit.trace(model, (255 * torch.rand(3, 96, 128),), check_trace=False)
        for size in ((128, 80), (64, 64)):
            image = 255 * torch.rand(3, *size)
            found = model(image)
            assert len(found[0]) > 0
            for ours, theirs in zip(found, traced(image), strict=True):
                torch.testing.assert_close(theirs, ours)


def test_a_traced_detector_of_boxes_finds_more_or_less_in_other_images(detector, monkeypatch):
    """Detectron2's masks cannot be traced for another number of detections but by ONNX."""
    heads = detector[1].roi_heads
    monkeypatch.setattr(heads, "mask_on", False)
    monkeypatch.setattr(heads.box_predictor, "test_topk_per_image", 10_000)
    model = Detections(detector[1])
    torch.manual_seed(0)
    image, lengths = 255 * torch.rand(3, 96, 128), set()
    with torch.no_grad():
        monkeypatch.setattr(heads.box_predictor, "test_score_thresh", model(image)[1].median().item())
        traced = torch.jit.trace(model, (image,), check_trace=False)
        for size in ((96, 128), (128, 80), (64, 64)):
            image = 255 * torch.rand(3, *size)
            found = model(image)
            lengths.add(len(found[0]))
            torch.testing.assert_close(traced(image), found)
    assert min(lengths) > 0 and len(lengths) > 1


class Proposals(torch.nn.Module):
    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, image):
        images = self.detector.preprocess_image([{"image": image}])
        ((found,), _) = self.detector.proposal_generator(images, self.detector.backbone(images.tensor))
        return found.proposal_boxes.tensor


def test_traced_proposals_are_more_or_less_in_other_images(detector, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(detector[1].proposal_generator, "nms_thresh", 0.1)
    model, lengths = Proposals(detector[1]), set()
    with torch.no_grad():
        traced = torch.jit.trace(model, (255 * torch.rand(3, 96, 128),), check_trace=False)
        for size in ((96, 128), (128, 80), (64, 64)):
            image = 255 * torch.rand(3, *size)
            found = model(image)
            lengths.add(len(found))
            torch.testing.assert_close(traced(image), found)
    assert min(lengths) > 0 and len(lengths) > 1


@pytest.mark.skipif(not ONNX, reason="onnx, onnxscript or onnxruntime is not installed")
def test_the_detector_in_onnxruntime_finds_what_it_finds_here(detector, run_tool, tmp_path):
    options, model = detector
    run_tool("export_onnx", "--detector", *options, "-o", tmp_path / "detector.onnx")
    import onnxruntime

    session, counts = onnxruntime.InferenceSession(str(tmp_path / "detector.onnx")), []
    for size in ((96, 128), (128, 72)):
        image = 255 * torch.rand(3, *size)
        boxes, scores, classes, masks = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            (found,) = model.inference([{"image": image}], do_postprocess=False)
        counts.append(len(found))
        torch.testing.assert_close(torch.from_numpy(boxes), found.pred_boxes.tensor, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(torch.from_numpy(scores), found.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.from_numpy(masks), found.pred_masks, atol=1e-5, rtol=1e-4)
        assert (classes == found.pred_classes.numpy()).all()
    assert min(counts) > 0


def test_a_detector_without_a_square_is_refused(detector, tmp_path):
    model = detector[1]
    model.backbone._square_pad = 0
    with pytest.raises(UserError, match="square_pad is 0"):
        write_detector(Detections(model), tmp_path / "x.onnx")


def test_without_onnx_there_is_a_sentence(run_tool, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxscript onnxruntime"):
        run_tool("export_onnx", "--config-file", CONFIG, "--weights", "x.pth", "-o", tmp_path / "x.onnx")
