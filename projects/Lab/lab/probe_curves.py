"""The probe's metrics during the pretrainings of a comparison, against the number of images seen."""

from dataclasses import dataclass

from tabulate import tabulate

from lab.ablation import PROBES, Interval


@dataclass(frozen=True)
class ProbeCurve:
    """One pretraining's values of `PROBES` by name, for each number of images seen."""

    config: str
    seed: int
    points: dict[int, dict[str, float]]

    @classmethod
    def of(cls, config: str, seed: int, record: dict) -> "ProbeCurve":
        """From a run's detection_probe.json (`OnlineDetectionProbe`)."""
        probes = ({"images": 0, **record["start"]}, *record["probes"])
        return cls(config, seed, {probe["images"]: {name: probe[name] for name in PROBES} for probe in probes})


class ProbeCurves:
    """Curves of all configs and seeds."""

    def __init__(self, curves: list[ProbeCurve]):
        self.curves = curves
        self.configs = list(dict.fromkeys(curve.config for curve in curves))

    def mean(self, config: str, name: str) -> dict[int, Interval]:
        """Mean over the seeds that have a value, by images seen."""
        own = [curve.points for curve in self.curves if curve.config == config]
        return {
            images: Interval.of(points[images][name] for points in own if images in points)
            for images in sorted(set().union(*own))
        }

    def table(self) -> str:
        """Markdown table with a row for each config and number of images."""
        rows = []
        for config in self.configs:
            columns = [self.mean(config, name) for name in PROBES]
            rows += [[config, f"{images:,}", *(column[images] for column in columns)] for images in columns[0]]
        head = ["pretraining", "images seen", *PROBES.values()]
        align = ("left", "right", "left", "left")
        return tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=align) + "\n"

    def plot(self, path) -> None:
        """A panel for each metric: the mean of each config, thin lines for its seeds."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        canvas, axes = pyplot.subplots(1, len(PROBES), figsize=(4.2 * len(PROBES), 3.4), layout="constrained")
        for panel, (name, words) in zip(axes, PROBES.items(), strict=True):
            for place, config in enumerate(self.configs):
                for curve in self.curves:
                    if curve.config == config:
                        values = [values[name] for values in curve.points.values()]
                        panel.plot([*curve.points], values, color=f"C{place}", linewidth=0.6, alpha=0.6)
                means = self.mean(config, name)
                heights = [interval.mean for interval in means.values()]
                panel.plot([*means], heights, color=f"C{place}", marker="o", markersize=3, label=config)
            panel.set(title=words, xlabel="images seen", ylabel="percent")
        axes[0].legend()
        canvas.savefig(path, dpi=120)
        pyplot.close(canvas)
