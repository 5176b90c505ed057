"""Detections in images, folders and videos."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from pycocotools import mask as run_lengths

from cropfield import CropFieldViT, categories
from cropfield.datasets import num_classes
from pretrain.errors import UserError
from pretrain.files import read_torch_file
from pretrain.models.weights import write_backbone
from pretrain.outputs import LOCK

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


def test_a_device_that_is_not_there(run_tool, detector, small_coco, tmp_path):
    with pytest.raises(UserError, match="train.device: 'gpu0' cannot be used here"):
        run_tool("predict", small_coco / "0.png", "--output", tmp_path / "out", *detector, "train.device=gpu0")
    assert not (tmp_path / "out").exists()


def test_a_long_list_is_an_override(load_tool):
    override = f"model.pixel_mean=[{','.join(['103.53'] * 60)}]"
    args = load_tool("predict").parse_args(["a.png", "--config-file", "c", "--weights", "w", "--output", "o", override])
    assert args.opts == [override] and args.inputs == [Path("a.png")]


@pytest.mark.parametrize("threshold", ["50", "nan", "-0.1"])
def test_a_threshold_is_a_score(load_tool, threshold, capsys):
    with pytest.raises(SystemExit):
        load_tool("predict").parse_args(
            ["a.png", "--config-file", "c", "--weights", "w", "--output", "o", "--threshold", threshold]
        )
    assert "give a score from 0 to 1" in capsys.readouterr().err


def test_images_folders_and_a_video(run_tool, detector, small_coco, film, tmp_path, capsys):
    (tmp_path / "link").symlink_to(small_coco)
    again = [small_coco / "0.png", tmp_path / "link" / "1.png"]
    run_tool("predict", again[0], small_coco, film, *again, "--output", tmp_path / "out", *detector)
    assert f"counted once: {again[0]}, {again[0]}, {again[1]} (3 in all)" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["images"]) == 4 + 3 and content["images"][-1]["file_name"].endswith("film.avi#2")
    assert [category["name"] for category in content["categories"]] == ["left", "right"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    assert content["annotations"]
    for found in content["annotations"]:
        height, width = sizes[found["image_id"]]
        assert found["segmentation"]["size"] == [height, width] and found["score"] >= 0.1
        mask = run_lengths.decode(found["segmentation"])
        assert mask.shape == (height, width) and found["area"] == mask.sum() and found["iscrowd"] == 0
        x, y, w, h = found["bbox"]
        assert -1e-3 <= x and x + w <= width + 1e-3 and -1e-3 <= y and y + h <= height + 1e-3
    picture, original = cv2.imread(str(tmp_path / "out" / "0.png")), cv2.imread(str(small_coco / "0.png"))
    assert picture.shape == original.shape and np.any(picture != original)
    assert sorted(p.name for p in (tmp_path / "out" / small_coco.name).iterdir()) == [f"{i}.png" for i in (1, 2, 3)]
    assert cv2.VideoCapture(str(tmp_path / "out" / "film.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_broken_file_loses_no_others_predictions(run_tool, detector, small_coco, film, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "cut.png").write_bytes((small_coco / "0.png").read_bytes()[:700])
    image, video = (folder / os.fsdecode(b"z\xff" + ending) for ending in (b".png", b".avi"))
    shutil.copy(small_coco / "0.png", image)
    shutil.move(film, video)
    run_tool("predict", folder, "--output", tmp_path / "out", *detector)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [*(f"{video}#{i}" for i in range(3)), str(image)]
    lines = (tmp_path / "out" / "broken_images.txt").read_text().splitlines()
    reasons = {Path(name).name: reason for reason, _, name in (line.partition("\t") for line in lines)}
    pipes = {"pipe.png": "not a file", "pipe.mp4": "not a file"}
    assert reasons == pipes | {"broken.jpg": "not an image", "broken.mp4": "not a video", "cut.png": "truncated"}
    assert "2 not a file" in capsys.readouterr().out
    run_tool("predict", folder, "--output", tmp_path / "out", *detector)
    assert "done before" in (again := capsys.readouterr().out) and "left out: see " in again
    drawn = {path.name for path in (tmp_path / "out" / "in").iterdir()}
    assert drawn == {image.name, video.with_suffix(".mp4").name}


def test_nothing_that_is_there_is_harmed(run_tool, detector, small_coco, tmp_path):
    """The output folder is new or empty; equal names get numbers; a tool's own pictures are not detected in."""
    for folder, number in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        shutil.copy(small_coco / f"{number}.png", tmp_path / folder / "x.png")
    before = (tmp_path / "a" / "x.png").read_bytes()
    for output in (tmp_path / "a", tmp_path / "a" / "x.png"):
        with pytest.raises(UserError, match="holds x.png already|cannot write into"):
            run_tool("predict", tmp_path / "a" / "x.png", "--output", output, *detector)
    assert (tmp_path / "a" / "x.png").read_bytes() == before and len(list((tmp_path / "a").iterdir())) == 1

    out = tmp_path / "a" / "seen"
    shutil.copy(small_coco / "0.png", tmp_path / "a" / "y.png")
    run_tool("predict", tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "a", "--output", out, *detector)
    drawn = {str(path.relative_to(out)): cv2.imread(str(path)).shape for path in out.rglob("*.png")}
    assert drawn == {"x.png": (128, 96, 3), "x-2.png": (128, 128, 3), "a/y.png": (128, 96, 3)}
    with pytest.raises(UserError, match="holds a already"):
        run_tool("predict", tmp_path / "b", "--output", out, *detector)
    run_tool("predict", tmp_path / "a", "--output", tmp_path / "a" / "again", *detector)
    assert len(json.loads((tmp_path / "a" / "again" / "predictions.json").read_text())["images"]) == 2


