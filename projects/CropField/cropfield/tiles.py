"""An R-CNN that processes large images in overlapping tiles, in evaluation and `predict`."""

from itertools import product
from typing import Annotated

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances, pairwise_ioa, pairwise_iou
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.ranges import Range


class TiledRCNN(GeneralizedRCNN):
    """`GeneralizedRCNN` for images larger than the backbone's `square_pad`: processed in tiles of that size.

    In a config: `model._target_=cropfield.tiles.TiledRCNN dataloader.test.mapper.augmentations=[]`, for images at their
    original scale. State dict keys are the R-CNN's. An object cut by a tile's border is left to a tile that contains
    all of it, and duplicates between tiles are removed. Each tile returns up to `test_topk_per_image` detections.

    Args:
        overlap: the least fraction of a tile's side shared with its neighbour; objects up to this size are always whole
            in some tile.
        parts: of `GeneralizedRCNN`.
    """

    def __init__(self, *, overlap: Annotated[float, Range(0, 0.9)] = 0.25, **parts):
        super().__init__(**parts)
        self.overlap, self.side = overlap, self.backbone.padding_constraints.get("square_size", 0)
        if not self.side:
            raise UserError("model.backbone.square_pad is 0, and tiles are of that size: give one, such as 1024")

    def inference(self, batched_inputs: list[dict], detected_instances=None, do_postprocess: bool = True) -> list:
        """As `GeneralizedRCNN.inference`."""
        if detected_instances is not None:
            return super().inference(batched_inputs, detected_instances, do_postprocess)
        results = [self._in_tiles(entry["image"]) for entry in batched_inputs]
        sizes = [entry["image"].shape[-2:] for entry in batched_inputs]
        return self._postprocess(results, batched_inputs, sizes) if do_postprocess else results

    def _in_tiles(self, image: Tensor) -> Instances:
        height, width = image.shape[-2:]
        found, cut = [], []
        for top, left in product(*(starts(length, self.side, self.overlap) for length in (height, width))):
            tile = image[:, top : top + self.side, left : left + self.side]
            (part,) = super().inference([{"image": tile}], do_postprocess=False)
            inner = (left > 0, top > 0, left + self.side < width, top + self.side < height)
            cut.append(is_cut(part.pred_boxes.tensor, tile.shape[-2:], inner))
            moved = part.pred_boxes.tensor + part.pred_boxes.tensor.new_tensor([left, top, left, top])
            found.append(Instances((height, width), **{**part.get_fields(), "pred_boxes": Boxes(moved)}))
        if len(found) == 1:
            return found[0]
        predictor = self.roi_heads.box_predictor
        predictor = predictor[-1] if isinstance(predictor, nn.ModuleList) else predictor  # the last of a cascade
        return merge(Instances.cat(found), torch.cat(cut), predictor.test_nms_thresh)


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Evenly spaced offsets of tiles of `side` pixels; neighbours overlap by at least the fraction `overlap`."""
    step = max(1, int(side * (1 - overlap)))
    count = 1 + max(0, -(-(length - side) // step))
    return [round(start) for start in np.linspace(0, max(0, length - side), count)]


def is_cut(boxes: Tensor, size: tuple[int, int], inner: tuple[bool, ...]) -> Tensor:
    """Whether boxes (N, 4) of a tile (height, width) touch one of its inner borders (left, top, right, bottom)."""
    (height, width), margin = size, max(size) / 64
    x0, y0, x1, y1 = boxes.unbind(1)
    sides = (x0 < margin, y0 < margin, x1 > width - margin, y1 > height - margin)
    return (torch.stack(sides, 1) & torch.tensor(inner, device=boxes.device)).any(1)


def merge(found: Instances, cut: Tensor, threshold: float) -> Instances:
    """Merge detections of several tiles: remove duplicates, sort by descending score.

    Non-maximum suppression in each class at IoU `threshold`, with complete objects before those cut by a border. A cut
    object is also removed if more than `threshold` of its area is inside a detection that is kept.
    """
    boxes, classes, alive, kept = found.pred_boxes, found.pred_classes, torch.ones_like(cut), []
    for number in torch.argsort(found.scores - 2.0 * cut, descending=True, stable=True).tolist():
        if alive[number]:
            kept.append(number)
            same = (pairwise_iou(boxes[number], boxes)[0] > threshold) | (
                cut & (pairwise_ioa(boxes[number], boxes)[0] > threshold)
            )
            alive &= ~(same & (classes == classes[number]))
    kept.sort(key=lambda number: -float(found.scores[number]))
    return found[torch.tensor(kept, dtype=torch.long, device=cut.device)]
