#!/usr/bin/env python3
"""Find metrics that predict the AP cheaply: train detectors on ten backbones or more, and correlate.

    projects/Lab/tools/correlate_figures.py outputs/*/last.pth --train-json T.json --train-images T/ \\
        --val-json V.json --val-images V/ --output outputs/correlation detect.train.max_iter=150

For each backbone a frozen and a fine-tuned detector are trained with the same config and seed. The metrics need no
training: those of the detection probe, and the loss, if the run's metrics.json is in the same folder. Use backbones of
different quality: steps, recipes, seeds, untrained ones. Writes OUTPUT/correlation.md (Spearman's rank correlations
with 95% intervals, all values, and the command), correlation.json and correlation.png.
Finished detectors in OUTPUT are kept, so an interrupted call can be resumed.
"""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from pretrain.errors import UserError, run_main

REPOSITORY = Path(__file__).resolve().parents[3]
FIXED = {"detect.train.seed": "--seed", "detect.train.freeze_backbone": "this tool"}
MODES = {"frozen AP": "train.freeze_backbone=True", "fine-tuned AP": "train.freeze_backbone=False"}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("backbones", nargs="+", metavar="BACKBONE", help="weight files; then overrides, detect.KEY=VALUE")
    for split in ("train", "val"):
        add(f"--{split}-json", required=True, metavar="FILE", help="COCO-format annotations")
        add(f"--{split}-images", required=True, metavar="DIR")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--detector", default="mask_rcnn_cropfield_tiny.py", metavar="FILE", help="config in configs/COCO, or a path")
    add("--seed", type=int, default=1, help="seed of the detectors (default 1)")
    add("--image-size", type=int, default=128, metavar="PX", help="longer side for the probe (default 128)")
    args = parser.parse_intermixed_args(argv)
    args.overrides = [word for word in args.backbones if "=" in word and not os.path.exists(word)]
    args.backbones = [Path(word) for word in args.backbones if word not in args.overrides]
    if not args.backbones:
        parser.error("give weight files of backbones")
    if args.seed < 1:
        parser.error("--seed: give 1 or more; with 0 or less Detectron2 uses a random seed")
    return args


def names_of(backbones: list[Path]) -> dict[str, Path]:
    """Name each file after its folder, or folder and stem if the folder has several."""
    folders = [path.resolve().parent.name for path in backbones]
    names = [
        folder if folders.count(folder) == 1 else f"{folder}-{path.stem}"
        for folder, path in zip(folders, backbones, strict=True)
    ]
    names = [re.sub(r"\W", "-", name) for name in names]
    if again := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two backbones would be called {again}; use different folders or file names")
    return dict(zip(names, backbones, strict=True))


def last_loss(backbone: Path) -> float | None:
    """The last loss of the run that `backbone` is the state of; None for other files, and without metrics.json."""
    from lab.report.run_files import read_metrics
    from pretrain.engine.checkpoint import LAST

    entries = read_metrics(backbone.parent / "metrics.json") if backbone.name == LAST else []
    return next((entry["total_loss"] for entry in reversed(entries) if "total_loss" in entry), None)


def main() -> None:
    args = parse_args()
    named = names_of(args.backbones)
    from cropfield.commands import Commands, override
    from cropfield.halves import split_overrides
    from cropfield.probe import PROBE_LIMITS, DetectionProbe, backbone_features
    from cropfield.probe_images import probe_images
    from cropfield.stages import Chain, read_result
    from lab.correlation import plot, table
    from pretrain.files import write_json, write_text
    from pretrain.models.weights import open_backbone

    output, (_, overrides) = args.output.resolve(), split_overrides(args.overrides, FIXED)
    backbones = {name: open_backbone(path) for name, path in named.items()}
    patches = {backbone.patch_size for backbone in backbones.values()}
    if len(patches) > 1:
        raise UserError(f"backbones have patches of {sorted(patches)} pixels; their detectors cannot share a config")
    dataset = {name: getattr(args, name) for name in ("train_json", "train_images", "val_json", "val_images")}
    splits = (args.train_json, args.train_images), (args.val_json, args.val_images)
    images = probe_images(*splits, PROBE_LIMITS, args.image_size, patches.pop())

    def stage(name: str, ap: str):
        changes = override("train.init_checkpoint", named[name].resolve()), MODES[ap], f"train.seed={args.seed}"
        folder = output / f"{name}_{ap.split()[0]}"
        return Commands(REPOSITORY).detect(args.detector, dataset, folder, *changes, *overrides)

    chain = Chain(output, "correlation.*")
    chain.plan([stage(name, ap) for name in named for ap in MODES])
    chain.open()
    probe, rows = DetectionProbe(*images), []
    for name, backbone in backbones.items():
        metrics = probe.measure(backbone_features(backbone))
        rows.append({"backbone": name, **metrics, "loss": last_loss(named[name])})
        for ap in MODES:
            detector = stage(name, ap)
            chain.run(detector)
            rows[-1][ap] = read_result(output / detector.name / "result.json", "bbox", "AP") or 0.0
    figures = [name for name in rows[0] if name not in ("backbone", *MODES)]
    command = shlex.join(["projects/Lab/tools/correlate_figures.py", *sys.argv[1:]])
    text = f"{table(rows, figures, [*MODES])}\n\n```\n{command}\n```\n"
    write_text(output / "correlation.md", text)
    write_json(output / "correlation.json", rows)
    plot(rows, figures, [*MODES], output / "correlation.png")
    print(text)


if __name__ == "__main__":
    run_main(main)
