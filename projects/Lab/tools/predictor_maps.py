"""What the predictor of an I-JEPA or StoP run makes of places (StoP's Figs. 5 and 6), runs side by side.

    python projects/Lab/tools/predictor_maps.py outputs/ijepa outputs/stop --output outputs/predictors
    python projects/Lab/tools/predictor_maps.py outputs/ijepa outputs/stop --output outputs/predictors \\
        --images cat.jpg street.jpg --points 0.4,0.3 0.5,0.8

A run is the folder of a pretraining: its last.pth holds the predictor, which an exported backbone does not. Writes

- positions.png: how alike a position, with the noise that training adds to it, is to all positions (Fig. 5);
- predictions.png, with --images: how alike what is predicted for a hidden patch is to what the teacher makes of every
  patch of the image (Fig. 6). Points are as in projects/Lab/tools/attention_maps.py;
- result.json, for each run: `cosine` of a position with noise and the same without; `displacement`, how many patches
  away the position lies that is most like a noisy one, both in the mean; `nearness`, how much the maps of Fig. 6 fall
  off with distance (a correlation; 1 is distance alone).
"""

import argparse
from pathlib import Path

from lab.attention.points import check_queries, load_queries, point
from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folders of pretraining runs")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the runs (default: their folders')")
    parser.add_argument("--images", nargs="+", default=[], type=Path, metavar="FILE")
    parser.add_argument("--points", nargs="+", default=[], type=point, metavar="X,Y", help="of the hidden patches")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    args.names = args.names or [run.resolve().name for run in args.runs]
    if len(args.names) != len(args.runs) or len(set(args.names)) < len(args.names):
        parser.error(f"{len(args.runs)} runs are called {', '.join(args.names)}; give --names, one of its own for each")
    check_queries(parser, args.images, args.points)
    return args


def open_runs(args: argparse.Namespace) -> dict:
    """Trained methods by the runs' names, all of one grid."""
    from lab.finished_runs import trained_method
    from stop.jepa import JEPA

    methods = dict(zip(args.names, map(trained_method, args.runs), strict=True))
    for run, method in zip(args.runs, methods.values(), strict=True):
        if not isinstance(method, JEPA):
            raise UserError(f"{run}: a run of {type(method).__name__} has no predictor; give one of I-JEPA or StoP")
    grids = {(method.predictor.field_size, method.student["trunk"].patch_size) for method in methods.values()}
    if len(grids) > 1:
        raise UserError(f"the runs have predictors of different grids or patches, {sorted(grids)}; compare like runs")
    return methods


def similarities(method, queries: list) -> list:
    """`prediction_similarity` of each query, one draw of the noise."""
    from lab.figures.feature_pictures import normalised
    from lab.figures.predictor_stats import prediction_similarity

    patch_size = method.student["trunk"].patch_size
    return [prediction_similarity(method, normalised(image, patch_size), at) for image, at in queries]


def main() -> None:
    args = parse_args()
    import torch
    from PIL import Image

    from cropfield.results import write_result
    from lab.figures.predictor_pictures import positions_picture, predictions_picture
    from lab.figures.predictor_stats import nearness, noise_of_positions
    from pretrain.files import replacing

    methods = open_runs(args)
    first = next(iter(methods.values()))
    size = min(first.predictor.field_size) * first.student["trunk"].patch_size
    queries = load_queries(args.images, args.points, size)
    torch.manual_seed(args.seed)
    pictures = {"positions.png": positions_picture({name: method.predictor for name, method in methods.items()})}
    cosines = {name: similarities(method, queries) for name, method in methods.items()}
    if queries:
        pictures["predictions.png"] = predictions_picture(queries, cosines)
    metrics = {}
    for name, method in methods.items():
        metrics |= {f"{what}_{name}": value for what, value in noise_of_positions(method.predictor).items()}
        if queries:
            found = [nearness(values, at) for values, (_, at) in zip(cosines[name], queries, strict=True)]
            metrics[f"nearness_{name}"] = sum(found) / len(found)
    for name, picture in pictures.items():
        with replacing(args.output / name) as draft:
            Image.fromarray(picture).save(draft, format="PNG", optimize=True)
    settings = {"runs": [str(run) for run in args.runs], "queries": len(queries), "seed": args.seed}
    path = write_result(args.output, "predictor", "none", ", ".join(methods), metrics, settings)
    for name, value in metrics.items():
        print(f"{name}: {value:.3f}")
    print(", ".join(str(args.output / name) for name in pictures) + f", {path}")


if __name__ == "__main__":
    run_main(main)
