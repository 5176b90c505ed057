"""What a comparison's pretrainings gain in the probe's metrics with the number of images seen."""

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
        """From a run's detection_probe.json (`OnlineDetectionProbe`). Raises KeyError or TypeError if it is damaged."""
        probes = ({"images": 0, **record["start"]}, *record["probes"])
        return cls(config, seed, {probe["images"]: {name: probe[name] for name in PROBES} for probe in probes})

    def gains(self, name: str) -> dict[int, float]:
        """Metric less its value before the first step."""
        return {images: values[name] - self.points[0][name] for images, values in self.points.items()}


class ProbeCurves:
    """Curves of all configs and seeds.

    Args:
        metrics: names of those to show.
    """

    def __init__(self, curves: list[ProbeCurve], metrics: list[str]):
        self.curves, self.metrics = curves, metrics
        self.configs = list(dict.fromkeys(curve.config for curve in curves))

    def of(self, config: str) -> list[ProbeCurve]:
        return [curve for curve in self.curves if curve.config == config]

    def seen(self, config: str) -> list[int]:
        """Numbers of images at which every seed was probed, so that all means are over the same seeds."""
        return sorted(set.intersection(*(set(curve.points) for curve in self.of(config))))

    def table(self) -> str:
        """Markdown table with a row for each config and number of images."""
        rows = []
        for config in self.configs:
            for images in self.seen(config):
                row = [config, f"{images:,}"]
                for name in self.metrics:
                    row.append(Interval.of(curve.points[images][name] for curve in self.of(config)))
                    row.append(Interval.of(curve.gains(name)[images] for curve in self.of(config)) if images else "")
                rows.append(row)
        head = ["pretraining", "images seen"]
        for name in self.metrics:
            head += [PROBES[name], "gain, by seed"]
        return tabulate(rows, head, tablefmt="github", disable_numparse=True) + "\n"

    def plot(self, path) -> None:
        """A panel for each metric: the mean gain of each config, and a thin line for each seed."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        shape = dict(figsize=(4.2 * len(self.metrics), 3.4), squeeze=False, layout="constrained")
        canvas, (axes,) = pyplot.subplots(1, len(self.metrics), **shape)
        for panel, name in zip(axes, self.metrics, strict=True):
            panel.axhline(0, color="0.7", linewidth=0.8, zorder=0)
            for place, config in enumerate(self.configs):
                for curve in self.of(config):
                    gains = curve.gains(name)
                    panel.plot([*gains], [*gains.values()], color=f"C{place}", linewidth=0.6, alpha=0.6)
                seen = self.seen(config)
                means = [Interval.of(curve.gains(name)[images] for curve in self.of(config)).mean for images in seen]
                panel.plot(seen, means, color=f"C{place}", marker="o", markersize=3, label=f"{config}, mean")
            panel.set(title=PROBES[name], xlabel="images seen", ylabel="gain over the untrained backbone")
        axes[0].plot([], [], color="0.5", linewidth=0.6, label="one seed")
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(self.configs) + 1)
        canvas.savefig(path, dpi=120)
        pyplot.close(canvas)
