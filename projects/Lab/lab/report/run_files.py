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
class Part:
    """What one training left in its folder: its config, log, result.json and detections; empty where there is none."""

    settings: dict
    metrics: list[dict]
    result: dict
    predictions: list[dict]


@dataclass(frozen=True)
class RunFiles:
    """`result`: the run's result.json. `detectors`: "pretrained" and "scratch"."""

    result: dict
    pretrain: Part
    detectors: dict[str, Part]


def read_run(folder: Path) -> RunFiles:
    """Read an output folder; UserError if there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the output folder of a run, such as outputs/demo")
    detectors = {
        run: read_part(next((folder / name for name in names if (folder / name).is_dir()), folder / names[0]))
        for run, names in RUNS.items()
    }
    return RunFiles(_of(dict, read_json(folder / "result.json")), read_part(folder / "pretrain"), detectors)


def read_part(folder: Path) -> Part:
    return Part(
        settings=_of(dict, read_yaml(folder / "config.yaml")),
        metrics=read_metrics(folder / "metrics.json"),
        result=_of(dict, read_json(folder / "result.json")),
        predictions=_of(list, read_json(folder / "inference" / "coco_instances_results.json")),
    )


def _of(kind: type, value):
    return value if isinstance(value, kind) else kind()


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
    by_iteration = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            step = int(entry["iteration"])
            by_iteration.setdefault(step, {}).update(entry, iteration=step)
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
