#!/usr/bin/env python3
"""Draw the images that the detector's loader feeds to the model, after augmentation, with boxes and masks.

    projects/CropField/tools/visualize_data.py --config-file configs/COCO/mask_rcnn_cropfield_tiny.py \\
        --output outputs/seen --images 16 dataset.train_json=T.json dataset.train_images=T/ \\
        dataset.val_json=V.json dataset.val_images=V/

--split test shows evaluation images, without objects, to check their size.
"""

import argparse
from pathlib import Path

from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument("--images", type=int, default=16, help="how many (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the augmentation")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def fed_images(loader, count: int):
    """The first `count` images of a loader."""
    shown = 0
    for batch in loader:
        for image in batch:
            if shown == count:
                return
            yield image
            shown += 1


def draw(fed: dict, names: list[str], channels: str):
    """Draw a mapper's output -> RGB picture, uint8 array (H, W, 3)."""
    from detectron2.structures import BitMasks, PolygonMasks

    from cropfield.canvas import as_rgb
    from cropfield.drawing import Instance, draw_instances

    pixels = as_rgb(fed["image"])
    pixels = pixels[..., ::-1].copy() if channels == "BGR" else pixels
    instances = []
    if "instances" in fed:
        objects = fed["instances"]
        masks = [None] * len(objects)
        if objects.has("gt_masks"):
            polygons = isinstance(objects.gt_masks, PolygonMasks)
            bits = BitMasks.from_polygon_masks(objects.gt_masks, *pixels.shape[:2]) if polygons else objects.gt_masks
            masks = bits.tensor.numpy()
        for box, category, mask in zip(
            objects.gt_boxes.tensor.tolist(), objects.gt_classes.tolist(), masks, strict=True
        ):
            instances.append(Instance(tuple(box), category, names[category], mask))
    return draw_instances(pixels, instances, factor=1)


def main() -> None:
    args = parse_args()
    if args.images < 1:
        raise UserError(f"--images {args.images}: give 1 or more")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: give a whole number from 0 to {2**32 - 1}")
    import cv2
    from detectron2.data import MetadataCatalog
    from detectron2.utils.env import seed_all_rng

    from cropfield.datasets import check_registered
    from cropfield.recipe import detector_config
    from pretrain.engine.lazy_config import build
    from pretrain.errors import printable
    from pretrain.files import replacing
    from pretrain.outputs import open_output, output_path, refuse_occupied

    refuse_occupied(output_path(args.output))
    cfg = detector_config(args.config_file, args.opts)
    cfg.dataloader[args.split].num_workers = 0
    datasets = build(cfg, f"dataloader.{args.split}.dataset.names")
    check_registered(datasets)
    seed_all_rng(args.seed)
    loader = build(cfg, f"dataloader.{args.split}")
    names = MetadataCatalog.get(datasets if isinstance(datasets, str) else datasets[0]).thing_classes
    open_output(args.output)
    for number, fed in enumerate(fed_images(loader, args.images)):
        path = args.output / f"{number:03d}_{Path(fed['file_name']).stem}.png"
        shown = draw(fed, names, cfg.dataloader.train.mapper.image_format)
        with replacing(path) as draft:  # OpenCV's writer kills the interpreter if a name is not UTF-8
            draft.write_bytes(cv2.imencode(".png", shown[..., ::-1])[1])
        objects = len(fed["instances"]) if "instances" in fed else 0
        print(f"{printable(str(path))}: {shown.shape[1]} x {shown.shape[0]} pixels, {objects} objects")


if __name__ == "__main__":
    run_main(main)
