#!/usr/bin/env python3
"""Train a detector from unlabeled images and a COCO-format dataset, and report its AP.

    tools/pretrain_then_detect.py --images DIR \\
        --train-json TRAIN.json --train-images DIR --val-json VAL.json --val-images DIR --output DIR

Pretrains (OUTPUT/pretrain), exports the backbone (OUTPUT/backbone.safetensors), fine-tunes and evaluates a Mask R-CNN
(OUTPUT/detect) and writes OUTPUT/result.json. Finished stages in OUTPUT are skipped, an interrupted one is resumed.
Prefix each override with the config it is for: pretrain.train.max_iter=500, detect.train.max_iter=300.
"""

import argparse
import shlex
import sys
from pathlib import Path

from pretrain.errors import run_main
from pretrain.progress import say_starting

REPOSITORY = Path(__file__).resolve().parents[1]
PRESETS = {
    "tiny": ("cropfield_tiny.py", "mask_rcnn_cropfield_tiny.py"),
    "vits": ("cropfield_vits16_in1k_100ep.py", "mask_rcnn_cropfield_vits_12ep.py"),
    "vitb": ("cropfield_vitb16_in1k_100ep.py", "mask_rcnn_cropfield_vitb_12ep.py"),
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="unlabeled images, any sub-folders")
    for split, use in (("train", "to fine-tune on"), ("val", "to measure AP on")):
        parser.add_argument(f"--{split}-json", required=True, metavar="FILE", help=f"COCO-format annotations {use}")
        parser.add_argument(f"--{split}-images", required=True, metavar="DIR", help="folder of their images")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="size of the backbone (default: tiny)")
    parser.add_argument(
        "--pretrain-config", type=Path, metavar="FILE",
        help="another pretraining config for a backbone of that size, such as projects/StoP/configs/stop_tiny.py",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="pretrain.KEY=VALUE or detect.KEY=VALUE")
    return parser.parse_intermixed_args(argv)


def dataset_of(args: argparse.Namespace) -> dict[str, str]:
    return {name: getattr(args, name) for name in ("train_json", "train_images", "val_json", "val_images")}


def make_stages(args: argparse.Namespace):
    """The stages of the chain; each command can also be run by hand."""
    from cropfield.commands import Commands, override
    from cropfield.halves import split_overrides

    commands = Commands(REPOSITORY)
    pretrain_config, detect_config = PRESETS[args.preset]
    if args.pretrain_config:
        pretrain_config = args.pretrain_config.resolve()
    for_pretrain, for_detect = split_overrides(args.overrides)
    dataset = dataset_of(args)
    pretrained, backbone = args.output / "pretrain", args.output / "backbone.safetensors"
    weights = override("train.init_checkpoint", backbone)
    return (
        commands.pretrain(pretrain_config, args.images, pretrained, *for_pretrain),
        commands.export(pretrained, backbone),
        commands.detect(detect_config, dataset, args.output / "detect", weights, *for_detect),
    )


def check_inputs(args: argparse.Namespace, stages) -> None:
    """Check everything that can be known to fail, before the first stage."""
    from cropfield.halves import check_chain

    check_chain(stages[0], stages[-1], args.images, dataset_of(args))


def next_commands(args: argparse.Namespace) -> list[str]:
    """Commands that draw the run's page, and its detections in other images."""
    from cropfield.halves import split_overrides

    config = REPOSITORY / "configs" / "COCO" / PRESETS[args.preset][1]
    average, predicted = args.output / "detect" / "model_ema.pth", args.output / "predicted"
    weights = average if average.exists() else average.with_name("model_final.pth")  # the one that was evaluated
    options = [
        "--config-file",
        config,
        "--weights",
        weights,
        "--output",
        predicted,
        *split_overrides(args.overrides)[1],
    ]
    commands = [["report.py", args.output], ["predict.py", *options, "IMAGES"]]
    return [shlex.join([sys.executable, str(REPOSITORY / "tools" / tool), *map(str, rest)]) for tool, *rest in commands]


def main() -> None:
    args = parse_args()
    say_starting()
    stages = make_stages(args)
    from cropfield.commands import in_words
    from cropfield.stages import Chain, read_result
    from pretrain.engine.signals import EXIT_STOPPED, passing_on
    from pretrain.files import write_json

    check_inputs(args, stages)
    chain = Chain(args.output)
    chain.plan(list(stages))
    with passing_on(lambda: None) as signals:  # between stages; within a stage the chain handles signals
        for stage in stages:
            chain.run(stage)
            if signals:
                raise SystemExit(EXIT_STOPPED)
    result = read_result(args.output / "detect" / "result.json")
    write_json(args.output / "result.json", {**result, "seconds": chain.seconds})
    kinds = {"bbox": "box", "segm": "mask"}
    found = ", ".join(f"{kinds[task]} AP {in_words(result[task]['AP'])}" for task in kinds if task in result)
    print(f"{found}: {args.output / 'result.json'}")
    print("next:", *next_commands(args), sep="\n  ")


if __name__ == "__main__":
    run_main(main)
