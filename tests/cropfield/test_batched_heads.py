"""The batched proposals and heads are Detectron2's: equal losses, gradients, proposals and logged numbers."""

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, pairwise_iou
from detectron2.utils.events import EventStorage
from torchvision.ops import nms

import cropfield.batched_roi_heads
import cropfield.batched_rpn
from cropfield.batched_roi_heads import BatchedROIHeads, Regions, crop_masks, detections
from cropfield.batched_rpn import BatchedRPN
from cropfield.box_batches import match, sample, suppressed_at_once, suppressed_in_turn
from lab.benchmarks.operations import Operations
from pretrain.engine.lazy_config import load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py"
ALL_OF_THEM = 100_000  # sampled: every anchor, every region, so that nothing is left to chance


def random_boxes(count: int, height: int, width: int) -> torch.Tensor:
    corners = torch.rand(count, 2, 2).sort(dim=1).values * torch.tensor([width - 12, height - 12])
    corners[:, 1] += 12
    return corners.flatten(1)


def ellipse(x0: float, y0: float, x1: float, y1: float, height: int, width: int) -> torch.Tensor:
    y, x = torch.arange(height).unsqueeze(1), torch.arange(width)
    return ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 < 1


def image(count: int, height: int, width: int, polygons: bool = False) -> dict:
    boxes = random_boxes(count, height, width)
    objects = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.randint(3, (count,)))
    if count and polygons:
        x0, y0, x1, y1 = boxes.unbind(1)
        corners = torch.stack([x0, y0, x1, y0, x1, y1], dim=1)
        objects.gt_masks = PolygonMasks([[triangle.double().numpy()] for triangle in corners])
    elif count:
        objects.gt_masks = BitMasks(torch.stack([ellipse(*box.tolist(), height, width) for box in boxes]))
    pixels = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {"image": pixels, "instances": objects, "height": height, "width": width}


def detectors(*overrides: str):
    """Detectron2's and ours, with the same weights."""
    overrides = ["dataloader.image_size=64", "model.backbone.net.depth=1", "model.roi_heads.num_classes=3", *overrides]
    cfg = load_config(CONFIG, [*overrides, "train.device=cpu"])
    ours = instantiate(cfg.model).train()
    for name, parameter in ours.named_parameters():
        if name.endswith("mask_head.predictor.weight"):
            torch.nn.init.normal_(parameter)  # else all logits are nearly 0, and rounding decides what is logged
    cfg.model.proposal_generator._target_, cfg.model.roi_heads._target_ = RPN, StandardROIHeads
    stock = instantiate(cfg.model).train()
    stock.load_state_dict(ours.state_dict())
    assert type(ours.proposal_generator) is BatchedRPN and type(ours.roi_heads) is BatchedROIHeads
    return stock, ours


def parts_of_a_step(stock, batch: list[dict]):
    """What RPN and heads are given by Detectron2's detector: image list, features, proposals and targets."""
    targets = [one["instances"] for one in batch]
    images = stock.preprocess_image(batch)
    with torch.no_grad(), EventStorage():
        features = stock.backbone(images.tensor)
        proposals, _ = stock.proposal_generator(images, features, targets)
    return images, features, proposals, targets


def losses_and_gradients(part, features: dict, *inputs) -> tuple[dict, dict, dict]:
    """Losses, gradients of weights and features, and logged numbers of a part of a detector."""
    features = {name: level.clone().requires_grad_() for name, level in features.items()}
    part.zero_grad()
    with EventStorage() as storage:
        _, losses = part(inputs[0], features, *inputs[1:])
        sum(losses.values()).backward()
        logged = {name: value for name, (value, _) in storage.latest().items()}
    both = {**features, **dict(part.named_parameters())}
    return losses, {name: tensor.grad for name, tensor in both.items() if tensor.grad is not None}, logged


