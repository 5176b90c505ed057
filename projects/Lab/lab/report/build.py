"""From an output folder to report.html."""

from functools import partial
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cropfield.coco_files import CocoImages, coco_images, spread_out
from cropfield.datasets import read_coco_file
from lab.finished_runs import Pretraining
from lab.report import learned, numbers, views
from lab.report.charts import loss_charts
from lab.report.run_files import read_run
from pretrain.data.images import BrokenImage, decode_image
from pretrain.files import write_text

NUM_DETECTION_IMAGES = 6


def write_report(folder: Path, pretraining: Pretraining | None, val_json: Path, val_images: Path) -> Path:
    """Write `folder`/report.html, self-contained, and return its path. Parts that are absent are said to be.

    Args:
        folder: output folder of a run; `run_files.read_run` says what it reads there.
        pretraining: what to show of the pretraining; None if there was none.
        val_json, val_images: the validation set that detections are drawn on.

    Raises:
        UserError: no such folder, a damaged `val_json`, or the report cannot be written.
    """
    run = read_run(folder)
    coco = coco_images(read_coco_file(str(val_json)), val_images) if val_json.is_file() else None
    images = load_images(coco, NUM_DETECTION_IMAGES) if coco else {}
    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"signed": numbers.signed, "duration": numbers.duration}
    page = jinja.get_template("report.html.j2").render(
        result=run.result,
        budgets={"Pretraining": numbers.pretraining_budget(run), "Detection": numbers.detection_budget(run)},
        verdict=numbers.verdict(run),
        ap_tables=partial(numbers.ap_tables, run),
        classes=numbers.class_names(run),
        pretraining_charts=loss_charts({"pretraining": run.pretrain}, "step"),
        detection_charts=loss_charts(run.detectors, "iteration"),
        pretraining=pretraining and pretraining_pictures(pretraining, coco, images),
        images=images,
        detections=views.detections(run, coco, images),
        least_score=views.LEAST_SCORE,
    )
    path = folder / "report.html"
    write_text(path, page.lstrip())
    return path


def pretraining_pictures(
    pretraining: Pretraining, coco: CocoImages | None, images: dict[int, np.ndarray]
) -> dict[str, list]:
    """Rows of pictures by section. Attention is shown on validation images, with query points on their objects;
    without them, on images of the pretraining."""
    shown = [(image, coco.instances(image_id, coco.truth[image_id])) for image_id, image in images.items()]
    shown = shown or [(image, []) for image in pretraining.images]
    subjects = [learned.subject(*pair) for pair in shown[: learned.NUM_SUBJECTS]]
    return {
        "field": learned.field(pretraining),
        "crops": views.crops(pretraining),
        "masks": views.masks(pretraining),
        "blocks": views.target_blocks(pretraining),
        "attention": learned.attention(pretraining, subjects),
        "features": learned.features(pretraining, subjects),
    }


def load_images(coco: CocoImages, count: int) -> dict[int, np.ndarray]:
    """Some images of the set by id; those that cannot be read are left out."""
    images = {}
    for image_id in spread_out(coco, count):
        try:
            images[image_id] = decode_image(coco.path(image_id))
        except BrokenImage:
            continue
    return images
