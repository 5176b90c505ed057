"""Collect every result.json below a folder, from any command."""

from dataclasses import dataclass
from pathlib import Path

from cropfield.results import RESULT
from lab.report.run_files import at, number, read_json, read_yaml
from pretrain.errors import UserError

COCO_IMAGES = 117_266  # images of train2017 with an object: the length of an epoch
WIDTHS = {192: "ViT-Ti", 384: "ViT-S", 768: "ViT-B", 1024: "ViT-L", 1280: "ViT-H"}
SHAPE = ("embed_dim", "patch_size")


@dataclass(frozen=True)
class Result:
    """One result.json; `file` is relative to the folder searched."""

    file: Path
    protocol: str
    dataset: str
    model: str
    metrics: dict[str, float]
    settings: dict


def gather(folder: Path) -> tuple[list[Result], list[str]]:
    """All results below `folder`, sorted by path, and a line about each result.json that lacks required information.

    Raises:
        UserError: there is no such folder, or no result in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the output folder of the evaluations, such as outputs")
    found = [read_result(path, path.relative_to(folder)) for path in sorted(folder.rglob(RESULT))]
    results = [result for result in found if isinstance(result, Result)]
    if not results:
        raise UserError(f"there is no usable {RESULT} below {folder}; run an evaluation first, see docs/reproduce.md")
    return fold(results), [line for line in found if isinstance(line, str)]


def fold(results: list[Result]) -> list[Result]:
    """Drop the runs of a sweep: its result stands for those of the same model, protocol and dataset in folders below
    it.
    """
    kept = []
    for run in results:
        same = [r for r in results if (r.model, r.protocol, r.dataset) == (run.model, run.protocol, run.dataset)]
        above = [r for r in same if r.file.parent in run.file.parent.parents and "settings_tried" in r.settings]
        for result in above:  # only a run has the config, which names its backbone
            result.settings.update({"backbone": run.settings["backbone"]} if "backbone" in run.settings else {})
        kept += [] if above else [run]
    return kept


def read_result(path: Path, file: Path) -> Result | str:
    """The result in `path`, named `file`, completed from the config next to it; or a line on what is missing."""
    content, config = read_json(path), read_yaml(path.with_name("config.yaml"))
    if not isinstance(content, dict):
        return f"{file}: not readable as JSON"
    backbone = at(config, "model", "backbone")
    width, patch = (number(backbone, "net", name) or number(backbone, name) for name in SHAPE)
    settings = {"backbone": f"{WIDTHS.get(width, f'width {width:.0f}')}/{patch:.0f}"} if width and patch else {}
    if {"protocol", "dataset", "model", "metrics"} <= content.keys():
        names, said = [content[name] for name in ("protocol", "dataset", "model")], content.get("settings") or {}
        if not all(isinstance(name, str) for name in names) or not isinstance(said, dict):
            return f"{file}: its names are not text, or its settings are not keys with values"
        return Result(file, *names, _numbers(content["metrics"]), said | settings)
    if not {"bbox", "segm"} & content.keys():
        return f"{file}: not written by a command whose results are in tables"
    if not isinstance(config, dict) or not config:
        return f"{file}: a detector's result without a config.yaml that names its dataset"
    return _of_detector(file, path, content, config, settings)


def _of_detector(file: Path, path: Path, content: dict, config: dict, settings: dict) -> Result:
    """A detector's AP on the dataset in its config; "coco" means COCO's val2017 only."""
    dataset = Path(str(at(config, "dataset", "val_json") or "instances_val2017")).stem
    dataset = "coco" if dataset == "instances_val2017" else dataset
    model = Path(str(at(config, "train", "init_checkpoint") or "untrained")).stem
    model = path.resolve().parent.name if model.startswith("model_") else model  # a detector's own checkpoint
    steps, batch = number(config, "train", "max_iter"), number(config, "dataloader", "train", "total_batch_size")
    if dataset == "coco" and steps and batch:
        settings["epochs"] = round(steps * batch / COCO_IMAGES)
    boxes, masks = (_numbers(content.get(task)) for task in ("bbox", "segm"))
    metrics = {f"box_{name}": value for name, value in boxes.items()}
    metrics |= {f"mask_{name}": value for name, value in masks.items()}
    return Result(file, "detection", dataset, model, metrics, settings)


def _numbers(metrics) -> dict[str, float]:
    values = {name: number(metrics, name) for name in metrics} if isinstance(metrics, dict) else {}
    return {name: value for name, value in values.items() if value is not None}
