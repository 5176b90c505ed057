"""The detection probe on made features, of which it is known what they tell."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from cropfield.coco_files import coco_images
from cropfield.datasets import dataset_name
from cropfield.probe import (
    DetectionProbe,
    backbone_features,
    box_ap,
    evaluating,
    object_tokens,
    overlaps,
    positions_and_colours,
    to_boxes,
    to_sides,
)
from cropfield.probe_images import patch_objects, probe_images
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, write_scenes):
    """Files of training and validation scenes."""
    return [write_scenes(tmp_path_factory.mktemp("scenes") / "it", seed=seed) for seed in (0, 1)]


def images(scenes, limits=(100, 100), size=64, patch=4):
    return probe_images(*scenes, limits, size, patch)


def numbered(probe: DetectionProbe) -> DetectionProbe:
    """Its images' pixels are their number; those of validation begin at 1000."""
    for part, start in ((probe.train, 0), (probe.val, 1000)):
        part.load = lambda index, part=part, start=start: torch.full((3, 1, 1), float(start + index))
    return probe


def small_backbone(**options) -> VisionTransformer:
    return VisionTransformer(patch_size=4, embed_dim=32, depth=2, num_heads=2, field_size=8, layer_scale=1.0, **options)


def test_features_that_hold_class_and_box_find_everything(scenes):
    probe = numbered(DetectionProbe(*images(scenes)))
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]

    def telling(batch):
        found = []
        for image in batch:
            split, index = divmod(int(image[0, 0, 0]), 1000)
            part = (probe.train, probe.val)[split]
            on_object, classes, boxes = part.targets(index)
            sides = to_sides(boxes, part.centres(index)) * on_object[:, None]
            found.append(torch.cat([torch.nn.functional.one_hot(classes, 4), sides], dim=1) @ rotation + 3)
        return found

    figures = probe.measure(telling)
    del figures["object_rank"]
    assert figures.pop("object_knn") > 90
    assert figures == pytest.approx(
        dict(box_ap=100, box_ap50=100, patch_box_iou=100, patch_class_accuracy=100), abs=0.1
    )


def test_noise_tells_nothing_and_colour_the_class(scenes):
    probe = DetectionProbe(*images(scenes))
    lower = probe.measure(positions_and_colours(4))
    noise = probe.measure(lambda batch: [torch.randn(16 * 12, 16) for _ in batch])
    assert noise["patch_class_accuracy"] < 50 and noise["box_ap50"] < lower["box_ap50"] / 2
    assert noise["patch_box_iou"] < lower["patch_box_iou"]
    assert lower["patch_class_accuracy"] > 95 and lower["object_knn"] > 95  # each class has a colour here
    assert noise["object_knn"] < 50


def test_an_objects_token_is_the_mean_over_its_patches(scenes):
    val = images(scenes)[1]
    for index in range(len(val)):
        on_object, classes, boxes = val.targets(index)
        tokens = torch.randn(len(classes), 6)
        found, of_class = object_tokens(tokens, on_object, classes, boxes)
        expected = {}
        for token, number, box in zip(tokens[on_object], classes[on_object], boxes[on_object], strict=True):
            expected.setdefault((*box.tolist(), int(number)), []).append(token)
        keys = sorted(expected)
        torch.testing.assert_close(found, torch.stack([torch.stack(expected[key]).mean(0) for key in keys]))
        assert of_class.tolist() == [key[-1] for key in keys]
    nowhere = torch.zeros_like(on_object)  # in an image whose objects lie between its patches
    assert object_tokens(tokens, nowhere, classes, boxes)[0].shape == (0, 6)


def test_the_rank_of_objects_counts_their_directions(scenes):
    """Of tokens that only tell the class: a direction for each, as strong as the root of its number of objects, however
    many patches they have; tokens beside objects do not count.
    """
    probe = numbered(DetectionProbe(*images(scenes)))

    def of_class(batch):
        found = []
        for image in batch:
            split, index = divmod(int(image[0, 0, 0]), 1000)
            on_object, classes, _ = (probe.train, probe.val)[split].targets(index)
            noise = torch.randn(len(classes), 8, dtype=torch.float64) * ~on_object[:, None]
            found.append(noise + torch.nn.functional.one_hot(classes, 8) * on_object[:, None])
        return found

    seen = set()
    for index in range(len(probe.val)):
        on_object, classes, boxes = probe.val.targets(index)
        seen |= {
            (index, *box.tolist(), int(number))
            for number, box in zip(classes[on_object], boxes[on_object], strict=True)
        }
    singular = np.sqrt(np.unique([key[-1] for key in seen], return_counts=True)[1])
    weights = singular / singular.sum()
    assert probe.measure(of_class)["object_rank"] == pytest.approx(np.exp(-(weights * np.log(weights)).sum()))


def test_neither_order_nor_batches_nor_processes_matter(scenes, write_scenes, tmp_path, on_ranks):
    features = backbone_features(small_backbone().eval(), layers=2)
    figures = DetectionProbe(*images(scenes)).measure(features)
    shuffled = [write_scenes(tmp_path / str(seed), seed=seed, order=5) for seed in (0, 1)]
    assert DetectionProbe(*images(shuffled), batch_size=1).measure(features) == pytest.approx(figures, rel=1e-3)
    shared = on_ranks(lambda: DetectionProbe(*images(scenes)).measure(features))
    assert shared == [pytest.approx(figures, rel=1e-3)] * 2


