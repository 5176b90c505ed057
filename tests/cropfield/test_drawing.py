import numpy as np
import pytest
from pycocotools import mask as rle

from cropfield.canvas import color_of, draw_tag
from cropfield.coco_files import coco_images, decode_mask, spread_out
from cropfield.drawing import Instance, draw_instances


def test_boxes_and_masks_are_drawn_in_the_categorys_color_and_place():
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:30] = True
    image = np.zeros((30, 40, 3), np.uint8)
    picture = draw_instances(image, [Instance((8, 8, 32, 22), 1, "cat", mask, 0.7)], factor=4)
    assert picture.shape == (120, 160, 3)
    assert (picture[88, 80] == color_of(1)).all()  # the box's lower edge
    assert picture[60, 80].any() and not picture[110, 80].any()  # filled inside the mask, nothing outside the box


def test_a_hole_in_a_mask_stays_open():
    mask = np.zeros((40, 40), bool)
    mask[5:35, 5:35], mask[15:25, 15:25] = True, False
    image = np.full((40, 40, 3), 90, np.uint8)
    picture = draw_instances(image, [Instance((5, 5, 35, 35), 0, "ring", mask)], factor=2)
    assert (picture[40, 40] == 90).all() and (picture[40, 20] != 90).any()
    assert (abs(picture[40, 28:33].astype(int) - color_of(0)).sum(-1) < 60).any()  # outlined as the mask is


def test_letters_beyond_ascii_are_drawn_each_as_itself():
    tags = np.zeros((4, 30, 30, 3), np.uint8)
    for tag, letter in zip(tags, "äöüß", strict=True):
        draw_tag(tag, letter, (0, 0), color_of(0))
    assert len(np.unique(tags.reshape(4, -1), axis=0)) == 4


def test_every_form_of_segmentation_gives_the_same_mask():
    mask = np.zeros((12, 16), np.uint8)
    mask[2:9, 3:11] = 1
    packed = rle.encode(np.asfortranarray(mask))
    text = {"size": packed["size"], "counts": packed["counts"].decode()}
    runs = [3 * 12 + 2] + [7, 5] * 8
    runs[-1] += 192 - sum(runs)
    plain = {"size": [12, 16], "counts": runs}
    polygon = [[3, 2, 11, 2, 11, 9, 3, 9]]
    for form in (packed, text, plain, polygon):
        np.testing.assert_array_equal(decode_mask(form, 12, 16), mask.astype(bool))
    assert decode_mask([], 12, 16) is None


def test_images_are_chosen_evenly_among_those_with_objects():
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 4} for i in range(100)],
        "annotations": [
            {"image_id": i, "category_id": 2, "bbox": [0, 0, 2, 2], "iscrowd": int(i == 98)} for i in range(0, 100, 2)
        ],
        "categories": [{"id": 5, "name": "b"}, {"id": 2, "name": "a"}],
    }
    coco = coco_images(content, None)
    chosen = spread_out(coco, 5)
    assert len(chosen) == 5 and chosen[0] == 0 and chosen[-1] == 96  # a crowd is no object
    assert all(i % 2 == 0 for i in chosen) and max(np.diff(chosen)) - min(np.diff(chosen)) <= 4
    assert spread_out(coco, 1000) == list(range(0, 98, 2))
    (instance,) = coco.instances(0, coco.truth[0])
    assert (instance.category, instance.name, instance.box) == (0, "a", (0, 0, 2, 2))


@pytest.mark.parametrize("name", ["two\nlines", "\ud800", "\0", "a\u202eb", "$x^$", "<b>", "x" * 100_000, ""])
def test_any_name_can_be_drawn(name):
    image = np.zeros((60, 80, 3), np.uint8)
    draw_tag(image, name, (0, 0), color_of(0))
    assert (image == color_of(0)).all(axis=2).any()
