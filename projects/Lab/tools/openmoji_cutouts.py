#!/usr/bin/env python3
"""Cut-outs for tools/compose_coco.py from OpenMoji's pictographs: RGBA files, a folder for each category.

    npm pack openmoji && tar xzf openmoji-*.tgz && pip install resvg-py
    projects/Lab/tools/openmoji_cutouts.py package --output outputs/openmoji
    tools/compose_coco.py --preset objects --cutouts outputs/openmoji/all --output outputs/objects \\
        --unlabeled 50000
    tools/compose_coco.py --preset scenes --cutouts outputs/openmoji/detection --output outputs/scenes

Writes OUTPUT/detection, twelve categories of objects, and OUTPUT/all, which has them and every other group of solid
pictographs, without flags, signs, symbols and skin tone variants. OpenMoji's pictures are under CC BY-SA 4.0:
if you redistribute pictures made from them, credit OpenMoji and keep that licence.
"""

import json
import shutil
from collections import defaultdict
from pathlib import Path

from lab.options import new_parser
from pretrain.engine.arguments import positive
from pretrain.errors import UserError, run_main

DETECTED = (
    "animal-bird animal-bug animal-mammal animal-marine clothing food-fruit food-prepared food-vegetable household "
    "place-building tool transport-ground"
).split()
LEFT_OUT = ("flags", "symbols", "component", "extras-unicode", "extras-openmoji")
FEWEST = 4  # smallest group used


def read_groups(package: Path) -> dict[str, list[str]]:
    """Code points of the pictographs of each group ("animal-bird"), in OpenMoji's order.

    Raises:
        UserError: `package` is not OpenMoji's.
    """
    path, groups = package / "data" / "openmoji.json", defaultdict(list)
    try:
        entries = json.loads(path.read_text())
        for entry in entries:
            if entry["group"] not in LEFT_OUT and not entry["skintone"]:
                groups[entry["subgroups"]].append(entry["hexcode"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not OpenMoji's list ({error}); give the unpacked npm package openmoji") from error
    groups = {name: codes for name, codes in groups.items() if len(codes) >= FEWEST}
    if absent := sorted(set(DETECTED) - set(groups)):
        raise UserError(f"{path} has no group {absent[0]!r}; give a whole OpenMoji package, such as 17.0")
    return groups


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("package", type=Path, metavar="DIR", help="the unpacked package: data/, color/svg/")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--side", type=positive, default=192, metavar="PX", help="longer side of the pictures (default: 192)"
    )
    args = parser.parse_args()
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise UserError("drawing SVG files needs resvg-py: pip install resvg-py") from None
    groups = read_groups(args.package)
    from pretrain.outputs import open_output

    output = open_output(args.output, written=("all", "detection"))
    for name, codes in groups.items():
        folder = output / "all" / name
        folder.mkdir(parents=True, exist_ok=True)
        for code in codes:
            svg = args.package / "color" / "svg" / f"{code}.svg"
            (folder / f"{code}.png").write_bytes(svg_to_bytes(svg_path=str(svg), width=args.side))
        if name in DETECTED:
            shutil.copytree(folder, output / "detection" / name, dirs_exist_ok=True)
    print(
        f"{output}: {sum(map(len, groups.values()))} cut-outs of {len(groups)} groups, {len(DETECTED)} to be detected"
    )


if __name__ == "__main__":
    run_main(main)
