"""The region proposal network of a whole batch at once.

Losses and proposals are Detectron2's; the host waits for the device three or four times instead of a hundred.
"""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss
from torch import Tensor
from torch.nn import functional as F

from cropfield.box_batches import Sample, clip, encode, match, pad_objects, sample, take, unsuppressed


def inherits(part: object, base: type, *methods: str) -> bool:
    """Whether `part` has these methods from `base`, none of its own class."""
    return all(getattr(type(part), name, None) is getattr(base, name) for name in methods)


def is_traced() -> bool:
    """Whether operations are recorded, as for ONNX, where a length read from a tensor would become a constant."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


@PROPOSAL_GENERATOR_REGISTRY.register()
class BatchedRPN(RPN):
    """`RPN`, with the same arguments and weights.

    What is not batched is left to it: subclasses that sample or decode in another way, rotated boxes, losses other than
    smooth L1, the legacy `anchor_boundary_thresh`, and what is traced.
    """

    def is_batched(self) -> bool:
        usual = inherits(self, RPN, "_subsample_labels", "_decode_proposals")
        usual = usual and type(self.box2box_transform) is Box2BoxTransform
        usual = usual and self.box_reg_loss_type == "smooth_l1" and self.anchor_boundary_thresh < 0
        return usual and not is_traced()

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors: list[Boxes], gt_instances: list[Instances]):
        """-> sample of the anchors (N, S), and the matched box of each of them (N, S, 4)"""
        if not self.is_batched():
            return super().label_and_sample_anchors(anchors, gt_instances)
        boxes = Boxes.cat(anchors).tensor
        matched = [match(self.anchor_matcher, image.gt_boxes.tensor, boxes) for image in gt_instances]
        index, labels = (torch.stack(parts) for parts in zip(*matched, strict=True))
        drawn = sample(labels == 1, labels == 0, self.batch_size_per_image, self.positive_fraction)
        return drawn, take(pad_objects(gt_instances).boxes, take(index, drawn.index))

    def losses(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        gt_labels: Sample,
        pred_anchor_deltas: list[Tensor],
        gt_boxes: Tensor,
    ) -> dict[str, Tensor]:
        """Of the sampled anchors alone, over batch_size_per_image of each image."""
        if not self.is_batched():
            return super().losses(anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes)
        index, positive, valid = gt_labels
        logits = take(torch.cat(pred_objectness_logits, dim=1), index)
        deltas = take(torch.cat(pred_anchor_deltas, dim=1), index)
        boxes = Boxes.cat(anchors).tensor[index]
        targets = encode(self.box2box_transform, boxes, torch.where(positive.unsqueeze(2), gt_boxes, boxes))
        objectness = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
        location = smooth_l1_loss(deltas, targets, self.smooth_l1_beta)
        self.log_sample(gt_labels)
        normalizer = self.batch_size_per_image * len(index)
        losses = {
            "loss_rpn_cls": (objectness * valid).sum() / normalizer,
            "loss_rpn_loc": (location * positive.unsqueeze(2)).sum() / normalizer,
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def log_sample(self, drawn: Sample) -> None:
        positive, all_drawn = torch.stack([drawn.positive.sum(), drawn.valid.sum()]).tolist()
        totals = {"rpn/num_pos_anchors": positive, "rpn/num_neg_anchors": all_drawn - positive}
        get_event_storage().put_scalars(**{name: total / len(drawn.index) for name, total in totals.items()})

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """The best `post_nms_topk` of each image by score, as views of one tensor.

        A box or score that is not finite raises FloatingPointError in training, and is left out in inference.
        """
        if not self.is_batched():
            return super().predict_proposals(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
        most = min(self.pre_nms_topk[self.training], max(logits.shape[1] for logits in pred_objectness_logits))
        levels = zip(anchors, pred_objectness_logits, pred_anchor_deltas, strict=True)
        best = [self.best_of(*level, most) for level in levels]
        scores, deltas, origins = (torch.stack(parts, dim=1) for parts in zip(*best, strict=True))
        boxes = self.box2box_transform.apply_deltas(deltas.flatten(0, 2), origins.flatten(0, 2)).view_as(origins)
        real = len(image_sizes) * sum(min(most, logits.shape[1]) for logits in pred_objectness_logits)
        valid = scores.isfinite() & boxes.isfinite().all(dim=-1)
        finite = valid.sum() == real
        boxes = clip(boxes, image_sizes)
        valid &= ((boxes[..., 2:] - boxes[..., :2]) > self.min_box_size).all(dim=-1)
        keep = unsuppressed(boxes.flatten(0, 1), valid.flatten(0, 1), self.nms_thresh).view_as(valid)
        scores = scores.masked_fill(~keep, -torch.inf).flatten(1)
        top = scores.topk(min(self.post_nms_topk[self.training], scores.shape[1]), dim=1)
        boxes = take(boxes.flatten(1, 2), top.indices)
        *lengths, finite = torch.stack([*top.values.isfinite().sum(1), finite]).tolist()
        if self.training and not finite:
            raise FloatingPointError("a predicted box or score is infinite or NaN: training has diverged")
        return [
            Instances(size, proposal_boxes=Boxes(of_image[:length]), objectness_logits=values[:length])
            for size, of_image, values, length in zip(image_sizes, boxes, top.values, lengths, strict=True)
        ]

    def best_of(self, anchors: Boxes, logits: Tensor, deltas: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the `most` best anchors of a level, by falling score: logits (N, K), deltas and anchors (N, K, 4).

        A smaller level is filled with empty boxes.
        """
        scores, index = logits.topk(min(most, logits.shape[1]), dim=1)
        fill = (0, 0, 0, most - scores.shape[1])
        scores = F.pad(scores, fill[2:], value=-torch.inf)
        return scores, F.pad(take(deltas, index), fill), F.pad(anchors.tensor[index], fill)
