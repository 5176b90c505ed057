"""Report of a comparison of pretrainings (tools/compare_pretraining.py), from the results of its finished stages."""

import shlex
import sys
from collections.abc import Container, Iterator
from dataclasses import asdict
from pathlib import Path

from cropfield.online_probe import RECORD
from cropfield.probe import FIGURES
from cropfield.stages import read_result
from lab import ablation, correlation
from lab.ablation import NO_CONFIG, PROBES, Figure, Figures
from lab.probe_curves import ProbeCurve, ProbeCurves
from pretrain.files import write_json, write_text

FEWEST = 4  # backbones for a rank correlation


def write_report(comparison, done: Container[str], progress: str = "") -> str:
    """Write comparison.md, .json and .png, probe_curves.png and correlation.png -> the text; "" if nothing was found.

    Args:
        comparison: its `Comparison`.
        done: names of the stages whose results to include.
        progress: which these are, if not all.
    """
    output, figures = comparison.output, list(found(comparison, done))
    if not figures:
        return ""
    results, curves, backbones = Figures(figures), ProbeCurves(probed(comparison, done)), measured(comparison, done)
    parts = [
        f"{progress}Box AP; of the probe, percent. {about_intervals(figures, progress)}\n",
        results.table(),
        results.differences(),
        "\n".join(f"- {results.verdict(task)}" for task in results.tasks),
    ]
    if curves.curves:
        parts.append(f"\nThe probe during pretraining, in the precision of the run:\n\n{curves.table()}")
        curves.plot(output / "probe_curves.png")
    if len(backbones) >= FEWEST:
        aps = [task for task in results.tasks if task not in PROBES.values()]
        metrics = [name for name in (*dict(FIGURES), "loss") if any(row.get(name) is not None for row in backbones)]
        parts.append(f"\nWhich metric foretells the AP:\n\n{correlation.table(backbones, metrics, aps)}")
        correlation.plot(backbones, metrics, aps, output / "correlation.png")
    command = shlex.join(["tools/compare_pretraining.py", *sys.argv[1:]])
    text = "\n".join((*parts, f"\n```\n{command}\n```\n"))
    write_text(output / "comparison.md", text)
    write_json(output / "comparison.json", [asdict(figure) for figure in figures])
    ablation.plot(results, output / "comparison.png")
    return text


def about_intervals(figures: list[Figure], progress: str) -> str:
    seeds = len({figure.seed for figure in figures})
    if seeds == 1:
        return "One seed has no interval, so neither a gain nor an order is claimed."
    return f"Mean over {'up to ' if progress else ''}{seeds} seeds ± 95% interval (Student's t)."


def found(comparison, done: Container[str]) -> Iterator[Figure]:
    """The AP of each detector and the probe's metrics of each backbone."""
    detectors = [(config.stem, seed, comparison.detectors(config, seed)) for config, seed in comparison.runs]
    detectors += [(NO_CONFIG, seed, comparison.scratch_detectors(seed)) for seed in comparison.seeds]
    for config, seed, arms in detectors:
        for start, task, folder, stage in arms:
            if stage.name in done:
                yield Figure(config, start, task, seed, box_ap(folder))
    for config, seed, start, row in probes(comparison, done):
        for name, task in PROBES.items():
            if name in row:  # older ones have one
                yield Figure(config.stem, start, task, seed, row[name])


def probes(comparison, done: Container[str]) -> Iterator[tuple[Path, int, str, dict]]:
    """(config, seed, start, metrics) of each backbone that was probed."""
    for config, seed in comparison.runs if "probe" in comparison.args.modes else ():
        file, stage = comparison.probe(config, seed)
        if stage.name in done:
            for (start, _), row in zip(comparison.starts(config, seed), probe_rows(file), strict=True):
                yield config, seed, start, row


def probed(comparison, done: Container[str]) -> list[ProbeCurve]:
    """What the pretrainings have probed, with --probe-period."""
    runs = {run: comparison.run_folder(*run) for run in comparison.runs if comparison.args.probe_period}
    return [
        ProbeCurve.of(config.stem, seed, read_result(folder / RECORD))
        for (config, seed), folder in runs.items()
        if folder.name in done
    ]


def measured(comparison, done: Container[str]) -> list[dict]:
    """Metrics of each probed backbone, its run's last loss, and the AP of its detectors by task."""
    rows = []
    for config, seed, start, metrics in probes(comparison, done):
        weights = dict(comparison.starts(config, seed))[start]
        own = [arm for arm in comparison.detectors(config, seed) if arm[0] == start and arm[-1].name in done]
        aps = {task: box_ap(folder) for _, task, folder, _ in own}
        if aps:
            row = {"backbone": f"{config.stem} {start}, seed {seed}", "loss": correlation.last_loss(weights)}
            rows.append(row | {name: metrics[name] for name in dict(FIGURES) if name in metrics} | aps)
    return rows


def probe_rows(file: Path) -> list[dict[str, float]]:
    """Metrics of the backbones in a probe's results, without the baseline."""
    *backbones, _ = read_result(file)["backbones"]
    return backbones


def box_ap(folder: Path) -> float:
    """The AP in a detector's folder; 0 if it detected nothing."""
    return read_result(folder / "result.json")["bbox"]["AP"] or 0.0
