"""Classes are matched by their names; ids of images by the dataset's file names."""

import pytest
import torch

from cropfield.categories import check_same_order, in_metadata, places, reorder
from cropfield.image_ids import ImageIds
from pretrain.errors import UserError


def named(*names: str) -> list[dict]:
    return [{"id": number + 1, "name": name} for number, name in enumerate(names)]


def weights(classes: int, start: float) -> dict[str, torch.Tensor]:
    """An R-CNN's class layers and one other tensor; each row is its number, from `start`."""
    rows = {
        "box_predictor.cls_score": classes + 1,
        "box_predictor.bbox_pred": 4 * classes,
        "mask_head.predictor": classes,
    }
    tensors = {f"roi_heads.{name}.bias": torch.arange(count) + start for name, count in rows.items()}
    return tensors | {"roi_heads.box_head.fc1.bias": torch.arange(4) + start}


def test_rows_go_where_their_class_is():
    theirs, ours = named("a", "b", "c"), named("c", "a", "b")
    order = places("w", theirs, ours)
    moved = reorder(weights(3, 0.0), weights(3, 100.0), order, 3, 3)
    assert moved["roi_heads.box_predictor.cls_score.bias"].tolist() == [2, 0, 1, 3]
    assert moved["roi_heads.mask_head.predictor.bias"].tolist() == [2, 0, 1]
    assert moved["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]
    assert moved["roi_heads.box_head.fc1.bias"].tolist() == [0, 1, 2, 3]


def test_a_part_of_the_classes_is_taken_where_that_is_asked_for():
    theirs, ours = named("a", "b"), named("b", "new", "a")
    with pytest.raises(UserError, match=r"knows 2 \(a, b\), the dataset has 3 \(b, new, a\)"):
        places("w", theirs, ours)
    moved = reorder(weights(2, 0.0), weights(3, 100.0), places("w", theirs, ours, partial=True), 2, 3)
    assert moved["roi_heads.box_predictor.cls_score.bias"].tolist() == [1, 101, 0, 2]
    assert moved["roi_heads.mask_head.predictor.bias"].tolist() == [1, 101, 0]


def test_boxes_without_classes_stay():
    theirs, ours = weights(2, 0.0), weights(2, 100.0)
    for state in (theirs, ours):
        state["roi_heads.box_predictor.bbox_pred.bias"] = state["roi_heads.box_predictor.bbox_pred.bias"][:4]
    moved = reorder(theirs, ours, {0: 1, 1: 0}, 2, 2)
    assert moved["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0, 1, 2, 3]


def test_what_cannot_be_moved_is_refused():
    assert reorder({"head.cls_score.bias": torch.zeros(18)}, {}, {0: 1, 1: 0}, 2, 2) is None
    for one, other in ((("a", "a"), ("b", "a")), (("a", "b"), ("a",)), (("a", "b"), ("a", "c"))):
        with pytest.raises(UserError, match="other classes"):
            places("w", named(*one), named(*other))
    assert places("w", named("a", "a"), named("a", "a")) == {0: 0, 1: 1}


def test_a_resumed_run_keeps_its_order():
    check_same_order("w", named("a", "b"), [{"id": 7, "name": "a"}, {"id": 9, "name": "b"}])
    check_same_order("w", None, named("a"))
    with pytest.raises(UserError, match="in this order"):
        check_same_order("w", named("a", "b"), named("b", "a"))


def test_metadata_is_checked():
    assert in_metadata({}, "w") is None and in_metadata({"categories": '[{"id": 1, "name": "a"}]'}, "w") == named("a")
    for damaged in ("[", [1], [{"id": 1}], 5):
        with pytest.raises(UserError, match="damaged"):
            in_metadata({"categories": damaged}, "w")


def test_an_image_has_the_datasets_id_once():
    names = ["0.png", "a/0.png", "b/1.png", "1.png"]
    ids = ImageIds([{"id": 5 + n, "file_name": name, "height": 4, "width": 6} for n, name in enumerate(names)])
    assert ids.take("/x/a/0.png", 4, 6) == 6  # the longest name that fits
    assert ids.take("/x/0.png", 4, 6) == 5
    assert ids.take("/x/0.png", 4, 6) == 1  # a second time: a number that the dataset does not have
    assert ids.take("/x/1.png", 6, 4) == 2  # of another size: another image
    assert ids.take("10.png", 4, 6) == 3 and ids.take("film.mp4#0", 4, 6) == 4
    assert ids.take("film.mp4#1", 4, 6) == 9  # 5 to 8 are the dataset's
    assert ImageIds([{"id": "1", "file_name": "a.png", "height": 1, "width": 1}]).take("b.png", 1, 1) == 2
