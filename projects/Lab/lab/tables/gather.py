"""What was measured here: every result.json below a folder, whichever command wrote it."""

from dataclasses import dataclass
from pathlib import Path

from cropfield.results import RESULT
from lab.report.run_files import read_json, read_yaml
from pretrain.errors import UserError

COCO_IMAGES = 117_266  # images of train2017 with an object, which an epoch goes through
WIDTHS = {192: "ViT-Ti", 384: "ViT-S", 768: "ViT-B", 1024: "ViT-L", 1280: "ViT-H"}
_TASKS = {"bbox": "box", "segm": "mask"}


@dataclass(frozen=True)
class Result:
    """One result.json; `file` relative to the folder that was searched."""

    file: Path
    protocol: str
    dataset: str
    model: str
    metrics: dict[str, float]
    settings: dict


def gather(folder: Path) -> tuple[list[Result], list[str]]:
    """All results below `folder`, by path, and a line about each result.json that says too little to be used.

    Raises:
        UserError: there is no such folder, or no result in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the one that the evaluations wrote into, such as outputs")
    results, left_out = [], []
    for path in sorted(folder.rglob(RESULT)):
        content, file = read_json(path), path.relative_to(folder)
        if not isinstance(content, dict):
            left_out.append(f"{file}: no readable JSON")
        elif {"protocol", "dataset", "model", "metrics"} <= content.keys():
            results.append(_of_evaluation(file, content, _config(path)))
        elif _TASKS.keys() & content.keys():
            config = _config(path)
            if config:
                results.append(_of_detector(file, path, content, config))
            else:
                left_out.append(f"{file}: a detector's without the config.yaml that says which dataset it is of")
        else:
            left_out.append(f"{file}: of none of the commands whose results are tables")
    if not results:
        raise UserError(f"there is no usable {RESULT} below {folder}; run an evaluation first, see docs/evaluation.md")
    return fold(results), left_out


def fold(results: list[Result]) -> list[Result]:
    """Without the runs of a sweep: a result stands for those of its model, protocol and dataset in folders below it."""
    kept, below = [], []
    for result in results:
        above = [
            other
            for other in results
            if other is not result
            and (other.model, other.protocol, other.dataset) == (result.model, result.protocol, result.dataset)
            and other.file.parent in result.file.parents
        ]
        below += [(other, result) for other in above]
        kept += [] if above else [result]
    for result, run in below:  # only a run has the config that tells its trunk
        result.settings.update({"trunk": run.settings["trunk"]} if "trunk" in run.settings else {})
    return kept


def _config(path: Path) -> dict:
    """The config that a detector's or segmenter's run leaves beside its result; {} if there is none."""
    config = read_yaml(path.with_name("config.yaml"))
    return config if isinstance(config, dict) else {}


def _of_evaluation(file: Path, content: dict, config: dict) -> Result:
    settings = dict(content.get("settings") or {})
    if trunk := _trunk(config):
        settings["trunk"] = trunk
    protocol, dataset, model = (content[name] for name in ("protocol", "dataset", "model"))
    return Result(file, protocol, dataset, model, _finite(content["metrics"]), settings)


def _of_detector(file: Path, path: Path, content: dict, config: dict) -> Result:
    """A detector's AP, of the dataset that its config names; "coco" is COCO's val2017 and nothing else."""
    metrics = {
        f"{kind}_{name}": value
        for task, kind in _TASKS.items()
        for name, value in _finite(content.get(task) or {}).items()
    }
    annotations = _at(config, "dataset", "val_json")
    dataset = Path(annotations).stem if annotations else "coco"
    dataset = "coco" if dataset == "instances_val2017" else dataset
    model = Path(_at(config, "train", "init_checkpoint") or "untrained").stem
    if model.startswith("model_"):  # a detector's own checkpoint
        model = path.resolve().parent.name
    settings = {"trunk": _trunk(config)}
    steps, batch = _at(config, "train", "max_iter"), _at(config, "dataloader", "train", "total_batch_size")
    if dataset == "coco" and steps and batch:
        settings["epochs"] = round(steps * batch / COCO_IMAGES)
    return Result(file, "detection", dataset, model, metrics, {k: v for k, v in settings.items() if v is not None})


def _trunk(config: dict) -> str | None:
    """ "ViT-B/16" from a detector's config; None if it does not say."""
    width = _at(config, "model", "backbone", "net", "embed_dim") or _at(config, "model", "backbone", "embed_dim")
    patch = _at(config, "model", "backbone", "net", "patch_size") or _at(config, "model", "backbone", "patch_size")
    return f"{WIDTHS.get(width, f'width {width}')}/{patch}" if width and patch else None


def _at(config, *keys: str):
    for key in keys:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _finite(metrics: dict) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}