def assert_equal_steps(found, wanted) -> None:
    (losses, gradients, logged), (their_losses, their_gradients, their_logged) = found, wanted
    torch.testing.assert_close(losses, their_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logged, their_logged, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == their_gradients.keys()
    largest = max(gradient.norm() for gradient in their_gradients.values())
    for name, theirs in their_gradients.items():
        assert (gradients[name] - theirs).norm() <= 1e-5 * (theirs.norm() + 0.1 * largest), name


def assert_trained_alike(stock, ours, batch: list[dict]) -> dict:
    """RPN and heads, each on the same inputs. -> Detectron2's losses"""
    images, features, proposals, targets = parts_of_a_step(stock, batch)
    their_losses = {}
    for part, inputs in (("proposal_generator", (targets,)), ("roi_heads", (proposals, targets))):
        parts = getattr(stock, part), getattr(ours, part)
        wanted, found = (losses_and_gradients(one, features, images, *inputs) for one in parts)
        assert_equal_steps(found, wanted)
        their_losses |= wanted[0]
    return their_losses


TAKE_ALL = [f"model.{part}.batch_size_per_image={ALL_OF_THEM}" for part in ("proposal_generator", "roi_heads")]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["model.roi_heads.mask_in_features=null"],
        ["model.proposal_generator.box_reg_loss_type=giou", "model.roi_heads.box_predictor.box_reg_loss_type=giou"],
        ["model.roi_heads.box_predictor.cls_agnostic_bbox_reg=True", "model.roi_heads.mask_head.num_classes=1"],
        ["model.proposal_generator.smooth_l1_beta=0.5", "model.roi_heads.box_predictor.smooth_l1_beta=0.5"],
        ["model.roi_heads.proposal_append_gt=False"],
        ["model.roi_heads.box_predictor.use_sigmoid_ce=True"],
    ],
)
def test_a_step_is_detectron2s(changes):
    """Images of different sizes, one without an object."""
    torch.manual_seed(0)
    stock, ours = detectors(*TAKE_ALL, *changes)
    losses = assert_trained_alike(stock, ours, [image(4, 64, 48), image(0, 64, 64), image(7, 40, 64)])
    assert all(loss > 0 for loss in losses.values()) or "proposal_append_gt" in str(
        changes
    )  # few regions have an object


def test_without_any_object():
    torch.manual_seed(0)
    stock, ours = detectors(*TAKE_ALL)
    losses = assert_trained_alike(stock, ours, [image(0, 64, 48), image(0, 64, 64)])
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0


def test_of_too_few_regions_and_of_too_many():
    """64 anchors and 32 regions an image, at most half and a quarter of them with an object, as sampled by chance."""
    torch.manual_seed(0)
    stock, ours = detectors()
    batch = [image(4, 64, 64), image(1, 64, 64)]
    logged = []
    for model in (stock, ours):
        with EventStorage() as storage:
            model(batch)
        logged.append({name: value for name, (value, _) in storage.latest().items()})
    for name in ("rpn/num_pos_anchors", "rpn/num_neg_anchors", "roi_head/num_fg_samples", "roi_head/num_bg_samples"):
        assert logged[0][name] == logged[1][name] > 0, name
    assert logged[1]["roi_head/num_fg_samples"] + logged[1]["roi_head/num_bg_samples"] == 32


def waits(part, *inputs) -> list[str]:
    with EventStorage(), Operations() as operations:
        part(*inputs)
    return operations.waits


