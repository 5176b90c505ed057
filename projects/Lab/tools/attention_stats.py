"""How diverse and how wide a trunk's attention is, by layer and head (paper's App. A, Fig. 5).

    python projects/Lab/tools/attention_stats.py --weights backbone.safetensors --images coco/val2017 --limit 100 \\
        --output outputs/attention/cropfield
    python projects/Lab/tools/attention_stats.py --timm vit_base_patch16_224.dino --images coco/val2017 --limit 100 \\
        --output outputs/attention/dino
    python projects/Lab/tools/attention_plot.py outputs/attention/* --output fig5.png

writes result.json (by layer: mean over heads and images), heads.csv (by layer and head) and layers.png.

Normalised mutual information (NMI) of queries and keys: 0 where all queries look alike, 1 where each looks at a key of
its own. Mean attention distance: between patch centres, weighted by attention, in pixels and in percent of the
image's side. Both look at patches only: the class token is left out and the rest renormalised. Memory does not grow
with the number of images.
"""

import argparse
import csv
import resource
import time
from pathlib import Path

from pretrain.errors import run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--weights", metavar="FILE", help="an export, a training state, or public ViT weights")
    model.add_argument("--timm", metavar="NAME", help="a plain ViT of timm, fetched by it")
    parser.add_argument("--timm-random", action="store_true", help="timm's random initial weights, without a download")
    parser.add_argument("--untrained", action="store_true", help="random weights in the shape of --weights")
    parser.add_argument("--num-heads", type=int, metavar="N", help="where --weights does not record them")
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="a folder, a .txt list, a COCO .json or tar shards"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="images at most, spread evenly over the source")
    parser.add_argument("--image-size", type=int, default=480, metavar="PIXELS", help="a side (default: 480)")
    parser.add_argument("--name", help="what the reader calls the model (default: from --weights or --timm)")
    parser.add_argument("--dataset-name", help="what the reader calls the images (default: the last part of --images)")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    if (args.timm_random and not args.timm) or (args.untrained and not args.weights):
        parser.error("--timm-random belongs to --timm, and --untrained to --weights")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit is one image or more")
    return args


def open_model(args: argparse.Namespace):
    """-> name, trunk"""
    from lab.timm_trunks import timm_trunk
    from lab.trunks import build_trunk, open_trunk

    if args.timm:
        name = args.timm + ", untrained" * args.timm_random
        return args.name or name, timm_trunk(args.timm, pretrained=not args.timm_random)
    build = build_trunk if args.untrained else open_trunk
    name = Path(args.weights).stem + ", untrained" * args.untrained
    return args.name or name, build(args.weights, args.num_heads)


def write_heads(path: Path, stats, patch_size: int, image_size: int) -> None:
    """heads.csv: a line for each layer and head, mean and standard deviation over images."""
    from pretrain.files import replacing

    pixels, percent = patch_size, 100 * patch_size / image_size
    with replacing(path) as draft, open(draft, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow("layer head nmi nmi_std distance_pixels distance_pixels_std distance_percent_of_side".split())
        for layer, heads in enumerate(stats.nmi.tolist()):
            for head, nmi in enumerate(heads):
                distance, distance_std = stats.distance[layer, head].item(), stats.distance_std[layer, head].item()
                figures = (nmi, stats.nmi_std[layer, head].item(), distance * pixels, distance_std * pixels)
                writer.writerow([layer + 1, head + 1, *(f"{f:.6g}" for f in (*figures, distance * percent))])


def layer_metrics(stats, patch_size: int, image_size: int) -> dict[str, float]:
    """Means over heads: nmi_layer_01..., distance_layer_01... (pixels), distance_percent_layer_01... (of the side)."""
    metrics = {f"nmi_layer_{i:02d}": v for i, v in enumerate(stats.nmi.mean(1).tolist(), 1)}
    for i, distance in enumerate(stats.distance.mean(1).tolist(), 1):
        metrics[f"distance_layer_{i:02d}"] = distance * patch_size
        metrics[f"distance_percent_layer_{i:02d}"] = 100 * distance * patch_size / image_size
    return metrics


def main() -> None:
    args = parse_args()
    import logging

    from tqdm import tqdm

    from cropfield.results import write_result
    from lab.attention.images import MiddleSquares, check_size
    from lab.attention.plot import read_layers, write_plot
    from lab.attention.stats import attention_stats, uniform_distance
    from pretrain.data.images import open_source
    from pretrain.engine.devices import default_device

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("pretrain").setLevel(logging.INFO)
    squares = MiddleSquares(open_source(args.images), args.image_size, args.limit)
    name, trunk = open_model(args)
    check_size(args.image_size, trunk.patch_size, name)
    trunk = trunk.to(args.device or default_device())
    start = time.perf_counter()
    stats = attention_stats(trunk, tqdm(squares, unit="image"))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    metrics = layer_metrics(stats, trunk.patch_size, args.image_size)
    settings = {"images": stats.num_images, "broken_images": squares.broken, "image_size": args.image_size}
    settings |= {"patch_size": trunk.patch_size, "tokens": "patches only, renormalised", "source": args.images}
    settings |= {"weights": args.weights or args.timm, "untrained": args.untrained or args.timm_random}
    uniform = trunk.patch_size * uniform_distance((args.image_size // trunk.patch_size,) * 2)
    settings |= {"uniform_distance_pixels": round(uniform, 3)}
    settings |= {"seconds": round(seconds, 1), "peak_memory_gib": round(peak, 2)}
    write_heads(args.output / "heads.csv", stats, trunk.patch_size, args.image_size)
    dataset = args.dataset_name or Path(args.images).stem
    path = write_result(args.output, "attention", dataset, name, metrics, settings)
    write_plot(args.output / "layers.png", [read_layers(args.output)])
    for layer in range(1, len(trunk.blocks) + 1):
        distance, percent = metrics[f"distance_layer_{layer:02d}"], metrics[f"distance_percent_layer_{layer:02d}"]
        nmi = metrics[f"nmi_layer_{layer:02d}"]
        print(f"layer {layer:2d}: NMI {nmi:.4f}, distance {distance:6.1f} pixels ({percent:.1f}% of the side)")
    print(
        f"uniform attention: NMI 0, distance {uniform:.1f} pixels ({100 * uniform / args.image_size:.1f}% of the side)"
    )
    print(f"{stats.num_images} images in {seconds:.0f} s, peak memory {peak:.2f} GiB: {path}")


if __name__ == "__main__":
    run_main(main)
