"""`benchmark.py operations`: proposals and heads of a Mask R-CNN with ViT-S against Detectron2's, counted.

Counts operations, and those that wait for the device, in a forward pass of training and in inference: what a GPU's
host is busy with, found without a GPU. Random weights and images; the counts depend on the number of images, hardly on
their size.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cropfield.box_batches import suppressed_at_once
from lab.benchmarks.cases import DetectorCase
from lab.benchmarks.comparison import Comparison

# These make no kernel: views, and memory that is not filled.
NO_KERNEL = set(
    "alias as_strided detach expand lift_fresh permute select slice split split_with_sizes squeeze t transpose unbind "
    "unsqueeze view _unsafe_view empty empty_like empty_strided new_empty".split()
)
# What these return, or how much of it, the host knows only when the device has computed it.
WAITS = {"nonzero", "_local_scalar_dense", "masked_select", "_unique2", "nms", "equal"}


class Operations(TorchDispatchMode):
    """Count operations, and those that wait for the device, while it is active. A boolean index waits, too."""

    def __init__(self):
        super().__init__()
        self.number, self.waits = 0, []
        self.lists = _Lists(self.waits)

    def __enter__(self) -> "Operations":
        self.lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self.lists.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.number += name not in NO_KERNEL
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in WAITS or any(index is not None and index.dtype == torch.bool for index in indices):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Notes `tolist`, which is no operation on a CPU."""

    def __init__(self, waits: list[str]):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.tolist:
            self.waits.append("tolist")
        return func(*args, **(kwargs or {}))


def run(options: argparse.Namespace) -> list[Comparison]:
    """Four images (or --images) of 256 x 256 (or --image-size)."""
    config, size, images = f"mask_rcnn_cropfield_{options.backbone}_12ep.py", options.image_size, options.images or 4
    what = {"config": config, "images": images, "image_size": list(size or (256, 256))}
    cases = (
        DetectorCase(config, ["train.amp.enabled=False"], stock, images, what["image_size"], amp=False)
        for stock in (False, True)
    )
    return compare_operations(*cases, what)


def compare_operations(ours: DetectorCase, stock: DetectorCase, what: dict) -> list[Comparison]:
    ours, stock = operations_of_parts(ours), operations_of_parts(stock)
    return [
        Comparison.of(f"{part}: {counted}", [count(ours[part])], [count(stock[part])], what, unit="")
        for part in ours
        for counted, count in (("operations", lambda found: found.number), ("waits", lambda found: len(found.waits)))
    ]


@torch.no_grad()
def operations_of_parts(case: DetectorCase) -> dict[str, Operations]:
    """Those of proposals and heads in training and inference, as a GPU would do them."""
    counts: dict[str, Operations] = {}
    parts = {"proposals": case.model.proposal_generator, "box and mask heads": case.model.roi_heads}
    for use, run_case in (("training", case.forward), ("inference", case.infer)):
        with ExitStack() as stack:
            for module in ("batched_rpn", "batched_roi_heads"):
                stack.enter_context(mock.patch(f"cropfield.{module}.unsuppressed", suppressed_at_once))
            for part, module in parts.items():
                counted = _counted(module.forward, counts, f"{part}, {use}")
                stack.enter_context(mock.patch.object(module, "forward", counted))
            run_case()
    return counts


def _counted(forward: Callable, counts: dict[str, Operations], part: str) -> Callable:
    def call(*inputs):
        with Operations() as counts[part]:
            return forward(*inputs)

    return call
