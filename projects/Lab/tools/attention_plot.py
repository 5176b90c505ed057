"""Draw results of projects/Lab/tools/attention_stats.py in one plot, like Fig. 5: NMI and mean distance over the layers.

python projects/Lab/tools/attention_plot.py outputs/attention/cropfield outputs/attention/dino --output fig5.png
"""

import argparse
from pathlib import Path

from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="DIR", help="--output of projects/Lab/tools/attention_stats.py"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    from lab.attention.plot import read_layers, write_plot

    results = [read_layers(folder) for folder in args.results]
    sizes = {(result["settings"].get("image_size"), result["settings"].get("source")) for result in results}
    if len({size for size, _ in sizes}) > 1:
        raise UserError(
            "the results are of images of different sizes, whose distances do not compare; measure them alike"
        )
    if len(sizes) > 1:
        print("note: the results are of different images")
    write_plot(args.output, results)
    print(args.output)


if __name__ == "__main__":
    run_main(main)
