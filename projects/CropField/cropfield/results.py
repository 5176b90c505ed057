"""What an evaluation leaves behind: one small file of figures for each protocol, dataset and backbone."""

from pathlib import Path

from pretrain.files import write_json

RESULT = "result.json"


def write_result(
    folder: Path, protocol: str, dataset: str, model: str, metrics: dict[str, float], settings: dict | None = None
) -> Path:
    """Write `folder`/result.json, which `projects/Lab/tools/results_table.py` gathers; returns its path.

    Args:
        protocol: "linear_probe", "knn", "finetune", "video", "semantic_seg", "detection", "attention", "field" or
            "predictor".
        dataset: what it was measured on, e.g. "imagenet", "imagenet_1pct", "davis2017".
        model: what the reader calls the backbone, e.g. the weight file's stem.
        metrics: figures by name, e.g. `{"top1": 74.5}`; shares in percent.
        settings: what else defines the figures: the command, the choices of a sweep, the machine.

    Raises:
        UserError: the file cannot be written.
    """
    content = {"protocol": protocol, "dataset": dataset, "model": model, "metrics": metrics}
    write_json(Path(folder) / RESULT, content | {"settings": settings or {}})
    return Path(folder) / RESULT
