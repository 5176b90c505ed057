#!/usr/bin/env python3
"""Parameters, multiply-adds and activations of each part of a detector, for one image.

    projects/CropField/tools/analyze_model.py --config-file configs/COCO/mask_rcnn_cropfield_vits_12ep.py \\
        --image-size 1024x1024

Counted by fvcore on a random image; a multiply-add counts once, as in the papers. Attention counts its two products of
N x N tokens. The cost of the ROI heads depends on how many regions the random weights propose.
"""

import argparse
import warnings

from tabulate import tabulate

from pretrain.engine.arguments import height_by_width
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--image-size", type=height_by_width, metavar="HxW", help="default: the config's, or 1024x1024")
    parser.add_argument("--weights", help="a checkpoint; random weights if omitted")
    parser.add_argument("--depth", type=int, default=2, help="levels of modules to show (default 2)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def attention_flops(inputs: list, outputs: list) -> int:
    """Scaled dot-product attention of (..., N, d) queries and (..., M, d) keys: N x M x d for each of its two
    products.
    """
    from fvcore.nn.jit_handles import get_shape

    queries, keys = get_shape(inputs[0]), get_shape(inputs[1])
    count = 2 * queries[-1] * queries[-2] * keys[-2]
    for leading in queries[:-2]:
        count *= leading
    return count


def analyze(model, height: int, width: int) -> dict[str, tuple[int, float, float]]:
    """{module name: (parameters, multiply-adds, activations)}; "" is the whole model."""
    import torch
    from detectron2.export import TracingAdapter
    from detectron2.utils.analysis import FlopCountAnalysis
    from fvcore.nn import ActivationCountAnalysis

    bands = getattr(getattr(model.backbone, "net", model.backbone), "in_chans", 3)
    image = torch.randint(0, 256, (bands, height, width), dtype=torch.uint8)
    inputs = [{"image": image, "height": height, "width": width}]
    flops = FlopCountAnalysis(model, inputs).set_op_handle("aten::scaled_dot_product_attention", attention_flops)
    adapter = TracingAdapter(model, inputs, allow_non_tensor=True)
    activations = ActivationCountAnalysis(adapter, adapter.flattened_inputs)
    for count in (flops, activations):
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    by_module = flops.by_module(), activations.by_module()
    parameters = {n: sum(p.numel() for p in module.parameters()) for n, module in model.named_modules()}
    wrapped = {name: f"model.{name}" if name else "" for name in parameters}
    return {n: (parameters[n], by_module[0][w], by_module[1][w]) for n, w in wrapped.items() if parameters[n] or not n}


def main() -> None:
    args = parse_args()
    from cropfield.recipe import build_detector, detector_config
    from cropfield.weights import load_weights

    warnings.filterwarnings("ignore")  # torch's tracer emits dozens
    cfg = detector_config(args.config_file, args.opts)
    cfg.train.device = "cpu"
    model = build_detector(cfg)
    square = model.backbone.padding_constraints.get("square_size", 0)
    height, width = args.image_size or (square or 1024,) * 2
    if square and (height, width) != (square, square):
        raise UserError(
            f"--image-size {height}x{width}: this detector makes every image {square} x {square} pixels; "
            "set dataloader.image_size, or model.backbone.square_pad=0"
        )
    if args.weights:
        load_weights(model, args.weights)
    counts = analyze(model, height, width)
    rows = [
        (
            "  " * name.count(".") + name.rpartition(".")[2] or "all",
            f"{p / 1e6:.2f}",
            f"{f / 1e9:.2f}",
            f"{a / 1e6:.1f}",
        )
        for name, (p, f, a) in counts.items()
        if not name or name.count(".") < args.depth
    ]
    print(
        tabulate(
            rows, ("part", "parameters, M", "multiply-adds, G", "activations, M"), colalign=("left",) + ("right",) * 3
        )
    )


if __name__ == "__main__":
    run_main(main)
