#!/usr/bin/env python3
"""Compare pretraining recipes by the detectors trained from them, over several seeds, in one command.

    tools/compare_pretraining.py --configs both.py neither.py --seeds 3 --images DIR \\
        --train-json TRAIN.json --train-images DIR --val-json VAL.json --val-images DIR --output DIR

For each config and seed: pretrain, then train detectors on the pretrained backbone and on its untrained twin (the same
initial weights without pretraining), with the backbone frozen and fine-tuned, with all labels and optionally with fewer
(--labels 0.1 1). The detection probe is measured on both backbones. For each seed a detector is also trained from
scratch, that is from its own default weights. Writes OUTPUT/comparison.md, with means and 95% intervals, differences
paired by seed, and a verdict for each task that orders configs only if the difference is significant; and
OUTPUT/comparison.png. From four backbones on, the rank correlation of each of the probe's metrics with the AP follows
(correlation.png), and with --probe-period its course during pretraining (probe_curves.png).

Finished stages in OUTPUT are skipped and interrupted ones resumed, so run the same command again after an interruption.
To add seeds, run it with a larger --seeds. Prefix each override with the config it is for, pretrain.KEY=VALUE or
detect.KEY=VALUE, and apply to all configs.
"""

import argparse
import functools
import itertools
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pretrain.errors import UserError, run_main
from pretrain.progress import say_starting

REPOSITORY = Path(__file__).resolve().parents[1]
FINE_TUNED = "fine-tuned"
DETECTORS = {"frozen": "train.freeze_backbone=True", FINE_TUNED: "train.freeze_backbone=False"}
MODES = (*DETECTORS, "probe")
FIXED = {"pretrain.train.seed": "--seeds", "detect.train.seed": "--seeds", "detect.train.freeze_backbone": "--modes"}
DATASET = {name: f"--{name.replace('_', '-')}" for name in ("train_json", "train_images", "val_json", "val_images")}
PROBE = {"period": "--probe-period", "image_size": "detect.dataloader.image_size", **DATASET}
FIXED |= {f"pretrain.train.detection_probe.{name}": given for name, given in PROBE.items()}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--configs",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="pretraining configs, named by their stems",
    )
    add("--images", type=Path, required=True, metavar="DIR", help="unlabeled images, any sub-folders")
    for split, use in (("train", "to train detectors on"), ("val", "to measure AP on")):
        add(f"--{split}-json", required=True, metavar="FILE", help=f"COCO-format annotations {use}")
        add(f"--{split}-images", required=True, metavar="DIR", help="folder of their images")
    add("--output", type=Path, required=True, metavar="DIR")
    add(
        "--detector",
        type=Path,
        default="mask_rcnn_cropfield_tiny.py",
        metavar="FILE",
        help="of configs/COCO, or a path",
    )
    add("--seeds", type=int, default=3, metavar="N", help="seeds 1 to N, of pretraining and detectors (default: 3)")
    add("--modes", nargs="+", choices=MODES, default=list(MODES), help="what to measure (default: all three)")
    add(
        "--labels",
        type=float,
        nargs="+",
        default=[1.0],
        metavar="SHARE",
        help="fractions of the training images (default: 1)",
    )
    add(
        "--probe-period",
        type=int,
        default=0,
        metavar="STEPS",
        help="also probe every STEPS steps of pretraining (default: 0, never)",
    )
    add(
        "--jobs", type=int, default=1, metavar="N", help="parallel stages, each with a part of the cores or its own GPU"
    )
    add("overrides", nargs="*", metavar="key=value", help="pretrain.KEY=VALUE or detect.KEY=VALUE")
    # Behind an option that takes several values they would be some of these.
    given = sys.argv[1:] if argv is None else argv
    overrides = [word for word in given if re.match(r"(pretrain|detect)\.[\w.]+=", word)]
    args = parser.parse_intermixed_args([word for word in given if word not in overrides])
    args.overrides += overrides
    args.modes, args.labels = list(dict.fromkeys(args.modes)), list(dict.fromkeys(args.labels))
    return args


