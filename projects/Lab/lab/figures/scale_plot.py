"""The plot of Fig. 3: distributions of the scale s, the area of all crops in the field."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cropfield.canvas import color_of
from pretrain.data.crops import sample_scale
from pretrain.files import replacing

SHOWN = {"constant": "constant: s = 1", "uniform": "uniform on [0.2, 1]", "beta": "0.2 + 0.8 Beta(2, 5)"}
DRAWS, BINS = 50_000, 40


def scale_draws(distribution: str, count: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(count,) samples of s as drawn by `MultiCrop`."""
    rng = np.random.default_rng(seed)
    return np.array([sample_scale(distribution, rng) for _ in range(count)])


def write_plot(path: Path) -> dict[str, float]:
    """Plot histograms of s for each distribution of Table 4a as a PNG of 900 x 300 pixels; returns the means."""
    figure = Figure(figsize=(9, 3), dpi=100, layout="constrained")
    means = {}
    for index, (axes, (name, title)) in enumerate(zip(figure.subplots(1, 3, sharex=True), SHOWN.items(), strict=True)):
        draws = scale_draws(name)
        means[name] = float(draws.mean())
        color = [part / 255 for part in color_of(index)]
        axes.hist(draws, BINS, range=(0, 1.0), density=name != "constant", color=color)
        axes.axvline(means[name], color="grey", linestyle=":")
        axes.set_title(f"{title}, mean {means[name]:.2f}", fontsize=10)
        axes.set_xlabel("s, area of all crops in the field")
        axes.set_yticks([])
        axes.set_xlim(0, 1.05)
        axes.spines[["top", "right", "left"]].set_visible(False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png")
    return means
