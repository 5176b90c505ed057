#!/usr/bin/env python3
"""How the predictor of I-JEPA or StoP runs uses positions (StoP's Figs. 5 and 6), runs side by side.

    projects/Lab/tools/predictor_maps.py outputs/ijepa outputs/stop --output outputs/predictors
    projects/Lab/tools/predictor_maps.py outputs/ijepa outputs/stop --output outputs/predictors \\
        --images cat.jpg street.jpg --points 0.4,0.3 0.5,0.8

A run is the output folder of a pretraining: its last.pth contains the predictor, which an exported backbone does not.
Writes

- positions.png: similarity of a position, with training's noise, to all positions (Fig. 5);
- predictions.png, with --images: similarity of the prediction for a hidden patch to the teacher's features of every
  patch of the image (Fig. 6). Points are as in projects/Lab/tools/attention_maps.py;
- result.json, for each run: `cosine` between a position with and without noise; `displacement`, the distance in
  patches from a position to the one most similar to its noisy version, both averaged; `nearness`, how well distance
  explains the maps of Fig. 6 (a correlation; 1 is distance alone).
"""

import argparse
from pathlib import Path

from lab.attention.points import check_points, point
from lab.options import new_parser
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="output folders of pretraining runs")
    add("--names", nargs="+", metavar="NAME", help="names of the runs (default: their folders)")
    add("--images", nargs="+", default=[], type=Path, metavar="FILE")
    add("--points", nargs="+", default=[], type=point, metavar="X,Y", help="positions of the hidden patches")
    add("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    add("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    args.names = args.names or [run.resolve().name for run in args.runs]
    if len(args.names) != len(args.runs) or len(set(args.names)) < len(args.names):
        parser.error(
            f"{len(args.runs)} runs are called {', '.join(args.names)}; give --names, a different one for each"
        )
    check_points(parser, args.images, args.points)
    return args


def open_runs(args: argparse.Namespace) -> dict:
    """Trained methods, each a JEPA, by run name, all with the same grid."""
    from lab.finished_runs import trained_method
    from stop.jepa import JEPA

    methods = dict(zip(args.names, map(trained_method, args.runs), strict=True))
    for run, method in zip(args.runs, methods.values(), strict=True):
        if not isinstance(method, JEPA):
            raise UserError(f"{run}: a run of {type(method).__name__} has no predictor; give one of I-JEPA or StoP")
    grids = {(method.predictor.field_size, method.student["backbone"].patch_size) for method in methods.values()}
    if len(grids) > 1:
        raise UserError(f"the runs have predictors of different grids or patches, {sorted(grids)}; compare like runs")
    return methods


def main() -> None:
    args = parse_args()
    import torch

    from cropfield.results import RESULT, write_result
    from lab.attention.images import load_points
    from lab.commands import write_picture
    from lab.figures.feature_pictures import normalised
    from lab.figures.predictor_pictures import positions_picture, predictions_picture
    from lab.figures.predictor_stats import nearness, noise_of_positions, prediction_similarity
    from pretrain.outputs import open_output

    methods = open_runs(args)
    first = next(iter(methods.values()))
    patch = first.student["backbone"].patch_size
    marked_images = load_points(args.images, args.points, min(first.predictor.field_size) * patch)
    open_output(args.output, [RESULT], written=["positions.png", "predictions.png"])
    torch.manual_seed(args.seed)
    pictures = {"positions.png": positions_picture({name: method.predictor for name, method in methods.items()})}
    cosines = {  # one draw of the noise
        name: [prediction_similarity(method, normalised(image, patch), at) for image, at in marked_images]
        for name, method in methods.items()
    }
    if marked_images:
        pictures["predictions.png"] = predictions_picture(marked_images, cosines)
    metrics = {}
    for name, method in methods.items():
        metrics |= {f"{what}_{name}": value for what, value in noise_of_positions(method.predictor).items()}
        if marked_images:
            found = [nearness(values, at) for values, (_, at) in zip(cosines[name], marked_images, strict=True)]
            metrics[f"nearness_{name}"] = sum(found) / len(found)
    written = [write_picture(args.output / name, picture) for name, picture in pictures.items()]
    settings = {"runs": [str(run) for run in args.runs], "queries": len(marked_images), "seed": args.seed}
    path = write_result(args.output, "predictor", "none", ", ".join(methods), metrics, settings)
    print(*(f"{name}: {value:.3f}" for name, value in metrics.items()), *written, path, sep="\n")


if __name__ == "__main__":
    run_main(main)
