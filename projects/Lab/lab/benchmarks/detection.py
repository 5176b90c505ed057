"""`projects/Lab/tools/benchmark.py detection`: Mask R-CNN over our trunk against the same over Detectron2's own plain ViT.

A training iteration (--dtype) and an inference (always float32) on images of --image-size, and the trunk alone, forward
and backward. Weights and images are random. Memory is that of tensors beyond weights and optimizer, counted exactly.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn

from lab.benchmarks.comparison import Comparison, compare
from lab.benchmarks.detection_case import DetectorCase
from lab.benchmarks.live_bytes import LiveBytes
from lab.benchmarks.step import thread_clock
from lab.benchmarks.time_by_part import seconds_by_part
from pretrain.engine.cpu_memory import tune_cpu_memory

MIB = 2**20


def run(options: argparse.Namespace) -> list[Comparison]:
    """ViT-S (or --trunk vitb), one image (or --images) of 1024 x 1024 (or --image-size)."""
    tune_cpu_memory()
    config = f"mask_rcnn_cropfield_{options.trunk}_12ep.py"
    size, amp = options.image_size or (1024, 1024), options.dtype == "bfloat16"
    ours, stock = (
        DetectorCase(config, ["train.amp.enabled=False"], kind, options.images or 1, size, amp)
        for kind in (False, True)
    )
    what = {"config": config, "images": len(ours.batch), "image_size": list(size), "dtype": options.dtype}
    return measure(ours, stock, what, options.pairs or 1)


def measure(ours: DetectorCase, stock: DetectorCase, what: dict, pairs: int) -> list[Comparison]:
    clock = thread_clock()
    what |= {"threads": torch.get_num_threads(), "clock": "CPU time" if clock else "wall"}
    training = compare("training iteration", ours, stock, pairs, what, clock)
    inference = compare("inference, float32", ours.infer, stock.infer, pairs, what | {"dtype": "float32"}, clock)
    trunk = compare("trunk, forward and backward", trunk_pass(ours), trunk_pass(stock), pairs, what, clock)
    memory = [
        Comparison.of(f"{name}: memory", [peak(mine, ours)], [peak(theirs, stock)], what, unit="MiB")
        for name, mine, theirs in (
            ("training iteration", ours, stock),
            ("trunk, forward and backward", trunk_pass(ours), trunk_pass(stock)),
        )
    ]
    for name, case in (("ours", ours), ("stock", stock)):
        training.tables[f"training iteration, {name}"] = training_parts(case)
        inference.tables[f"inference, {name}"] = inference_parts(case)
    return [training, inference, trunk, *memory]


def trunk_pass(case: DetectorCase) -> Callable[[], None]:
    """Forward and backward of the trunk alone."""
    net = case.model.backbone.net
    images = torch.stack([sample["image"] for sample in case.batch]).to(case.device).float() / 255

    def run_trunk() -> None:
        net.zero_grad()
        with case.autocast():
            features = net(images)["last_feat"]
        features.float().square().mean().backward()

    return run_trunk


def peak(call: Callable[[], object], case: DetectorCase) -> float:
    """MiB of tensors that a call adds at its peak to weights and optimizer."""
    case.optimizer.zero_grad()
    state = [v for entry in case.optimizer.state.values() for v in entry.values() if torch.is_tensor(v)]
    with LiveBytes([*case.model.parameters(), *case.model.buffers(), *state]) as memory:
        call()
    case.optimizer.zero_grad()
    return memory.peak / MIB


def training_parts(case: DetectorCase) -> list[dict]:
    """Seconds of an iteration's parts. The trunk's backward pass is what follows its output's gradient."""
    model, reached = case.model, []
    inside = model.backbone.net.forward

    def forward(images: torch.Tensor) -> dict:
        features = inside(images)
        next(iter(features.values())).register_hook(lambda _: reached.append(time.thread_time()))
        return features

    def backward(loss: torch.Tensor) -> None:
        start = time.thread_time()
        loss.backward()
        reached[:] = [reached[-1] - start, time.thread_time() - reached[-1]]

    parts = forward_parts(model) | {"backward": (case, "backward"), "optimizer": (case.optimizer, "step")}
    case.backward, model.backbone.net.forward = backward, forward
    try:
        found, total = seconds_by_part(case, parts)
    finally:
        del case.backward, model.backbone.net.forward
    rows = {part: seconds for part, (seconds, _) in found.items()}
    del rows["backward"]
    rows["pyramid"] -= rows["trunk"]
    rows |= {"heads, proposals and pyramid, backward": reached[0], "trunk, backward": reached[1]}
    return shares(rows, total)


def inference_parts(case: DetectorCase) -> list[dict]:
    """Seconds of an inference's parts; the rest is pasting the masks into the image."""
    found, total = seconds_by_part(case.infer, forward_parts(case.model))
    rows = {part: seconds for part, (seconds, _) in found.items()}
    rows["pyramid"] -= rows["trunk"]
    return shares(rows, total)


def forward_parts(model: nn.Module) -> dict:
    return {
        "trunk": (model.backbone.net, "forward"),
        "pyramid": (model.backbone, "forward"),
        "proposals": (model.proposal_generator, "forward"),
        "box and mask heads": (model.roi_heads, "forward"),
    }


def shares(rows: dict[str, float], total: float) -> list[dict]:
    rows = rows | {"the rest": total - sum(rows.values())}
    return [{"part": part, "seconds": s, "share": s / total} for part, s in rows.items()]
