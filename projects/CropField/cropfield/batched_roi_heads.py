"""Box and mask heads of a whole batch at once, in training; in inference the choice of detections.

The losses are Detectron2's; the host waits for the device twice instead of sixty times, and no object's mask is copied
for each region.
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

from cropfield.batched_rpn import inherits, is_traced
from cropfield.box_batches import clip, encode, match, pad, pad_objects, sample, take, unsuppressed


class Regions(NamedTuple):
    """Regions that the heads are trained on, of all images: all (R,) but boxes (R, 4).

    `objects` numbers the objects of the whole batch, `classes` are theirs, or num_classes for background.
    """

    images: Tensor
    boxes: Tensor
    objects: Tensor
    object_boxes: Tensor
    classes: Tensor

    def take(self, rows: Tensor) -> "Regions":
        return Regions(*(field[rows] for field in self))


class SampledRegions(NamedTuple):
    """Regions ordered by level of the box pooler, how many are on each; the rows of those with an object, ordered by
    level of the mask pooler, how many are on each.
    """

    regions: Regions
    by_level: list[int]
    foreground: Tensor
    foreground_by_level: list[int]


class BatchedROIHeads(StandardROIHeads):
    """`StandardROIHeads`, with the same arguments and weights. In training it returns the proposals as they came.

    What is not batched is left to it: masks in inference, what is traced, and training with keypoints,
    `train_on_pred_boxes`, or with parts or methods that are not Detectron2's own.
    """

    def is_batched(self) -> bool:
        if not self.training or self.keypoint_on or self.train_on_pred_boxes:
            return False
        usual = inherits(self, StandardROIHeads, "_sample_proposals", "label_and_sample_proposals")
        usual = usual and inherits(self, BatchedROIHeads, "_forward_box")
        return usual and self.has_usual_box_head() and (not self.mask_on or self.has_usual_mask_head())

    def has_usual_box_head(self) -> bool:
        predictor = self.box_predictor
        if type(predictor) is not FastRCNNOutputLayers or type(self.box_pooler) is not ROIPooler:
            return False
        transform, loss = type(predictor.box2box_transform), predictor.box_reg_loss_type
        return transform is Box2BoxTransform and loss == "smooth_l1" and not predictor.use_sigmoid_ce

    def has_usual_mask_head(self) -> bool:
        from pretrain.models.attention import has_hooks  # which imports timm; `import cropfield` is to stay light

        head = self.mask_head
        usual = inherits(self, StandardROIHeads, "_forward_mask") and inherits(head, BaseMaskRCNNHead, "forward")
        return usual and type(self.mask_pooler) is ROIPooler and head.vis_period == 0 and not has_hooks(head)

    def forward(self, images, features: dict[str, Tensor], proposals: list[Instances], targets=None):
        """See `ROIHeads.forward`."""
        if not self.is_batched():
            return super().forward(images, features, proposals, targets)
        regions, by_level, foreground, foreground_by_level = self.sample_regions(proposals, targets)
        stats = {}
        maps = [features[name] for name in self.box_in_features]
        predictions = self.box_predictor(self.box_head(pool(self.box_pooler, maps, regions, by_level)))
        losses = self.box_losses(*predictions, regions, foreground, stats)
        if self.mask_on:
            with_object = regions.take(foreground)
            maps = [features[name] for name in self.mask_in_features]
            logits = self.mask_head.layers(pool(self.mask_pooler, maps, with_object, foreground_by_level))
            losses["loss_mask"] = self.mask_loss(logits, with_object, targets, stats) * self.mask_head.loss_weight
        sizes = {"num_fg_samples": len(foreground), "num_bg_samples": len(regions.images) - len(foreground)}
        storage = get_event_storage()
        storage.put_scalars(**{f"roi_head/{name}": size / len(targets) for name, size in sizes.items()})
        if stats:
            storage.put_scalars(**dict(zip(stats, torch.stack([*stats.values()]).tolist(), strict=True)))
        return proposals, losses

    def _forward_box(self, features: dict[str, Tensor], proposals: list[Instances]):
        """Without targets: the detections."""
        if self.training or type(self.box_predictor) is not FastRCNNOutputLayers or is_traced():
            return super()._forward_box(features, proposals)
        maps = [features[name] for name in self.box_in_features]
        pooled = self.box_pooler(maps, [image.proposal_boxes for image in proposals])
        return detections(self.box_predictor, self.box_predictor(self.box_head(pooled)), proposals)

    @torch.no_grad()
    def sample_regions(self, proposals: list[Instances], targets: list[Instances]) -> SampledRegions:
        """Match the proposals with objects, draw regions, and order them by level; waits for the device once."""
        objects = pad_objects(targets)
        boxes, valid = pad([image.proposal_boxes.tensor for image in proposals])
        if self.proposal_append_gt:
            boxes, valid = torch.cat([boxes, objects.boxes], dim=1), torch.cat([valid, objects.valid], dim=1)
        matched = [
            match(self.proposal_matcher, image.gt_boxes.tensor, own) for image, own in zip(targets, boxes, strict=True)
        ]
        index, labels = (torch.stack(parts) for parts in zip(*matched, strict=True))
        for image, own in zip(targets, labels, strict=True):
            if not len(image):
                own.zero_()  # all is background
        classes = take(objects.classes, index)
        positive = valid & (labels == 1) & (classes >= 0) & (classes < self.num_classes)
        drawn = sample(positive, valid & (labels == 0), self.batch_size_per_image, self.positive_fraction)
        index = take(index, drawn.index)
        regions = Regions(
            images=torch.arange(len(index), device=index.device).unsqueeze(1).expand_as(index).flatten(),
            boxes=take(boxes, drawn.index).flatten(0, 1),
            objects=take(objects.numbers, index).flatten(),
            object_boxes=take(objects.boxes, index).flatten(0, 1),
            classes=torch.where(drawn.positive, take(classes, drawn.index), self.num_classes).flatten(),
        )
        return self.by_level(regions, drawn.valid.flatten())

    def by_level(self, regions: Regions, valid: Tensor) -> SampledRegions:
        mask_pooler = self.mask_pooler if self.mask_on else self.box_pooler
        levels = levels_of(self.box_pooler, regions.boxes).where(valid, len(self.box_pooler.level_poolers))
        with_object = valid & (regions.classes < self.num_classes)
        mask_levels = levels_of(mask_pooler, regions.boxes).where(with_object, len(mask_pooler.level_poolers))
        sizes = torch.cat([on_each_level(self.box_pooler, levels), on_each_level(mask_pooler, mask_levels)]).tolist()
        num_levels = len(self.box_pooler.level_poolers)
        by_level, mask_by_level = sizes[:num_levels], sizes[num_levels:]
        order = levels.argsort(stable=True)[: sum(by_level)]
        foreground = mask_levels[order].argsort(stable=True)[: sum(mask_by_level)]
        return SampledRegions(regions.take(order), by_level, foreground, mask_by_level)

    def box_losses(self, scores: Tensor, deltas: Tensor, regions: Regions, foreground: Tensor, stats: dict) -> dict:
        """Cross entropy of all regions, smooth L1 of those with an object; both over the number of regions."""
        predictor, with_object = self.box_predictor, regions.take(foreground)
        own = deltas.unflatten(1, (-1, 4))[foreground]  # for each class, or one for all
        own = own[:, 0] if own.shape[1] == 1 else own[torch.arange(len(own), device=own.device), with_object.classes]
        targets = encode(predictor.box2box_transform, with_object.boxes, with_object.object_boxes)
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

    def mask_loss(self, logits: Tensor, with_object: Regions, targets: list[Instances], stats: dict) -> Tensor:
        """Binary cross entropy of each region's mask of its class, (R, classes or 1, side, side)."""
        if not len(logits):
            return logits.sum() * 0
        rows = torch.arange(len(logits), device=logits.device)
        own = logits[:, 0] if logits.shape[1] == 1 else logits[rows, with_object.classes]
        wanted = crop_masks(targets, with_object, own.shape[-1])
        wrong, inside = (own > 0) != wanted, wanted.sum()
        stats["mask_rcnn/accuracy"] = 1 - wrong.float().mean()
        stats["mask_rcnn/false_positive"] = (wrong & ~wanted).sum() / (wanted.numel() - inside).clamp(min=1)
        stats["mask_rcnn/false_negative"] = (wrong & wanted).sum() / inside.clamp(min=1)
        return F.binary_cross_entropy_with_logits(own, wanted.float())


