"""Write attention statistics: a table by layer and head, and the plot of Fig. 5 with one line for each model."""

import csv
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cropfield.canvas import color_of
from cropfield.results import RESULT
from lab.attention.stats import AttentionStats
from pretrain.errors import UserError
from pretrain.files import replacing

PANELS = (("nmi", "normalised mutual information"), ("distance", "mean attention distance (pixels)"))
MARKERS = "os^Dvp"  # distinguish lines without colour
HEAD_COLUMNS = "layer head nmi nmi_std distance_pixels distance_pixels_std distance_percent_of_side"


def layer_metrics(stats: AttentionStats, patch_size: int, image_size: int) -> dict[str, float]:
    """Means over heads: nmi_layer_01..., distance_layer_01... (pixels), distance_percent_layer_01... (of the side)."""
    metrics = {f"nmi_layer_{i:02d}": v for i, v in enumerate(stats.nmi.mean(1).tolist(), 1)}
    for i, distance in enumerate(stats.distance.mean(1).tolist(), 1):
        metrics[f"distance_layer_{i:02d}"] = distance * patch_size
        metrics[f"distance_percent_layer_{i:02d}"] = 100 * distance * patch_size / image_size
    return metrics


def write_heads(path: Path, stats: AttentionStats, patch_size: int, image_size: int) -> None:
    """Write heads.csv: one line for each layer and head, with mean and standard deviation over images."""
    distances, percent = (stats.distance * patch_size, stats.distance_std * patch_size), 100 * patch_size / image_size
    figures = (stats.nmi, stats.nmi_std, *distances, stats.distance * percent)
    with replacing(path) as draft, open(draft, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD_COLUMNS.split())
        for layer, heads in enumerate(zip(*figures, strict=True), 1):
            for head, values in enumerate(zip(*heads, strict=True), 1):
                writer.writerow([layer, head, *(f"{value:.6g}" for value in values)])


def read_layers(folder: Path) -> dict:
    """Read a result of attention_stats.py: model, dataset, settings, and lists over layers of "nmi" and "distance".

    Raises:
        UserError: `folder` contains no such result.
    """
    path = Path(folder) / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["protocol"] != "attention":
            raise UserError(f"{path} is a result of {result['protocol']}; give one of attention_stats.py")
        names, metrics = [name for name, _ in PANELS], result["metrics"]
        layers = {name: [metrics[key] for key in sorted(metrics) if key.startswith(f"{name}_layer_")] for name in names}
    except OSError as error:
        raise UserError(f"there is no result {path}; run attention_stats.py --output {folder} first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a result of an evaluation; run attention_stats.py again") from error
    return {key: result.get(key) for key in ("model", "dataset")} | {"settings": result.get("settings", {})} | layers


def write_layers_plot(path: Path, results: list[dict]) -> None:
    """Plot results of `read_layers` as a PNG of 1,000 x 400 pixels, written atomically.

    A dotted line marks the distance of uniform attention.
    """
    several = len({result["dataset"] for result in results}) > 1
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for index, result in enumerate(results):
            label = f"{result['model']} ({result['dataset']})" if several else result["model"]
            style = dict(marker=MARKERS[index % len(MARKERS)], color=[part / 255 for part in color_of(index)])
            axes.plot(range(1, len(result[name]) + 1), result[name], label=label, **style)
            if name == "distance" and (uniform := result["settings"].get("uniform_distance_pixels")):
                axes.axhline(uniform, color="grey", linestyle=":", zorder=0)
        axes.set(xlabel="layer", ylabel=title, ylim=(0, 1.15 * max(1e-6, *axes.dataLim.intervaly)))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(results) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png")
