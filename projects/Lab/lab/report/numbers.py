"""Sections of numbers: what was run, the AP tables, the time of each stage."""

import re
from html import escape

from lab.report.elements import cell, heading, missing, table
from lab.report.run_files import RunFiles, number

METRICS = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "APs": "AP small",
    "APm": "AP medium",
    "APl": "AP large",
}
SIZES = (
    '<p class="lead">COCO\'s measures, in percent: AP is the mean over IoU .50 to .95; small objects have less than '
    "32² pixels, large ones more than 96².</p>"
)
TASKS = {"bbox": ("box", "box_ap"), "segm": ("mask", "mask_ap")}
RUN_NAMES = ("pretrained", "scratch")
NO_VALUE = "–"


def what_was_run(run: RunFiles) -> str:
    facts = []
    if "command" in run.result:
        facts.append(("Command", f"<code>{escape(str(run.result['command']))}</code>"))
    machine = run.result.get("machine")
    if isinstance(machine, dict):
        facts.append(("Machine", "; ".join(f"{escape(str(k))} {escape(str(v))}" for k, v in machine.items())))
    elif machine:
        facts.append(("Machine", escape(str(machine))))
    if "seed" in run.result:
        facts.append(("Seed", escape(str(run.result["seed"]))))
    facts += [("Pretraining", text) for text in [pretraining_budget(run)] if text]
    facts += [("Detection", text) for text in [detection_budget(run)] if text]
    if not facts:
        return missing("The folder has no result.json: the run did not come to its end.")
    return table([], [[heading(name), f"<td>{text}</td>"] for name, text in facts], "facts")


def pretraining_budget(run: RunFiles) -> str:
    settings = run.settings.get("pretrain", {})
    trunk = settings.get("model", {}).get("trunk", {})
    steps = number(settings, "train", "max_iter")
    batch = number(settings, "dataloader", "train", "batch_size")
    if steps is None or batch is None:
        return ""
    text = f"{steps:,.0f} steps of {batch:.0f} unlabeled images"
    if {"depth", "embed_dim", "patch_size", "field_size"} <= trunk.keys():
        text += (
            f"; a ViT of {trunk['depth']} blocks, {trunk['embed_dim']} wide, patches of {trunk['patch_size']} pixels, "
            f"a field of {_square(trunk['field_size'])} cells"
        )
    seed = number(settings, "train", "seed")
    return text if seed is None else text + f"; seed {seed:.0f}"


def detection_budget(run: RunFiles) -> str:
    texts = {}
    for name in RUN_NAMES:
        settings, metrics = run.settings.get(name, {}), run.metrics.get(name, [])
        trained = [line["iteration"] for line in metrics if "total_loss" in line]
        steps = number(settings, "train", "max_iter") or (trained[-1] + 1 if trained else None)
        batch = number(settings, "dataloader", "train", "total_batch_size")
        if steps is not None:
            texts[name] = f"{steps:,.0f} iterations" + ("" if batch is None else f" of {batch:.0f} images")
            seed = number(settings, "train", "seed")
            texts[name] += "" if seed is None else f", seed {seed:.0f}"
    if len(texts) == 2 and len(set(texts.values())) == 1:
        return f"twice {texts['pretrained']}: once from the pretrained trunk, once from scratch"
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def average_precision(run: RunFiles) -> str:
    """The verdict and both tables."""
    if not aps(run, "bbox"):
        return missing(
            "No detector has been evaluated yet: detect_pretrained/result.json and detect_scratch/ are absent."
        )
    classes = sorted(
        {key for r in run.results.values() for task in r.values() for key in task if key.startswith("AP-")}
    )
    parts = [f'<p class="verdict">{escape(verdict(run))}</p>', _ap_tables(run, METRICS), SIZES]
    if classes:
        parts += ["<h3>AP of each class</h3>", _ap_tables(run, {key: key.removeprefix("AP-") for key in classes})]
    return "".join(parts)


def aps(run: RunFiles, task: str) -> dict[str, float]:
    """AP of each detector that has one; the run's result.json counts first, then the detector's own."""
    values = {}
    for name in RUN_NAMES:
        value = number(run.result, TASKS[task][1], name)
        value = number(run.results.get(name), task, "AP") if value is None else value
        if value is not None:
            values[name] = value
    return values


def verdict(run: RunFiles) -> str:
    """One honest sentence or two about who won."""
    pairs = {TASKS[task][0]: aps(run, task) for task in TASKS}
    pairs = {task: pair for task, pair in pairs.items() if len(pair) == 2}
    if not pairs:
        return "Only one of the two detectors has been evaluated, so there is nothing to compare yet."
    gaps = {task: pair["pretrained"] - pair["scratch"] for task, pair in pairs.items()}
    numbers = ", ".join(
        f"{task} AP {pair['pretrained']:.1f} against {pair['scratch']:.1f} from scratch ({signed(gaps[task])})"
        for task, pair in pairs.items()
    )
    if all(gap > 0 for gap in gaps.values()):
        outcome = "Pretraining won"
    elif all(gap < 0 for gap in gaps.values()):
        outcome = "Pretraining lost"
    elif not any(gaps.values()):
        outcome = "Neither won"
    else:
        outcome = "Boxes and masks disagree about who won"
    return f"{outcome}: {numbers}. This is one seed; a small gap can be chance."


def _ap_tables(run: RunFiles, metrics: dict[str, str]) -> str:
    """A table for boxes and one for masks, side by side where there is room. A metric without any value is left out."""
    tables = []
    for task, (name, _) in TASKS.items():
        rows = []
        for key, label in metrics.items():
            values = aps(run, task) if key == "AP" else {}
            pair = [values.get(r, number(run.results.get(r), task, key)) for r in RUN_NAMES]
            if any(value is not None for value in pair):
                rows.append([heading(label), *_pair_cells(*pair)])
        if rows:
            tables.append(table(["", *RUN_NAMES, "gap"], rows, caption=f"{name} AP"))
    return f'<div class="tables">{"".join(tables)}</div>'


def _pair_cells(pretrained: float | None, scratch: float | None) -> list[str]:
    def one(value: float | None, other: float | None) -> str:
        best = value is not None and other is not None and value > other
        return cell(NO_VALUE if value is None else f"{value:.1f}", "best" if best else "")

    gap = None if pretrained is None or scratch is None else pretrained - scratch
    return [one(pretrained, scratch), one(scratch, pretrained), cell(NO_VALUE if gap is None else signed(gap), "gap")]


def signed(gap: float) -> str:
    """+1.2 or −1.2, with a true minus."""
    return f"{gap:+.1f}".replace("-", "−")


def stage_times(run: RunFiles) -> str:
    seconds = run.result.get("seconds")
    if not isinstance(seconds, dict) or not seconds:
        return missing("The folder has no result.json with the seconds of each stage.")
    longest = max(seconds.values()) or 1
    rows = [
        [
            heading(_words(stage)),
            cell(duration(value)),
            f'<td class="bars"><span class="bar" style="width:{100 * value / longest:.1f}%"></span></td>',
        ]
        for stage, value in seconds.items()
    ]
    return table([], rows) + '<p class="lead">The two detectors train side by side.</p>' * _side_by_side(seconds)


def _side_by_side(seconds: dict) -> bool:
    return {"detect_pretrained", "detect_scratch"} <= seconds.keys()


def duration(seconds: float) -> str:
    """As a reader says it: 0.8 s, 41 s, 3 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _words(stage: str) -> str:
    return re.sub(r"[_-]+", " ", stage)


def _square(size) -> str:
    return f"{size} × {size}" if isinstance(size, int) else " × ".join(map(str, size))