def test_features_are_the_backbones_patch_tokens(scenes):
    backbone = small_backbone().eval()
    batch = [images(scenes)[0].load(0), torch.randn(3, 32, 32)]
    last, both = backbone_features(backbone)(batch), backbone_features(backbone, 2)(batch)
    for image, tokens, two in zip(batch, last, both, strict=True):
        torch.testing.assert_close(tokens, backbone(image[None])[1][0])
        assert two.shape == (tokens.shape[0], 64)
        torch.testing.assert_close(two[:, 32:], tokens)
        first = small_backbone().eval()
        first.load_state_dict(backbone.state_dict())
        del first.blocks[1]
        torch.testing.assert_close(two[:, :32], first(image[None])[1][0])


def test_a_patch_lies_on_the_smallest_object_over_its_centre():
    mask = np.zeros((40, 80), np.uint8)
    mask[:20, 40:] = 1
    boxes = {1: [0, 0, 80, 40], 2: [15, 0, 10, 40], 3: [40, 0, 60, 40]}
    annotations = [{"image_id": 1, "category_id": c, "bbox": b, "id": c} for c, b in boxes.items()]
    flat = mask.flatten(order="F")
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=0, append=flat[-1] ^ 1))).tolist()
    annotations[2]["segmentation"] = {"size": [40, 80], "counts": [1600, *runs]}
    content = {
        "images": [{"id": 1, "file_name": "a", "height": 40, "width": 80}],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in boxes],
    }
    classes, corners = patch_objects(coco_images(content, "."), 1, (2, 4))
    assert classes.reshape(2, 4).tolist() == [[0, 0, 2, 2], [0, 0, 0, 0]]
    assert corners.reshape(2, 4, 4)[0, 3].tolist() == [0.5, 0, 1, 1]  # cut at the image's border
    content["annotations"] = annotations[1:2]
    classes, _ = patch_objects(coco_images(content, "."), 1, (4, 8))
    assert classes.reshape(4, 8)[0].tolist() == [3, 1, 3, 3, 3, 3, 3, 3]  # centre at 15 of 15 to 25, and not that at 25


def test_sides_and_overlaps():
    points, boxes = torch.rand(50, 2), torch.rand(50, 2, 2).sort(1).values.flatten(1)
    inside = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(1)
    torch.testing.assert_close(to_boxes(to_sides(boxes, points), points)[inside], boxes[inside])
    a = torch.tensor([[0.0, 0.0, 0.5, 0.5]]).expand(3, 4)
    b = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.6, 0.6, 0.9, 0.9]])
    torch.testing.assert_close(overlaps(a, b), torch.tensor([1, 1 / 3, 0]))


def test_ap_is_detectron2s(scenes):
    """Boxes that are shifted at random, of any class now and then."""
    rng, val = np.random.default_rng(0), images(scenes)[1]
    name = dataset_name(*scenes[1], "")
    DatasetCatalog.get(name)  # fills in the numbers of its classes
    evaluator = COCOEvaluator(name, ("bbox",), distributed=False, use_fast_impl=False)
    evaluator.reset()
    found = []
    for image_id in val.ids:
        truth = [a for a in val.truth["annotations"] if a["image_id"] == image_id]
        for annotation in truth:
            box = np.array(annotation["bbox"]) + rng.integers(-4, 5, 4)
            kind = int(rng.integers(10, 13)) if rng.random() < 0.3 else annotation["category_id"]
            found.append({"image_id": image_id, "category_id": kind, "score": rng.random(), "bbox": box.tolist()})
        mine = [d for d in found if d["image_id"] == image_id]
        boxes = torch.tensor([d["bbox"] for d in mine], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((64, 48), pred_boxes=Boxes(boxes), scores=torch.tensor([d["score"] for d in mine]))
        numbers = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
        instances.pred_classes = torch.tensor([numbers[d["category_id"]] for d in mine])
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    expected = evaluator.evaluate()["bbox"]
    assert 5 < expected["AP"] < 60
    assert box_ap(val.truth, found) == pytest.approx((expected["AP"], expected["AP50"]))


def test_every_module_gets_its_mode_back():
    backbone = small_backbone(drop_path_rate=0.5).train()
    backbone.blocks[0].eval()
    before = [module.training for module in backbone.modules()]
    with pytest.raises(KeyError), evaluating(backbone):
        assert not any(module.training for module in backbone.modules())
        raise KeyError
    assert [module.training for module in backbone.modules()] == before


def test_an_image_that_cannot_be_read_is_named(scenes, write_scenes, tmp_path):
    broken = write_scenes(tmp_path / "it", seed=2)
    probe = DetectionProbe(*images([broken, scenes[1]]))
    probe.train.path(3).write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3)))[1].tobytes()[:40])
    with pytest.raises(UserError, match=f"cannot read .*{probe.train.path(3).name}.*; replace it"):
        probe.measure(positions_and_colours(4))


def test_the_limit_spreads_over_the_file(scenes):
    train, val = images(scenes, (5, 3))
    assert train.ids == [1, 7, 13, 18, 24] and val.ids == [1, 13, 24]
    assert {a["image_id"] for a in val.truth["annotations"]} == {i["id"] for i in val.truth["images"]} == set(val.ids)