def detections(predictor: FastRCNNOutputLayers, predictions, proposals: list[Instances]) -> list[Instances]:
    """What `predictor.inference` finds in each image, by falling score; waits for the device twice."""
    boxes, valid = pad([*predictor.predict_boxes(predictions, proposals)])
    scores, _ = pad([*predictor.predict_probs(predictions, proposals)])
    valid &= boxes.isfinite().all(dim=2) & scores.isfinite().all(dim=2)
    scores = scores[..., :-1]  # the last one is the background's
    num_classes = scores.shape[2]
    candidates = (valid.unsqueeze(2) & (scores > predictor.test_score_thresh)).flatten(1)
    most = max(1, candidates.sum(1).amax().item())
    ranked = scores.flatten(1).masked_fill(~candidates, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)[:, :most]  # of equal scores as in Detectron2
    scores, valid, classes = take(scores.flatten(1), order), take(candidates, order), order % num_classes
    own = order // num_classes if boxes.shape[2] == 4 else order
    boxes = clip(take(boxes.unflatten(2, (-1, 4)).flatten(1, 2), own), [image.image_size for image in proposals])
    keep = unsuppressed(boxes, valid, predictor.test_nms_thresh, classes)
    limit = predictor.test_topk_per_image if predictor.test_topk_per_image >= 0 else most
    lengths = keep.sum(1).clamp(max=limit).tolist()
    kept = (~keep).byte().argsort(dim=1, stable=True)[:, : max(lengths)]
    rows = zip(proposals, lengths, take(boxes, kept), take(scores, kept), take(classes, kept), strict=True)
    return [
        Instances(image.image_size, pred_boxes=Boxes(box[:n]), scores=score[:n], pred_classes=number[:n])
        for image, n, box, score, number in rows
    ]


