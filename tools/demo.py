"""The whole way on one small machine: compose scenes, pretrain, fine-tune with and without it, compare, report.

    python tools/demo.py [--output outputs/demo] [--seed 0]

Both detectors get the same images, iterations and seed; only their trunk's initial weights differ. Stages that OUTPUT
holds are skipped, so an interrupted demo goes on where it stopped. The picture book is OUTPUT/report.html.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from pretrain.engine.stages import Chain, Stage
from pretrain.errors import run_main

REPOSITORY = Path(__file__).resolve().parents[1]
SCENES = ("--train", "1000", "--val", "200", "--unlabeled", "2000")
PROGRESS = r"iter: |matched|error"


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "outputs" / "demo", metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes, the pretraining and both detectors")
    return parser.parse_args(argv)


def make_stages(output: Path, seed: int) -> list[tuple[Stage, ...]]:
    """The commands; those of one tuple run side by side."""
    tools, configs, data = REPOSITORY / "tools", REPOSITORY / "configs", output / "data"
    compose = [str(tools / "compose_coco.py"), "--output", str(data), "--seed", str(seed), *SCENES]
    pretrain = [
        str(tools / "pretrain_net.py"), "--resume", "--config-file", str(configs / "pretrain" / "cropfield_tiny.py"),
        f"dataloader.train.source.root={data / 'unlabeled'}", f"train.output_dir={output / 'pretrain'}",
        f"train.seed={seed}",
    ]  # fmt: skip
    backbone = output / "backbone.safetensors"
    export = [str(tools / "export_backbone.py"), str(output / "pretrain" / "last.pth"), "-o", str(backbone)]
    return [
        (Stage("compose", tuple(compose)),),
        (Stage("pretrain", tuple(pretrain), show=r"pretrain\.|error"),),
        (Stage("export", tuple(export)),),
        tuple(detector(output, name, seed, backbone) for name in ("pretrained", "scratch")),
    ]


def detector(output: Path, name: str, seed: int, backbone: Path) -> Stage:
    """Fine-tuning and evaluation of one of the two detectors, on half of the machine's cores."""
    data = output / "data"
    command = [
        str(REPOSITORY / "tools" / "lazyconfig_train_net.py"), "--resume",
        "--config-file", str(REPOSITORY / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py"),
        *(f"dataset.{split}_json={data / 'annotations' / f'instances_{split}.json'}" for split in ("train", "val")),
        *(f"dataset.{split}_images={data / split}" for split in ("train", "val")),
        f"train.init_checkpoint={backbone if name == 'pretrained' else ''}",
        f"train.output_dir={output / f'detect_{name}'}",
        f"train.seed={seed + 1}",  # Detectron2 takes 0 and less for "draw one"
    ]  # fmt: skip
    threads = str(max(1, (os.cpu_count() or 2) // 2))
    return Stage(f"detect_{name}", tuple(command), show=PROGRESS, environment={"OMP_NUM_THREADS": threads})


def collect(output: Path, seed: int, seconds: dict[str, float]) -> dict:
    """The comparison's figures, also written to OUTPUT/result.json."""
    import torch

    found = {n: json.loads((output / f"detect_{n}" / "result.json").read_text()) for n in ("pretrained", "scratch")}
    result = {
        "seed": seed,
        "box_ap": {name: metrics["bbox"]["AP"] for name, metrics in found.items()},
        "mask_ap": {name: metrics["segm"]["AP"] for name, metrics in found.items()},
        "seconds": seconds,
        "command": f"python tools/demo.py --seed {seed}",
        "machine": {
            "cpu": cpu_model(), "cores": os.cpu_count(), "torch": torch.__version__, "python": sys.version.split()[0]
        },
    }  # fmt: skip
    (output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    args = parse_args()
    output = args.output.resolve()
    stages = make_stages(output, args.seed)
    chain = Chain(output)
    chain.check([stage for together in stages for stage in together])
    for together in stages:
        chain.run(*together)
    result = collect(output, args.seed, chain.seconds)
    chain.run(Stage("report", (str(REPOSITORY / "tools" / "report.py"), str(output))))
    box, mask = result["box_ap"], result["mask_ap"]
    print(f"report: {output / 'report.html'}")
    print(
        f"demo: box AP {box['pretrained']:.1f} vs {box['scratch']:.1f} from scratch; "
        f"mask AP {mask['pretrained']:.1f} vs {mask['scratch']:.1f}"
    )


if __name__ == "__main__":
    run_main(main)
