#!/usr/bin/env python3
"""Time and peak memory of the detection side, each case in a process of its own.

    tools/benchmark_detector.py trunk --image-size 1024x1024
    tools/benchmark_detector.py iteration --config-file configs/COCO/mask_rcnn_cropfield_vitb_12ep.py \
        model.backbone.net.activation_checkpointing=True

`trunk` is forward and backward of our trunk and of Detectron2's ViT; `iteration` is one of a detector's training.
Memory is what the measured step needs at its peak beyond what was there before it (libraries, weights, images): from
the allocator on a GPU, from the process's resident size on a CPU. Time is the median of --repeats after one warm-up.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import torch

from pretrain.engine.devices import default_device
from pretrain.errors import UserError, run_main

SHAPES = {"vits": dict(embed_dim=384, num_heads=6), "vitb": dict(embed_dim=768, num_heads=12)}
GIB = 2**30


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trunk", "iteration"))
    parser.add_argument("--trunk", choices=SHAPES, default="vits", help="for trunk (default vits)")
    parser.add_argument("--config-file", help="for iteration")
    parser.add_argument("--image-size", default="1024x1024", metavar="HxW", help="pixels (default 1024x1024)")
    parser.add_argument("--batch", type=int, default=1, help="images (default 1)")
    parser.add_argument("--objects", type=int, default=7, help="objects an image, for iteration (default 7, as COCO's)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: torch's choice")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def stock_step(args) -> Callable[[], None]:
    """Forward and backward of Detectron2's own ViT with global attention everywhere."""
    from detectron2.modeling import ViT

    net = ViT(img_size=1024, depth=12, window_size=0, use_rel_pos=False, **SHAPES[args.trunk])
    return trunk_step(net, args)


def our_step(args) -> Callable[[], None]:
    """The same of CropFieldViT."""
    from cropfield import CropFieldViT

    return trunk_step(CropFieldViT(depth=12, **SHAPES[args.trunk]), args)


def recomputing_step(args) -> Callable[[], None]:
    """The same with activation checkpointing."""
    from cropfield import CropFieldViT

    return trunk_step(CropFieldViT(depth=12, activation_checkpointing=True, **SHAPES[args.trunk]), args)


def trunk_step(net: torch.nn.Module, args) -> Callable[[], None]:
    device = default_device()
    net.to(device).train()
    images = torch.randn(args.batch, 3, *args.image_size, device=device)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with autocast(args, device):
            features = net(images)["last_feat"]
        features.float().square().mean().backward()

    return step


def iteration_step(args) -> Callable[[], None]:
    """Forward, backward and optimizer step of a config's detector on random images and objects."""
    from detectron2.config import instantiate
    from detectron2.utils.events import EventStorage

    from pretrain.engine.lazy_config import load_config

    cfg = load_config(args.config_file, args.opts)
    model = instantiate(cfg.model).to(cfg.train.device).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    batch = [random_sample(args, model.roi_heads.num_classes, masks=model.roi_heads.mask_on) for _ in range(args.batch)]

    def step() -> None:
        optimizer.zero_grad()
        with EventStorage(), autocast(args, cfg.train.device):
            losses = model(batch)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def random_sample(args, num_classes: int, masks: bool) -> dict:
    """One image with objects, as Detectron2's mapper gives it."""
    from detectron2.structures import BitMasks, Boxes, Instances

    height, width = args.image_size
    corners = torch.rand(args.objects, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    objects = Instances((height, width), gt_boxes=Boxes(corners.flatten(1)))
    objects.gt_classes = torch.randint(num_classes, (args.objects,))
    if masks:
        objects.gt_masks = BitMasks(torch.rand(args.objects, height, width) > 0.5)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": objects}


def autocast(args, device: str):
    return torch.autocast(device, torch.bfloat16) if args.precision == "bfloat16" else nullcontext()


CASES = {
    "Detectron2's ViT": stock_step,
    "CropFieldViT": our_step,
    "CropFieldViT, recomputing": recomputing_step,
    "iteration": iteration_step,
}


def measure(case: str, args) -> dict[str, float]:
    """Seconds and GiB of a case; to be called in a fresh process."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    step = CASES[case](args)
    before = memory_now()
    seconds = []  # the first is the warm-up
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:] or seconds), "gib": (memory_peak() - before) / GIB}


def memory_now() -> int:
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory_peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    args = parse_args()
    try:
        args.image_size = tuple(int(side) for side in args.image_size.lower().split("x"))
    except ValueError:
        raise UserError(f"--image-size {args.image_size}: write HEIGHTxWIDTH in pixels, such as 800x1024") from None
    if args.what == "iteration" and not args.config_file:
        raise UserError("give the detector to measure: --config-file configs/COCO/...")
    cases = ["iteration"] if args.what == "iteration" else [case for case in CASES if case != "iteration"]
    results = {}
    for case in cases:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results[case] = pool.submit(measure, case, args).result()
        first, here = next(iter(results.values())), results[case]
        share = (
            f"; {here['seconds'] / first['seconds']:.2f} of the time, {here['gib'] / first['gib']:.2f} of the memory"
        )
        print(f"{case}: {here['seconds']:.2f} s, {here['gib']:.2f} GiB{share if here is not first else ''}", flush=True)
    print(json.dumps({"device": default_device(), "threads": torch.get_num_threads(), **results}))


if __name__ == "__main__":
    run_main(main)