def test_the_same_command_again_computes_nothing(run_tool, detector, small_coco, tmp_path, capsys, monkeypatch):
    """And what differs from it in one input, weight or option is refused, not written over."""
    image = tmp_path / "0.png"
    shutil.copy(small_coco / "0.png", image)
    command = ["predict", tmp_path, "--output", tmp_path / "out", "--no-pictures", *detector]
    run_tool(*command)
    before, _ = (tmp_path / "out" / "predictions.json").read_bytes(), capsys.readouterr()
    os.utime(image, ns=(0, 0))
    with monkeypatch.context() as patch:
        patch.setattr("cropfield.predict.Detector", None)
        run_tool(*command)
    assert "done before" in (said := capsys.readouterr().out) and "objects in 1 images" in said
    for change in (["--threshold", "0.2"], ["model.roi_heads.box_predictor.test_nms_thresh=0.4"]):
        with pytest.raises(UserError, match="holds predictions.json already"):
            run_tool(*command, *change)
    shutil.copy(small_coco / "1.png", image)
    with pytest.raises(UserError, match="holds predictions.json already"):
        run_tool(*command)
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


def test_a_command_that_was_killed_begins_again_and_lost_pictures_are_drawn_again(
    run_tool, detector, small_coco, film, tmp_path, monkeypatch
):
    (tmp_path / "in").mkdir()
    shutil.copy(small_coco / "0.png", tmp_path / "in" / "0.png")
    shutil.move(film, tmp_path / "in" / "z.avi")
    command = ["predict", tmp_path / "in", "--output", tmp_path / "out", *detector]
    with monkeypatch.context() as patch:

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr("cropfield.media.Picture._add_frame", killed)  # after the first picture
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run_tool(*command)
    assert (tmp_path / "out" / "in" / "0.png").exists()
    with pytest.raises(UserError, match="holds in already"):
        run_tool(*command, "--threshold", "0.2")
    run_tool(*command)
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 4
    before = (tmp_path / "out" / "predictions.json").read_bytes()
    for name in ("0.png", "z.mp4"):
        (tmp_path / "out" / "in" / name).unlink()
        run_tool(*command)
        assert (tmp_path / "out" / "in" / name).exists()
    assert (tmp_path / "out" / "predictions.json").read_bytes() == before


def test_a_threshold_below_the_detectors_own(run_tool, detector, small_coco, tmp_path):
    own = ["model.roi_heads.box_predictor.test_score_thresh=0.3"]
    found = {}
    for threshold in ("0.01", "0.5"):
        out = tmp_path / threshold
        run_tool("predict", small_coco / "0.png", "--output", out, *detector, *own, "--threshold", threshold)
        scores = [a["score"] for a in json.loads((out / "predictions.json").read_text())["annotations"]]
        found[threshold] = scores
    assert min(found["0.01"]) < 0.3 and min(found["0.5"], default=1) >= 0.5


def test_labels_in_several_files(run_tool, detector, small_coco, tmp_path):
    content = json.loads((small_coco / "labels.json").read_text())
    files = [tmp_path / f"{name}.json" for name in "ab"]
    for file in files:
        file.write_text(json.dumps(content))
    listed = f"dataset.train_json=[{files[0]},{files[1]}]"
    command = ["predict", small_coco / "0.png", "--output", tmp_path / "out", "--no-pictures", *detector, listed]
    run_tool(*command)
    run_tool(*command)
    files[1].write_text(json.dumps(content | {"info": {}}))
    with pytest.raises(UserError, match="holds predictions.json already"):
        run_tool(*command)


