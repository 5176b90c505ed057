"""Rank correlations of a backbone's metrics with its detector's AP."""

import math
from dataclasses import dataclass

from scipy import stats
from tabulate import tabulate


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of `count` pairs, with a 95% interval; NaN if undefined."""

    rho: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, x: list[float | None], y: list[float | None]) -> "Correlation":
        """Correlation of the pairs without None; interval by Fisher's z with the variance of Bonett and Wright
        (2000).
        """
        pairs = [pair for pair in zip(x, y, strict=True) if None not in pair]
        if len(pairs) < 4 or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
            return cls(math.nan, math.nan, math.nan, len(pairs))
        rho = float(stats.spearmanr(pairs).statistic)
        z = math.atanh(min(max(rho, -1 + 1e-9), 1 - 1e-9))
        half = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(pairs) - 3))
        return cls(rho, math.tanh(z - half), math.tanh(z + half), len(pairs))

    def __str__(self) -> str:
        if math.isnan(self.rho):
            return "–"
        return f"{self.rho:+.2f} ({self.low:+.2f} to {self.high:+.2f}, n = {self.count})"


def table(rows: list[dict], figures: list[str], aps: list[str]) -> str:
    """Markdown: the correlation of each metric with each AP, then all values of each backbone."""
    names = [[figure, *(Correlation.of(column(rows, figure), column(rows, ap)) for ap in aps)] for figure in figures]
    values = [[row["backbone"], *(row.get(name) for name in (*figures, *aps))] for row in rows]
    return "\n\n".join(
        (
            tabulate(names, ["rank correlation with", *aps], tablefmt="github"),
            tabulate(values, ["backbone", *figures, *aps], tablefmt="github", floatfmt=".2f", missingval="–"),
        )
    )


def column(rows: list[dict], name: str) -> list[float | None]:
    return [row.get(name) for row in rows]


def plot(rows: list[dict], figures: list[str], aps: list[str], path) -> None:
    """Scatter plots with a panel for each metric (column) and AP (row), and a point for each backbone.

    Those of one `arm` (a row's, its backbone if it has none) look the same.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shape = dict(figsize=(2.4 * len(figures), 2.4 * len(aps) + 0.4), squeeze=False, layout="constrained")
    canvas, panels = pyplot.subplots(len(aps), len(figures), sharex="col", sharey="row", **shape)
    arms = [row.get("arm", row["backbone"]) for row in rows]
    styles = {
        arm: {"color": f"C{number % 10}", "marker": "os^D"[number // 10 % 4]}
        for number, arm in enumerate(dict.fromkeys(arms))
    }
    for down, ap in enumerate(aps):
        panels[down][0].set_ylabel(ap)
        for across, figure in enumerate(figures):
            panel = panels[down][across]
            rho = Correlation.of(column(rows, figure), column(rows, ap)).rho
            panel.set_title("–" if math.isnan(rho) else f"{rho:+.2f}", fontsize=9)
            for arm, row in zip(arms, rows, strict=True):
                if None not in (row.get(figure), row.get(ap)):
                    panel.scatter(row[figure], row[ap], **styles[arm])
            panels[-1][across].set_xlabel(figure)
    handles = [pyplot.Line2D([], [], linestyle="", label=arm, **style) for arm, style in styles.items()]
    canvas.legend(handles=handles, loc="outside right upper", fontsize=8)
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)
