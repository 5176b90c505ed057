"""`benchmark.py detection`: Mask R-CNN with our backbone, proposals and heads against Detectron2's.

Measures a training iteration (--dtype) and inference (always float32) on images of --image-size, and forward and
backward of the backbone alone, with random weights and images. Memory is that of tensors beyond weights and optimizer,
counted exactly. With --frozen: the same detector with a frozen backbone against a trained one, and an epoch from cached
features against one from images.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import instantiate

from cropfield.feature_cache import FeatureCache
from lab.benchmarks.cases import CONFIGS, DetectorCase
from lab.benchmarks.comparison import Comparison, compare, seconds_by_part, share_table, thread_clock
from lab.benchmarks.live_bytes import LiveBytes
from pretrain.engine.cpu_memory import tune_cpu_memory
from pretrain.engine.lazy_config import load_config


def run(options: argparse.Namespace) -> list[Comparison]:
    """ViT-S (or --backbone vitb), one image (or --images) of 1024 x 1024 (or --image-size)."""
    tune_cpu_memory()
    config = f"mask_rcnn_cropfield_{options.backbone}_12ep.py"
    size, images, amp = options.image_size or (1024, 1024), options.images or 1, options.dtype == "bfloat16"
    what = {"config": config, "images": images, "image_size": list(size), "dtype": options.dtype}
    if options.frozen:
        keys = [["train.amp.enabled=False", f"train.freeze_backbone={switch}"] for switch in (True, False)]
        cases = [DetectorCase(config, overrides, False, images, size, amp) for overrides in keys]
        return [*frozen_against_trained(*cases, what, options.pairs or 1), *epochs_from_cache(options.pairs or 1)]
    cases = [DetectorCase(config, ["train.amp.enabled=False"], stock, images, size, amp) for stock in (False, True)]
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


def frozen_against_trained(frozen: DetectorCase, trained: DetectorCase, what: dict, num_pairs: int) -> list[Comparison]:
    """Time and memory of a training iteration; here "ours" is frozen and "plain" is trained."""
    clock, about = thread_clock()
    spent = compare("training iteration, backbone frozen / trained", frozen, trained, num_pairs, what | about, clock)
    return [
        spent,
        Comparison.of(f"{spent.name}: memory", [peak(frozen, frozen)], [peak(trained, trained)], what, "MiB"),
    ]


def epochs_from_cache(num_pairs: int, count: int = 32, overrides: Sequence[str] = ()) -> list[Comparison]:
    """Time an epoch of the tiny detector from cached features, against one from images with a frozen and a trained
    backbone.

    Images are noise, 128 x 128 pixels, read in this process.
    """
    with tempfile.TemporaryDirectory() as scratch:
        write_noise(Path(scratch), count)
        cached, live, trained = (
            epoch(Path(scratch), count, overrides, *how) for how in ((True, True), (True, False), (False, False))
        )
        clock, about = thread_clock()
        what = {"config": "mask_rcnn_cropfield_tiny.py", "images": count, **about}
        return [
            compare(f"epoch from cached features / from images, {name}", cached, other, num_pairs, what, clock)
            for name, other in (("frozen", live), ("trained", trained))
        ]


def epoch(folder: Path, count: int, changes: Sequence[str], frozen: bool, cached: bool) -> Callable[[], None]:
    overrides = [*changes, f"train.freeze_backbone={frozen}", "dataloader.train.num_workers=0"]
    overrides += [f"dataset.{part}_json={folder}/labels.json" for part in ("train", "val")]
    overrides += [f"dataset.{part}_images={folder}" for part in ("train", "val")]
    case = DetectorCase("mask_rcnn_cropfield_tiny.py", overrides, False, 1, (128, 128), amp=False)
    cfg = load_config(CONFIGS / "mask_rcnn_cropfield_tiny.py", overrides)
    loader = instantiate(cfg.dataloader.train)
    if cached:
        still = instantiate(cfg.dataloader.test.mapper).augmentations
        FeatureCache(case.model, loader, folder / "cache", still=still).attach(case.model)

    def run_epoch() -> None:
        batches = loader.batches(0, seed=0)
        for case.batch in itertools.islice(batches, count // loader.batch_size):
            case()
        batches.close()

    return run_epoch


def write_noise(folder: Path, count: int, objects: int = 7) -> None:
    """Write a COCO dataset of noise images, 128 x 128 pixels, with random boxes and polygons."""
    rng, things = np.random.default_rng(0), []
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.jpg"), rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
        for x, y, w, h in rng.integers((0, 0, 20, 20), (60, 60, 60, 60), (objects, 4)).tolist():
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            thing = {"image_id": number, "category_id": 1, "bbox": [x, y, w, h], "segmentation": [polygon]}
            things.append({"id": len(things) + 1, "area": w * h, "iscrowd": 0, **thing})
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 128, "height": 128} for n in range(count)]
    labels = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labels.json").write_text(json.dumps(labels))


def backbone_pass(case: DetectorCase) -> Callable[[], None]:
    """Forward and backward pass of the backbone alone."""
    net = case.model.backbone.net
    images = torch.stack([sample["image"] for sample in case.batch]).to(case.device).float() / 255

    def run_backbone() -> None:
        net.zero_grad()
        with case.autocast():
            features = net(images)["last_feat"]
        features.float().square().mean().backward()

    return run_backbone


def peak(call: Callable[[], object], case: DetectorCase) -> float:
    """Peak MiB of tensors in a call, beyond weights and optimizer."""
    case.optimizer.zero_grad()
    state = [v for entry in case.optimizer.state.values() for v in entry.values() if torch.is_tensor(v)]
    with LiveBytes([*case.model.parameters(), *case.model.buffers(), *state]) as memory:
        call()
    case.optimizer.zero_grad()
    return memory.peak / 2**20


def forward_parts(case: DetectorCase, call: Callable[[], object], further: dict | None = None):
    """Seconds of the parts of `call` and of all of it; the rest of an inference is pasting masks into the image."""
    model = case.model
    parts = {"backbone": model.backbone.net, "pyramid": model.backbone, "proposals": model.proposal_generator}
    parts = {part: (module, "forward") for part, module in (parts | {"box and mask heads": model.roi_heads}).items()}
    found, total = seconds_by_part(call, parts | (further or {}))
    seconds = {part: spent for part, (spent, _) in found.items()}
    seconds["pyramid"] -= seconds["backbone"]
    return seconds, total


def training_parts(case: DetectorCase) -> list[dict]:
    """Seconds of an iteration's parts; the backbone's backward pass starts when its output's gradient is available."""
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
