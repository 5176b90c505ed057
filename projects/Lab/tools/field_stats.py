#!/usr/bin/env python3
"""Inspect a checkpoint's position field: pictures and statistics; with a second file, the distance between the two.

    projects/Lab/tools/field_stats.py backbone.safetensors --output outputs/field
    projects/Lab/tools/field_stats.py before.safetensors after.safetensors --output outputs/field

Writes field.png and result.json. The picture has one row for each field: its first three principal components as red,
green and blue, then the similarity of all positions to the one at the red dot (cosine; yellow +1, green 0, dark -1).
For two fields of equal width their difference, first minus second, is added. The statistics are listed next to those of
two reference fields of the same shape: noise, and sine-cosine. See projects/Lab/lab/figures/field_stats.py for
definitions.
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from lab.options import new_parser
from pretrain.errors import run_main

TITLES = {
    "neighbour_similarity": "neighbours alike",
    "median_frequency": "half below cycles/side",
    "three_components_percent": "% in 3 components",
    "mean_percent": "% mean",
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("file", metavar="FILE", help="an export, a training state, or public ViT weights")
    parser.add_argument("second", nargs="?", metavar="FILE2", help="a second file, to compare with")
    parser.add_argument("--name", help="name of the first in results (default: the file's stem)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args(argv)


def main() -> None:
    args = parse_args()
    from cropfield.results import RESULT, write_result
    from lab.commands import write_picture
    from lab.figures.field_pictures import fields_picture
    from lab.figures.field_stats import compare_fields, field_stats, on_finer_grid, read_field, reference_stats
    from pretrain.outputs import open_output

    name, comparison = args.name or Path(args.file).stem, {}
    first = read_field(args.file)
    fields = {name: first}
    if args.second:
        second = Path(args.second).stem
        fields[second if second != name else args.second] = read_field(args.second)
        comparison = compare_fields(*fields.values())
        if "relative_distance" in comparison:
            ours, other = on_finer_grid(*fields.values())
            fields["difference"] = ours - other
    open_output(args.output, [RESULT], written=["field.png"])
    stats = {label: field_stats(field) for label, field in fields.items()}
    references = reference_stats(tuple(first.shape[:2]), first.shape[2])
    beside = references | {key: found for key, found in stats.items() if key == "difference"}
    metrics = stats[name] | {f"{key}_{kind}": value for kind, found in beside.items() for key, value in found.items()}
    settings = {"file": args.file, "second_file": args.second, "field_size": list(first.shape[:2])}
    pictures = {f"{label}: {f.shape[0]} x {f.shape[1]} cells of {f.shape[2]}": f for label, f in fields.items()}
    written = write_picture(args.output / "field.png", fields_picture(pictures))
    path = write_result(args.output, "field", "none", name, metrics | comparison, settings)
    rows = [[label, *(found[key] for key in TITLES)] for label, found in (stats | references).items()]
    print(tabulate(rows, ("", *TITLES.values()), floatfmt=".3g"))
    print(*(f"{key}: {value:.3f}" for key, value in comparison.items()), written, path, sep="\n")


if __name__ == "__main__":
    run_main(main)
