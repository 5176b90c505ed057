"""Look at the position field of any checkpoint: pictures and figures; with a second file, how far the two are apart.

    python projects/Lab/tools/field_stats.py backbone.safetensors --output outputs/field
    python projects/Lab/tools/field_stats.py before.safetensors after.safetensors --output outputs/field

writes field.png and result.json. The picture has a row a field: its three main directions as red, green and blue, then
how alike all positions are to the one at the red dot (cosine; yellow +1, green 0, dark -1). With two fields of equal
width their difference, the first minus the second, follows. The figures stand beside those of two fields of the same
shape: noise, and the sine-cosine field. projects/Lab/lab/figures/field_stats.py says what each one is.
"""

import argparse
from pathlib import Path

from pretrain.errors import run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE", help="an export, a training state, or public ViT weights")
    parser.add_argument("second", nargs="?", metavar="FILE2", help="another, to compare with")
    parser.add_argument("--name", help="what the reader calls the first (default: the file's stem)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args(argv)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Figures by field, a line each, as text."""
    width = max(map(len, rows))
    names = {"neighbour_similarity": "neighbours alike", "median_frequency": "half below cycles/side"}
    names |= {"three_components_percent": "% in 3 components", "mean_percent": "% mean"}
    lines = [f"{'':{width}}  {'   '.join(names.values())}"]
    for name, figures in rows.items():
        cells = [f"{figures[key]:{len(title)}.3g}" for key, title in names.items()]
        lines.append(f"{name:{width}}  {'   '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    from PIL import Image

    from cropfield.results import write_result
    from lab.figures.field_pictures import fields_picture
    from lab.figures.field_stats import compare_fields, field_stats, on_finer_grid, read_field, reference_stats
    from pretrain.files import replacing

    name = args.name or Path(args.file).stem
    fields = {name: read_field(args.file)}
    if args.second:
        second = Path(args.second).stem
        fields[second if second != name else args.second] = read_field(args.second)
    stats = {label: field_stats(field) for label, field in fields.items()}
    comparison = compare_fields(*fields.values()) if args.second else {}
    if "relative_distance" in comparison:
        finer = on_finer_grid(*fields.values())
        fields["difference"] = finer[0] - finer[1]
        stats["difference"] = field_stats(fields["difference"])
    first = fields[name]
    references = reference_stats(tuple(first.shape[:2]), first.shape[2])
    metrics = dict(stats[name])
    beside = references | {key: found for key, found in stats.items() if key == "difference"}
    metrics |= {f"{key}_{kind}": value for kind, found in beside.items() for key, value in found.items()}
    settings = {"file": args.file, "second_file": args.second, "field_size": list(first.shape[:2])}

    pictures = {f"{label}: {f.shape[0]} x {f.shape[1]} cells of {f.shape[2]}": f for label, f in fields.items()}
    with replacing(args.output / "field.png") as draft:
        Image.fromarray(fields_picture(pictures)).save(draft, format="PNG", optimize=True)
    path = write_result(args.output, "field", "none", name, metrics | comparison, settings)
    print(table(stats | references))
    for key, value in comparison.items():
        print(f"{key}: {value:.3f}")
    print(f"{path}, {args.output / 'field.png'}")


if __name__ == "__main__":
    run_main(main)
