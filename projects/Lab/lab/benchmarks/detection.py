"""`benchmark.py detection`: Mask R-CNN over our backbone against the same over Detectron2's plain ViT.

A training iteration (--dtype) and an inference (always float32) on images of --image-size, and the backbone alone,
forward and backward. Weights and images are random. Memory is that of tensors beyond weights and optimizer, counted
exactly.
"""

import argparse
import time
from collections.abc import Callable

import torch

from lab.benchmarks.cases import DetectorCase
from lab.benchmarks.comparison import Comparison, compare, seconds_by_part, share_table, thread_clock
from lab.benchmarks.live_bytes import LiveBytes
from pretrain.engine.cpu_memory import tune_cpu_memory


def run(options: argparse.Namespace) -> list[Comparison]:
    """ViT-S (or --backbone vitb), one image (or --images) of 1024 x 1024 (or --image-size)."""
    tune_cpu_memory()
    config = f"mask_rcnn_cropfield_{options.backbone}_12ep.py"
    size, images, amp = options.image_size or (1024, 1024), options.images or 1, options.dtype == "bfloat16"
    cases = [DetectorCase(config, ["train.amp.enabled=False"], stock, images, size, amp) for stock in (False, True)]
    what = {"config": config, "images": images, "image_size": list(size), "dtype": options.dtype}
    return measure(*cases, what, options.pairs or 1)


def measure(ours: DetectorCase, stock: DetectorCase, what: dict, num_pairs: int) -> list[Comparison]:
    clock, about = thread_clock()
    what |= about
    backbones = backbone_pass(ours), backbone_pass(stock)
    training = compare("training iteration", ours, stock, num_pairs, what, clock)
    inference = compare("inference, float32", ours.infer, stock.infer, num_pairs, what | {"dtype": "float32"}, clock)
    backbone = compare("backbone, forward and backward", *backbones, num_pairs, what, clock)
    memory = [
        Comparison.of(f"{result.name}: memory", [peak(mine, ours)], [peak(theirs, stock)], what, unit="MiB")
        for result, (mine, theirs) in ((training, (ours, stock)), (backbone, backbones))
    ]
    for name, case in (("ours", ours), ("stock", stock)):
        training.tables[f"training iteration, {name}"] = training_parts(case)
        inference.tables[f"inference, {name}"] = share_table(*forward_parts(case, case.infer))
    return [training, inference, backbone, *memory]


def backbone_pass(case: DetectorCase) -> Callable[[], None]:
    """Forward and backward of the backbone alone."""
    net = case.model.backbone.net
    images = torch.stack([sample["image"] for sample in case.batch]).to(case.device).float() / 255

    def run_backbone() -> None:
        net.zero_grad()
        with case.autocast():
            features = net(images)["last_feat"]
        features.float().square().mean().backward()

    return run_backbone


def peak(call: Callable[[], object], case: DetectorCase) -> float:
    """MiB of tensors that a call adds at its peak to weights and optimizer."""
    case.optimizer.zero_grad()
    state = [v for entry in case.optimizer.state.values() for v in entry.values() if torch.is_tensor(v)]
    with LiveBytes([*case.model.parameters(), *case.model.buffers(), *state]) as memory:
        call()
    case.optimizer.zero_grad()
    return memory.peak / 2**20


def forward_parts(case: DetectorCase, call: Callable[[], object], further: dict | None = None):
    """Seconds of the parts of `call`, and of all of it; the rest of an inference is pasting masks into the image."""
    model = case.model
    parts = {"backbone": model.backbone.net, "pyramid": model.backbone, "proposals": model.proposal_generator}
    parts = {part: (module, "forward") for part, module in (parts | {"box and mask heads": model.roi_heads}).items()}
    found, total = seconds_by_part(call, parts | (further or {}))
    seconds = {part: spent for part, (spent, _) in found.items()}
    seconds["pyramid"] -= seconds["backbone"]
    return seconds, total


def training_parts(case: DetectorCase) -> list[dict]:
    """Seconds of an iteration's parts. The backbone's backward pass is what follows its output's gradient."""
    net, reached = case.model.backbone.net, []

    def forward(images: torch.Tensor) -> dict:
        features = type(net).forward(net, images)
        next(iter(features.values())).register_hook(lambda _: reached.append(time.thread_time()))
        return features

    def backward(loss: torch.Tensor) -> None:
        start = time.thread_time()
        loss.backward()
        reached[:] = [reached[-1] - start, time.thread_time() - reached[-1]]

    case.backward, net.forward = backward, forward
    try:
        seconds, total = forward_parts(case, case, {"optimizer": (case.optimizer, "step")})
    finally:
        del case.backward, net.forward
    seconds |= {"heads, proposals and pyramid, backward": reached[0], "backbone, backward": reached[1]}
    return share_table(seconds, total)