def test_a_step_hardly_waits_for_the_device(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(cropfield.batched_rpn, "unsuppressed", suppressed_at_once)  # as on a GPU
    stock, ours = detectors()
    images, features, proposals, targets = parts_of_a_step(stock, [image(4, 64, 48), image(3, 64, 64)])
    found = waits(ours.proposal_generator, images, features, targets)
    assert found.count("tolist") == 2 and set(found) == {"tolist", "equal"} and len(found) <= 4
    assert waits(ours.roi_heads, images, features, proposals, targets) == ["tolist", "tolist"]
    assert len(waits(stock.proposal_generator, images, features, targets)) > 20
    assert len(waits(stock.roi_heads, images, features, proposals, targets)) > 20


@torch.no_grad()
def randomize(part) -> None:
    """Scores and boxes as of a trained detector, many of them empty or alike."""
    generator = torch.Generator().manual_seed(1)
    for parameter in part.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / 20)


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_proposals_are_detectron2s(training):
    torch.manual_seed(0)
    stock, ours = detectors()
    batch = [image(4, 64, 48), image(1, 64, 64)]
    proposals = []
    for model in (stock, ours):
        randomize(model.proposal_generator)
        model.train(training).proposal_generator.pre_nms_topk = {True: 300, False: 25}
        model.proposal_generator.post_nms_topk = {True: 90, False: 40}
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        with EventStorage():
            proposals.append(model.proposal_generator(images, features, [one["instances"] for one in batch])[0])
    assert len(proposals[0][0]) == (90 if training else len(proposals[1][0])) > 20
    for theirs, own in zip(*proposals, strict=True):
        assert own.image_size == theirs.image_size
        torch.testing.assert_close(own.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        torch.testing.assert_close(own.objectness_logits, theirs.objectness_logits)


@pytest.mark.parametrize("layer, value", [("anchor_deltas", float("nan")), ("objectness_logits", -float("inf"))])
def test_a_proposal_that_is_not_finite_ends_the_run(layer, value):
    _, ours = detectors()
    getattr(ours.proposal_generator.rpn_head, layer).bias.data[0] = value
    ours.proposal_generator.pre_nms_topk = {True: 1000, False: 1000}
    with EventStorage(), pytest.raises(FloatingPointError, match="diverged"):
        ours([image(2, 64, 64)])


@torch.no_grad()
def detect(model, batch: list[dict]):
    """Detections of a detector whose proposals and boxes are as of a trained one."""
    randomize(model.proposal_generator)
    randomize(model.roi_heads.box_predictor)
    model.roi_heads.box_predictor.cls_score.weight.mul_(20)
    return [found["instances"] for found in model.eval()(batch)]


PREDICTOR = "model.roi_heads.box_predictor"


@pytest.mark.parametrize("way", [suppressed_in_turn, suppressed_at_once])
@pytest.mark.parametrize(
    "changes",
    [
        [],
        [f"{PREDICTOR}.test_topk_per_image=7"],
        [f"{PREDICTOR}.test_topk_per_image=-1", f"{PREDICTOR}.test_nms_thresh=0.7"],
        [f"{PREDICTOR}.cls_agnostic_bbox_reg=True", "model.roi_heads.mask_head.num_classes=1"],
        [f"{PREDICTOR}.use_sigmoid_ce=True"],
        ["model.roi_heads.num_classes=1"],
        ["model.roi_heads.mask_in_features=null"],
    ],
)
def test_detections_are_detectron2s(changes, way, monkeypatch):
    """Images of different sizes; to the bit where suppression is torchvision's."""
    torch.manual_seed(0)
    monkeypatch.setattr(cropfield.batched_roi_heads, "unsuppressed", way)
    stock, ours = detectors(f"{PREDICTOR}.test_score_thresh=0.3", *changes)
    batch = [image(4, 64, 48), image(0, 64, 64), image(1, 40, 64)]
    found = [detect(model, batch) for model in (stock, ours)]
    assert len(found[0][0]) >= 7
    for theirs, own in zip(*found, strict=True):
        assert_equal_detections(own, theirs)


def assert_equal_detections(own: Instances, theirs: Instances) -> None:
    assert own.image_size == theirs.image_size and own.get_fields().keys() == theirs.get_fields().keys()
    assert torch.equal(own.pred_boxes.tensor, theirs.pred_boxes.tensor)
    for name in {"scores", "pred_classes", "pred_masks"} & theirs.get_fields().keys():
        assert torch.equal(own.get(name), theirs.get(name)), name


def predictions_of(batch: list[dict], *, regions: list[int], classes: int = 3):
    """Made up: (scores, deltas), and proposals of each image."""
    proposals = [
        Instances(one["instances"].image_size, proposal_boxes=Boxes(random_boxes(count, 40, 40)))
        for one, count in zip(batch, regions, strict=True)
    ]
    return (4 * torch.randn(sum(regions), classes + 1), torch.randn(sum(regions), 4 * classes)), proposals


@pytest.mark.parametrize("way", [suppressed_in_turn, suppressed_at_once])
@pytest.mark.parametrize("score", [0.05, 1.0])
def test_images_without_proposals_or_detections(score, way, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(cropfield.batched_roi_heads, "unsuppressed", way)
    predictor = detectors()[1].roi_heads.box_predictor
    predictor.test_score_thresh = score
    for regions in ([0, 30, 5], [0, 0, 0]):
        predictions, proposals = predictions_of([image(1, 64, 64)] * 3, regions=regions)
        theirs, _ = predictor.inference(predictions, proposals)
        for one, other in zip(detections(predictor, predictions, proposals), theirs, strict=True):
            assert_equal_detections(one, other)
    assert sum(map(len, theirs)) == 0


def test_detections_that_are_not_finite_are_left_out_and_equal_scores_keep_their_order():
    torch.manual_seed(0)
    predictor = detectors()[1].roi_heads.box_predictor
    predictor.test_topk_per_image = 20
    (scores, deltas), proposals = predictions_of([image(1, 64, 64)] * 2, regions=[40, 40])
    scores[10:60] = scores[10].clone()
    scores[3], deltas[7, 2], deltas[50, 5] = float("nan"), float("inf"), float("nan")
    theirs, _ = predictor.inference((scores, deltas), proposals)
    own = detections(predictor, (scores, deltas), proposals)
    assert all(len(image) == 20 and image.scores.isfinite().all() for image in theirs)
    for one, other in zip(own, theirs, strict=True):
        assert_equal_detections(one, other)


@torch.no_grad()
@pytest.mark.parametrize(
    "layer, value",
    [("anchor_deltas", float("nan")), ("objectness_logits", -float("inf")), ("objectness_logits", float("inf"))],
)
def test_proposals_that_are_not_finite_are_left_out_in_inference(layer, value):
    torch.manual_seed(0)
    proposals = []
    for model in detectors():
        randomize(model.proposal_generator)
        getattr(model.proposal_generator.rpn_head, layer).bias[0] = value
        torch.manual_seed(1)
        images = model.eval().preprocess_image([image(1, 64, 64)])
        proposals.append(model.proposal_generator(images, model.backbone(images.tensor))[0][0])
    theirs, own = proposals
    assert len(theirs) > 5 and torch.equal(own.objectness_logits, theirs.objectness_logits)
    assert torch.equal(own.proposal_boxes.tensor, theirs.proposal_boxes.tensor)


def test_inference_hardly_waits_for_the_device(monkeypatch):
    torch.manual_seed(0)
    for module in (cropfield.batched_rpn, cropfield.batched_roi_heads):
        monkeypatch.setattr(module, "unsuppressed", suppressed_at_once)  # as on a GPU
    stock, ours = detectors("model.roi_heads.mask_in_features=null")
    for model in (stock, ours):
        detect(model, [image(1, 64, 64)])
    for number in (2, 6):
        images = ours.preprocess_image([image(4, 64, 64)] * number)
        features = ours.backbone(images.tensor)
        found = waits(ours.proposal_generator, images, features)
        assert set(found) == {"tolist", "equal"} and len(found) <= 3
        proposals, _ = ours.proposal_generator(images, features)
        found = waits(ours.roi_heads, images, features, proposals)
        assert found.count("tolist") == 1 and found.count("nonzero") == 2 and len(found) <= 6  # 2: the pooler's levels
        assert len(waits(stock.proposal_generator, images, features)) > 5 * number
        assert len(waits(stock.roi_heads, images, features, proposals)) > 5 * number


def test_detections_have_gradients():
    """As Detectron2's, for attacks and explanations."""
    torch.manual_seed(0)
    predictor = detectors()[1].roi_heads.box_predictor
    predictions, proposals = predictions_of([image(1, 64, 64)] * 2, regions=[40, 40])
    grads = []
    for find in (lambda *inputs: predictor.inference(*inputs)[0], lambda *inputs: detections(predictor, *inputs)):
        leaves = [value.clone().requires_grad_() for value in predictions]
        sum((one.pred_boxes.tensor.sum() + one.scores.sum()) for one in find(leaves, proposals)).backward()
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*grads)


def staircase(count: int) -> torch.Tensor:
    """Boxes each of which overlaps only the next and the one before: every second one is kept."""
    left = torch.arange(count) * 4.0
    return torch.stack([left, torch.zeros(count), left + 10, torch.ones(count)], dim=1)


@pytest.mark.parametrize("boxes", [random_boxes(150, 60, 60), staircase(150), random_boxes(1, 60, 60)])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_boxes_suppressed_at_once_are_those_suppressed_in_turn(boxes, threshold):
    rows = torch.stack([boxes, boxes[torch.randperm(len(boxes))]])
    valid = torch.rand(rows.shape[:2]) > 0.2
    kept = suppressed_at_once(rows, valid, threshold)
    assert torch.equal(kept, suppressed_in_turn(rows, valid, threshold))
    falling = torch.arange(len(boxes), 0, -1).float()
    everything = suppressed_at_once(rows[:1], torch.ones_like(valid[:1]), threshold)
    assert torch.equal(everything[0].nonzero().squeeze(1), nms(boxes, falling, threshold))


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("labels", [[0, -1, 1], [-1, 0, 1]])
@pytest.mark.parametrize("count", [5, 0])
def test_matching_is_detectron2s(labels, low_quality, count):
    matcher = Matcher([0.3, 0.6], labels, allow_low_quality_matches=low_quality)
    objects, boxes = Boxes(random_boxes(count, 50, 60)), Boxes(random_boxes(200, 50, 60))
    index, found = match(matcher, objects.tensor, boxes.tensor)
    wanted_index, wanted = matcher(pairwise_iou(objects, boxes))
    assert torch.equal(found, wanted.long()) and torch.equal(index, wanted_index)


def test_a_sample_has_the_counts_and_every_box_has_its_chance():
    positive = torch.zeros(3, 40, dtype=torch.bool)
    positive[0, :10] = positive[1, :2] = True
    negative = ~positive
    negative[2, 5:] = False
    drawn = [sample(positive, negative, 12, 0.5) for _ in range(300)]
    for index, is_positive, valid in drawn:
        assert is_positive.sum(1).tolist() == [6, 2, 0] and valid.sum(1).tolist() == [12, 12, 5]
        assert positive.gather(1, index)[is_positive].all() and negative.gather(1, index)[valid & ~is_positive].all()
        for row, real in zip(index, valid, strict=True):
            assert len(row[real].unique()) == real.sum()
    often = torch.stack([torch.bincount(index[0, :6], minlength=40) for index, *_ in drawn]).sum(0)[:10]
    assert often.min() > 120 and often.max() < 240  # 180 each; six standard deviations are 51


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("regions", [5, 50])
def test_crops_of_masks_are_detectron2s(polygons, regions):
    """More and fewer regions than objects."""
    sizes = (3, 50, 60), (0, 40, 40), (4, 64, 40)
    images = [image(*size, polygons)["instances"] for size in sizes]
    objects = torch.randint(7, (regions,))
    number = 2 * (objects >= 3)
    boxes = random_boxes(regions, 40, 40)
    found = crop_masks(images, Regions(number, boxes, objects, boxes, objects), 14)
    for crop, n, o, box in zip(found, number, objects - 3 * (objects >= 3), boxes, strict=True):
        wanted = images[n].gt_masks[o : o + 1].crop_and_resize(box[None], 14)[0]
        assert torch.equal(crop, wanted > 0.5)


def test_crops_at_the_edge_of_an_image_beside_larger_ones():
    """ROIAlign reads half a pixel beyond the edge, which is the last pixel again, not the padding."""
    sizes, images = ((30, 50), (40, 40), (64, 20)), []
    for size in sizes:
        images.append(Instances(size, gt_boxes=Boxes(torch.zeros(1, 4)), gt_masks=BitMasks(torch.rand(1, *size) > 0.5)))
    for number, (height, width) in enumerate(sizes):
        box, one = torch.tensor([[width - 7.3, height - 6.1, width, height]]), torch.tensor([number])
        (found,) = crop_masks(images, Regions(one, box, one, box, one), 14)
        assert torch.equal(found, images[number].gt_masks.crop_and_resize(box, 14)[0])


def test_neither_objects_nor_proposals():
    stock, ours = detectors()
    images, features, proposals, targets = parts_of_a_step(stock, [image(0, 64, 64), image(0, 64, 64)])
    inputs = images, [proposal[:0] for proposal in proposals], targets
    wanted, found = (losses_and_gradients(model.roi_heads, features, *inputs) for model in (stock, ours))
    assert found[0] == wanted[0] and not any(found[0].values()) and found[1].keys() == wanted[1].keys()


def test_images_without_objects_are_background_and_objects_of_no_class_are_ignored():
    """Also where the matcher ignores what overlaps nothing."""
    stock, ours = detectors(*TAKE_ALL, "model.roi_heads.proposal_matcher.labels=[-1,0,1]",
                            "model.roi_heads.proposal_matcher.thresholds=[0.1,0.5]")  # fmt: skip
    batch = [image(4, 64, 48), image(0, 64, 64)]
    batch[0]["instances"].gt_classes[1] = -1
    assert_trained_alike(stock, ours, batch)


class OwnPredictor(FastRCNNOutputLayers):
    def box_reg_loss(self, *inputs):
        return 100 * super().box_reg_loss(*inputs)


class OwnTransform(Box2BoxTransform):
    def get_deltas(self, *boxes):
        return 2 * super().get_deltas(*boxes)


class OwnMasks(BitMasks):
    def __getitem__(self, item):
        return OwnMasks(super().__getitem__(item).tensor)

    def crop_and_resize(self, boxes, side):
        return ~super().crop_and_resize(boxes, side)


class OwnPooler(ROIPooler):
    def forward(self, maps, boxes):
        return super().forward(maps, boxes).flip(1)


def with_own_methods(base: type) -> type:
    class OwnHeads(base):
        def _forward_mask(self, *inputs):
            return {name: 100 * loss for name, loss in super()._forward_mask(*inputs).items()}

    return OwnHeads


def with_own_sample(base: type) -> type:
    class OwnProposals(base):
        def _subsample_labels(self, label):
            label.masked_fill_(label == 0, -1)
            return super()._subsample_labels(label)

    return OwnProposals


def change(model, part: str) -> None:
    """Give `model` a part of one's own."""
    rpn, heads = model.proposal_generator, model.roi_heads
    if part == "predictor":
        heads.box_predictor.__class__ = OwnPredictor
    elif part == "pooler":
        heads.mask_pooler.__class__ = OwnPooler
    elif part == "transform":
        heads.box_predictor.box2box_transform = rpn.box2box_transform = OwnTransform((1.0, 1.0, 1.0, 1.0))
    elif part == "heads":
        heads.__class__ = with_own_methods(type(heads))
    elif part == "sample":
        rpn.__class__ = with_own_sample(type(rpn))
    elif part == "hook":
        heads.mask_head.register_forward_hook(lambda _, __, losses: {name: 3 * loss for name, loss in losses.items()})


@pytest.mark.parametrize("part", ["predictor", "pooler", "transform", "heads", "sample", "hook", "masks"])
def test_parts_of_ones_own_are_trained_as_by_detectron2(part):
    torch.manual_seed(0)
    models, batch = detectors(*TAKE_ALL), [image(4, 64, 48), image(3, 64, 64)]
    if part == "masks":
        for one in batch:
            one["instances"].gt_masks = OwnMasks(one["instances"].gt_masks.tensor)
    usual = assert_trained_alike(*models, batch)
    for model in models:
        change(model, part)
    own = assert_trained_alike(*models, batch)
    assert part == "masks" or any(own[name] != usual[name] for name in usual)
