#!/usr/bin/env python3
"""Export a detector's backbone as an ONNX model and check it in onnxruntime.

    projects/CropField/tools/export_onnx.py --config-file configs/COCO/mask_rcnn_cropfield_vits_12ep.py \
        --weights backbone.safetensors -o vits16.onnx --image-size 1024x1024

Input `images`: (B, 3, H, W) float32 RGB, normalised as the config says; any B. Output: the backbone's feature map
(B, D, H/p, W/p), or with --pyramid the maps of the whole backbone, each under its name. The size is fixed: the position
field is sampled for it and lies in the file as a constant. Needs `pip install onnx onnxscript onnxruntime`.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import warnings
from pathlib import Path

import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from cropfield.weights import load_weights
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError, run_main
from pretrain.files import replacing
from pretrain.outputs import refuse_inputs

TOLERANCE = 1e-3  # of the largest feature: float32 sums in another order


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True, help="a backbone file, or a detector's checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--image-size", default="1024x1024", metavar="HxW", help="pixels (default 1024x1024)")
    parser.add_argument("--pyramid", action="store_true", help="the backbone with its pyramid, not only the backbone")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


class Maps(nn.Module):
    """A backbone whose feature maps are a tuple, in the order of `names`."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone, self.names = backbone, list(backbone.output_shape())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(images)
        return tuple(features[name] for name in self.names)


def check_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX export needs {', '.join(missing)}: pip install {' '.join(missing)}")


def write_onnx(model: Maps, height: int, width: int, path: Path) -> float:
    """Export, check in onnxruntime, and write `path`; returns the largest difference, relative to the largest feature.

    Raises:
        UserError: onnxruntime's features are others, or the file cannot be written.
    """
    images = torch.randn(2, 3, height, width)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's, about itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        dynamic = {"images": {0: torch.export.Dim("batch")}}
        program = torch.onnx.export(
            model, (images,), dynamo=True, input_names=["images"], output_names=model.names, dynamic_shapes=dynamic
        )
    with replacing(path) as draft:
        program.save(str(draft), external_data=False)
        difference = max(compare(model, draft, images[:count]) for count in (1, 2))
        if not difference < TOLERANCE:
            raise UserError(f"{path}: onnxruntime's features differ by {difference:.1e}; try other package versions")
    return difference


@torch.no_grad()
def compare(model: Maps, path: Path, images: Tensor) -> float:
    """Largest difference between torch's and onnxruntime's maps, relative to the largest feature."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(model.names, {"images": images.numpy()})
    return max(
        float((ours - torch.from_numpy(other)).abs().max() / ours.abs().max())
        for ours, other in zip(model(images), theirs, strict=True)
    )


def main() -> None:
    args = parse_args()
    refuse_inputs([args.output], [args.weights])
    check_packages()
    try:
        height, width = (int(side) for side in args.image_size.lower().split("x"))
    except ValueError:
        raise UserError(f"--image-size {args.image_size}: write HEIGHTxWIDTH in pixels, such as 800x1024") from None
    detector = instantiate(load_config(args.config_file, args.opts).model).eval()
    load_weights(detector, args.weights)
    backbone = detector.backbone if args.pyramid else detector.backbone.net
    divisor = backbone.size_divisibility
    if height % divisor or width % divisor:
        raise UserError(f"--image-size {args.image_size}: both sides must be multiples of {divisor} pixels")
    model = Maps(backbone)
    difference = write_onnx(model, height, width, args.output)
    print(
        f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB, images (B, 3, {height}, {width}) -> "
        f"{', '.join(model.names)}; onnxruntime differs by at most {difference:.1e} of the largest feature"
    )


if __name__ == "__main__":
    run_main(main)
