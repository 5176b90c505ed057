"""Detect in images, folders and videos; write pictures and COCO-format results. Implements tools/predict.py."""

import argparse
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from cropfield import categories
from cropfield.canvas import as_rgb
from cropfield.coco_files import area_of, decode_mask
from cropfield.datasets import read_coco_file
from cropfield.drawing import Instance, draw_instances
from cropfield.image_ids import ImageIds
from cropfield.joined import Paths, several
from cropfield.mapper import in_format
from cropfield.media import Medium, Picture, as_png, find_media, frames
from cropfield.recipe import build_detector, detector_config
from cropfield.sizes import check_channels, check_sizes
from cropfield.weights import load_weights
from pretrain.data.bands import left_out as left_out_bands
from pretrain.data.broken import summarize
from pretrain.data.decode import BrokenImage, read_facts
from pretrain.data.reading import AS_RGB
from pretrain.engine.addresses import local_file
from pretrain.engine.broken_images import LISTED, write_list
from pretrain.engine.lazy_config import build
from pretrain.engine.saved_config import as_yaml
from pretrain.errors import UserError, printable
from pretrain.files import read_tensors, sha256_or_none, write_json, write_text
from pretrain.outputs import open_output, output_path, refuse_occupied
from pretrain.progress import progress

PREDICTIONS = "predictions.json"


def predict(args: argparse.Namespace) -> None:
    """Detect in `args.inputs`; `args` are the options of tools/predict.py.

    Raises:
        UserError: an input, config, weight file or output folder cannot be used.
    """
    media, left_out, again = find_media(args.inputs, output_path(args.output), reserved=(PREDICTIONS, LISTED))
    cfg = detector_config(args.config_file, args.opts)
    labels = args.names or cfg.get("dataset", {}).get("train_json")
    request = digest_of(args, media, cfg, labels)
    before = earlier(args.output, request)
    if before and before["images"] and (args.no_pictures or all_drawn(before, media, args.output)):
        print(f"done before, with the same inputs, weights and options: {summary(args.output, before)}")
        if (listed := Path(args.output) / LISTED).exists():
            print(f"files were left out: see {printable(str(listed))}")
        return
    if before is None:
        refuse_occupied(args.output)
    content = read_coco_file(labels) if labels else None
    weights = read_tensors(local_file(args.weights))
    known = choose_categories(args.weights, weights[1], content)
    if known and "roi_heads" in cfg.model and not cfg.get("dataset", {}).get("train_json"):
        cfg.model.roi_heads.num_classes = len(known)
        if "mask_in_features" in cfg.model.roi_heads and not any("mask_head" in name for name in weights[0]):
            cfg.model.roi_heads.mask_in_features = None  # it was trained on boxes only
    detector = Detector(cfg, args.weights, weights, args.threshold, known)
    del weights
    output, ids = open_output(args.output), ImageIds(content["images"] if content else [])
    info = {"info": {"request": request}}
    write_json(output / PREDICTIONS, info | nothing_yet(detector))  # so that the same command may begin again
    try:
        found, broken = detect(media, output, not args.no_pictures, detector, ids)
    except UserError:
        (output / PREDICTIONS).unlink()
        raise
    write_text(output / PREDICTIONS, json.dumps(info | found) + "\n")
    if again:
        names = ", ".join(printable(str(path)) for path in again[:3]) + ", ..." * (len(again) > 3)
        print(f"given more than once, and counted once: {names} ({len(again)} in all)")
    for folder in left_out:
        print(f"left out: {printable(folder)}, which holds a tool's output")
    facts = [(str(medium.path), read_facts(medium.path)) for medium in media if not medium.is_video]
    if bands := left_out_bands([(name, fact.bands) for name, fact in facts if fact], detector.reading.channels):
        print(printable(bands))
    if broken:
        print(f"left out: {summarize(broken.items())}; see {printable(str(output / LISTED))}")
    print(summary(output, found))


