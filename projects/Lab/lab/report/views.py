"""Pictures of the input of pretraining (crops, boxes, masks), and of detections next to the ground truth."""

import msgspec
import numpy as np

from cropfield.coco_files import CocoImages
from cropfield.drawing import draw_instances
from cropfield.mask_checks import REACH
from cropfield.run_lengths import DamagedRuns, decompress
from lab.figures.crop_pictures import boxes_in_field, boxes_on_image, crop_tile
from lab.figures.mask_pictures import content_mask_picture, position_mask_picture, spread_by_count
from lab.finished_runs import Pretraining
from lab.report.panels import Panel
from lab.report.run_files import Detection, Notes, RunFiles
from pretrain.data.coco import Runs

NUM_IMAGES, NUM_MASKS = 2, 4
MOST_DRAWN = 100  # objects in a picture, as COCO's AP counts
LEAST_SCORE = 0.25  # after a short training even good boxes score low
SIDE = 384  # pixels; small images are enlarged towards it by a whole factor


def crops(pretraining: Pretraining) -> list[list[Panel]]:
    rows = []
    for index, image in enumerate(pretraining.images[:NUM_IMAGES]):
        kinds, pixels, image_boxes, boxes = zip(*pretraining.crops_of(index), strict=True)
        cells = pretraining.trained.field_size[0]
        in_image, in_field = boxes_on_image(image, image_boxes), boxes_in_field(image, image_boxes, boxes, cells)
        rows.append([Panel(in_image, "boxes in the image"), Panel(in_field, "boxes in the field, after tₛ")])
        tiles = []
        for number, (kind, crop, box) in enumerate(zip(kinds, pixels, boxes, strict=True)):
            flipped = bool(box[0] > box[2])
            tiles.append(Panel(crop_tile(crop, number, flipped), kind + (", flipped" if flipped else "")))
        rows.append(tiles)
    return rows


def target_blocks(pretraining: Pretraining) -> list[list[Panel]]:
    """For a batch with multi-block masks: the visible part of a crop, and its target blocks."""
    batch, patch_size, rows = pretraining.batch, pretraining.trained.patch_size, []
    contexts = [context for group in batch.get("context_patches", ()) for context in group]
    for index, targets in enumerate(batch.get("target_patches", ())[:NUM_IMAGES]):
        crop, row = batch["global_crops"][index], []
        parts = {"context": contexts[index]}
        parts |= {f"target {n}": block.flatten() for n, block in enumerate(targets, start=1)}
        for name, patches in parts.items():
            hidden = np.ones(crop[0].numel() // patch_size**2, dtype=bool)
            hidden[patches.numpy()] = False
            text = f"{name}: {len(patches)} of {len(hidden)} patches"
            row.append(Panel(content_mask_picture(crop, hidden, patch_size), text))
        rows.append(row)
    return rows


def masks(pretraining: Pretraining) -> list[list[Panel]]:
    """For a batch with content and position masks: a row of crops for each, from least to most masked."""
    batch, patch_size, rows = pretraining.batch, pretraining.trained.patch_size, []
    for kind, draw in (("content", content_mask_picture), ("position", position_mask_picture)):
        row = []
        for crop in spread_by_count(batch.get(f"{kind}_masks"), NUM_MASKS):
            mask = batch[f"{kind}_masks"][crop]
            text = f"{kind}: {int(mask.sum())} of {len(mask)} patches"
            row.append(Panel(draw(batch["global_crops"][crop], mask, patch_size), text))
        rows += [row] if row else []
    return rows


def detections(
    run: RunFiles, coco: CocoImages | None, images: dict[int, np.ndarray], notes: Notes
) -> list[list[Panel]]:
    """One row for each image, by its id in `coco`: the ground truth, then each detector's boxes with sufficient
    score.
    """
    predicted = {
        name: drawable(name, part.predictions, coco, images, notes)
        for name, part in run.detectors.items()
        if part.predictions and images
    }
    rows = []
    for image_id, image in images.items() if predicted else ():
        found = {"truth": coco.truth[image_id]} | {name: entries[image_id] for name, entries in predicted.items()}
        factor, row = max(1, SIDE // max(image.shape[:2])), []
        for name, entries in found.items():
            drawn = draw_instances(image, coco.instances(image_id, entries[:MOST_DRAWN]), factor)
            row.append(Panel(drawn, f"{name}: {len(entries)}"))
        rows.append(row)
    return rows


def drawable(
    run: str, predictions: list[Detection], coco: CocoImages, images: dict[int, np.ndarray], notes: Notes
) -> dict[int, list[dict]]:
    """Detections with sufficient score, best first, by image id; a note counts those that do not fit."""
    found, unfit = {image_id: [] for image_id in images}, 0
    for entry in sorted(predictions, key=lambda entry: -entry.score):
        if entry.image_id in found and entry.score >= LEAST_SCORE:
            fits = entry.category_id in coco.names and covers(entry.segmentation, coco.entries[entry.image_id])
            if fits:
                found[entry.image_id].append(msgspec.to_builtins(entry))
            unfit += not fits
    if unfit:
        notes.append(f"{run}: {unfit} detections of categories that the annotation file lacks, or with damaged masks")
    return found


def covers(mask: list[list[float]] | Runs | None, entry: dict) -> bool:
    """Whether a mask is valid and has the size of the image of `entry`; pycocotools checks neither."""
    size = (entry["height"], entry["width"])
    if mask is None:
        return True
    if isinstance(mask, list):
        return all(len(ring) >= 6 and len(ring) % 2 == 0 and max(map(abs, ring)) <= REACH * max(size) for ring in mask)
    try:
        runs = decompress([mask.counts])[0] if isinstance(mask.counts, str) else np.array(mask.counts, dtype=object)
    except DamagedRuns:
        return False
    return mask.size == size and runs.min(initial=0) >= 0 and runs.sum() == size[0] * size[1]
