"""Sections on what pretraining sees: crops with their boxes, and masks."""

import numpy as np

from lab.figures.crop_pictures import boxes_in_field, boxes_on_image, crop_tile
from lab.figures.mask_pictures import content_mask_picture, position_mask_picture
from lab.report.elements import Panel, figure, panels
from lab.report.pretraining import Pretraining

NUM_IMAGES, NUM_MASKS = 2, 4


def crops_section(pretraining: Pretraining) -> str:
    shown = [_crops_of_image(pretraining, image) for image in range(min(NUM_IMAGES, len(pretraining.images)))]
    return figure(
        "".join(shown),
        "The same numbered boxes twice: where the crops were cut (left; the image is stretched to the unit square) and "
        "where they read positions (right; faded: what no crop covers). tₛ moves and scales all crops of an image "
        "together, so neighbours stay neighbours while their place and scale in the field change from step to step. "
        "Dashed: the crop was flipped, and so are its positions. Below are the crops, with the colour changes that "
        "they train on.",
        "A box that leaves the square, boxes that moved against each other, or a crop that does not show what its box "
        "on the left holds.",
    )


def _crops_of_image(pretraining: Pretraining, image: int) -> str:
    views = [pretraining.crops_of(image, kind) for kind in ("global", "local")]
    image_boxes, boxes = (np.concatenate([view[part] for view in views]) for part in ("image_boxes", "boxes"))
    crops = [crop for view in views for crop in view["crops"]]
    cells = pretraining.trained.field_size[0]
    places = [
        Panel(boxes_on_image(pretraining.images[image], image_boxes), "boxes in the image"),
        Panel(boxes_in_field(pretraining.images[image], image_boxes, boxes, cells), "boxes in the field, after tₛ"),
    ]
    num_global = len(views[0]["crops"])
    tiles = []
    for index, crop in enumerate(crops):
        kind = "global" if index < num_global else "local"
        flipped = bool(boxes[index][0] > boxes[index][2])
        tiles.append(Panel(crop_tile(crop, index, flipped), kind + (", flipped" if flipped else "")))
    return panels(places, 2, 150, 400) + panels(tiles, len(tiles), 84, 150)


def masks_section(pretraining: Pretraining) -> str:
    """The masks of whichever kind the batch has."""
    return _blocks(pretraining) if "target_patches" in pretraining.batch else _content_and_position(pretraining)


def _blocks(pretraining: Pretraining) -> str:
    """Multi-block masks: what is seen of a crop, and its target blocks."""
    batch, rows = pretraining.batch, []
    contexts = [context for group in batch["context_patches"] for context in group]
    for crop, context, targets in zip(batch["global_crops"], contexts, batch["target_patches"], strict=True):
        parts = {"context": context, **{f"target {n}": block.flatten() for n, block in enumerate(targets, start=1)}}
        row = []
        for name, patches in parts.items():
            hidden = np.ones(crop[0].numel() // pretraining.trained.patch_size**2, dtype=bool)
            hidden[patches.numpy()] = False
            picture = content_mask_picture(crop, hidden, pretraining.trained.patch_size)
            row.append(Panel(picture, f"{name}: {len(patches)} of {len(hidden)} patches"))
        rows.append(panels(row, len(row), 84, 200))
    return figure(
        "".join(rows[:NUM_IMAGES]),
        "Left, what the student sees of a crop. From that alone, each of the other blocks is to be predicted: not its "
        "pixels, but what the teacher, who sees the whole crop, makes of them.",
        "A target that overlaps the context, or next to nothing left to see.",
    )


def _content_and_position(pretraining: Pretraining) -> str:
    patch_size = pretraining.trained.patch_size
    rows = []
    for kind, draw in (("content", content_mask_picture), ("position", position_mask_picture)):
        masks = pretraining.batch[f"{kind}_masks"]
        chosen = _spread_by_count(masks.sum(1).numpy())
        rows.append(
            [
                Panel(
                    draw(pretraining.batch["global_crops"][crop], masks[crop], patch_size),
                    f"{kind}: {int(masks[crop].sum())} of {masks.shape[1]} patches",
                )
                for crop in chosen
            ]
        )
    return figure(
        "".join(panels(row, NUM_MASKS, 130, 220) for row in rows if row),
        "Masked content (grey blocks): the student knows where these patches are and must say what they show. Masked "
        "positions (tinted and crossed, in the shape of crosses): it sees what they show and must say as much as the "
        "teacher, who knows where they are. Each crop has one kind only.",
        "Grey and crossed patches in one crop, crosses scattered like noise, or next to nothing left unmasked.",
    )


def _spread_by_count(counts: np.ndarray) -> list[int]:
    """Up to NUM_MASKS masked crops, from the smallest mask to the largest."""
    masked = [int(crop) for crop in np.argsort(counts, kind="stable") if counts[crop]]
    places = np.unique(np.linspace(0, len(masked) - 1, min(NUM_MASKS, len(masked))).round().astype(int))
    return [masked[place] for place in places]
