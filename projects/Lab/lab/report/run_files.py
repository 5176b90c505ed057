"""What a run left in its output folder, read leniently: a missing or broken part is None, never an exception."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from pretrain.errors import UserError

# Where a detector's files are: the first of these folders that exists.
RUNS = {"pretrained": ("detect_pretrained", "detect"), "scratch": ("detect_scratch",)}


class PlainLoader(yaml.SafeLoader):
    """Reads what is plain in a YAML file; Python objects, which Detectron2 writes into configs, become None."""


PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: None)


@dataclass(frozen=True)
class RunFiles:
    """`result`: the run's result.json. `settings`, `metrics`: by part ("pretrain", "pretrained", "scratch"), the
    config and the log. `results`, `predictions`: by detector. What is not there is missing from its dict."""

    folder: Path
    result: dict
    settings: dict[str, dict]
    metrics: dict[str, list[dict]]
    results: dict[str, dict]
    predictions: dict[str, list[dict]]


def read_run(folder: Path) -> RunFiles:
    """Read an output folder.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the output folder of a run, such as outputs/demo")
    parts = {"pretrain": folder / "pretrain"}
    for run, names in RUNS.items():
        parts[run] = next((folder / name for name in names if (folder / name).is_dir()), folder / names[0])
    settings = {part: read_yaml(path / "config.yaml") for part, path in parts.items()}
    metrics = {part: read_metrics(path / "metrics.json") for part, path in parts.items()}
    results = {run: read_json(parts[run] / "result.json") for run in RUNS}
    predictions = {run: read_json(parts[run] / "inference" / "coco_instances_results.json") for run in RUNS}
    return RunFiles(
        folder=folder,
        result=read_json(folder / "result.json") or {},
        settings={part: value for part, value in settings.items() if isinstance(value, dict)},
        metrics={part: lines for part, lines in metrics.items() if lines},
        results={run: value for run, value in results.items() if isinstance(value, dict)},
        predictions={run: value for run, value in predictions.items() if isinstance(value, list)},
    )


def read_json(path: Path):
    """A JSON file's content, or None."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_yaml(path: Path):
    """A YAML file's plain content, or None. Nothing in it is run."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), PlainLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def read_metrics(path: Path) -> list[dict]:
    """Lines of a Detectron2 metrics.json by iteration; of an iteration that was run twice, the later line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    by_iteration = {}
    for line in lines:
        try:
            entry = json.loads(line)
            by_iteration.setdefault(entry["iteration"], {}).update(entry)
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a run that was cut off
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def at(tree, *keys: str):
    """The value deep in dicts, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def number(tree, *keys: str) -> float | None:
    """A finite number deep in dicts, or None."""
    value = at(tree, *keys)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
