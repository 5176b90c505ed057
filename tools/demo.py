#!/usr/bin/env python3
"""The whole pipeline on one small machine: compose scenes, pretrain, fine-tune with and without it, compare, report.

    tools/demo.py [--output outputs/demo] [--seed 0]

Three detectors are trained with the same images, iterations and seed; only the initial weights of their backbones
differ: pretrained; the untrained twin, which are the initial weights of the pretraining; and from scratch, a detector's
default. Finished stages in OUTPUT are skipped, so an interrupted demo continues where it stopped. The report is
OUTPUT/report.html.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

from pretrain.errors import run_main
from pretrain.progress import say_starting

REPOSITORY = Path(__file__).resolve().parents[1]
MOST_SEEDS = 2**32 - 1  # the detectors have the next one, and numpy takes no larger one
STARTS = ("pretrained", "untrained", "scratch")
SCENES = ("--train", "1000", "--val", "200", "--unlabeled", "2000")


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "outputs" / "demo", metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes, the pretraining and the detectors")
    args = parser.parse_args(argv)
    if not 0 <= args.seed < MOST_SEEDS:
        parser.error(f"--seed {args.seed}: give a whole number from 0 to {MOST_SEEDS - 1}")
    return args


def make_stages(output: Path, seed: int) -> list[tuple]:
    """The stages; those in a tuple run in parallel."""
    from cropfield.commands import Commands, override
    from cropfield.stages import Stage
    from pretrain.engine.checkpoint import INITIAL

    commands, data = Commands(REPOSITORY), output / "data"
    compose = (str(REPOSITORY / "tools" / "compose_coco.py"), "--output", str(data), "--seed", str(seed), *SCENES)
    pretrained, backbone = output / "pretrain", output / "backbone.safetensors"
    dataset = {
        "train_json": data / "annotations" / "instances_train.json", "train_images": data / "train",
        "val_json": data / "annotations" / "instances_val.json", "val_images": data / "val",
    }  # fmt: skip
    starts = dict(zip(STARTS, (str(backbone), str(pretrained / INITIAL), ""), strict=True))
    threads = max(1, (os.cpu_count() or 2) // 2)  # each detector has half of the cores

    def detect(name: str, weights: str):
        changes = (override("train.init_checkpoint", weights), f"train.seed={seed + 1}")  # of 0 Detectron2 draws one
        return commands.detect(
            "mask_rcnn_cropfield_tiny.py", dataset, output / f"detect_{name}", *changes, threads=threads
        )

    return [
        (Stage("compose", compose),),
        (commands.pretrain("cropfield_tiny.py", data / "unlabeled", pretrained, f"train.seed={seed}"),),
        (commands.export(pretrained, backbone),),
        tuple(detect(name, weights) for name, weights in starts.items()),
    ]


def collect(output: Path, seed: int, seconds: dict[str, float]) -> dict:
    """Collect the results of the comparison, and write them to OUTPUT/result.json."""
    import torch

    from cropfield.stages import read_result
    from pretrain.files import write_json

    results = {name: output / f"detect_{name}" / "result.json" for name in STARTS}
    result = {
        "seed": seed,
        "box_ap": {name: read_result(results[name], "bbox", "AP") for name in STARTS},
        "mask_ap": {name: read_result(results[name], "segm", "AP") for name in STARTS},
        "seconds": seconds,
        "command": f"tools/demo.py --seed {seed}",
        "machine": {
            "cpu": cpu_model(), "cores": os.cpu_count(), "torch": torch.__version__, "python": sys.version.split()[0]
        },
    }  # fmt: skip
    write_json(output / "result.json", result)
    return result


def comparison(result: dict) -> str:
    """The results of all detectors in one line."""
    from cropfield.commands import in_words

    parts = []
    for kind in ("box", "mask"):
        ap = result[f"{kind}_ap"]
        pretrained, untrained, scratch = (in_words(ap[name]) for name in STARTS)
        parts.append(f"{kind} AP {pretrained} pretrained, {untrained} untrained, {scratch} from scratch")
    return "; ".join(parts)


def cpu_model() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    args = parse_args()
    say_starting()
    from cropfield.stages import Chain, Stage

    output = args.output.resolve()
    stages = make_stages(output, args.seed)
    chain = Chain(output)
    report = Stage("report", (str(REPOSITORY / "tools" / "report.py"), str(output)))
    every = [*(stage for together in stages for stage in together), report]
    chain.plan(every)
    print(f"stages: {', '.join(stage.name for stage in every)}; output and logs: {output}", flush=True)
    print("Ctrl-C stops at any time, and the same command continues", flush=True)
    for together in stages:
        chain.run(*together)
    result = collect(output, args.seed, chain.seconds)
    chain.run(report)
    print(f"report: {output / 'report.html'}")
    print(f"demo: {comparison(result)}")


if __name__ == "__main__":
    run_main(main)
