#!/usr/bin/env python3
"""Detect in images, folders of images and videos: pictures with what was found, and detections in COCO's format.

    tools/predict.py --config-file configs/COCO/mask_rcnn_cropfield_tiny.py --weights outputs/detector/model_final.pth \
        --output outputs/predicted photo.jpg holiday/ film.mp4

OUTPUT/predictions.json has `images` (for a video one entry a frame), `categories` and `annotations` with scores; boxes
are [x, y, width, height] in pixels, masks compressed run lengths. Class names come from --names, a COCO file; without
it they are numbers. For a detector trained on your own dataset, give the same dataset.train_json as in training.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from cropfield.coco_files import decode_mask
from cropfield.datasets import class_names
from cropfield.drawing import Instance, draw_instances
from cropfield.weights import load_weights
from lab.compose.photographs import IMAGE_SUFFIXES
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError, run_main
from pretrain.files import replacing

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm"}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", help="images, folders, videos; then overrides of the config, key=value")
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="a detector's checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score (default 0.5)")
    parser.add_argument("--names", metavar="FILE", help="COCO file whose categories name the classes")
    parser.add_argument("--no-pictures", action="store_true", help="write predictions.json only")
    args = parser.parse_intermixed_args(argv)
    args.opts = [word for word in args.inputs if "=" in word and not Path(word).exists()]
    args.inputs = [Path(word) for word in args.inputs if word not in args.opts]
    return args


def find_files(inputs: list[Path]) -> list[tuple[Path, Path]]:
    """(file, its place under the output folder) for every image and video; folders are searched through.

    Raises:
        UserError: an input that is absent or neither image, folder nor video, or nothing to detect in.
    """
    found = []
    for path in inputs:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | VIDEOS)
            found += [(p, Path(path.resolve().name) / p.relative_to(path)) for p in inside]
        elif not path.exists():
            raise UserError(f"there is no image, folder or video {path}; check the path")
        elif path.suffix.lower() in IMAGE_SUFFIXES | VIDEOS:
            found.append((path, Path(path.name)))
        else:
            raise UserError(
                f"{path} is neither an image nor a video by its ending; known are {sorted(IMAGE_SUFFIXES | VIDEOS)}"
            )
    if not found:
        raise UserError(f"no image or video in {', '.join(map(str, inputs))}; give files or folders that hold some")
    return found


class Detector:
    """A config's detector with weights, and the resizing of its test data."""

    def __init__(self, cfg, weights: Path, threshold: float):
        self.model = instantiate(cfg.model).to(cfg.train.device).eval()
        load_weights(self.model, weights)
        self.resize = T.AugmentationList(instantiate(cfg.dataloader.test.mapper.augmentations))
        self.threshold = threshold

    @torch.no_grad()
    def __call__(self, image: np.ndarray, image_id: int) -> list[dict]:
        """RGB uint8 (H, W, 3) -> detections in COCO's format, classes counted from 0."""
        resized = T.AugInput(image)
        self.resize(resized)
        pixels = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        (found,) = self.model([{"image": pixels, "height": image.shape[0], "width": image.shape[1]}])
        found = found["instances"].to("cpu")
        return instances_to_coco_json(found[found.scores >= self.threshold], image_id)


def frames(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and RGB pictures of one image, or of a video's frames.

    Raises:
        UserError: the file cannot be decoded.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        try:
            yield str(path), read_image(str(path), "RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"cannot read the image {path} ({error}); remove or replace it") from None
        return
    video, count = cv2.VideoCapture(str(path)), 0
    while (read := video.read())[0]:
        yield f"{path}#{count}", cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
        count += 1
    if not count:
        raise UserError(f"cannot read the video {path}: OpenCV finds no frame in it; convert it, to mp4 for instance")


def picture(image: np.ndarray, detections: list[dict], names: list[str]) -> np.ndarray:
    """The image with boxes, masks, names and scores."""
    instances = []
    for detection in detections:
        x, y, width, height = detection["bbox"]
        mask = decode_mask(detection.get("segmentation"), *image.shape[:2])
        category = detection["category_id"]
        instances.append(Instance((x, y, x + width, y + height), category, names[category], mask, detection["score"]))
    return draw_instances(image, instances, factor=1)


class Pictures:
    """Writes pictures where they belong: an image as an image, a video's frames as one video."""

    def __init__(self, path: Path, source: Path):
        self.path, self.source, self.video = path, source, None
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, image: np.ndarray) -> None:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self.source.suffix.lower() in IMAGE_SUFFIXES:
            if not cv2.imwrite(str(self.path), bgr):
                raise UserError(f"cannot write {self.path}; is there space on the disk?")
            return
        if self.video is None:
            rate = cv2.VideoCapture(str(self.source)).get(cv2.CAP_PROP_FPS) or 25
            size, code = (image.shape[1], image.shape[0]), cv2.VideoWriter.fourcc(*"mp4v")
            self.video = cv2.VideoWriter(str(self.path.with_suffix(".mp4")), code, rate, size)
        self.video.write(bgr)

    def close(self) -> None:
        if self.video is not None:
            self.video.release()


def detect(args: argparse.Namespace, detector: Detector, names: list[str]) -> dict:
    """Through all files; returns the content of predictions.json."""
    content = {"images": [], "categories": [], "annotations": []}
    for path, place in find_files(args.inputs):
        with ExitStack() as stack:
            pictures = None if args.no_pictures else Pictures(args.output / place, path)
            if pictures:
                stack.callback(pictures.close)
            for name, image in frames(path):
                image_id = len(content["images"]) + 1
                detections = detector(image, image_id)
                if pictures:
                    pictures.write(picture(image, detections, names))
                height, width = image.shape[:2]
                content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
                content["annotations"] += detections
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    return content


def main() -> None:
    args = parse_args()
    find_files(args.inputs)
    cfg = load_config(args.config_file, args.opts)
    detector = Detector(cfg, args.weights, args.threshold)
    heads = getattr(detector.model, "roi_heads", detector.model)
    labels = args.names or cfg.get("dataset", {}).get("train_json")
    names = class_names(labels) if labels else [str(number) for number in range(heads.num_classes)]
    if len(names) != heads.num_classes:
        raise UserError(
            f"{labels} names {len(names)} classes and the detector has {heads.num_classes}; give its own file"
        )
    content = detect(args, detector, names)
    with replacing(args.output / "predictions.json") as draft:
        draft.write_text(json.dumps(content) + "\n")
    print(f"{len(content['annotations'])} objects in {len(content['images'])} images: {args.output}/predictions.json")


if __name__ == "__main__":
    run_main(main)
