"""Box and mask heads of a whole batch at once in training.

The losses are Detectron2's, with two waits for the device instead of sixty, and without a copy of an object's mask for
each region.
"""

import itertools
from typing import NamedTuple

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from cropfield.box_batches import box_iou, encode, match, pad, pad_objects, sample, take


class Regions(NamedTuple):
    """Regions that the heads are trained on, of all images: all (R,) but boxes (R, 4).

    `object` is the number of the object in its image, `classes` its class, or num_classes for background.
    """

    image: Tensor
    boxes: Tensor
    object: Tensor
    object_boxes: Tensor
    classes: Tensor

    def take(self, rows: Tensor) -> "Regions":
        return Regions(*(field[rows] for field in self))


class BatchedROIHeads(StandardROIHeads):
    """`StandardROIHeads`, with the same arguments and weights.

    What is not batched is left to it: inference, and training with keypoints, `train_on_pred_boxes`, or heads whose
    losses are not those of Mask R-CNN.
    """

    @property
    def batched(self) -> bool:
        return self.training and not self.keypoint_on and not self.train_on_pred_boxes and self.usual_heads()

    def usual_heads(self) -> bool:
        predictor = self.box_predictor
        boxes = type(predictor).losses is FastRCNNOutputLayers.losses and not predictor.use_sigmoid_ce
        boxes &= isinstance(predictor.box2box_transform, Box2BoxTransform)
        boxes &= predictor.box_reg_loss_type == "smooth_l1"
        if not self.mask_on:
            return boxes
        mask = getattr(type(self.mask_head), "forward", None) is BaseMaskRCNNHead.forward
        return boxes and mask and self.mask_head.vis_period == 0 and self.mask_pooler is not None

    def forward(self, images, features: dict[str, Tensor], proposals: list[Instances], targets=None):
        """See `ROIHeads.forward`."""
        if not self.batched:
            return super().forward(images, features, proposals, targets)
        regions, by_level, foreground, foreground_by_level = self.sample_regions(proposals, targets)
        stats = {}
        maps = [features[name] for name in self.box_in_features]
        predictions = self.box_predictor(self.box_head(pool(self.box_pooler, maps, regions, by_level)))
        losses = self.box_losses(*predictions, regions, foreground, stats)
        if self.mask_on:
            objects = regions.take(foreground)
            maps = [features[name] for name in self.mask_in_features]
            logits = self.mask_head.layers(pool(self.mask_pooler, maps, objects, foreground_by_level))
            losses["loss_mask"] = self.mask_loss(logits, objects, targets, stats) * self.mask_head.loss_weight
        numbers = {"num_fg_samples": len(foreground), "num_bg_samples": len(regions.image) - len(foreground)}
        storage = get_event_storage()
        storage.put_scalars(**{f"roi_head/{name}": number / len(targets) for name, number in numbers.items()})
        if stats:
            storage.put_scalars(**dict(zip(stats, torch.stack([*stats.values()]).tolist(), strict=True)))
        return proposals, losses

    @torch.no_grad()
    def sample_regions(self, proposals: list[Instances], targets: list[Instances]):
        """Match the proposals with objects and draw regions.

        -> regions by level of the box pooler, their number on each level; rows of those with an object, by level of the
        mask pooler, their number on each level
        """
        objects = pad_objects(targets)
        boxes, valid = pad([image.proposal_boxes.tensor for image in proposals])
        if self.proposal_append_gt:
            boxes, valid = torch.cat([boxes, objects.boxes], dim=1), torch.cat([valid, objects.valid], dim=1)
        index, labels = match(self.proposal_matcher, box_iou(objects.boxes, boxes), objects.valid)
        positive, negative = (labels == 1) & valid, (labels == 0) & valid
        drawn = sample(positive, negative, self.batch_size_per_image, self.positive_fraction)
        index = take(index, drawn.index)
        regions = Regions(
            image=torch.arange(len(index), device=index.device).unsqueeze(1).expand_as(index).flatten(),
            boxes=take(boxes, drawn.index).flatten(0, 1),
            object=index.flatten(),
            object_boxes=take(objects.boxes, index).flatten(0, 1),
            classes=torch.where(drawn.positive, take(objects.classes, index), self.num_classes).flatten(),
        )
        return self.ordered(regions, drawn.valid.flatten())

    def ordered(self, regions: Regions, valid: Tensor):
        """The `valid` regions, as `sample_regions` returns them; waits for the device once."""
        mask_pooler = self.mask_pooler if self.mask_on else self.box_pooler
        levels = level_of(self.box_pooler, regions.boxes).where(valid, len(self.box_pooler.level_poolers))
        has_object = valid & (regions.classes < self.num_classes)
        mask_levels = level_of(mask_pooler, regions.boxes).where(has_object, len(mask_pooler.level_poolers))
        counts = torch.cat([count(levels, self.box_pooler), count(mask_levels, mask_pooler)]).tolist()
        by_level = counts[: len(self.box_pooler.level_poolers)]
        mask_by_level = counts[len(by_level) :]
        order = levels.argsort(stable=True)[: sum(by_level)]
        rows = mask_levels[order].argsort(stable=True)[: sum(mask_by_level)]
        return regions.take(order), by_level, rows, mask_by_level

    def box_losses(self, scores: Tensor, deltas: Tensor, regions: Regions, foreground: Tensor, stats: dict) -> dict:
        """Cross entropy of all regions, smooth L1 of those with an object; both over the number of regions."""
        predictor, objects = self.box_predictor, regions.take(foreground)
        own = deltas.view(len(deltas), -1, 4)[foreground]  # for each class, or one for all
        own = own[:, 0] if own.shape[1] == 1 else own[torch.arange(len(own), device=own.device), objects.classes]
        targets = encode(predictor.box2box_transform, objects.boxes, objects.object_boxes)
        location = smooth_l1_loss(own, targets, predictor.smooth_l1_beta, reduction="sum")
        losses = {
            "loss_cls": F.cross_entropy(scores, regions.classes) if len(scores) else scores.sum() * 0,
            "loss_box_reg": location / max(len(scores), 1),
        }
        if len(scores):
            predicted = scores.argmax(dim=1)
            right = (predicted == regions.classes).float()
            stats["fast_rcnn/cls_accuracy"] = right.mean()
            if len(foreground):
                stats["fast_rcnn/fg_cls_accuracy"] = right[foreground].mean()
                stats["fast_rcnn/false_negative"] = (predicted[foreground] == self.num_classes).float().mean()
        return {name: loss * predictor.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def mask_loss(self, logits: Tensor, objects: Regions, targets: list[Instances], stats: dict) -> Tensor:
        """Binary cross entropy of each region's mask of its class, (R, classes or 1, side, side)."""
        if not len(logits):
            return logits.sum() * 0
        rows = torch.arange(len(logits), device=logits.device)
        own = logits[:, 0] if logits.shape[1] == 1 else logits[rows, objects.classes]
        wanted = crop_masks(targets, objects, own.shape[-1])
        wrong, inside = (own > 0) != wanted, wanted.sum()
        stats["mask_rcnn/accuracy"] = 1 - wrong.float().mean()
        stats["mask_rcnn/false_positive"] = (wrong & ~wanted).sum() / (wanted.numel() - inside).clamp(min=1)
        stats["mask_rcnn/false_negative"] = (wrong & wanted).sum() / inside.clamp(min=1)
        return F.binary_cross_entropy_with_logits(own, wanted.float())


def level_of(pooler: ROIPooler, boxes: Tensor) -> Tensor:
    """The level (R,) of each box, from 0."""
    low, high = pooler.min_level, pooler.max_level
    return assign_boxes_to_levels([Boxes(boxes)], low, high, pooler.canonical_box_size, pooler.canonical_level)


def count(levels: Tensor, pooler: ROIPooler) -> Tensor:
    """How many are on each level of the pooler."""
    return (levels.unsqueeze(1) == torch.arange(len(pooler.level_poolers), device=levels.device)).sum(0)


def pool(pooler: ROIPooler, maps: list[Tensor], regions: Regions, by_level: list[int]) -> Tensor:
    """(R, C, side, side) of regions that are ordered by level, `by_level` of them on each."""
    rois = torch.cat([regions.image.unsqueeze(1).to(regions.boxes.dtype), regions.boxes], dim=1).split(by_level)
    return torch.cat([one(level, part) for one, level, part in zip(pooler.level_poolers, maps, rois, strict=True)])


@torch.no_grad()
def crop_masks(targets: list[Instances], regions: Regions, side: int) -> Tensor:
    """Each region's part of its object's mask, bool (R, side, side), as `gt_masks.crop_and_resize` gives it."""
    masks = [image.gt_masks if len(image) else None for image in targets]
    if any(mask is not None and not isinstance(mask, BitMasks) for mask in masks):
        return _crop_each(masks, regions, side)
    whole = _stack([mask.tensor for mask in masks if mask is not None])
    before = [0, *itertools.accumulate(len(image) for image in targets)]
    number = torch.tensor(before, device=whole.device)[regions.image] + regions.object
    rois = torch.cat([number.unsqueeze(1).to(regions.boxes.dtype), regions.boxes], dim=1)
    align = ROIAlign((side, side), 1.0, 0, aligned=True)
    return align(whole.unsqueeze(1).to(regions.boxes.dtype), rois).squeeze(1) >= 0.5


def _stack(masks: list[Tensor]) -> Tensor:
    """(M, H, W) of each image -> of all, as high and wide as the largest. The last row and column of a smaller one are
    repeated once, because ROIAlign reads half a pixel beyond them.
    """
    height, width = (max(sides) for sides in zip(*(image.shape[1:] for image in masks), strict=True))
    whole = masks[0].new_zeros(sum(len(image) for image in masks), height, width)
    for place, image in zip(whole.split([len(image) for image in masks]), masks, strict=True):
        h, w = image.shape[1:]
        place[:, :h, :w] = image
        place[:, h : h + 1, :w] = image[:, -1:]
        place[:, : h + 1, w : w + 1] = place[:, : h + 1, w - 1 : w]
    return whole


def _crop_each(masks: list, regions: Regions, side: int) -> Tensor:
    """The same image by image, of polygons."""
    crops = torch.zeros(len(regions.image), side, side, dtype=torch.bool, device=regions.boxes.device)
    for number, mask in enumerate(masks):
        rows = (regions.image == number).nonzero().squeeze(1)
        if len(rows):
            crops[rows] = mask[regions.object[rows]].crop_and_resize(regions.boxes[rows], side).to(crops.device) > 0.5
    return crops
