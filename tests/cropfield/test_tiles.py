"""Detection in tiles: what they cover, and what is kept of their findings."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from cropfield.sizes import check_sizes
from cropfield.tiles import TiledRCNN, is_cut, merge, starts
from pretrain.engine.lazy_config import build, load_config
from pretrain.errors import UserError


@pytest.mark.parametrize("length", [1, 99, 100, 101, 175, 176, 1000, 1001])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_everything_up_to_the_overlap_lies_whole_in_a_tile(length, overlap):
    tiles = starts(length, 100, overlap)
    size = max(1, int(100 * overlap))
    for first in range(max(1, length - size + 1)):
        assert any(start <= first and first + min(size, length) <= start + 100 for start in tiles)
    assert max(tiles) + 100 <= max(length, 100) and len(set(tiles)) == len(tiles)


def found(*rows: tuple) -> Instances:
    """rows: box, score, class."""
    boxes, scores, classes = zip(*rows, strict=True)
    boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    return Instances((200, 200), pred_boxes=boxes, scores=torch.tensor(scores), pred_classes=torch.tensor(classes))


def test_a_whole_object_stays_and_its_parts_go():
    whole, part, other = (10, 10, 90, 50), (10, 10, 48, 50), (100, 100, 140, 140)
    several = found((part, 0.9, 0), (whole, 0.6, 0), (part, 0.8, 1), (other, 0.7, 0), (other, 0.95, 0), (part, 0.5, 0))
    cut = torch.tensor([True, False, True, False, False, False])
    kept = merge(several, cut, 0.5)
    # The last one lies in the whole one, too, but no border cut it: a small object before a large one.
    assert kept.scores.tolist() == pytest.approx([0.95, 0.8, 0.6, 0.5])


def test_only_inner_borders_cut():
    boxes = torch.tensor([[0.0, 20, 30, 40], [20, 20, 30, 64], [20, 20, 64, 40], [20, 0, 30, 40], [20, 20, 30, 30]])
    assert is_cut(boxes, (64, 64), (True, True, True, True)).tolist() == [True, True, True, True, False]
    assert is_cut(boxes, (64, 64), (True, False, False, False)).tolist() == [True, False, False, False, False]


@pytest.fixture(scope="module")
def detectors():
    torch.manual_seed(0)
    options = ["model.backbone.net.depth=1", "model.roi_heads.box_predictor.test_score_thresh=0.013"]
    options += ["model._target_=detectron2.modeling.GeneralizedRCNN", "dataloader.test.mapper.augmentations=[]"]
    cfg = load_config("configs/COCO/mask_rcnn_cropfield_tiny.py", options)
    plain = build(cfg, "model").eval()
    cfg.model._target_ = "cropfield.tiles.TiledRCNN"
    tiled = build(cfg, "model").eval()
    tiled.load_state_dict(plain.state_dict())
    return cfg, plain, tiled


@torch.no_grad()
def test_an_image_of_one_tile_is_as_without(detectors):
    _, plain, tiled = detectors
    image = {"image": 255 * torch.rand(3, 96, 128), "height": 48, "width": 64}
    one, other = plain([image])[0]["instances"], tiled([image])[0]["instances"]
    assert len(one) > 0 and torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert torch.equal(one.pred_masks, other.pred_masks)


@torch.no_grad()
def test_a_large_image_gets_its_tiles_detections_at_their_places(detectors):
    _, plain, tiled = detectors
    tiled.overlap = 0.0
    image = 255 * torch.rand(3, 256, 128)
    whole = tiled([{"image": image, "height": 256, "width": 128}])[0]["instances"]
    assert whole.pred_masks.shape[1:] == (256, 128)
    upper, lower = (plain([{"image": i, "height": 128, "width": 128}])[0]["instances"] for i in image.split(128, dim=1))
    boxes = [upper.pred_boxes.tensor, lower.pred_boxes.tensor + torch.tensor([0.0, 128, 0, 128])]
    apart = (whole.pred_boxes.tensor[:, None] - torch.cat(boxes)).abs().amax(2).amin(1)
    assert len(whole) > 10 and apart.max() < 1e-3
    assert (whole.pred_boxes.tensor[:, 1] > 128).any() and (whole.pred_boxes.tensor[:, 3] < 128).any()
    assert whole.scores.equal(whole.scores.sort(descending=True).values)


def test_sizes_are_checked_for_what_has_no_tiles(detectors):
    cfg, plain, tiled = detectors
    augmentations = build(cfg, "dataloader.test.mapper").augmentations
    check_sizes(tiled, augmentations, "dataloader.test.mapper")
    with pytest.raises(UserError, match=r"would cut them .*TiledRCNN"):
        check_sizes(plain, augmentations, "dataloader.test.mapper")
    cfg.model.backbone.square_pad = 0
    with pytest.raises(UserError, match="tiles are of that size"):
        build(cfg, "model")
    assert isinstance(tiled, TiledRCNN)
