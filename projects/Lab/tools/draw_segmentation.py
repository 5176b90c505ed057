#!/usr/bin/env python3
"""Draw what segmentors predict: image, truth, and a column for each checkpoint.

    projects/Lab/tools/draw_segmentation.py --output outputs/seen.png \
        --config-file projects/Lab/configs/ADE20K/semantic_linear_cropfield_tiny.py \
        --weights pretrained=outputs/a/model_final.pth untrained=outputs/b/model_final.pth \
        --set dataset.root=outputs/semantic dataset.classes=outputs/semantic/classes.txt

The images are evenly spread over the validation split.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image

from cropfield.canvas import fit
from cropfield.weights import load_weights
from lab.semantic.datasets import read_labels
from lab.semantic.pictures import IGNORE, draw_labels, side_by_side
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError, run_main
from pretrain.files import replacing


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    parser.add_argument("--weights", nargs="+", required=True, metavar="TITLE=FILE", help="checkpoints of segmentors")
    parser.add_argument("--images", type=int, default=4, help="how many (default: 4)")
    parser.add_argument("--width", type=int, default=256, help="of a tile, in pixels (default: 256)")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    return parser.parse_args(argv)


def spread(count: int, of: int) -> list[int]:
    """`count` indices evenly spaced from 0 to `of` - 1."""
    return sorted({round(place) for place in np.linspace(0, of - 1, min(count, of))})


@torch.no_grad()
def predictions(cfg, weights: str, entries: list[dict]) -> list[np.ndarray]:
    """The label of each pixel (H, W), uint8, of each image, by one checkpoint."""
    cfg.train.init_checkpoint = weights
    model = instantiate(cfg.model).to(cfg.train.device).eval()
    load_weights(model, weights)
    mapper = instantiate(cfg.dataloader.test.mapper)
    return [model([mapper(entry)])[0]["sem_seg"].argmax(0).byte().cpu().numpy() for entry in entries]


def draw(entries: list[dict], columns: dict[str, list[np.ndarray]], classes: list[str], width: int) -> np.ndarray:
    """The images with their label maps, a column of maps for each title."""
    background = classes[0] == "background"
    rows = []
    for place, entry in enumerate(entries):
        image = read_image(entry["file_name"], "RGB")
        maps = [draw_labels(image, labels[place], background) for labels in columns.values()]
        rows.append([fit(tile, round(width * max(1.0, tile.shape[0] / tile.shape[1]))) for tile in (image, *maps)])
    seen = {int(label) for labels in columns.values() for one in labels for label in np.unique(one)} - {IGNORE}
    shown = sorted(seen - {0} if background else seen)
    return side_by_side(rows, ["image", *columns], {label: classes[label] for label in shown})


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config_file, args.set)
    models = dict(text.split("=", 1) for text in args.weights if "=" in text)
    if len(models) < len(args.weights):
        raise UserError("--weights: write TITLE=FILE for each, with different titles")
    name = instantiate(cfg.dataloader.test.dataset.names)
    entries = DatasetCatalog.get(name)
    entries = [entries[place] for place in spread(args.images, len(entries))]
    truths = [read_labels(entry["sem_seg_file_name"]) for entry in entries]
    found = {title: predictions(cfg, weights, entries) for title, weights in models.items()}
    picture = draw(entries, {"truth": truths} | found, MetadataCatalog.get(name).stuff_classes, args.width)
    with replacing(args.output) as draft:
        draft.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1])
    print(f"{args.output}: {len(entries)} of the validation images")


if __name__ == "__main__":
    run_main(main)
