"""Detection probe: ridge regression from a frozen backbone's patch tokens to objects. Deterministic, without training
steps.

For each patch it predicts (i) the class of the object at the patch, one-hot including "none", and (ii) the distances
from the patch to the sides of the object's box. Both are fitted in closed form, with penalties chosen on every tenth
training image, and evaluated on other images, also as a detector in which every patch proposes a box.

Two more metrics need no fit: the classes of whole objects by the nearest ones of the training images, and in how many
directions their features spread.
"""

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torchvision.ops import batched_nms

from cropfield.knn import knn_accuracy
from cropfield.probe_images import ProbeImages
from cropfield.ridge import Ridge, fit_chosen, moments
from pretrain.data.decode import BrokenImage
from pretrain.errors import UserError
from pretrain.methods.feature_statistics import effective_rank
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer

HELD_OUT = 10  # every tenth training image is used to choose the penalties
PROBE_LIMITS = 300, 100  # most images to fit on, and to evaluate on
NMS_IOU, MOST_CANDIDATES, MOST_DETECTIONS = 0.5, 1000, 100

FIGURES = (
    ("box_ap", "box AP"),
    ("box_ap50", "AP50"),
    ("patch_box_iou", "box IoU of object patches"),
    ("patch_class_accuracy", "class of object patches"),
    ("object_knn", "k-NN of objects"),
    ("object_rank", "effective rank of objects"),
)

Features = Callable[[list[Tensor]], list[Tensor]]  # normalised images (3, H*p, W*p) -> tokens of each, (H*W, D)


class DetectionProbe:
    """Evaluates features on two sets of images. Work is split over the processes; all get the same metrics.

    batch_size: images in a forward pass.
    """

    def __init__(self, train: ProbeImages, val: ProbeImages, batch_size: int = 16):
        self.train, self.val, self.batch_size = train, val, batch_size
        self.num_classes = len(train.coco.names)
        self.unreadable: list[str] = []

    @torch.no_grad()
    def measure(self, features: Features) -> dict[str, float]:
        """Metrics on the validation images, all but the last in percent.

        Returns:
            box_ap, box_ap50: COCO AP of the boxes of all patches after non-maximum suppression.
            patch_box_iou: mean IoU of predicted and true box, over patches on objects.
            patch_class_accuracy: accuracy among the classes, without "none", over patches on objects.
            object_knn: accuracy of the objects' classes by `knn_accuracy` of their mean tokens, see `object_tokens`.
            object_rank: effective rank (RankMe) of these tokens; compare it only between features of one
                width, on the same images.

        Raises:
            UserError: an image cannot be read; raised in every process.
        """
        classifier, locator, known = self.fit(features)
        detections, objects, sums = [], [], np.zeros(3)
        for index, tokens in self.tokens(self.val, features):
            scores, boxes = classifier(tokens)[:, :-1], to_boxes(locator(tokens), self.val.centres(index))
            on_object, classes, true_boxes = self.val.targets(index)
            right = scores[on_object].argmax(1) == classes[on_object]
            sums += [right.sum(), overlaps(boxes[on_object], true_boxes[on_object]).sum(), on_object.sum()]
            detections += detect(self.val, index, scores, boxes)
            objects.append(object_tokens(tokens, on_object, classes, true_boxes))
        found, objects, sums = zip(*self.gather((detections, objects, sums)), strict=True)
        right, overlap, patches = sum(sums)
        ap, ap50 = box_ap(self.val.truth, sum(found, []))
        asked = joined(objects)
        figures = {
            "box_ap": ap,
            "box_ap50": ap50,
            "patch_box_iou": 100 * overlap / patches,
            "patch_class_accuracy": 100 * right / patches,
            "object_knn": 100 * knn_accuracy(*known, *asked),
            "object_rank": effective_rank(asked[0]),
        }
        return {name: float(value) for name, value in figures.items()}

    def fit(self, features: Features) -> tuple[Ridge, Ridge, tuple[Tensor, Tensor]]:
        """Fit tokens to scores of the classes and "none" (C + 1), and to box sides (4), see `to_sides`; and collect the
        `object_tokens` of all images.
        """
        held_out, sums, objects = set(self.train.with_objects[::HELD_OUT]), {}, []
        for index, tokens in self.tokens(self.train, features):
            on_object, classes, boxes = self.train.targets(index)
            one_hot = torch.nn.functional.one_hot(classes, self.num_classes + 1)
            sides = to_sides(boxes, self.train.centres(index))
            for task, patches, targets in (("class", slice(None), one_hot), ("box", on_object, sides)):
                part = moments(tokens[patches], targets[patches].to(tokens.device)).cpu()
                sums[task, index in held_out] = sums.get((task, index in held_out), 0) + part
            objects.append(object_tokens(tokens, on_object, classes, boxes))
        everywhere, objects = zip(*self.gather((sums, objects)), strict=True)
        total = {
            key: sum(part.get(key, 0) for part in everywhere) for key in sorted({k for p in everywhere for k in p})
        }
        sizes = {"class": self.num_classes + 1, "box": 4}
        ridges = [fit_chosen(total[task, False], total[task, True], size) for task, size in sizes.items()]
        return *ridges, joined(objects)

    def tokens(self, images: ProbeImages, features: Features) -> Iterator[tuple[int, Tensor]]:
        """Yield index and tokens of this process's images; unreadable ones are recorded."""
        share = range(comm.get_rank(), len(images), comm.get_world_size())
        for start in range(0, len(share), self.batch_size):
            batch = {}
            for index in share[start : start + self.batch_size]:
                try:
                    batch[index] = images.load(index)
                except BrokenImage as broken:
                    self.unreadable.append(str(broken))
            yield from zip(batch, features(list(batch.values())) if batch else (), strict=True)

    def gather(self, value) -> list:
        """Gather a value from all processes. Raises UserError if any of them could not read an image."""
        parts = comm.all_gather((value, self.unreadable))
        self.unreadable = []
        if broken := [name for _, names in parts for name in names]:
            raise UserError(f"the detection probe cannot read {broken[0]} ({len(broken)} such images); replace it")
        return [value for value, _ in parts]


