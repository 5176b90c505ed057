"""`benchmark.py growth`: time and memory of a step as crops, resolution, prototypes and batch grow.

Every point is measured interleaved with the base (ViT-S/16, 4 images, 2 x 224 + 8 x 96, K = 65,536). A ratio of 1 means
that time grows in proportion to the number of operations. With --json FILE.json the plot is FILE.png.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from lab.benchmarks.cases import SHAPES, OurStep, make_batch, make_method
from lab.benchmarks.comparison import Comparison, compare, thread_clock
from lab.benchmarks.flops import count_flops
from lab.benchmarks.live_bytes import LiveBytes
from pretrain.engine.cpu_memory import tune_cpu_memory
from pretrain.files import replacing

AXES = {  # quantity: (values, value of the base)
    "local crops": ((2, 4, 8, 16), 8),
    "global crops' pixels": ((160, 224, 320), 224),
    "prototypes": ((4096, 16384, 65536, 131072), 65536),
    "images": ((2, 4, 8, 16), 4),
}


@dataclass
class Point:
    """Operations of a step, and its memory beyond weights, optimizer and batch."""

    step: OurStep
    flops: int
    peak: int


def run(options: argparse.Namespace) -> list[Comparison]:
    """One comparison for each axis, of its largest point with the base, and a table of all points."""
    tune_cpu_memory()
    results = measure(AXES, options.dtype == "bfloat16", options.pairs or 3, SHAPES[options.backbone])
    if options.json:
        draw(results, options.json.with_suffix(".png"))
    return results


def measure(axes: dict, amp: bool, num_pairs: int, backbone: dict, **sizes) -> list[Comparison]:
    starts = {name: start for name, (_, start) in axes.items()}
    base = make_point(starts, amp, backbone, **sizes)
    clock, what = thread_clock()
    what["dtype"], results = "bfloat16" if amp else "float32", []
    for axis, (values, start) in axes.items():
        rows = []
        for value in values:
            point = base if value == start else make_point(starts | {axis: value}, amp, backbone, **sizes)
            pair = compare(axis, point.step, base.step, num_pairs, what, clock)
            rows.append(table_row(axis, value, point, base, pair))
        result = Comparison(
            f"{axis} {start} -> {values[-1]}, time over arithmetic",
            pair.ours / point.flops * 1e12,
            pair.plain / base.flops * 1e12,
            rows[-1]["time / arithmetic"],
            tuple(r * base.flops / point.flops for r in pair.spread),
            pair.what,
            unit="s/TFLOP",
        )
        result.tables[axis] = rows
        results.append(result)
    return results


def make_point(settings: dict, amp: bool, backbone: dict, local_size: int = 96, patch: int = 16, **heads) -> Point:
    """Build and measure a step with these settings; gradients and optimizer state are already allocated."""
    images, pixels = settings["images"], settings["global crops' pixels"]
    batch = make_batch(images, pixels, local_size, settings["local crops"], patch)
    step = OurStep(make_method(backbone, num_prototypes=settings["prototypes"], **heads), batch, amp)
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
    """Plot time (above), measured and expected from the operations, and memory (below)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(results), 5.4), layout="constrained")
    grid = figure.subplots(2, len(results), squeeze=False)
    for (above, below), result in zip(grid.T, results, strict=True):
        ((axis, rows),) = result.tables.items()
        x = [row[axis] for row in rows]
        above.plot(x, [row["arithmetic / base"] for row in rows], "--", color="0.6", label="as its arithmetic")
        above.plot(x, [row["time / base"] for row in rows], "o-", label="measured")
        below.plot(x, [row["peak, MiB"] / 1024 for row in rows], "o-", color="C1")
        below.set_xlabel(axis)
        for axes in (above, below):
            axes.set(xlim=(0, None), ylim=(0, None))
            axes.locator_params(axis="x", nbins=4)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("time, of the base's")
    grid[0][0].legend(frameon=False)
    grid[1][0].set_ylabel("peak beyond the weights, GiB")
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
