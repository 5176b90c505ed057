"""The plot of Fig. 5: NMI and mean attention distance over the layers, one line a model."""

import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cropfield.canvas import color_of
from cropfield.results import RESULT
from pretrain.errors import UserError
from pretrain.files import replacing

PANELS = (("nmi", "normalised mutual information"), ("distance", "mean attention distance (pixels)"))
MARKERS = "os^Dvp"  # so that lines stay apart without colours too


def read_layers(folder: Path) -> dict:
    """A result of attention statistics: its model, dataset, settings, and lists over layers of "nmi" and "distance".

    Raises:
        UserError: no such result lies in `folder`.
    """
    path = Path(folder) / RESULT
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["protocol"] != "attention":
            raise UserError(
                f"{path} is a result of {result['protocol']}; give one of projects/Lab/tools/attention_stats.py"
            )
        metrics = result["metrics"]
        layers = {
            name: [metrics[key] for key in sorted(metrics) if key.startswith(f"{name}_layer_")] for name, _ in PANELS
        }
    except OSError as error:
        raise UserError(
            f"there is no result {path}; run projects/Lab/tools/attention_stats.py --output {folder} first"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no result of an evaluation; run projects/Lab/tools/attention_stats.py again"
        ) from error
    return {key: result.get(key) for key in ("model", "dataset")} | {"settings": result.get("settings", {})} | layers


def write_plot(path: Path, results: list[dict]) -> None:
    """Draw what `read_layers` gives, in order, as a PNG of 1,000 x 400 pixels; whole or not at all.

    The distance of uniform attention is a dotted line.
    """
    several = len({result["dataset"] for result in results}) > 1
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        for index, result in enumerate(results):
            values = result[name]
            color = [part / 255 for part in color_of(index)]
            marker = MARKERS[index % len(MARKERS)]
            label = f"{result['model']} ({result['dataset']})" if several else result["model"]
            axes.plot(range(1, len(values) + 1), values, marker=marker, color=color, label=label)
            if name == "distance" and (uniform := result["settings"].get("uniform_distance_pixels")):
                axes.axhline(uniform, color="grey", linestyle=":", zorder=0)
        axes.set_xlabel("layer")
        axes.set_ylabel(title)
        axes.set_ylim(0, 1.15 * max(1e-6, *axes.dataLim.intervaly))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if len(results) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png")
