"""Read a run's output folder leniently.

Missing, broken, unexpected or oversized files become empty values, never exceptions, and unusable ones are noted. The
folder may be untrusted.
"""

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml
from msgspec import Struct

from pretrain.data.coco import Coordinate, Id, Length, Runs
from pretrain.errors import UserError

# Folders of a detector's files; the first that exists is used.
RUNS = {
    "pretrained": ("detect_pretrained", "detect"), "untrained": ("detect_untrained",), "scratch": ("detect_scratch",)
}  # fmt: skip
MB = 2**20
MAX_JSON, MAX_YAML, MAX_METRICS, MAX_PREDICTIONS = 16 * MB, MB // 4, 256 * MB, 1024 * MB
MAX_STEP = 10**12
LARGEST = 1e15  # larger numbers are ignored


class Notes(list[str]):
    """What was left out of a report and why, one sentence each."""

    def attempt(self, what: str, make: Callable, otherwise=None):
        """Return the result of `make`; if it fails, add a note and return `otherwise`.

        Catches everything, because untrusted files reach much code.
        """
        try:
            return make()
        except UserError as error:
            self.append(f"{what}: {error}")
        except Exception as error:  # MemoryError and RecursionError too
            reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
            self.append(f"{what}: damaged, or of another version ({type(error).__name__}: {reason})")
        return otherwise


class PlainLoader(yaml.SafeLoader):
    """YAML loader for plain values; Python objects, which Detectron2 writes into configs, become None.

    So do aliases, which can make a small file expand or refer to itself; the parts read here have none.
    """

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            self.get_event()
            return yaml.ScalarNode("tag:yaml.org,2002:null", "null")
        return super().compose_node(parent, index)


PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: None)


class Detection(Struct, gc=False):
    """An entry of COCO's results format; `bbox` is [x, y, width, height] in pixels."""

    image_id: Id
    category_id: Id
    bbox: tuple[Coordinate, Coordinate, Length, Length]
    score: float
    segmentation: list[list[Coordinate]] | Runs | None = None


@dataclass(frozen=True)
class Part:
    """The files of one training: config, log, result.json and detections; empty if missing."""

    settings: dict
    metrics: list[dict]
    result: dict
    predictions: list[Detection]


@dataclass(frozen=True)
class RunFiles:
    """A run's files. `result`: its result.json. `detectors`: of each of `RUNS`."""

    result: dict
    pretrain: Part
    detectors: dict[str, Part]


def read_run(folder: Path, notes: Notes | None = None) -> RunFiles:
    """Read an output folder; UserError if it does not exist."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the output folder of a run, such as outputs/demo")
    notes = Notes() if notes is None else notes
    detectors = {
        run: read_part(next((folder / name for name in names if (folder / name).is_dir()), folder / names[0]), notes)
        for run, names in RUNS.items()
    }
    return RunFiles(_dict(folder / "result.json", notes), read_part(folder / "pretrain", notes), detectors)


def read_part(folder: Path, notes: Notes) -> Part:
    config, metrics = folder / "config.yaml", folder / "metrics.json"
    predictions = folder / "inference" / "coco_instances_results.json"
    settings = notes.attempt(str(config), lambda: _plain_yaml(config))
    return Part(
        settings=settings if isinstance(settings, dict) else {},
        metrics=notes.attempt(str(metrics), lambda: read_metrics(metrics, notes), []),
        result=_dict(folder / "result.json", notes),
        predictions=notes.attempt(str(predictions), lambda: read_predictions(predictions), []),
    )


def _dict(path: Path, notes: Notes) -> dict:
    content = notes.attempt(str(path), lambda: _json(path), {})
    if content is None or isinstance(content, dict):
        return content or {}
    notes.append(f"{path}: holds a {type(content).__name__}, where a result has keys and values")
    return {}


def read_json(path: Path):
    """A JSON file's content, or None."""
    return Notes().attempt("", lambda: _json(path))


def read_yaml(path: Path):
    """A YAML file's plain content, or None. Nothing in it is executed."""
    return Notes().attempt("", lambda: _plain_yaml(path))


def _json(path: Path):
    data = _read(path, MAX_JSON)
    return None if data is None else json.loads(data)


def _plain_yaml(path: Path):
    data = _read(path, MAX_YAML)
    return None if data is None else yaml.load(data.decode("utf-8"), PlainLoader)


def read_predictions(path: Path) -> list[Detection]:
    """Read detections. Raises msgspec's error, which names the entry, for another format."""
    data = _read(path, MAX_PREDICTIONS)
    return [] if data is None else msgspec.json.decode(data, type=list[Detection])


def read_metrics(path: Path, notes: Notes | None = None) -> list[dict]:
    """Lines of a Detectron2 metrics.json by iteration; if an iteration was run twice, the later line."""
    by_iteration, broken = {}, 0
    lines = (_read(path, MAX_METRICS) or b"").decode("utf-8", "replace").splitlines()
    for line in lines:
        try:
            entry = json.loads(line)
            step = int(entry["iteration"])
            if not 0 <= step <= MAX_STEP:
                raise ValueError(step)
            by_iteration.setdefault(step, {}).update(entry, iteration=step)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            broken += line is not lines[-1]  # an interrupted run may leave an incomplete last line
    if broken and notes is not None:
        notes.append(f"{path}: {broken} of {len(lines)} lines are no entries of a log")
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def _read(path: Path, most: int) -> bytes | None:
    """Read a file; None if it does not exist. Raises UserError if it is not a regular file (a pipe may never end) or
    too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError("is not a regular file")
        if status.st_size > most:
            raise UserError(f"has {status.st_size / MB:,.0f} MB, more than the {most / MB:,.2g} MB that are read")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error


def at(tree, *keys: str):
    """Nested value in dicts, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def number(tree, *keys: str) -> float | None:
    """Nested finite number in dicts, or None."""
    value = at(tree, *keys)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and -LARGEST < value < LARGEST else None  # neither NaN nor infinity


def shown(value, most: int = 200) -> str:
    """Any value as one line of text of limited length."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
