#!/usr/bin/env python3
"""Export a detector, or its backbone, to ONNX and verify it with onnxruntime.

    projects/CropField/tools/export_onnx.py --config-file configs/COCO/mask_rcnn_cropfield_vits_12ep.py \\
        --weights backbone.safetensors -o vits16.onnx --image-size 1024x1024

Input `images`: (B, C, H, W) float32, normalised as in the config, any B. Output: the backbone's feature map (B, D,
H/p, W/p), or with --pyramid each map of the pyramid by name. H and W are fixed, because the sampled position field is
stored as a constant.

With --detector, a whole R-CNN: from `image`, (3, h, w) float32 with values 0 to 255 in the config's channel order,
resized as in the config, of any size up to square_pad, to `boxes` (N, 4) as x0, y0, x1, y1 in that image, `scores`,
`classes` and `masks` (N, 1, 28, 28), each relative to its box. Needs `pip install onnx onnxscript onnxruntime`.
"""

import argparse
import importlib.util
from pathlib import Path

from pretrain.engine.arguments import height_by_width
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True, help="a backbone file, or a detector's checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument(
        "--image-size", type=height_by_width, default=(1024, 1024), metavar="HxW", help="pixels (default 1024x1024)"
    )
    parser.add_argument("--pyramid", action="store_true", help="include the simple feature pyramid")
    parser.add_argument("--detector", action="store_true", help="the whole detector, for images of any size")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def check_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX export needs {', '.join(missing)}: pip install {' '.join(missing)}")


def main() -> None:
    args = parse_args()
    check_packages()
    height, width = args.image_size
    from cropfield.onnx_export import Detections, Maps, bands_of, write_detector, write_onnx
    from cropfield.recipe import build_detector, detector_config
    from cropfield.weights import load_weights
    from pretrain.outputs import refuse_existing

    refuse_existing(args.output)
    detector = build_detector(detector_config(args.config_file, args.opts))
    load_weights(detector, args.weights, whole=args.detector)
    if args.detector:
        difference = write_detector(Detections(detector).eval(), args.output)
        print(f"{args.output}: the detector; onnxruntime differs by at most {difference:.1e} of the largest value")
        return
    backbone = detector.backbone if args.pyramid else detector.backbone.net
    divisor = backbone.size_divisibility
    if height % divisor or width % divisor:
        raise UserError(f"--image-size {height}x{width}: both sides must be multiples of {divisor} pixels")
    model = Maps(backbone)
    difference = write_onnx(model, height, width, args.output)
    shape = f"(B, {bands_of(backbone)}, {height}, {width})"
    print(
        f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB, images {shape} -> "
        f"{', '.join(model.names)}; onnxruntime differs by at most {difference:.1e} of the largest feature"
    )


if __name__ == "__main__":
    run_main(main)
