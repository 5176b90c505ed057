"""Boxes of a whole batch at once, in tensors of fixed shape: matched with objects, sampled, encoded, suppressed.

Detectron2 does this image by image, with results whose lengths the host has to wait for: with four images that is
1,500 operations an iteration and 170 waits for the device. Here an image has a row, and what a row lacks is masked.
Nothing is copied to the device either, because the host waits for that, too.
"""

from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Instances
from torch import Tensor
from torchvision.ops import nms

PAIRS = 2**24  # of boxes, compared at once in 400 MiB
MAX_OVERLAPS = 2**29  # pairs of boxes that are kept at once: 1 GiB


class Objects(NamedTuple):
    """Annotated objects of N images, padded to M an image: boxes (N, M, 4), and (N, M) of the rest.

    `numbers` counts the objects of the whole batch.
    """

    boxes: Tensor
    classes: Tensor
    numbers: Tensor
    valid: Tensor


def pad_objects(targets: list[Instances]) -> Objects:
    boxes, valid = pad([image.gt_boxes.tensor for image in targets])
    classes, _ = pad([image.gt_classes for image in targets])
    numbers = torch.arange(sum(map(len, targets)), device=boxes.device)
    return Objects(boxes, classes, pad(numbers.split([*map(len, targets)]))[0], valid)


def pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of lengths that differ -> (N, longest, ...), at least 1 long, padded with zeros; which are real."""
    longest = max(1, *map(len, rows))
    padded = rows[0].new_zeros(len(rows), longest, *rows[0].shape[1:])
    valid = torch.zeros(len(rows), longest, dtype=torch.bool, device=padded.device)
    for number, row in enumerate(rows):  # by index, because views of a loop cannot be written to where gradients flow
        padded[number, : len(row)] = row
        valid[number, : len(row)] = True
    return padded, valid


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def clip(boxes: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """Boxes (N, ..., 4) to within each image's (height, width)."""
    parts = [
        torch.stack([of_image[..., 0::2].clamp(0, width), of_image[..., 1::2].clamp(0, height)], dim=-1)
        for of_image, (height, width) in zip(boxes, sizes, strict=True)
    ]
    return torch.stack(parts).flatten(-2)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """(..., M, 4), (..., B, 4) in XYXY -> intersection over union (..., M, B); 0 for boxes without an area."""
    a, b = first.unsqueeze(-2), second.unsqueeze(-3)
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    overlap = sides[..., 0] * sides[..., 1]
    return torch.where(overlap > 0, overlap / (area(a) + area(b) - overlap), 0)