def check_args(args: argparse.Namespace) -> None:
    """Raise UserError for what can be refused without reading a config or dataset."""
    names = [config.stem for config in args.configs]
    if len(set(names)) < len(names):
        raise UserError(f"--configs: two are called {max(names, key=names.count)!r}; rename one of the files")
    for name, value in (("--seeds", args.seeds), ("--jobs", args.jobs)):
        if value < 1:
            raise UserError(f"{name} {value}: give 1 or more")
    if args.probe_period < 0:
        raise UserError(f"--probe-period {args.probe_period}: give a number of steps, or 0 for none")
    if wrong := [share for share in args.labels if not 0 < share <= 1]:
        raise UserError(f"--labels {wrong[0]:g}: give fractions of the training images, above 0 and at most 1")


def task_name(mode: str, share: float) -> str:
    return f"{mode}, {100 * share:g}% of labels" if share < 1 else mode


class Comparison:
    """The stages of a comparison, all in folders of `output`."""

    def __init__(self, args: argparse.Namespace):
        from cropfield.commands import Commands
        from cropfield.halves import split_overrides

        self.args, self.output = args, args.output.resolve()
        self.commands = Commands(REPOSITORY)
        self.detector_config = args.detector.resolve() if args.detector.is_file() else args.detector
        self.for_pretrain, self.for_detect = split_overrides(args.overrides, FIXED)
        self.dataset = {name: getattr(args, name) for name in DATASET}
        self.seeds = range(1, args.seeds + 1)
        self.runs = [(config, seed) for seed in self.seeds for config in args.configs]

    def train_json(self, share: float) -> Path:
        return Path(self.args.train_json) if share == 1 else self.output / f"train_{share:g}.json"

    def run_folder(self, config: Path, seed: int) -> Path:
        return self.output / f"{config.stem}_seed{seed}"

    def pretraining(self, config: Path, seed: int):
        images, folder = self.args.images.resolve(), self.run_folder(config, seed)
        overrides = (f"train.seed={seed}", *self.online_probe(), *self.for_pretrain)
        return self.commands.pretrain(config.resolve(), images, folder, *overrides)

    def online_probe(self) -> Iterator[str]:
        """Overrides that let a pretraining probe itself, with --probe-period."""
        from cropfield.commands import override

        if self.args.probe_period:
            own = "train.detection_probe"
            yield from (f"{own}.period={self.args.probe_period}", f"{own}.image_size={self.image_size}")
            yield from (override(f"{own}.{name}", path) for name, path in self.dataset.items())

    def starts(self, config: Path, seed: int) -> tuple[tuple[str, Path], ...]:
        """(name, weights) of the pretrained backbone, and of its untrained twin."""
        from lab.ablation import PRETRAINED, UNTRAINED
        from pretrain.engine.checkpoint import INITIAL, LAST

        run = self.run_folder(config, seed)
        return (PRETRAINED, run / LAST), (UNTRAINED, run / INITIAL)

    def detectors(self, config: Path, seed: int) -> Iterator[tuple[str, str, Path, object]]:
        """(start, task, output folder, stage) of each detector."""
        starts, name = self.starts(config, seed), self.run_folder(config, seed).name
        modes = [mode for mode in self.args.modes if mode in DETECTORS]
        for share, mode, (start, weights) in itertools.product(self.args.labels, modes, starts):
            yield start, *self.detector(f"{name}_{start}", weights, mode, share, seed)

    def scratch_detectors(self, seed: int) -> Iterator[tuple[str, str, Path, object]]:
        """The same of detectors from scratch, which no pretraining is part of."""
        from lab.ablation import SCRATCH

        for share in self.args.labels if FINE_TUNED in self.args.modes else ():
            yield SCRATCH, *self.detector(f"scratch_seed{seed}", "", FINE_TUNED, share, seed)

    def detector(self, name: str, weights: Path | str, mode: str, share: float, seed: int) -> tuple[str, Path, object]:
        """(task, output folder, stage) of a detector. weights: "" for none."""
        from cropfield.commands import override

        folder = self.output / f"{name}_{mode}_{share:g}"
        dataset = self.dataset | {"train_json": self.train_json(share)}
        changes = (override("train.init_checkpoint", weights), DETECTORS[mode], f"train.seed={seed}")
        stage = self.commands.detect(self.detector_config, dataset, folder, *changes, *self.for_detect)
        if share < 1:  # the subset is made from the whole file
            stage = replace(stage, inputs=(*stage.inputs, Path(self.args.train_json)))
        return task_name(mode, share), folder, stage

    def probe(self, config: Path, seed: int) -> tuple[Path, object]:
        """(output file, stage) of the detection probe of both starts, at the detector's image size."""
        run = self.run_folder(config, seed)
        file, weights = run.with_name(f"{run.name}_probe.json"), (path for _, path in self.starts(config, seed))
        return file, self.commands.probe(weights, self.dataset, file, self.image_size)

    @functools.cached_property
    def detector_settings(self):
        """The detector's config."""
        from cropfield.forms import Detection
        from cropfield.halves import naming_half
        from pretrain.engine.lazy_config import load_config

        config = self.commands.repository / "configs" / "COCO" / self.detector_config
        with naming_half("detect", Detection):
            return load_config(config, self.for_detect, Detection)

    @property
    def image_size(self) -> int:
        return self.detector_settings.dataloader.image_size

    def check_probe(self) -> None:
        """Raise UserError if the detection probe would refuse the dataset."""
        from cropfield.probe import PROBE_LIMITS
        from cropfield.probe_images import probe_images

        backbone, given = self.detector_settings.model.backbone, self.dataset
        net = backbone.get("net", backbone)
        if net.get("in_chans", 3) != 3:
            raise UserError(f"the detection probe reads RGB, not {net.in_chans} bands: leave probe out of --modes")
        splits = ((str(given[f"{split}_json"]), str(given[f"{split}_images"])) for split in ("train", "val"))
        probe_images(*splits, PROBE_LIMITS, self.image_size, net.patch_size)

    def waves(self) -> Iterator[tuple]:
        """Stages in the order in which they run, all pretrainings first; those in a tuple run in parallel."""
        yield from self.together(self.pretraining(*run) for run in self.runs)
        detectors = [*(self.detectors(*run) for run in self.runs), *map(self.scratch_detectors, self.seeds)]
        probes = [self.probe(*run)[1] for run in self.runs if "probe" in self.args.modes]
        yield from self.together([*(stage for *_, stage in itertools.chain(*detectors)), *probes])

    def together(self, stages) -> Iterator[tuple]:
        """Groups of `jobs` stages, each with a part of the cores, and its own GPU if there are several."""
        import torch

        stages, jobs, gpus = list(stages), self.args.jobs, torch.cuda.device_count()
        cores = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
        for first in range(0, len(stages), jobs):
            wave = enumerate(stages[first : first + jobs])
            gpu = [{"CUDA_VISIBLE_DEVICES": str(place % gpus)} if gpus > 1 else {} for place in range(jobs)]
            yield tuple(replace(stage, environment=stage.environment | cores | gpu[place]) for place, stage in wave)

    def subsets(self) -> dict[Path, dict]:
        """Training files with fewer images; smaller subsets are part of larger ones."""
        from cropfield.datasets import read_coco_file
        from lab.label_shares import told_subset

        shares = sorted(share for share in self.args.labels if share < 1)
        whole = read_coco_file(self.args.train_json) if shares else {}
        return {self.train_json(share): told_subset(whole, self.args.train_json, share) for share in shares}


