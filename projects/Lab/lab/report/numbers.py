"""Numbers of the report: training budgets, AP tables, and the time of each stage."""

from lab.report.run_files import RunFiles, at, number, shown

TASKS = {"bbox": "box", "segm": "mask"}
CLEAR = 1.0  # points of AP; a smaller gap is called none
MOST_CLASSES, MOST_FACTS = 2_000, 50  # LVIS has 1,203 classes


def facts(run: RunFiles) -> dict[str, str]:
    """Information about the run from result.json, as text by name."""
    machine = run.result.get("machine")
    if isinstance(machine, dict):
        machine = "; ".join(f"{name} {shown(value)}" for name, value in [*machine.items()][:MOST_FACTS])
    found = {"Command": run.result.get("command"), "Machine": machine, "Seed": run.result.get("seed")}
    return {name: shown(value, 2_000) for name, value in found.items() if value not in (None, "")}


def stages(run: RunFiles) -> list[tuple[str, str, float]]:
    """For each stage with a recorded duration: name, duration, and percentage of the longest."""
    seconds = at(run.result, "seconds")
    taken = {name: number(seconds, name) for name in seconds} if isinstance(seconds, dict) else {}
    taken = {name: value for name, value in [*taken.items()][:MOST_FACTS] if value is not None and value >= 0}
    longest = max([*taken.values(), 1e-9])
    return [
        (shown(name).replace("_", " ").replace("-", " "), duration(value), 100 * value / longest)
        for name, value in taken.items()
    ]


def pretraining_budget(run: RunFiles) -> str:
    settings = run.pretrain.settings
    steps, batch = number(settings, "train", "max_iter"), number(settings, "dataloader", "train", "batch_size")
    if steps is None or batch is None:
        return ""
    parts = [f"{steps:,.0f} steps of {batch:.0f} unlabeled images"]
    backbone = at(settings, "model", "backbone")
    depth, width, patch = (number(backbone, name) for name in ("depth", "embed_dim", "patch_size"))
    field = at(backbone, "field_size")
    sides = [number({"": side}, "") for side in (field if isinstance(field, list) else (field, field))[:2]]
    if None not in (depth, width, patch, *sides):
        cells = " × ".join(f"{side:.0f}" for side in sides)
        parts.append(
            f"a ViT of {depth:.0f} blocks, {width:.0f} wide, patches of {patch:.0f} pixels, a field of {cells} cells"
        )
    return "; ".join(parts + seed(settings))


def detection_budget(run: RunFiles) -> str:
    texts = {}
    for name, part in run.detectors.items():
        trained = [line["iteration"] + 1 for line in part.metrics if "total_loss" in line]
        steps = number(part.settings, "train", "max_iter") or (trained[-1] if trained else None)
        batch = number(part.settings, "dataloader", "train", "total_batch_size")
        if steps is not None:
            images = "" if batch is None else f" of {batch:.0f} images"
            texts[name] = ", ".join([f"{steps:,.0f} iterations{images}", *seed(part.settings)])
    if len(texts) > 1 and len(set(texts.values())) == 1:
        return f"{texts.popitem()[1]}, for each of {len(texts) + 1} detectors"
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def seed(settings: dict) -> list[str]:
    value = number(settings, "train", "seed")
    return [] if value is None else [f"seed {value:.0f}"]


def measured(run: RunFiles, task: str, measure: str) -> dict[str, float | None]:
    """A metric of each detector; for AP itself, the run's result.json takes precedence."""
    values = {}
    for name, part in run.detectors.items():
        value = number(run.result, f"{TASKS[task]}_ap", name) if measure == "AP" else None
        values[name] = number(part.result, task, measure) if value is None else value
    return values


def verdict(run: RunFiles) -> str:
    """A few sentences on which detector is better; "" if none has been evaluated."""
    found = {name: measured(run, task, "AP") for task, name in TASKS.items()}
    if not any(value is not None for value in found["box"].values()):
        return ""
    pairs = {name: (values["pretrained"], values["scratch"]) for name, values in found.items()}
    gaps = {name: difference(ours, scratch) for name, (ours, scratch) in pairs.items() if None not in (ours, scratch)}
    if not gaps:
        known = "; ".join(
            f"{name} AP " + ", ".join(f"{value:.1f} {run}" for run, value in values.items() if value is not None)
            for name, values in found.items()
            if set(values.values()) - {None}
        )
        return f"{known}. To see what pretraining is worth, train a second detector from scratch."
    numbers = ", ".join(
        "{} AP {:.1f} against {:.1f} from scratch ({})".format(name, *pairs[name], signed(gap))
        for name, gap in gaps.items()
    )
    won, lost = ([name for name, gap in gaps.items() if sign * gap >= CLEAR] for sign in (1, -1))
    if won and lost:
        outcome = "Boxes and masks disagree about who won"
    elif won or lost:
        outcome = "Pretraining won" if won else "Pretraining lost"
        outcome += "" if len(won or lost) == len(gaps) else f" in {(won or lost)[0]} AP only"
    else:
        outcome = "Neither is clearly ahead"
    twin = {name: values["untrained"] for name, values in found.items() if values["untrained"] is not None}
    start = ", ".join(f"{name} AP {value:.1f}" for name, value in twin.items())
    start = f" Its own initial weights, without the pretraining: {start}." if start else ""
    return f"{outcome}: {numbers}.{start} This is one seed, and another one moves such APs by points."


def difference(ours: float, other: float) -> float:
    """The difference of two APs as they are shown, with one decimal."""
    return round(ours, 1) - round(other, 1)


def class_names(run: RunFiles) -> dict[str, str]:
    """Metrics that are a class's AP -> the class names."""
    measures = [at(part.result, task) for part in run.detectors.values() for task in TASKS]
    keys = {key for found in measures if isinstance(found, dict) for key in found if key.startswith("AP-")}
    return {key: shown(key.removeprefix("AP-")) for key in sorted(keys)[:MOST_CLASSES]}


def ap_tables(run: RunFiles, measures: dict[str, str]) -> dict[str, dict[str, dict]]:
    """For boxes and for masks: a metric's label -> its value by detector; detectors and metrics without any value are
    left out."""
    tables = {}
    for task, name in TASKS.items():
        rows = {label: measured(run, task, measure) for measure, label in measures.items()}
        some = [run for run in run.detectors if any(row[run] is not None for row in rows.values())]
        kept = {label: {run: row[run] for run in some} for label, row in rows.items()}
        tables[name] = {label: row for label, row in kept.items() if set(row.values()) - {None}}
    return tables


def signed(gap: float) -> str:
    """Format as +1.2 or −1.2, with a true minus sign."""
    return f"{gap:+z.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Format a duration: 0.8 s, 41 s, 3 min 05 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