def match(matcher: Matcher, objects: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """`matcher` by IoU. objects (M, 4), boxes (B, 4) -> index of each box's object and label, both (B,).

    One image at a time: together, one with many objects would need that memory for all. Without an object the index is
    0 and the label that of no overlap.
    """
    if not len(objects):
        nothing = boxes.new_zeros(len(boxes), dtype=torch.long)
        return nothing, torch.full_like(nothing, matcher.labels[0])
    iou = box_iou(objects, boxes)
    best, index = iou.max(dim=0)
    labels = torch.ones_like(index)
    for label, low, high in zip(matcher.labels, matcher.thresholds[:-1], matcher.thresholds[1:], strict=True):
        labels = labels.masked_fill((best >= low) & (best < high), label)
    if matcher.allow_low_quality_matches:
        labels = labels.masked_fill((iou == iou.amax(dim=1, keepdim=True)).any(dim=0), 1)
    return index, labels


class Sample(NamedTuple):
    """Boxes drawn from each image: index (N, S), positive (N, S), valid (N, S). Positive ones come first."""

    index: Tensor
    positive: Tensor
    valid: Tensor


def sample(positive: Tensor, negative: Tensor, size: int, fraction: float) -> Sample:
    """Draw `size` boxes an image without replacement, as `detectron2.modeling.sampling.subsample_labels` does.

    At most `fraction` of them are positive; negative ones fill up. Both masks are (N, B).
    """
    most = min(int(size * fraction), positive.shape[1])
    noise = torch.rand(positive.shape, device=positive.device)
    first = torch.where(positive, noise, -1).topk(most, dim=1)
    rest = torch.where(negative, noise, -1).topk(min(size, negative.shape[1]), dim=1)
    num_positive = (first.values >= 0).sum(1, keepdim=True)
    num_negative = (rest.values >= 0).sum(1, keepdim=True)
    slots = torch.arange(size, device=noise.device).expand(len(noise), -1)
    is_positive = slots < num_positive
    place = torch.where(is_positive, slots, slots - num_positive + most).clamp(max=most + rest.indices.shape[1] - 1)
    index = torch.cat([first.indices, rest.indices], dim=1).gather(1, place)
    return Sample(index, is_positive, slots < num_positive + num_negative)


def take(rows: Tensor, index: Tensor) -> Tensor:
    """rows (N, B, ...), index (N, S) -> (N, S, ...), each image from its own row."""
    return rows[torch.arange(len(rows), device=rows.device).unsqueeze(1), index]


def encode(transform: Box2BoxTransform, boxes: Tensor, targets: Tensor) -> Tensor:
    """`transform.get_deltas` of (..., 4), without its wait for the device: boxes must have an area."""
    sizes, target_sizes = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    shift = (targets[..., :2] + 0.5 * target_sizes - boxes[..., :2] - 0.5 * sizes) / sizes
    deltas = torch.cat([shift, torch.log(target_sizes / sizes)], dim=-1).unbind(-1)
    return torch.stack([weight * delta for weight, delta in zip(transform.weights, deltas, strict=True)], dim=-1)


@torch.no_grad()
def unsuppressed(boxes: Tensor, valid: Tensor, threshold: float, classes: Tensor | None = None) -> Tensor:
    """Non-maximum suppression of each row: boxes (R, K, 4) by falling score, valid (R, K) -> which are kept (R, K).

    classes: (R, K), of which each is suppressed by itself.
    """
    if boxes.device.type == "cpu" or len(boxes) * boxes.shape[1] ** 2 > MAX_OVERLAPS:
        return suppressed_in_turn(boxes, valid, threshold, classes)
    return suppressed_at_once(boxes, valid, threshold, classes)


def suppressed_in_turn(boxes: Tensor, valid: Tensor, threshold: float, classes: Tensor | None = None) -> Tensor:
    """The quicker way on a CPU: torchvision's, row by row."""
    keep = torch.zeros_like(valid)
    falling = torch.arange(boxes.shape[1], 0, -1, dtype=boxes.dtype, device=boxes.device)
    for number, (row, real, kept) in enumerate(zip(boxes, valid, keep, strict=True)):
        places = real.nonzero().squeeze(1)
        row, scores = row[places], falling[places]
        if classes is None:
            chosen = nms(row, scores, threshold)
        else:
            chosen = batched_nms(row, scores, classes[number, places], threshold)
        kept[places[chosen]] = True
    return keep


def suppressed_at_once(
    boxes: Tensor, valid: Tensor, threshold: float, classes: Tensor | None = None, rounds: int = 8
) -> Tensor:
    """All rows together, for a GPU.

    A box is kept if no kept box before it overlaps it: from all kept, each round settles one more box of every chain,
    and a round that changes nothing has settled all. Waits for the device every few `rounds`.
    """
    overlaps = torch.empty(*valid.shape, valid.shape[1], dtype=torch.bfloat16, device=boxes.device)
    rows = max(1, PAIRS // boxes.shape[1] ** 2)
    for first in range(0, len(boxes), rows):
        part = slice(first, first + rows)
        overlap = box_iou(boxes[part], boxes[part]) > threshold
        if classes is not None:
            overlap &= classes[part].unsqueeze(1) == classes[part].unsqueeze(2)
        overlaps[part] = overlap.triu(1)
    keep = valid
    while True:
        for _ in range(rounds):
            before = keep
            keep = valid & (torch.bmm(before.to(overlaps.dtype).unsqueeze(1), overlaps).squeeze(1) == 0)
        if torch.equal(before, keep):
            return keep
