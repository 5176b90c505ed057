"""Sections of curves: what the losses did."""

from lab.report.chart import Series, line_chart
from lab.report.elements import figure, missing
from lab.report.run_files import RunFiles, number

# Names of the losses in plain words; a loss that is not listed is shown under its own name.
PRETRAINING = {
    "total_loss": "total",
    "loss_image": "class tokens across views",
    "loss_content": "masked content",
    "loss_position": "masked positions",
    "loss_prediction": "target blocks",
    "loss_half_resolution": "target blocks at half resolution",
    "loss_koleo": "KoLeo (spread of the images)",
}
DETECTION = {
    "total_loss": "total",
    "loss_cls": "box: class",
    "loss_box_reg": "box: place",
    "loss_mask": "mask",
    "loss_rpn_cls": "proposals: object or not",
    "loss_rpn_loc": "proposals: place",
}


def pretraining_curves(run: RunFiles) -> str:
    metrics = run.metrics.get("pretrain")
    if not metrics:
        return missing("pretrain/metrics.json is absent: nothing was pretrained here.")
    charts = [
        line_chart(PRETRAINING.get(loss, loss), [Series("pretraining", _points(metrics, loss), 3)], "step")
        for loss in _losses(metrics, PRETRAINING)
    ]
    return figure(
        f'<div class="charts">{"".join(charts)}</div>',
        "Each part leaves its start, where the student knows nothing (for class tokens near the logarithm of the "
        "number of prototypes), and settles lower. Teacher and student move together, so a loss may rise for a while "
        "when the teacher grows sharper, and a lower loss is not by itself a better trunk.",
        "A class-token loss that returns to its start and stays there (the teacher says the same of every crop), or a "
        "part at zero after a few steps (all crops have the same features). KoLeo that climbs and stays up says so.",
    )


def detection_curves(run: RunFiles) -> str:
    metrics = {name: run.metrics[name] for name in ("pretrained", "scratch") if name in run.metrics}
    if not metrics:
        return missing("Neither detect_pretrained/metrics.json nor detect_scratch/metrics.json is there yet.")
    charts = []
    for loss in _losses([line for lines in metrics.values() for line in lines], DETECTION):
        series = [
            Series(name, _points(lines, loss), color)
            for color, (name, lines) in zip((1, 2), metrics.items(), strict=False)
        ]
        charts.append(line_chart(DETECTION.get(loss, loss), series, "iteration"))
    return figure(
        f'<div class="charts">{"".join(charts)}</div>',
        "Where pretraining helps, its total and class losses lie below the other's from early on. The losses of places "
        "and masks may rise at first, as more proposals meet an object.",
        "Curves that never part (the trunk's weights did not arrive, or taught nothing), or one that jumps up and "
        "stays up (learning rate too high).",
    )


def _losses(metrics: list[dict], known: dict[str, str]) -> list[str]:
    """Losses that were logged: the known ones in their order, then the others."""
    found = {key for line in metrics for key in line if key == "total_loss" or key.startswith("loss_")}
    return [key for key in known if key in found] + sorted(found - known.keys())


def _points(metrics: list[dict], key: str) -> list[tuple[float, float]]:
    return [(line["iteration"] + 1, value) for line in metrics if (value := number(line, key)) is not None]
