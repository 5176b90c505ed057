#!/usr/bin/env python3
"""Draw predictions of segmentors: image, ground truth, and a column for each checkpoint.

    projects/Lab/tools/draw_segmentation.py --output outputs/seen.png \\
        --config-file projects/Lab/configs/ADE20K/semantic_linear_cropfield_tiny.py \\
        --weights pretrained=outputs/a/model_final.pth untrained=outputs/b/model_final.pth \\
        --set dataset.root=outputs/semantic dataset.classes=outputs/semantic/classes.txt

The images are evenly spread over the validation split.
"""

import argparse
from pathlib import Path

from lab.options import new_parser
from pretrain.engine.arguments import positive
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE")
    add("--output", type=Path, required=True, metavar="PNG")
    add("--weights", nargs="+", required=True, metavar="TITLE=FILE", help="checkpoints of segmentors")
    add("--images", type=positive, default=4, help="how many (default: 4)")
    add("--width", type=positive, default=256, help="width of a tile in pixels (default: 256)")
    add("--set", nargs="*", default=[], metavar="key=value", help="overrides of the config")
    return parser.parse_args(argv)


def predictions(cfg, weights: str, entries: list[dict]) -> list:
    """Label maps (H, W), uint8, of all images from one checkpoint."""
    import torch
    from detectron2.config import instantiate

    from cropfield.recipe import build_detector
    from cropfield.weights import load_weights

    cfg.train.init_checkpoint = weights
    model = build_detector(cfg)
    load_weights(model, weights)
    mapper = instantiate(cfg.dataloader.test.mapper)
    with torch.no_grad():
        return [model([mapper(entry)])[0]["sem_seg"].argmax(0).byte().cpu().numpy() for entry in entries]


def draw(entries: list[dict], columns: dict[str, list], classes: list[str], width: int):
    """The images with their label maps, one column for each title, as one RGB picture."""
    import numpy as np

    from cropfield.canvas import fit
    from lab.semantic.layout import BACKGROUND, IGNORE
    from lab.semantic.pictures import draw_labels, side_by_side
    from pretrain.data.decode import decode_image

    background, rows = classes[0] == BACKGROUND, []
    for entry, *labels in zip(entries, *columns.values(), strict=True):
        image = decode_image(entry["file_name"])
        tiles = [image, *(draw_labels(image, found, background) for found in labels)]
        rows.append([fit(tile, round(width * max(1.0, tile.shape[0] / tile.shape[1]))) for tile in tiles])
    seen = {int(label) for maps in columns.values() for labels in maps for label in np.unique(labels)} - {IGNORE}
    shown = sorted(seen - {0} if background else seen)
    return side_by_side(rows, ["image", *columns], {label: classes[label] for label in shown})


def main() -> None:
    args = parse_args()
    models = dict(text.split("=", 1) for text in args.weights if "=" in text)
    if len(models) < len(args.weights) or "truth" in models:
        raise UserError("--weights: write TITLE=FILE for each, with different titles, none of them truth")
    import numpy as np
    from detectron2.config import instantiate
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from lab.commands import write_picture
    from lab.semantic.datasets import read_labels
    from pretrain.data.decode import BrokenImage
    from pretrain.engine.lazy_config import load_config
    from pretrain.outputs import refuse_existing

    refuse_existing(args.output)
    cfg = load_config(args.config_file, args.set)
    name = instantiate(cfg.dataloader.test.dataset.names)
    entries = DatasetCatalog.get(name)
    chosen = np.unique(np.linspace(0, len(entries) - 1, min(args.images, len(entries))).round().astype(int))
    entries = [entries[index] for index in chosen]
    truths = [read_labels(entry["sem_seg_file_name"]) for entry in entries]
    try:
        found = {title: predictions(cfg, weights, entries) for title, weights in models.items()}
        picture = draw(entries, {"truth": truths} | found, MetadataCatalog.get(name).stuff_classes, args.width)
    except BrokenImage as error:
        raise UserError(f"{error}; get the image again") from None
    print(f"{write_picture(args.output, picture)}, {len(entries)} of the validation images")


if __name__ == "__main__":
    run_main(main)
