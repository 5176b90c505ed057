#!/usr/bin/env python3
"""Fine-tune a whole backbone as a classifier: StoP's Tables 5 and 17 (1% of ImageNet) and 15 (all of it).

    projects/Lab/tools/finetune.py --weights vitl16.safetensors --dataset imagenet_1pct --data datasets/imagenet \\
        --train-list 1percent.txt --output outputs/finetune_1pct
    projects/Lab/tools/finetune.py --weights vitb16.safetensors --dataset imagenet --data datasets/imagenet \\
        --output outputs/finetune

The paper gives no recipe: the defaults are MAE's for ViT-B without mixup, cutmix and RandAugment, so results will be
below those of a full recipe. One process. OUTPUT/last.pth is written after each epoch; --resume continues from it.
"""

import argparse
from dataclasses import asdict

from lab.probes.arguments import evaluation_parser
from lab.probes.recipes import Recipe
from pretrain.engine.arguments import above_zero, not_negative, positive, share
from pretrain.errors import UserError, run_main

CHOICES = ("epochs", "lr", "layer_decay", "weight_decay", "label_smoothing", "warmup_epochs", "image_size", "seed")


def parse_args(argv=None) -> argparse.Namespace:
    parser = evaluation_parser(__doc__)
    add = parser.add_argument
    add("--epochs", type=positive, default=Recipe.epochs, help="default 100")
    add("--lr", type=above_zero, default=Recipe.lr, help="for 256 images a step (default 5e-4)")
    add(
        "--layer-decay", type=above_zero, default=Recipe.layer_decay, help="default 0.65; MAE uses 0.75 for ViT-L and H"
    )
    add("--weight-decay", type=not_negative, default=Recipe.weight_decay, help="default 0.05")
    add(
        "--drop-path", type=share, default=0.1, help="rate of the last block (default 0.1; MAE: 0.2 or 0.3 above ViT-B)"
    )
    add("--label-smoothing", type=share, default=Recipe.label_smoothing, help="default 0.1")
    add("--warmup-epochs", type=float, default=Recipe.warmup_epochs, help="default 5")
    add("--resume", action="store_true", help="resume from OUTPUT/last.pth, if it exists")
    args = parser.parse_args(argv)
    if not 0 <= args.warmup_epochs < args.epochs:
        raise UserError(f"--warmup-epochs {args.warmup_epochs} is not below --epochs {args.epochs}; choose fewer")
    return args


def main() -> None:
    args = parse_args()
    from detectron2.utils.logger import setup_logger

    from cropfield.results import RESULT
    from lab.probes.datasets import framing_of
    from lab.probes.evaluation import datasets_of, load_backbone_of, report
    from lab.probes.finetune import Classifier, FineTuning
    from pretrain.outputs import open_output

    open_output(args.output, [] if args.resume else [RESULT, "last.pth"])
    setup_logger(str(args.output), name="pretrain", abbrev_name="pretrain")
    backbone, (train, val) = load_backbone_of(args, args.drop_path), datasets_of(args)
    recipe = Recipe(
        batch_size=args.batch_size or Recipe.batch_size,
        framing=framing_of(args.dataset),
        amp=str(args.device).startswith("cuda"),
        **{name: getattr(args, name) for name in CHOICES},
    )
    model = Classifier(backbone, len(train.classes)).to(args.device)
    tuning = FineTuning(model, train, val, recipe, args.output / "last.pth", args.num_workers)
    if args.resume:
        tuning.resume()
    metrics = tuning.run()
    about = {"drop_path": args.drop_path, "images": [len(train), len(val)]}
    report(args, "finetune", metrics, asdict(tuning.recipe) | about)


if __name__ == "__main__":
    run_main(main)
