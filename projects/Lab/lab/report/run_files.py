"""What a run left in its output folder, read leniently: what is absent, broken, of another kind or too large becomes
empty, never an exception, and what was there and could not be used is noted. The folder may be anybody's."""

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

# Where a detector's files are: the first of these folders that exists.
RUNS = {"pretrained": ("detect_pretrained", "detect"), "scratch": ("detect_scratch",)}
MB = 2**20
MAX_JSON, MAX_YAML, MAX_METRICS, MAX_PREDICTIONS = 16 * MB, MB // 4, 256 * MB, 1024 * MB
MAX_STEP = 10**12
LARGEST = 1e15  # no number of a run is larger


class Notes(list[str]):
    """What was left out of a report and why, a sentence each."""

    def attempt(self, what: str, make: Callable, otherwise=None):
        """What `make` makes; where it fails, `otherwise`, and a note. Anybody's files meet much code here."""
        try:
            return make()
        except UserError as error:
            self.append(f"{what}: {error}")
        except Exception as error:  # MemoryError and RecursionError too
            reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
            self.append(f"{what}: damaged, or of another version ({type(error).__name__}: {reason})")
        return otherwise


class PlainLoader(yaml.SafeLoader):
    """Reads what is plain in a YAML file; Python objects, which Detectron2 writes into configs, become None. An alias
    would let a small file become a large one, or a circle: Detectron2 writes none that matters here."""

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
    """What one training left in its folder: its config, log, result.json and detections; empty where there is none."""

    settings: dict
    metrics: list[dict]
    result: dict
    predictions: list[Detection]


@dataclass(frozen=True)
class RunFiles:
    """`result`: the run's result.json. `detectors`: "pretrained" and "scratch"."""

    result: dict
    pretrain: Part
    detectors: dict[str, Part]


def read_run(folder: Path, notes: Notes | None = None) -> RunFiles:
    """Read an output folder; UserError if there is no such folder."""
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
    """A YAML file's plain content, or None. Nothing in it is run."""
    return Notes().attempt("", lambda: _plain_yaml(path))


def _json(path: Path):
    data = _read(path, MAX_JSON)
    return None if data is None else json.loads(data)


def _plain_yaml(path: Path):
    data = _read(path, MAX_YAML)
    return None if data is None else yaml.load(data.decode("utf-8"), PlainLoader)


def read_predictions(path: Path) -> list[Detection]:
    """Raises msgspec's error, which names the entry, for one that is of another form."""
    data = _read(path, MAX_PREDICTIONS)
    return [] if data is None else msgspec.json.decode(data, type=list[Detection])


def read_metrics(path: Path, notes: Notes | None = None) -> list[dict]:
    """Lines of a Detectron2 metrics.json by iteration; of an iteration that was run twice, the later line."""
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
            broken += line is not lines[-1]  # the last line of a run that was cut off is nothing unusual
    if broken and notes is not None:
        notes.append(f"{path}: {broken} of {len(lines)} lines are no entries of a log")
    return [by_iteration[iteration] for iteration in sorted(by_iteration)]


def _read(path: Path, most: int) -> bytes | None:
    """None: there is no such file. Raises UserError for what is no regular file (a pipe has no end) or too large."""
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
    """The value deep in dicts, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def number(tree, *keys: str) -> float | None:
    """A finite number deep in dicts, or None."""
    value = at(tree, *keys)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and -LARGEST < value < LARGEST else None  # neither NaN nor infinity


def shown(value, most: int = 200) -> str:
    """Anything as a line of text that is not too long."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"