def levels_of(pooler: ROIPooler, boxes: Tensor) -> Tensor:
    """The level of each box, (R,), from 0."""
    low, high = pooler.min_level, pooler.max_level
    levels = assign_boxes_to_levels([Boxes(boxes)], low, high, pooler.canonical_box_size, pooler.canonical_level)
    return levels.clamp(min=0)  # a box whose sides are reversed has none


def on_each_level(pooler: ROIPooler, levels: Tensor) -> Tensor:
    """How many regions are on each level of the pooler."""
    return (levels.unsqueeze(1) == torch.arange(len(pooler.level_poolers), device=levels.device)).sum(0)


def pool(pooler: ROIPooler, maps: list[Tensor], regions: Regions, by_level: list[int]) -> Tensor:
    """(R, C, side, side) of regions that are ordered by level, `by_level` of them on each."""
    rois = torch.cat([regions.images.unsqueeze(1).to(regions.boxes.dtype), regions.boxes], dim=1).split(by_level)
    return torch.cat([one(level, part) for one, level, part in zip(pooler.level_poolers, maps, rois, strict=True)])


@torch.no_grad()
def crop_masks(targets: list[Instances], regions: Regions, side: int) -> Tensor:
    """Each region's part of its object's mask, bool (R, side, side), as `gt_masks.crop_and_resize` gives it."""
    masks = [image.gt_masks for image in targets if len(image)]
    if any(type(mask) is not BitMasks or mask.device != regions.boxes.device for mask in masks):
        return _crop_each(targets, regions, side)
    whole, rows = _stack([mask.tensor for mask in masks]), regions.objects
    if len(whole) > len(rows):  # in float32 they are four times as large
        whole, rows = whole[rows], torch.arange(len(rows), device=rows.device)
    rois = torch.cat([rows.unsqueeze(1).to(regions.boxes.dtype), regions.boxes], dim=1)
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


def _crop_each(targets: list[Instances], regions: Regions, side: int) -> Tensor:
    """The same image by image, of polygons and others."""
    crops = torch.zeros(len(regions.images), side, side, dtype=torch.bool, device=regions.boxes.device)
    before = [0, *itertools.accumulate(map(len, targets))]
    for number, image in enumerate(targets):
        rows = (regions.images == number).nonzero().squeeze(1)
        if len(rows):
            masks = image.gt_masks[(regions.objects[rows] - before[number]).to(image.gt_masks.device)]
            crops[rows] = masks.crop_and_resize(regions.boxes[rows], side).to(crops.device) > 0.5
    return crops
