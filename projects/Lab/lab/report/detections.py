"""Section of detections beside the truth."""

import numpy as np

from cropfield.coco_files import CocoImages
from cropfield.drawing import draw_instances
from lab.report.elements import Panel, figure, missing, panels
from lab.report.run_files import RunFiles

LEAST_SCORE = 0.25  # after a short training even good boxes score low
SIDE = 384  # pixels; small images are enlarged towards it by a whole factor


def detections_section(run: RunFiles, coco: CocoImages, images: dict[int, np.ndarray]) -> str:
    """`images`: the pictures to draw on, by image id."""
    if not run.predictions:
        return missing("No detector has written inference/coco_instances_results.json yet.")
    rows = []
    for image_id, image in images.items():
        factor = max(1, SIDE // max(image.shape[:2]))
        truth = coco.instances(image_id, coco.truth[image_id])
        row = [Panel(draw_instances(image, truth, factor), f"truth: {len(truth)}")]
        for name, predictions in run.predictions.items():
            mine = [p for p in predictions if p["image_id"] == image_id and p["score"] >= LEAST_SCORE]
            drawn = draw_instances(image, coco.instances(image_id, mine), factor)
            row.append(Panel(drawn, f"{name}: {len(mine)}"))
        rows.append(panels(row, len(row), 190, 320))
    return figure(
        "".join(rows),
        f"Images spread evenly through the validation set, not chosen by their result. Every detection with a score of "
        f"at least {LEAST_SCORE} is drawn; a category has one colour. Good boxes have the truth's place and colour.",
        "No boxes at all, many on one object, masks that fill their box whatever the object's shape, or the wrong name "
        "on a right box.",
    )