def test_no_picture_takes_the_place_of_the_predictions(run_tool, detector, small_coco, tmp_path):
    folder = tmp_path / "predictions.json"
    folder.mkdir()
    shutil.copy(small_coco / "0.png", folder)
    run_tool("predict", folder, "--output", tmp_path / "out", *detector)
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 1
    assert (tmp_path / "out" / "predictions-2.json" / "0.png").exists()


def test_an_image_that_its_format_cannot_hold_is_drawn_as_png(run_tool, detector, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((1, 66000, 3), np.uint8))
    (tmp_path / "wide.png").rename(tmp_path / "wide.jpg")
    command = ["predict", tmp_path / "wide.jpg", "--output", tmp_path / "out", *detector]
    run_tool(*command)
    assert cv2.imread(str(tmp_path / "out" / "wide.jpg.png")).shape == (1, 66000, 3)


def test_a_video_that_is_cut_off_is_told(run_tool, detector, small_coco, tmp_path, caplog):
    video = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 96))
    for _ in range(12):
        video.write(cv2.resize(cv2.imread(str(small_coco / "1.png")), (128, 96)))
    video.release()
    whole = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(whole[: len(whole) // 2])
    run_tool("predict", tmp_path / "film.avi", "--output", tmp_path / "out", *detector)
    count = len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"])
    assert 1 <= count < 12 and f"film.avi: {count} of 12 frames can be read" in caplog.text


def test_other_ids_in_the_same_annotation_file_are_another_request(run_tool, detector, small_coco, tmp_path):
    labels = tmp_path / "labels.json"
    shutil.copy(small_coco / "labels.json", labels)
    output = ["--output", tmp_path / "out", "--no-pictures"]
    command = ["predict", small_coco / "0.png", *output, *detector, f"dataset.train_json={labels}"]
    run_tool(*command)
    content = json.loads(labels.read_text())
    for entry in (*content["categories"], *content["annotations"]):
        entry["id" if "name" in entry else "category_id"] += 40
    labels.write_text(json.dumps(content))
    with pytest.raises(UserError, match="holds predictions.json already"):
        run_tool(*command)


def test_a_video_that_cannot_be_written_is_told(run_tool, detector, film, tmp_path, monkeypatch):
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *_: 0)  # a codec that is not there
    with pytest.raises(UserError, match="film.mp4: OpenCV makes no video of .* pixels here"):
        run_tool("predict", film, "--output", tmp_path / "out", *detector)


def test_what_cannot_be_detected_in(run_tool, detector, tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for name, words in (("gone.jpg", "there is no"), ("notes.txt", "neither"), ("empty", "no image or video")):
        with pytest.raises(UserError, match=words):
            run_tool("predict", tmp_path / name, "--output", tmp_path / "out", *detector)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"none of the 1 files can be read: 1 not an image \(.*broken.jpg\)"):
        run_tool("predict", tmp_path / "broken.jpg", "--output", tmp_path / "out", *detector)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]  # which goes with the process


def test_a_very_thin_image(run_tool, detector, tmp_path, monkeypatch):
    reads = []  # of weights: once
    monkeypatch.setattr("pretrain.files.read_torch_file", lambda path: reads.append(path) or read_torch_file(path))
    cv2.imwrite(str(tmp_path / "thin.png"), np.zeros((1, 30000, 3), np.uint8))
    run_tool("predict", tmp_path / "thin.png", "--output", tmp_path / "out", *detector)
    assert len(reads) == 1
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]) == 1


def test_images_are_fed_as_in_training(run_tool, detector, small_coco, tmp_path):
    """A detector of BGR images sees a picture as one of RGB images sees it with red and blue swapped."""
    image = cv2.imread(str(small_coco / "0.png"))
    image[..., 2] //= 4
    scores = []
    for order, pixels in (("BGR", image), ("RGB", image[..., ::-1]), ("RGB", image)):
        cv2.imwrite(str(tmp_path / "i.png"), pixels)
        out = tmp_path / f"out{len(scores)}"
        options = ["--no-pictures", f"dataloader.train.mapper.image_format={order}"]
        run_tool("predict", tmp_path / "i.png", "--output", out, *options, *detector)
        scores.append([a["score"] for a in json.loads((out / "predictions.json").read_text())["annotations"]])
    assert scores[0] == scores[1] != scores[2]


def test_a_backbone_is_no_detector(run_tool, detector, small_coco, tmp_path):
    net = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16)
    write_backbone(tmp_path / "backbone.safetensors", net.state_dict(), {"num_heads": "3"})
    with pytest.raises(UserError, match="contains only a backbone"):
        other = with_weights(detector, tmp_path / "backbone.safetensors")
        run_tool("predict", small_coco / "0.png", "--output", tmp_path / "out", *other)
    assert not (tmp_path / "out").exists()


