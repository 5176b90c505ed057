"""The outcome of a sweep: settings, the figures of their runs, the best one, a table."""

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One point of the grid: its `overrides` ("optimizer.lr=8e-5", ...) and the `figures` of its runs, in percent."""

    overrides: tuple[str, ...]
    figures: list[float | None]

    @property
    def mean(self) -> float:
        """Mean of the runs; minus infinity where one of them has no figure."""
        return statistics.fmean(self.figures) if None not in self.figures else -math.inf


def best_of(settings: list[Setting]) -> Setting:
    """The setting of the highest mean; the first of equals."""
    return max(settings, key=lambda setting: setting.mean)


def markdown_table(settings: list[Setting], metric: str) -> str:
    """A row for each setting, in the grid's order: its values, each run, their mean; the best mean in bold."""
    best, runs = best_of(settings), range(1, len(settings[0].figures) + 1)
    keys = [override.partition("=")[0] for override in settings[0].overrides]
    head = [*keys, *(f"{metric}, run {run}" for run in runs), "mean"]
    lines = [head, ["---"] * len(head)]
    for setting in settings:
        values = [override.partition("=")[2] for override in setting.overrides]
        figures = ["–" if figure is None else f"{figure:.2f}" for figure in setting.figures]
        mean = f"{setting.mean:.2f}" if math.isfinite(setting.mean) else "–"
        lines.append([*values, *figures, f"**{mean}**" if setting is best else mean])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
