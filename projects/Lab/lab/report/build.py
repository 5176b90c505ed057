"""Build report.html from an output folder."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cropfield.coco_files import CocoImages, coco_images, spread_out
from cropfield.datasets import read_coco_file
from cropfield.joined import is_several
from cropfield.probe import FIGURES
from lab.finished_runs import Pretraining
from lab.report import learned, numbers, views
from lab.report.charts import LOSSES, charts_of
from lab.report.run_files import Notes, RunFiles, at, read_run, shown
from pretrain.data.decode import BrokenImage, decode_image
from pretrain.errors import UserError
from pretrain.files import write_text

NUM_DETECTION_IMAGES = 6
MARK = b"<title>CropField: pretraining, then detection"  # from the template


def write_report(
    folder: Path,
    pretraining: Pretraining | None,
    val_json: Path | None = None,
    val_images: Path | None = None,
    notes: Notes | None = None,
) -> Path:
    """Write `folder`/report.html, self-contained, and return its path.

    Missing or damaged parts are listed in the report; the folder may be untrusted.

    Args:
        folder: output folder of a run; see `run_files.read_run` for the files used.
        pretraining: the pretraining to show; None if there was none.
        val_json, val_images: the validation set that detections are drawn on; None: the detector's.
        notes: what has been left out so far.

    Raises:
        UserError: no such folder, no part of a run in it, or the report cannot be written.
    """
    notes = Notes() if notes is None else notes
    run, coco, images = read_run(folder, notes), None, {}
    refuse_nothing(folder, run, pretraining, notes)
    json_of_run, images_of_run = validation_set(folder, run, notes)
    val_json, val_images = val_json or json_of_run, val_images or images_of_run
    if os.path.isfile(val_json):
        coco = notes.attempt("the validation set", lambda: shortened(read_coco_file(str(val_json)), val_images))
    if coco:
        images = notes.attempt("its images", lambda: load_images(coco, NUM_DETECTION_IMAGES, notes), {})
    contents = {
        "facts": lambda: numbers.facts(run),
        "stages": lambda: numbers.stages(run),
        "budgets": lambda: {"Pretraining": numbers.pretraining_budget(run), "Detection": numbers.detection_budget(run)},
        "verdict": lambda: numbers.verdict(run),
        "classes": lambda: numbers.class_names(run),
        "pretraining_charts": lambda: charts_of(LOSSES, {"pretraining": run.pretrain}, "step", notes),
        "probe_charts": lambda: charts_of(("probe/",), {"pretraining": run.pretrain}, "step", notes),
        "detection_charts": lambda: charts_of(LOSSES, run.detectors, "iteration", notes),
        "pictures": lambda: pretraining and pretraining_pictures(pretraining, coco, images, notes),
        "detections": lambda: views.detections(run, coco, images, notes),
    }
    path = folder / "report.html"
    refuse_other_page(path)
    made = {name: notes.attempt(name.replace("_", " "), make, {}) for name, make in contents.items()}
    write_text(path, render(run, made | {"images": images, "least_score": views.LEAST_SCORE, "notes": notes}))
    return path


def validation_set(folder: Path, run: RunFiles, notes: Notes) -> tuple[Path, Path]:
    """Annotation file and image folder of the demo's own data, or what a detector of the run was evaluated on."""
    found = [(folder / "data" / "annotations" / "instances_val.json", folder / "data" / "val")]
    for part in run.detectors.values():
        paths = [at(part.settings, "dataset", key) for key in ("val_json", "val_images")]
        if paths[0] and is_several(paths[0]):
            notes.append("detections: evaluated on several annotation files at once, whose images are not looked for")
        elif all(isinstance(path, str) for path in paths):
            found.append((Path(paths[0]), Path(paths[1])))
    return next((pair for pair in found if os.path.isfile(pair[0])), found[0])


def refuse_nothing(folder: Path, run: RunFiles, pretraining: Pretraining | None, notes: Notes) -> None:
    """Raise UserError if the report would be empty."""
    parts = (run.pretrain, *run.detectors.values())
    if pretraining or any(part.metrics or part.result or part.predictions for part in parts):
        return
    one = ", which is the folder of one training," if (folder / "metrics.json").is_file() else ""
    damaged = f" ({notes[0]})" if notes else ""
    raise UserError(
        f"{folder}{one} holds nothing to report on, neither in pretrain/ nor in detect/{damaged}; give the --output of "
        "tools/pretrain_then_detect.py or tools/demo.py, or a folder that has a training in pretrain/"
    )


def refuse_other_page(path: Path) -> None:
    """Raise UserError if `path` exists and is not an earlier report."""
    if path.is_file() and MARK not in path.read_bytes()[:2000]:
        raise UserError(
            f"{path} exists and is not a report of this tool, so it is kept; rename it, and run the tool again"
        )


def render(run: RunFiles, made: dict) -> str:
    """Render the page; lone surrogates, which JSON allows and UTF-8 does not, become question marks."""
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["signed"], jinja.filters["minus"] = numbers.signed, numbers.difference
    names = {f"probe/{name}": words for name, words in FIGURES}
    page = jinja.get_template("report.html.j2").render(
        made, ap_tables=partial(numbers.ap_tables, run), probe_figures=names
    )
    return page.lstrip().encode("utf-8", "replace").decode("utf-8")


def shortened(content: dict, folder: Path) -> CocoImages:
    """Images of a COCO file, with category names shortened for drawing."""
    coco = coco_images(content, folder)
    names = {key: shown(name, 40).encode("utf-8", "replace").decode() for key, name in coco.names.items()}
    return replace(coco, names=names)


def pretraining_pictures(
    pretraining: Pretraining, coco: CocoImages | None, images: dict[int, np.ndarray], notes: Notes
) -> dict[str, list]:
    """Rows of pictures by section.

    Attention is shown on validation images, with query points on their objects; without them, on pretraining images.
    """
    truth = {image_id: coco.truth[image_id][: views.MOST_DRAWN] for image_id in images}
    pairs = [(image, coco.instances(image_id, truth[image_id])) for image_id, image in images.items()]
    pairs = pairs or [(image, []) for image in pretraining.images]
    subjects = [learned.subject(*pair) for pair in pairs[: learned.NUM_SUBJECTS]]
    sections = {
        "field": lambda: learned.field(pretraining),
        "crops": lambda: views.crops(pretraining),
        "masks": lambda: views.masks(pretraining),
        "blocks": lambda: views.target_blocks(pretraining),
        "attention": lambda: learned.attention(pretraining, subjects),
        "features": lambda: learned.features(pretraining, subjects),
    }
    return {name: notes.attempt(f"pictures of {name}", make, []) for name, make in sections.items()}


def load_images(coco: CocoImages, count: int, notes: Notes) -> dict[int, np.ndarray]:
    """Load some images of the set, by id; skips those that cannot be read or have another size than their entry."""
    images = {}
    for image_id in spread_out(coco, count):
        path, entry = coco.path(image_id), coco.entries[image_id]
        try:
            image = decode_image(path)
        except BrokenImage as error:
            notes.append(f"{error}: not shown")
            continue
        if image.shape[:2] == (entry["height"], entry["width"]):
            images[image_id] = image
        else:
            notes.append(f"{path}: {image.shape[1]} x {image.shape[0]} pixels, not as the annotations say; not shown")
    return images