def test_a_config_of_no_detector(run_tool, detector, small_coco, tmp_path):
    config = Path(CONFIG).resolve().parents[1] / "pretrain" / "cropfield_tiny.py"
    with pytest.raises(UserError, match="cropfield_tiny.py is no detector's config"):
        other = ["--config-file", config, "--weights", detector[3]]
        run_tool("predict", small_coco / "0.png", "--output", tmp_path / "out", *other)


def with_weights(detector: list, path: Path) -> list:
    """The arguments `detector` with another file of weights."""
    return [*detector[:3], path, *detector[4:]]


def test_ids_are_the_datasets_own(run_tool, detector, small_coco, tmp_path):
    """Of categories by their names, also where the file has them in another order than the weights; of images, too."""
    content = json.loads((small_coco / "labels.json").read_text())
    content["categories"] = [{"id": 70, "name": "right"}, {"id": 90, "name": "left"}, {"id": 95, "name": "none"}]
    for image in content["images"]:
        image["id"] += 100
    for annotation in content["annotations"]:
        annotation.update(image_id=annotation["image_id"] + 100, category_id=90 - 20 * (annotation["category_id"] == 4))
    (tmp_path / "other.json").write_text(json.dumps(content))
    weights = torch.load(detector[3], weights_only=True)
    for name, classes in (("named", ("left", "right")), ("strange", ("dog", "cat"))):
        categories = [{"id": number, "name": word} for number, word in enumerate(classes)]
        torch.save(weights | {"metadata": {"categories": categories}}, tmp_path / f"{name}.pth")
    named, strange = (with_weights(detector, tmp_path / f"{name}.pth") for name in ("named", "strange"))
    copy, found = tmp_path / "copy" / "1.png", {}
    copy.parent.mkdir()
    shutil.copy(small_coco / "1.png", copy)
    for labels in (tmp_path / "other.json", small_coco / "labels.json"):
        inputs, out = [small_coco / "1.png", copy], tmp_path / labels.stem
        run_tool("predict", *inputs, "--output", out, "--no-pictures", *named, "--names", labels)
        found[labels.stem] = json.loads((out / "predictions.json").read_text())
    assert [image["id"] for image in found["other"]["images"]] == [101, 1]
    assert [image["id"] for image in found["labels"]["images"]] == [1, 4]
    ids = [[category["id"] for category in found[name]["categories"]] for name in ("labels", "other")]
    assert ids == [[3, 4], [90, 70]]
    pairs = zip(found["labels"]["annotations"], found["other"]["annotations"], strict=True)
    seen = {(one["category_id"], two["category_id"]) for one, two in pairs}
    assert seen and seen <= {(3, 90), (4, 70)}
    with pytest.raises(UserError, match=r"knows 2 \(dog, cat\), the dataset has 2 \(left, right\)"):
        run_tool("predict", small_coco / "1.png", "--output", tmp_path / "no", *strange)


def test_names_that_do_not_fit(run_tool, detector, small_coco, tmp_path):
    other = json.loads((small_coco / "labels.json").read_text())
    other["categories"].append({"id": 9, "name": "third"})
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="names 3 classes and the detector has 2"):
        run_tool(
            "predict", small_coco / "0.png", "--output", tmp_path / "out", *detector, "--names", tmp_path / "other.json"
        )


def test_a_detector_of_boxes_needs_no_dataset(run_tool, small_coco, tmp_path, request, capsys):
    """Its classes and the lack of masks show in its weights."""
    config = str(request.config.rootpath / CONFIG)
    boxes = f"dataset.train_json={small_coco}/boxes.json"
    model = instantiate(LazyConfig.apply_overrides(LazyConfig.load(config), [*SMALL, boxes]).model)
    classes = [{"id": 3, "name": "left"}, {"id": 4, "name": "right"}]
    weights = {"model": model.state_dict(), "metadata": {categories.KEY: classes}}
    torch.save(weights, tmp_path / "boxes.pth")
    given = [small_coco / "0.png", "--config-file", config, "--weights", tmp_path / "boxes.pth", *SMALL]
    run_tool("predict", *given, "--output", tmp_path / "some", "--threshold", "0")
    content = json.loads((tmp_path / "some" / "predictions.json").read_text())
    assert content["annotations"] and not any("segmentation" in found for found in content["annotations"])
    assert [category["name"] for category in content["categories"]] == ["left", "right"]
    assert "lower --threshold" not in capsys.readouterr().out
    run_tool("predict", *given, "--output", tmp_path / "none", "--threshold", "1")
    assert capsys.readouterr().out.endswith("; less certain ones are shown with a lower --threshold\n")