def digest_of(args: argparse.Namespace, media: list[Medium], cfg, labels: Paths | None) -> str:
    """Digest of everything that the predictions depend on: config, options, and paths and contents of the files
    read.
    """
    files = [medium.path for medium in media] + [args.weights, *(several(labels) if labels else ())]
    facts = [
        args.threshold,
        args.no_pictures,
        as_yaml(cfg),
        [(os.path.abspath(path), sha256_or_none(path)) for path in files],
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def earlier(folder: Path, request: str) -> dict | None:
    """Predictions in `folder` for the same request, without an image if they were not finished; None for others."""
    try:
        found = json.loads((Path(folder) / PREDICTIONS).read_text())
        return found if found["info"]["request"] == request else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def all_drawn(found: dict, media: list[Medium], output: Path) -> bool:
    """Whether the pictures of all images in `found` are there."""
    names = {image["file_name"] for image in found["images"]}
    drawn = [medium.place for medium in media if {str(medium.path), f"{medium.path}#0"} & names]
    return all((Path(output) / place).exists() or as_png(Path(output) / place).exists() for place in drawn)


def nothing_yet(detector: "Detector") -> dict:
    """The content of predictions.json before the first image."""
    return {"images": [], "categories": detector.categories, "annotations": []}


def summary(output: Path, found: dict) -> str:
    """Numbers of objects and images in predictions.json, and its path."""
    place, count = printable(str(Path(output) / PREDICTIONS)), len(found["annotations"])
    hint = "" if count else "; less certain ones are shown with a lower --threshold"
    return f"{count} objects in {len(found['images'])} images: {place}{hint}"


class Detector:
    """A config's detector with weights, and the preprocessing of its test data.

    content: tensors and metadata of the file `weights`.
    known: the classes of its outputs, or None if not recorded; see `cropfield.categories`.
    """

    def __init__(self, cfg, weights: Path, content: tuple[dict, dict], threshold: float, known: list[dict] | None):
        self.model = build_detector(cfg)
        number = getattr(getattr(self.model, "roi_heads", self.model), "num_classes", None)
        if number is None:
            kind = type(self.model).__name__
            raise UserError(f"the config's model, a {kind}, is no detector; give a detector's config")
        self.categories = known or [{"id": n, "name": str(n)} for n in range(number)]
        if len(self.categories) != number:
            raise UserError(
                f"the file names {len(self.categories)} classes and the detector has {number}; give its own file"
            )
        load_weights(self.model, weights, whole=True, content=content)
        mapper = build(cfg, "dataloader.test.mapper")
        check_sizes(self.model, mapper.augmentations, "dataloader.test.mapper")
        check_channels(self.model, mapper)
        self.resize, self.image_format = mapper.augmentations, mapper.image_format
        self.threshold, self.reading = threshold, getattr(mapper, "reading", AS_RGB)
        for part in self.model.modules():  # what the detector leaves out itself
            if isinstance(getattr(part, "test_score_thresh", None), float | int):
                part.test_score_thresh = min(part.test_score_thresh, threshold)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, image_id) -> list[dict]:
        """uint8 (H, W, C), as the mapper reads it -> detections in COCO's format, with classes numbered from 0."""
        resized = T.AugInput(in_format(image, self.image_format))
        self.resize(resized)
        pixels = torch.as_tensor(np.array(resized.image.transpose(2, 0, 1), order="C"))
        (found,) = self.model([{"image": pixels, "height": image.shape[0], "width": image.shape[1]}])
        found = found["instances"].to("cpu")
        return instances_to_coco_json(found[found.scores >= self.threshold], image_id)


def choose_categories(weights: Path, metadata: dict, content: dict | None) -> list[dict] | None:
    """Classes of a detector's outputs, named by its weights, with the ids of a COCO file if one is given.

    metadata: of the weights. content: of the COCO file.

    Raises:
        UserError: the file lacks a class of the weights, or contains it twice.
    """
    theirs, ours = categories.in_metadata(metadata, weights), categories.of_file(content) if content else None
    if not theirs or not ours or categories.names_of(theirs) == categories.names_of(ours):
        return ours or theirs
    by_name = {category["name"]: category for category in ours}
    if len(by_name) < len(ours) or not by_name.keys() >= set(categories.names_of(theirs)):
        raise categories.other_classes(weights, theirs, ours)
    return [by_name[category["name"]] for category in theirs]


def picture(image: np.ndarray, detections: list[dict], names: list[str]) -> np.ndarray:
    """Draw boxes, masks, names and scores on the image, which is shown as `as_rgb` does."""
    instances = []
    for detection in detections:
        x, y, width, height = detection["bbox"]
        mask = decode_mask(detection.get("segmentation"), *image.shape[:2])
        category = detection["category_id"]
        instances.append(Instance((x, y, x + width, y + height), category, names[category], mask, detection["score"]))
    return draw_instances(as_rgb(image), instances, factor=1)


def detect_in(medium: Medium, output: Path | None, detector: Detector, ids: ImageIds, content: dict) -> None:
    """Add an image or a video's frames to the content of predictions.json, and draw it below `output`.

    Raises:
        BrokenImage: it cannot be read.
    """
    names, drawn = categories.names_of(detector.categories), output and Picture(output / medium.place, medium)
    whole = False
    try:
        for name, image in progress(frames(medium, detector.reading), f"frames of {printable(medium.path.name)}"):
            height, width = image.shape[:2]
            image_id = ids.take(name, height, width)
            detections = detector(image, image_id)
            if drawn:
                drawn.write(picture(image, detections, names))
            content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
            for detection in detections:
                detection["category_id"] = detector.categories[detection["category_id"]]["id"]
                detection |= {"id": len(content["annotations"]) + 1, "area": area_of(detection), "iscrowd": 0}
                content["annotations"].append(detection)
        whole = True
    finally:
        if drawn:
            drawn.close(keep=whole)


def detect(media: list[Medium], output: Path, pictures: bool, detector: Detector, ids: ImageIds) -> tuple[dict, dict]:
    """Detect in all files; returns the content of predictions.json, and the unreadable files with reasons.

    Raises:
        UserError: none could be read.
    """
    content, broken = nothing_yet(detector), {}
    for medium in progress(media, "files", len(media)):
        try:
            detect_in(medium, output if pictures else None, detector, ids, content)
        except BrokenImage as error:
            broken[error.name] = error.reason
    if not content["images"]:
        raise UserError(
            f"none of the {len(media)} files can be read: {summarize(broken.items())}; repair or replace them"
        )
    if broken:
        write_list(output / LISTED, broken)
    return content, broken
