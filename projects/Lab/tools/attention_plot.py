#!/usr/bin/env python3
"""Plot results of attention_stats.py like Fig. 5: NMI and mean distance by layer.

projects/Lab/tools/attention_plot.py outputs/attention/cropfield outputs/attention/dino --output fig5.png
"""

from pathlib import Path

from lab.options import new_parser
from pretrain.errors import UserError, run_main


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="DIR", help="--output of attention_stats.py")
    parser.add_argument("--output", type=Path, required=True, metavar="PNG")
    args = parser.parse_args()
    from lab.attention.plot import read_layers, write_layers_plot
    from pretrain.outputs import refuse_existing

    refuse_existing(args.output)
    results = [read_layers(folder) for folder in args.results]
    sizes = {(result["settings"].get("image_size"), result["settings"].get("source")) for result in results}
    if len({size for size, _ in sizes}) > 1:
        raise UserError("the results are from images of different sizes, so distances are not comparable; use one size")
    if len(sizes) > 1:
        print("note: the results are from different images")
    write_layers_plot(args.output, results)
    print(args.output)


if __name__ == "__main__":
    run_main(main)
