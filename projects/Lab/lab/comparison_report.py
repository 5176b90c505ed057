"""Report of a comparison of pretrainings (tools/compare_pretraining.py), from the results of its finished stages."""

import itertools
import json
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
AP = "AP, "  # before a task


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
    results = Figures(figures)
    ablation.plot(results, output / "comparison.png")
    parts = [
        f"{progress}Box AP; of the probe, percent. {about_intervals(results, progress)}",
        *filter(None, (results.table(), results.differences(), verdicts(results))),
        picture("comparison.png"),
        *during_pretraining(comparison, done),
        *foretelling(comparison, done),
        f"```\n{shlex.join(['tools/compare_pretraining.py', *sys.argv[1:]])}\n```",
    ]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    write_text(output / "comparison.md", text)
    write_json(output / "comparison.json", [asdict(figure) for figure in figures])
    return text


def picture(name: str) -> str:
    return f"![{name}]({name})"


def during_pretraining(comparison, done: Container[str]) -> list[str]:
    """The section on the probe during pretraining, and its plot; [] without --probe-period."""
    found = probed(comparison, done)
    if not found:
        return []
    values = [point for curve in found for point in curve.points.values()]
    curves = ProbeCurves(found, telling(values))
    curves.plot(comparison.output / "probe_curves.png")
    said = "The probe during pretraining, in the run's precision, where all seeds have been probed:"
    return [said, curves.table(), picture("probe_curves.png")]


def foretelling(comparison, done: Container[str]) -> list[str]:
    """The section on which metric foretells the AP, and its plot; [] for fewer backbones than `FEWEST`."""
    backbones = measured(comparison, done)
    if len(backbones) < FEWEST:
        return []
    metrics = [name for name in dict(FIGURES) if any(name in row for row in backbones)]
    aps = list(dict.fromkeys(name for row in backbones for name in row if name.startswith(AP)))
    correlation.plot(backbones, metrics, aps, comparison.output / "correlation.png")
    said = (
        f"Which metric foretells the AP: Spearman's rank correlation over {len(backbones)} backbones, with its 95% "
        "interval for independent ones. Seeds and twins are not, several metrics are tried at once, and ranks of APs "
        "near zero are noise: take it as a hint."
    )
    return [said, correlation.table(backbones, metrics, aps), picture("correlation.png")]


def telling(rows: list[dict]) -> list[str]:
    """Names of the `PROBES` to show: k-NN of objects is 100 for every backbone where all are of one class."""
    return [name for name in PROBES if {row.get(name) for row in rows} - {None, 100.0}]


def about_intervals(results: Figures, progress: str) -> str:
    if results.seeds == 1:
        return "One seed has no interval, so neither a gain nor an order is claimed."
    return f"Mean over {'up to ' if progress else ''}{results.seeds} seeds ± 95% interval (Student's t)."


def verdicts(results: Figures) -> str:
    """A sentence for each task; "" for one seed, of which nothing can be said."""
    return "\n".join(f"- {results.verdict(task)}" for task in results.tasks) if results.seeds > 1 else ""


def found(comparison, done: Container[str]) -> Iterator[Figure]:
    """The AP of each detector and the probe's metrics of each backbone."""
    detectors = [(config.stem, seed, comparison.detectors(config, seed)) for config, seed in comparison.runs]
    detectors += [(NO_CONFIG, seed, comparison.scratch_detectors(seed)) for seed in comparison.seeds]
    for config, seed, arms in detectors:
        for start, task, folder, stage in arms:
            if stage.name in done:
                yield Figure(config, start, task, seed, box_ap(folder))
    rows = list(probes(comparison, done))
    for name, (config, seed, start, row) in itertools.product(telling([row for *_, row in rows]), rows):
        if name in row:  # older ones have one
            yield Figure(config.stem, start, PROBES[name], seed, row[name])


def probes(comparison, done: Container[str]) -> Iterator[tuple[Path, int, str, dict]]:
    """(config, seed, start, metrics) of each backbone that was probed."""
    for config, seed in comparison.runs if "probe" in comparison.args.modes else ():
        file, stage = comparison.probe(config, seed)
        if stage.name in done:
            for place, (start, _) in enumerate(comparison.starts(config, seed)):
                yield config, seed, start, read_result(file, "backbones", place)


def probed(comparison, done: Container[str]) -> list[ProbeCurve]:
    """What the pretrainings have probed, with --probe-period. A record that cannot be used is told and left out."""
    curves = []
    for config, seed in comparison.runs if comparison.args.probe_period else ():
        folder = comparison.run_folder(config, seed)
        if folder.name in done:
            try:
                curves.append(ProbeCurve.of(config.stem, seed, json.loads((folder / RECORD).read_text())))
            except (OSError, ValueError, KeyError, TypeError):
                print(f"{folder / RECORD} is missing or damaged: {folder.name} has no curve", file=sys.stderr)
    return curves


def measured(comparison, done: Container[str]) -> list[dict]:
    """Metrics of each probed backbone, and the AP of its detectors by task."""
    rows = []
    for config, seed, start, metrics in probes(comparison, done):
        own = [arm for arm in comparison.detectors(config, seed) if arm[0] == start and arm[-1].name in done]
        aps = {AP + task: box_ap(folder) for _, task, folder, _ in own}
        if aps:
            known = {name: metrics[name] for name in dict(FIGURES) if name in metrics}
            arm = f"{config.stem} {start}"
            rows.append({"backbone": f"{arm}, seed {seed}", "arm": arm, **known, **aps})
    return rows


def box_ap(folder: Path) -> float:
    """The AP in a detector's folder; 0 if it detected nothing."""
    return read_result(folder / "result.json", "bbox", "AP") or 0.0
