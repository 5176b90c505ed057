"""The method in one picture: an image's crops, their boxes in the field, and both masks."""

import cv2
import numpy as np

from cropfield.canvas import PAPER, column, row, text_line
from lab.figures.crop_pictures import boxes_in_field, boxes_on_image, crop_tile
from lab.figures.mask_pictures import content_mask_picture, position_mask_picture
from pretrain.data.crops import MultiCrop
from pretrain.data.masks import CONTENT, POSITION, CropMasks

SQUARE, TILE, GAP = 400, 262, 12
MASK_SHARE = 0.3
TITLES = {
    "image": "Crops of one image (dashed: flipped)",
    "field": "The same crops in the position field, after tₛ",
    "content": "content masked",
    "position": "position masked",
    "local": "local crops",
}


def method_picture(image: np.ndarray, seed: int, num_local: int = 4, field_size: int = 16) -> np.ndarray:
    """Draw the method on an image, uint8 RGB (H, W, 3) -> a picture about 820 pixels wide.

    Crops and boxes are `MultiCrop`'s, masks `CropMasks`'s, without photometric augmentation.
    """
    rng = np.random.default_rng(seed)
    crops = MultiCrop(224, num_local=num_local, local_size=96, photometric=(unchanged,) * 3)
    sample = crops(image, rng)
    image_boxes = np.concatenate([sample["global_image_boxes"], sample["local_image_boxes"]])
    boxes = np.concatenate([sample["global_boxes"], sample["local_boxes"]])
    places = [
        titled(boxes_on_image(image, image_boxes, SQUARE), TITLES["image"]),
        titled(boxes_in_field(image, image_boxes, boxes, field_size, SQUARE), TITLES["field"]),
    ]
    picture = column([row(places, GAP), row(_views(sample, boxes, rng), GAP)], GAP)
    return cv2.copyMakeBorder(picture, GAP, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=PAPER)


def _views(sample: dict[str, np.ndarray], boxes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The student's input: global crops 1 and 2 with a mask each, then the local crops in a block."""
    patch_size = 16
    masks = CropMasks((sample["global_crops"].shape[-1] // patch_size,) * 2)
    count = round(MASK_SHARE * masks.num_patches)
    tiles = []
    for index, (kind, draw, name) in enumerate(
        ((CONTENT, content_mask_picture, "content"), (POSITION, position_mask_picture, "position"))
    ):
        masked = draw(sample["global_crops"][index], masks.draw(kind, count, rng), patch_size)
        tile = crop_tile(masked, index, boxes[index][0] > boxes[index][2], TILE)
        tiles.append(titled(tile, f"{index + 1}: {TITLES[name]}"))
    side = (TILE - GAP) // 2
    small = [
        crop_tile(crop, index, boxes[index][0] > boxes[index][2], side)
        for index, crop in enumerate(sample["local_crops"], start=2)
    ]
    half = (len(small) + 1) // 2
    block = column([row(small[:half], GAP), row(small[half:], GAP)], GAP)
    return [*tiles, titled(block, TITLES["local"])]


def titled(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line of text above it."""
    return column([text_line(text, picture.shape[1], 2, 16, 24), picture], 0)


def unchanged(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photometric augmentation that does nothing."""
    return crop