def main() -> None:
    args = parse_args()
    check_args(args)
    say_starting()
    from cropfield.halves import check_chain
    from cropfield.stages import Chain
    from lab.comparison_report import write_report
    from lab.label_shares import write_subset

    comparison = Comparison(args)
    waves = list(comparison.waves())
    pictures = "comparison.*", "correlation.png", "probe_curves.png"
    chain = Chain(comparison.output, *pictures, "train_*.json", "*_probe.json")
    # Also where none is trained: the probe reads its data.
    mode = "frozen" if "frozen" in args.modes and FINE_TUNED not in args.modes else FINE_TUNED
    *_, detector = comparison.detector("any", "", mode, share=1, seed=1)
    for config in args.configs:
        check_chain(comparison.pretraining(config, 1), detector, args.images, comparison.dataset)
    if "probe" in args.modes:
        comparison.check_probe()
    chain.plan([stage for wave in waves for stage in wave])  # after the checks, which know what a typo is
    subsets = comparison.subsets()
    chain.open()
    for path, content in subsets.items():
        write_subset(chain, path, content)
    for wave in waves:
        chain.run(*wave)
        done, planned = len(chain.seconds.keys() & set(chain.names)), len(chain.names)
        if done < planned:
            write_report(comparison, chain.seconds, f"After {done} of {planned} stages. ")
    print(write_report(comparison, chain.seconds))
    print(f"comparison: {comparison.output / 'comparison.md'}, with its pictures beside it")


if __name__ == "__main__":
    run_main(main)
