"""Detections in images, folders and videos."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from pycocotools import mask as run_lengths

from cropfield.datasets import num_classes
from pretrain.errors import UserError

CONFIG = "configs/COCO/mask_rcnn_cropfield_tiny.py"
SMALL = ["model.backbone.net.depth=1", "model.roi_heads.box_predictor.test_score_thresh=0.0"]


@pytest.fixture(scope="module")
def detector(small_coco, tmp_path_factory, request):
    """Arguments that choose a random detector of the small dataset's two classes."""
    config = str(request.config.rootpath / CONFIG)
    cfg = LazyConfig.load(config)
    opts = [*SMALL, f"dataset.train_json={small_coco}/labels.json"]
    cfg = LazyConfig.apply_overrides(cfg, opts)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    assert model.roi_heads.num_classes == num_classes(str(small_coco / "labels.json"), 0) == 2
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    return ["--config-file", config, "--weights", path, "--threshold", "0.1", *opts]


@pytest.fixture
def film(small_coco, tmp_path):
    """A video of three frames of 128 x 96 pixels."""
    path = tmp_path / "film.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    frame = cv2.resize(cv2.imread(str(small_coco / "1.png")), (128, 96))
    for _ in range(3):
        video.write(frame)
    video.release()
    return path


def test_images_folders_and_a_video(run_tool, detector, small_coco, film, tmp_path):
    run_tool("predict", small_coco / "0.png", small_coco, film, "--output", tmp_path / "out", *detector)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["images"]) == 1 + 4 + 3 and content["images"][-1]["file_name"].endswith("film.avi#2")
    assert [category["name"] for category in content["categories"]] == ["left", "right"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    assert content["annotations"]
    for found in content["annotations"]:
        height, width = sizes[found["image_id"]]
        assert found["segmentation"]["size"] == [height, width] and found["score"] >= 0.1
        assert run_lengths.decode(found["segmentation"]).shape == (height, width)
        x, y, w, h = found["bbox"]
        assert -1e-3 <= x and x + w <= width + 1e-3 and -1e-3 <= y and y + h <= height + 1e-3
    picture, original = cv2.imread(str(tmp_path / "out" / "0.png")), cv2.imread(str(small_coco / "0.png"))
    assert picture.shape == original.shape and np.any(picture != original)
    assert sorted(p.name for p in (tmp_path / "out" / small_coco.name).iterdir()) == [f"{i}.png" for i in range(4)]
    assert cv2.VideoCapture(str(tmp_path / "out" / "film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_what_cannot_be_detected_in(load_tool, tmp_path):
    tool = load_tool("predict")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name, words in (("gone.jpg", "there is no"), ("notes.txt", "neither"), ("empty", "no image or video")):
        with pytest.raises(UserError, match=words):
            tool.find_files([tmp_path / name])
    for name in ("broken.jpg", "broken.mp4"):
        with pytest.raises(UserError, match=f"cannot read the .*{name}"):
            list(tool.frames(tmp_path / name))


def test_names_that_do_not_fit(run_tool, detector, small_coco, tmp_path):
    other = json.loads((small_coco / "labels.json").read_text())
    other["categories"].append({"id": 9, "name": "third"})
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="names 3 classes and the detector has 2"):
        run_tool("predict", small_coco / "0.png", "--output", tmp_path, "--names", tmp_path / "other.json", *detector)
