#!/usr/bin/env python3
"""Detection probe for one or more backbones: how well their frozen patch tokens predict objects, in seconds each.

    projects/CropField/tools/probe_detection.py outputs/*/backbone.safetensors --train-json T.json --train-images T/ \\
        --val-json V.json --val-images V/ --output probes.json

Takes exports, training states (their teacher) and public ViT weights. Ridge regression on whole images, see
cropfield/probe.py; deterministic, so a file always gets the same values. The last line is a baseline of colours and
positions alone. docs/monitoring.md explains the metrics.
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from pretrain.engine.arguments import positive
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("backbones", nargs="+", type=Path, metavar="BACKBONE", help="weight files")
    for split in ("train", "val"):
        add(f"--{split}-json", required=True, metavar="FILE", help="COCO-format annotations")
        add(f"--{split}-images", required=True, metavar="DIR")
    add("--output", type=Path, metavar="FILE", help=".json file for the results")
    add("--overwrite", action="store_true", help="replace that file")
    add("--image-size", type=positive, default=256, metavar="PX", help="longer side (default 256)")
    add("--train-limit", type=positive, default=300, metavar="N", help="training images at most (default 300)")
    add("--val-limit", type=positive, default=100, metavar="N", help="validation images at most (default 100)")
    add(
        "--layers",
        type=positive,
        default=1,
        metavar="N",
        help="number of last blocks whose tokens are used (default 1)",
    )
    add("--batch-size", type=positive, default=16, metavar="B", help="images in a forward pass (default 16)")
    add("--num-heads", type=positive, metavar="N", help="only for files that do not record it")
    add("--device", help="default: cuda if available")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    from cropfield.probe import FIGURES, DetectionProbe, backbone_features, positions_and_colours
    from cropfield.probe_images import probe_images
    from pretrain.engine.devices import check_usable, default_device
    from pretrain.files import write_json
    from pretrain.models.weights import open_backbone
    from pretrain.outputs import refuse_existing, refuse_inputs

    args.device = args.device or default_device()
    check_usable(args.device, "--device")
    if args.output and args.output.is_dir():
        raise UserError(f"--output {args.output} is a folder; give a .json file")
    if not args.overwrite:
        refuse_existing(args.output)
    elif args.output:
        refuse_inputs([args.output], [*args.backbones, args.train_json, args.val_json])
    backbones = {path: open_backbone(path, args.num_heads) for path in args.backbones}
    if shallow := next((path for path, found in backbones.items() if len(found.blocks) < args.layers), None):
        raise UserError(f"--layers {args.layers}: {shallow} has {len(backbones[shallow].blocks)}")
    if other := next((path for path, found in backbones.items() if found.in_chans != 3), None):
        raise UserError(f"{other} takes images of {backbones[other].in_chans} bands, and the probe reads RGB")
    files = (args.train_json, args.train_images), (args.val_json, args.val_images)
    limits = args.train_limit, args.val_limit
    probes = {
        patch: DetectionProbe(*probe_images(*files, limits, args.image_size, patch), args.batch_size)
        for patch in sorted({backbone.patch_size for backbone in backbones.values()})
    }
    rows = []

    def measure(name: str, patch: int, features) -> None:
        rows.append({"backbone": name, **probes[patch].measure(features)})

    for path, backbone in backbones.items():
        measure(str(path), backbone.patch_size, backbone_features(backbone.to(args.device), args.layers))
    for patch in probes:
        measure(f"colours and positions (patches of {patch})", patch, positions_and_colours(patch))
    if args.output:
        files = ("backbones", "output", "overwrite")
        settings = {name: value for name, value in vars(args).items() if name not in files}
        write_json(args.output, {"settings": settings, "backbones": rows})
    names = {"backbone": "backbone"} | dict(FIGURES)
    print(tabulate([[row[name] for name in names] for row in rows], [*names.values()], floatfmt=".2f"))


if __name__ == "__main__":
    run_main(main)
