"""Statistics of a comparison of pretrainings: means over seeds, paired differences, and only significant orderings."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats
from tabulate import tabulate

CONFIDENCE = 0.95
PRETRAINED, UNTRAINED, SCRATCH = "pretrained", "untrained", "from scratch"
NO_CONFIG = ""  # of a detector from scratch, which all configs are compared with
# tasks without a detector, by the name in the probe's results
PROBES = {"object_knn": "probe (k-NN of objects)", "box_ap50": "probe (box AP50)"}


@dataclass(frozen=True)
class Figure:
    """Box AP of one detector, or a value of `PROBES`. task: how it was trained and with how many labels, e.g. "frozen,
    10%".
    """

    config: str
    start: str  # PRETRAINED; UNTRAINED, its initial values; or SCRATCH, the detector's own, with NO_CONFIG
    task: str
    seed: int
    ap: float


@dataclass(frozen=True)
class Interval:
    """Mean of `count` values and its two-sided Student t interval, infinitely wide for one value."""

    mean: float
    half: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Interval":
        values = np.fromiter(values, float)
        count = len(values)
        if count < 2:
            return cls(float(values.mean()), math.inf, count)
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
        return cls(float(values.mean()), float(quantile * values.std(ddof=1) / math.sqrt(count)), count)

    @property
    def above_zero(self) -> bool:
        return self.mean - self.half > 0

    def __neg__(self) -> "Interval":
        return Interval(-self.mean, self.half, self.count)

    def __str__(self) -> str:
        return f"{self.mean:z.2f}" + (f" ± {self.half:.2f}" if math.isfinite(self.half) else "")


class Figures:
    """All results of a comparison, grouped by config, start and task."""

    def __init__(self, figures: Iterable[Figure]):
        self.by_arm: dict[tuple[str, str, str], dict[int, float]] = {}
        for figure in figures:
            self.by_arm.setdefault((figure.config, figure.start, figure.task), {})[figure.seed] = figure.ap
        self.configs = list(dict.fromkeys(config for config, _, _ in self.by_arm if config != NO_CONFIG))
        self.tasks = list(dict.fromkeys(task for _, _, task in self.by_arm))

    @property
    def seeds(self) -> int:
        """How many seeds there are, of all arms together."""
        return len(set().union(*self.by_arm.values()))

    @property
    def has_scratch(self) -> bool:
        """Whether there are detectors from scratch."""
        return any(start == SCRATCH for _, start, _ in self.by_arm)

    def mean(self, config: str, start: str, task: str) -> Interval | None:
        seeds = self.by_arm.get((config, start, task))
        return Interval.of(seeds.values()) if seeds else None

    def difference(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> Interval | None:
        """one - other, paired over the seeds that both have, which cancels effects of the seed."""
        a, b = self.by_arm.get(one, {}), self.by_arm.get(other, {})
        shared = sorted(a.keys() & b.keys())
        return Interval.of(a[seed] - b[seed] for seed in shared) if shared else None

    def gain(self, config: str, task: str) -> Interval | None:
        """Gain of pretraining over its own initial values."""
        return self.difference((config, PRETRAINED, task), (config, UNTRAINED, task))

    def over_scratch(self, config: str, task: str) -> Interval | None:
        """Gain of pretraining over a detector from scratch."""
        return self.difference((config, PRETRAINED, task), (NO_CONFIG, SCRATCH, task))

    def table(self) -> str:
        """Markdown table with a column for each task: for each config its starts and gains, then the detectors from
        scratch.
        """
        rows = []

        def add_row(config: str, name: str, value) -> None:
            rows.append([config, name, *(value(config, task) or "–" for task in self.tasks)])

        for config in self.configs:
            for start in (PRETRAINED, UNTRAINED):
                add_row(config, start, lambda config, task, start=start: self.mean(config, start, task))
            add_row(config, "gain, by seed", self.gain)
            if self.has_scratch:
                add_row(config, "over scratch, by seed", self.over_scratch)
        if self.has_scratch:
            add_row(NO_CONFIG, SCRATCH, lambda config, task: self.mean(config, SCRATCH, task))
        return tabulate(rows, ["pretraining", "start", *self.tasks], tablefmt="github", disable_numparse=True) + "\n"

    def differences(self) -> str:
        """Markdown table of paired differences between pretrained configs, a row for each pair; "" for one config."""
        if len(self.configs) < 2:
            return ""
        rows = [
            [f"{a} – {b}", *(self.difference((a, PRETRAINED, t), (b, PRETRAINED, t)) or "–" for t in self.tasks)]
            for a, b in combinations(self.configs, 2)
        ]
        return tabulate(rows, ["difference, by seed", *self.tasks], tablefmt="github", disable_numparse=True) + "\n"

    def verdict(self, task: str) -> str:
        """One sentence about a task.

        It orders two configs only if both gain over their initial values and the interval of their difference excludes
        zero.
        """
        return self.order(task) + self.verdict_on_scratch(task)

    def verdict_on_scratch(self, task: str) -> str:
        """A second sentence, where detectors were trained from scratch."""
        gains = {config: self.over_scratch(config, task) for config in self.configs}
        if not any(gains.values()):
            return ""
        said = [
            f"{config} gains {gain} box AP" if gain and gain.above_zero else f"no significant gain for {config}"
            for config, gain in gains.items()
        ]
        return f" Over training from scratch: {'; '.join(said)}."

    def order(self, task: str) -> str:
        gains = {config: self.gain(config, task) for config in self.configs}
        idle = [config for config, gain in gains.items() if not (gain and gain.above_zero)]
        if idle:
            worth = f"no significant gain from pretraining for {', '.join(idle)}"
            lost = [f"{c} is {-gains[c]} below its initial values" for c in idle if gains[c] and (-gains[c]).above_zero]
            worth += f" ({'; '.join(lost)})" if lost else ""
            return f"{task}: {worth}, so no order is claimed."
        if len(self.configs) < 2:
            return f"{task}: pretraining gains over its initial values."
        said = []
        for a, b in combinations(self.configs, 2):
            for better, worse in ((a, b), (b, a)):
                difference = self.difference((better, PRETRAINED, task), (worse, PRETRAINED, task))
                if difference and difference.above_zero:
                    unit = "points" if task in PROBES.values() else "box AP"
                    said.append(f"{better} is above {worse} by {difference} {unit}")
        order = "; ".join(said) if said else "no significant difference between them"
        return f"{task}: every pretraining gains over its initial values; {order}."


def plot(figures: Figures, path) -> None:
    """Plot box AP of every detector, a panel for each task; lines join equal seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shape = dict(figsize=(1.2 + 2.6 * len(figures.tasks), 3.4), squeeze=False, layout="constrained")
    canvas, (axes,) = pyplot.subplots(1, len(figures.tasks), **shape)
    for panel, task in zip(axes, figures.tasks, strict=True):
        for place, config in enumerate(figures.configs):
            for start, filled in ((UNTRAINED, False), (PRETRAINED, True)):
                values = list(figures.by_arm.get((config, start, task), {}).values())
                face = f"C{place}" if filled else "none"
                panel.scatter([place] * len(values), values, edgecolors=f"C{place}", facecolors=face, zorder=2)
        shared = [set(figures.by_arm.get((config, PRETRAINED, task), {})) for config in figures.configs]
        for seed in sorted(set.intersection(*shared)) if shared else ():
            line = [figures.by_arm[config, PRETRAINED, task][seed] for config in figures.configs]
            panel.plot(range(len(line)), line, color="0.8", linewidth=1, zorder=1)
        if scratch := figures.mean(NO_CONFIG, SCRATCH, task):
            panel.axhline(scratch.mean, color="0.5", linewidth=1, linestyle="--", zorder=0)
        panel.set_title(task)
        panel.set_xticks(range(len(figures.configs)), figures.configs, rotation=20, ha="right")
        panel.set_ylabel("percent" if task in PROBES.values() else "box AP")
        panel.margins(x=0.2)
        panel.set_ylim(0, 1.1 * panel.get_ylim()[1])
    axes[0].scatter([], [], color="0.3", label=PRETRAINED)
    axes[0].scatter([], [], edgecolors="0.3", facecolors="none", label=UNTRAINED)
    if figures.has_scratch:
        axes[0].plot([], [], color="0.5", linewidth=1, linestyle="--", label=f"{SCRATCH}, mean")
    canvas.legend(loc="outside upper center", ncols=3)
    canvas.savefig(path, dpi=120)
    pyplot.close(canvas)
