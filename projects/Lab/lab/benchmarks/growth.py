"""`projects/Lab/tools/benchmark.py growth`: time and memory of a step over local crops, resolution, prototypes and batch.

Every point is measured in turns with the base (ViT-S/16, 4 images, 2 x 224 + 8 x 96, K = 65,536). A step grows as it
should when its time over its arithmetic stays the base's: ratio 1. With --json FILE.json the plot is FILE.png.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from lab.benchmarks.comparison import Comparison, compare
from lab.benchmarks.flops import count_flops
from lab.benchmarks.live_bytes import LiveBytes
from lab.benchmarks.step import thread_clock
from lab.benchmarks.step_case import SHAPES, OurStep, make_batch, make_method
from pretrain.engine.cpu_memory import tune_cpu_memory
from pretrain.files import replacing

AXES = {  # what grows: how far, and the base's value
    "local crops": ((2, 4, 8, 16), 8),
    "global crops' pixels": ((160, 224, 320), 224),
    "prototypes": ((4096, 16384, 65536, 131072), 65536),
    "images": ((2, 4, 8, 16), 4),
}


@dataclass
class Point:
    """A step's arithmetic and its memory beyond weights, optimizer and batch."""

    step: OurStep
    flops: int
    peak: int


def run(options: argparse.Namespace) -> list[Comparison]:
    """One comparison for each axis, of its largest point with the base, and a table of all its points."""
    tune_cpu_memory()
    results = measure(AXES, options.dtype == "bfloat16", options.pairs or 3, SHAPES[options.trunk])
    if options.json:
        draw(results, options.json.with_suffix(".png"))
    return results


def measure(axes: dict, amp: bool, pairs: int, trunk: dict, **sizes) -> list[Comparison]:
    base = make_point({name: start for name, (_, start) in axes.items()}, amp, trunk, **sizes)
    clock, results = thread_clock(), []
    what = {"threads": torch.get_num_threads(), "clock": "CPU time" if clock else "wall"}
    what["dtype"] = "bfloat16" if amp else "float32"
    for axis, (values, start) in axes.items():
        rows = []
        for value in values:
            settings = {name: s for name, (_, s) in axes.items()} | {axis: value}
            point = base if value == start else make_point(settings, amp, trunk, **sizes)
            pair = compare(axis, point.step, base.step if point is not base else _again(base), pairs, what, clock)
            rows.append(table_row(axis, value, point, base, pair))
        largest = rows[-1]
        result = Comparison(
            f"{axis} {start} -> {values[-1]}, time over arithmetic",
            pair.ours / point.flops * 1e12,
            pair.plain / base.flops * 1e12,
            largest["time / arithmetic"],
            tuple(r * base.flops / point.flops for r in pair.spread),
            pair.what,
            unit="s/TFLOP",
        )
        result.tables[axis] = rows
        results.append(result)
    return results


def _again(point: Point):
    """Another callable of the same step: `compare` tells its two by identity."""
    return lambda: point.step()


def make_point(settings: dict, amp: bool, trunk: dict, local_size: int = 96, patch: int = 16, **heads) -> Point:
    """A step of these settings, counted; its optimizer's state and gradients exist by then."""
    images, pixels = settings["images"], settings["global crops' pixels"]
    batch = make_batch(images, pixels, local_size, settings["local crops"], patch)
    step = OurStep(make_method(trunk, num_prototypes=settings["prototypes"], **heads), batch, amp)
    flops = count_flops(step)
    state = [value for entry in step.optimizer.state.values() for value in entry.values()]
    with LiveBytes([*step.method.state_dict().values(), *step.method.buffers(), *state, *batch.values()]) as memory:
        step()
    return Point(step, flops, memory.peak)


def table_row(axis: str, value: int, point: Point, base: Point, pair: Comparison) -> dict:
    arithmetic = point.flops / base.flops
    return {
        axis: value,
        "GFLOP": point.flops / 1e9,
        "seconds": pair.ours,
        "arithmetic / base": arithmetic,
        "time / base": pair.ratio,
        "time / arithmetic": pair.ratio / arithmetic,
        "peak, MiB": point.peak / 2**20,
    }


def draw(results: list[Comparison], path: Path) -> None:
    """Above the time, measured and as the arithmetic grows; below the memory."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(3.2 * len(results), 5.4), layout="constrained")
    grid = figure.subplots(2, len(results), squeeze=False)
    for column, result in enumerate(results):
        ((axis, rows),) = result.tables.items()
        x = [row[axis] for row in rows]
        time_axes, memory_axes = grid[0][column], grid[1][column]
        time_axes.plot(x, [row["arithmetic / base"] for row in rows], "--", color="0.6", label="as its arithmetic")
        time_axes.plot(x, [row["time / base"] for row in rows], "o-", label="measured")
        memory_axes.plot(x, [row["peak, MiB"] / 1024 for row in rows], "o-", color="C1")
        memory_axes.set_xlabel(axis)
        for axes in (time_axes, memory_axes):
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("time, of the base's")
    grid[0][0].legend(frameon=False)
    grid[1][0].set_ylabel("peak beyond the weights, GiB")
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
