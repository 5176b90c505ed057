"""Evaluations on labelled images: backbone, datasets and features that the command line asks for, and the report."""

import argparse
import shlex
import sys

import torch

from cropfield.results import write_result
from lab.commands import load_backbone
from lab.probes.datasets import framing_of, open_dataset
from lab.probes.feature_cache import Extraction, Features, cached_features
from lab.probes.features import own_pool
from lab.probes.labelled import LabelledImages
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer


def load_backbone_of(args: argparse.Namespace, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The backbone on its device. Raises UserError, also if the image size is not a multiple of the patch size."""
    backbone = load_backbone(args, drop_path_rate)
    if args.image_size % backbone.patch_size:
        raise UserError(
            f"--image-size {args.image_size} is not a multiple of the backbone's patch, {backbone.patch_size}"
        )
    return backbone


def datasets_of(args: argparse.Namespace) -> tuple[LabelledImages, LabelledImages]:
    """Training and validation images; prints their numbers."""
    train, val = open_dataset(args.dataset, args.data, args.train_list)
    sizes = f"{len(train):,} training and {len(val):,} validation images of {len(train.classes):,} classes"
    print(f"{args.dataset}: {sizes}")
    return train, val


def features_of(
    args: argparse.Namespace, layers: int | None = None, pools: tuple[str, ...] | None = None, views: int = 1
) -> tuple[Features, Features, list[str]]:
    """Training features of `views` views, validation features of one, and the classes; cached in `args.cache`.

    layers: None: the last four. pools: None: the backbone's own, see `own_pool`.
    """
    backbone, (train, val) = load_backbone_of(args), datasets_of(args)
    common = dict(
        image_size=args.image_size,
        framing=framing_of(args.dataset),
        seed=args.seed,
        layers=layers or min(4, len(backbone.blocks)),
        pools=pools or (own_pool(backbone),),
        amp=str(args.device).startswith("cuda"),
    )
    loading = dict(folder=args.cache, batch_size=min(args.batch_size or 64, 64), num_workers=args.num_workers)
    if "cls" in common["pools"] and backbone.cls_token is None:
        raise UserError(f"{args.weights} has no class token; leave out --pool, or use --pool patch")
    train_features = cached_features(backbone, train, Extraction(views=views, **common), **loading)
    return train_features, cached_features(backbone, val, Extraction(**common), **loading), train.classes


def model_name(args: argparse.Namespace) -> str:
    return args.weights.stem + ("-untrained" if args.untrained else "")


def report(args: argparse.Namespace, protocol: str, metrics: dict[str, float], choices: dict) -> None:
    """Write result.json and print the metrics. choices: further settings that determine them, JSON-serialisable."""
    made_by = {"command": shlex.join(sys.argv), "torch": torch.__version__, "device": str(args.device)}
    path = write_result(args.output, protocol, args.dataset, model_name(args), metrics, made_by | choices)
    figures = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
    print(f"{model_name(args)} on {args.dataset}: {figures}; {path}")
