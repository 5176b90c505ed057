"""From an output folder to report.html."""

from pathlib import Path

import numpy as np

from cropfield.coco_files import CocoImages, coco_images, spread_out
from lab.report import curves, learned, numbers, views
from lab.report.detections import detections_section
from lab.report.elements import missing
from lab.report.pretraining import Pretraining
from lab.report.run_files import RunFiles, read_json, read_run
from lab.report.template import PAGE, STYLE
from pretrain.data.images import BrokenImage, decode_image
from pretrain.files import write_text

LEAD = (
    "A ViT pretrained on unlabeled images with a position field, then a plain ViTDet trained twice with the same "
    "budget: once from that trunk, once from scratch."
)
NO_PRETRAINING = "pretrain/last.pth or pretrain/config.yaml is absent: nothing was pretrained here."
NUM_DETECTION_IMAGES, NUM_SUBJECTS = 6, 3


def write_report(folder: Path, pretraining: Pretraining | None, val_json: Path, val_images: Path) -> Path:
    """Write `folder`/report.html, self-contained, and return its path. Parts that are absent are said to be.

    Args:
        folder: output folder of a run; `run_files.read_run` says what it reads there.
        pretraining: what to show of the pretraining; None if there was none.
        val_json, val_images: the validation set that detections are drawn on.

    Raises:
        UserError: no such folder, or the report cannot be written.
    """
    page = report_page(read_run(folder), pretraining, read_json(val_json), val_images)
    path = folder / "report.html"
    write_text(path, page)
    return path


def report_page(run: RunFiles, pretraining: Pretraining | None, val: dict | None, val_images: Path) -> str:
    """The page as text. `val`: content of the validation set's COCO file, None if it is not there."""
    coco = coco_images(val, val_images) if val else None
    images = load_images(coco, NUM_DETECTION_IMAGES) if coco else {}
    sections = {
        "What was run": numbers.what_was_run(run),
        "Average precision": numbers.average_precision(run),
        "Time": numbers.stage_times(run),
        "Pretraining: losses": curves.pretraining_curves(run),
        "Detection: losses": curves.detection_curves(run),
        **pretraining_sections(pretraining, coco, images),
        "Detections beside the truth": (
            detections_section(run, coco, images) if images else missing("The validation set's images are not there.")
        ),
    }
    return PAGE.format(
        title="CropField: pretraining, then detection",
        style=STYLE,
        lead=LEAD,
        links="".join(f'<a href="#s{n}">{name}</a>' for n, name in enumerate(sections)),
        sections="".join(f'<h2 id="s{n}">{name}</h2>\n{body}\n' for n, (name, body) in enumerate(sections.items())),
    )


def pretraining_sections(
    pretraining: Pretraining | None, coco: CocoImages | None, images: dict[int, np.ndarray]
) -> dict[str, str]:
    names = ["The position field", "Crops and their places", "Masks", "Attention", "Patch features"]
    if pretraining is None:
        return dict.fromkeys(names, missing(NO_PRETRAINING))
    subjects = subjects_of(pretraining, coco, images)
    bodies = [
        learned.field_section(pretraining),
        views.crops_section(pretraining),
        views.masks_section(pretraining),
        learned.attention_section(pretraining, subjects),
        learned.features_section(pretraining, subjects),
    ]
    return dict(zip(names, bodies, strict=True))


def subjects_of(
    pretraining: Pretraining, coco: CocoImages | None, images: dict[int, np.ndarray]
) -> list[learned.Subject]:
    """Validation images with query points on their objects; without them, images of the pretraining."""
    if not images:
        return [learned.subject(image, []) for image in pretraining.images[:NUM_SUBJECTS]]
    subjects = []
    for image_id, image in list(images.items())[:NUM_SUBJECTS]:
        instances = coco.instances(image_id, coco.truth[image_id])
        subjects.append(learned.subject(image, [(instance.name, instance.mask) for instance in instances]))
    return subjects


def load_images(coco: CocoImages, count: int) -> dict[int, np.ndarray]:
    """Some images of the set by id; those that cannot be read are left out."""
    images = {}
    for image_id in spread_out(coco, count):
        try:
            images[image_id] = decode_image(coco.path(image_id))
        except BrokenImage:
            continue
    return images
