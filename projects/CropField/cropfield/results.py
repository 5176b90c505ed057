"""Write the result of an evaluation: a small JSON file for each protocol, dataset and backbone."""

import math
from pathlib import Path

from pretrain.files import write_json

RESULT = "result.json"


def write_result(
    folder: Path, protocol: str, dataset: str, model: str, metrics: dict[str, float], settings: dict | None = None
) -> Path:
    """Write `folder`/result.json, which `projects/Lab/tools/results_table.py` collects; returns its path.

    Args:
        protocol: "linear_probe", "knn", "finetune", "video", "semantic_seg", "detection", "attention", "field" or
            "predictor".
        dataset: name of the evaluation dataset, e.g. "imagenet", "imagenet_1pct", "davis2017".
        model: display name of the backbone, e.g. the weight file's stem.
        metrics: values by name, e.g. `{"top1": 74.5}`; fractions in percent.
        settings: what else determines the values: the command, hyperparameters chosen by a sweep, the machine.

    Raises:
        UserError: the file cannot be written.
    """
    undefined = [name for name, value in metrics.items() if isinstance(value, float) and not math.isfinite(value)]
    metrics = metrics | dict.fromkeys(undefined)  # JSON has no NaN
    content = {"protocol": protocol, "dataset": dataset, "model": model, "metrics": metrics}
    write_json(Path(folder) / RESULT, content | {"settings": settings or {}})
    return Path(folder) / RESULT
