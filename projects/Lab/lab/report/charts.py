"""Charts of losses and of the detection probe, as SVG."""

import io
from dataclasses import dataclass

from lab.report.panels import data_uri
from lab.report.run_files import Notes, Part, number, shown

COLORS = {"pretrained": "#0072b2", "untrained": "#cc79a7", "scratch": "#d55e00", "pretraining": "#009e73"}
LOSSES = "total_loss", "loss_"
MOST_CHARTS, MOST_POINTS = 24, 4_000
GREY = "#7c8187"  # legible on a light and on a dark page


@dataclass(frozen=True)
class Chart:
    """A chart of one value. `legend`: colours by line name. `uri`: the lines, without any text from the run."""

    legend: dict[str, str]
    uri: str


def charts_of(beginnings: tuple[str, ...], parts: dict[str, Part], x_label: str, notes: Notes) -> dict[str, Chart]:
    """A chart for each logged value whose name begins so, with one line for each of `parts`; non-finite values are left
    out.
    """
    keys = {key for part in parts.values() for line in part.metrics for key in line}
    values, charts = sorted(key for key in keys if key.startswith(beginnings)), {}
    if len(values) > MOST_CHARTS:
        notes.append(f"{len(values) - MOST_CHARTS} of {len(values)} values have no chart")
    for value in sorted(values, key=lambda key: key != "total_loss")[:MOST_CHARTS]:
        lines = {
            name: [(line["iteration"] + 1, y) for line in part.metrics if (y := number(line, value)) is not None]
            for name, part in parts.items()
        }
        lines = {name: thinned(points) for name, points in lines.items() if points}
        if lines:
            charts[shown(value, 100)] = Chart({name: COLORS[name] for name in lines}, line_chart(lines, x_label))
    return charts


def thinned(points: list) -> list:
    """At most about `MOST_POINTS` points, evenly spaced, including the last."""
    step = -(-len(points) // MOST_POINTS)
    return points if step == 1 else [*points[:-1:step], points[-1]]


def line_chart(lines: dict[str, list[tuple[float, float]]], x_label: str) -> str:
    """Points (x, y) by line name -> a data URI of an SVG with a transparent background."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 1.9), layout="constrained")
    axes = figure.add_subplot()
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), color=COLORS[name], marker="." if len(points) == 1 else "")
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(x_label, color=GREY, fontsize=8)
    axes.tick_params(colors=GREY, labelsize=8, length=0)
    axes.grid(axis="y", color=GREY, alpha=0.3)
    axes.spines[:].set_visible(False)
    svg = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return data_uri("svg+xml", svg.getvalue())