def backbone_features(backbone: VisionTransformer, layers: int = 1, amp: bool = False) -> Features:
    """Patch tokens of the last `layers` blocks, each after the final norm, concatenated.

    The whole image covers the whole field. amp: use bfloat16 autocast. The backbone stays on its device; see
    `evaluating`.
    """

    def features(images: list[Tensor]) -> list[Tensor]:
        device, collected = backbone.pos_embed.device, []
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            packed, layout = pack([backbone.embed(image[None].to(device)) for image in images])
            for number, block in enumerate(backbone.blocks):
                packed = block(packed, layout)
                if number >= len(backbone.blocks) - layers:
                    collected.append(backbone.norm(packed))
        first = int(backbone.cls_token is not None)
        return [tokens[0, first:] for tokens in layout.split(torch.cat(collected, dim=1))]

    return features


def positions_and_colours(patch: int, waves: int = 8) -> Features:
    """Baseline features without a backbone: a patch's mean colour, and cosines of its position.

    patch: pixels. waves: frequencies per axis; the position's features are products of the two axes' cosines.
    """

    def features(images: list[Tensor]) -> list[Tensor]:
        found = []
        for image in images:
            colours = torch.nn.functional.avg_pool2d(image, patch)
            axes = [torch.pi * (torch.arange(side) + 0.5) / side for side in colours.shape[1:]]
            y, x = (torch.cos(torch.arange(waves)[:, None] * axis) for axis in axes)
            places = (y[:, None, :, None] * x[None, :, None, :]).flatten(0, 1)
            found.append(torch.cat([colours, places]).flatten(1).T)
        return found

    return features


@contextlib.contextmanager
def evaluating(backbone: torch.nn.Module) -> Iterator[None]:
    """Put the backbone in eval mode within the block; then restore the mode of each module."""
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def object_tokens(tokens: Tensor, on_object: Tensor, classes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean token of each object of an image over the patches that it lies on, (n, D) on the CPU; and their classes
    (n,) int64.

    tokens: of all patches, (N, D). on_object, classes, boxes: of each patch, see `ProbeImages.targets`.
    """
    of_patches = torch.cat([boxes[on_object], classes[on_object, None]], dim=1)
    objects, which = of_patches.unique(dim=0, return_inverse=True)
    member = (which == torch.arange(len(objects))[:, None]).to(tokens)
    return (member @ tokens[on_object] / member.sum(1, keepdim=True)).cpu(), objects[:, -1].long()


def joined(objects: Sequence[list[tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
    """Tokens (n, D) and classes (n,) of the objects of all processes' images."""
    tokens, classes = zip(*itertools.chain(*objects), strict=True)
    return torch.cat(tokens), torch.cat(classes)


def to_sides(boxes: Tensor, centres: Tensor) -> Tensor:
    """Boxes (N, 4) as (x0, y0, x1, y1) -> distances of their sides from points (N, 2): left, top, right, bottom."""
    return torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], dim=1)


def to_boxes(sides: Tensor, centres: Tensor) -> Tensor:
    """Inverse of `to_sides`; boxes contain their point and are clipped to the image."""
    sides = sides.clamp(min=0)
    return torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], dim=1).clamp(0, 1)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise intersection over union: (N, 4), (N, 4) -> (N,)."""
    common = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return common / (areas[0] + areas[1] - common)


def detect(images: ProbeImages, index: int, scores: Tensor, boxes: Tensor) -> list[dict]:
    """COCO detections of an image: each patch's box (N, 4) with each class score (N, C), the top 100 after
    suppression.
    """
    best = scores.clamp(0, 1).flatten().topk(min(MOST_CANDIDATES, scores.numel()))
    patches, classes = best.indices // scores.shape[1], best.indices % scores.shape[1]
    kept = batched_nms(boxes[patches], best.values, classes, NMS_IOU)[:MOST_DETECTIONS]
    height, width = images.sides(index)
    corners = boxes[patches[kept]] * torch.tensor([width, height, width, height])
    found = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()
    categories, numbers, values = list(images.coco.names), classes[kept].tolist(), best.values[kept].tolist()
    return [
        {"image_id": images.ids[index], "category_id": categories[number], "score": score, "bbox": box}
        for number, score, box in zip(numbers, values, found, strict=True)
    ]


def box_ap(truth: dict, detections: list[dict]) -> tuple[float, float]:
    """COCO AP and AP50 in percent, by pycocotools, over objects of all sizes. truth: a COCO file's content."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        evaluation = COCOeval(known, known.loadRes(detections), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]  # (overlap, recall, class); -1 for a class without objects
    return tuple(100 * float(part[part > -1].mean()) for part in (precision, precision[:1]))
