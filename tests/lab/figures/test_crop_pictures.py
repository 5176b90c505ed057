import numpy as np

from cropfield.canvas import PAPER, color_of
from lab.figures.crop_pictures import boxes_in_field, boxes_on_image, crop_tile

BLACK = np.zeros((60, 90, 3), np.uint8)


def pixels_of(picture, index):
    """(x0, y0, x1, y1) of the pixels in a box's colour."""
    rows, columns = np.where((picture == color_of(index)).all(-1))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_boxes_lie_where_they_should_in_the_unit_square():
    boxes = np.array([[0.5, 0.25, 0.9, 0.8]])
    drawn = pixels_of(boxes_on_image(BLACK, boxes, 200), 0)
    np.testing.assert_allclose(drawn, (100, 50, 180, 160), atol=2)


def test_a_flipped_box_is_dashed_and_in_the_same_place():
    solid = boxes_on_image(BLACK, np.array([[0.1, 0.2, 0.9, 0.8]]), 200)
    dashed = boxes_on_image(BLACK, np.array([[0.9, 0.2, 0.1, 0.8]]), 200)
    np.testing.assert_allclose(pixels_of(solid, 0), pixels_of(dashed, 0), atol=9)
    count = [(picture == color_of(0)).all(-1).sum() for picture in (solid, dashed)]
    assert 0.3 * count[0] < count[1] < 0.8 * count[0]


def test_the_image_moves_into_the_field_with_its_boxes():
    image = np.full((60, 90, 3), 200, np.uint8)
    image[:, 45:] = (0, 0, 0)
    image_boxes = np.array([[0.0, 0.0, 1.0, 1.0]])
    boxes = np.array([[0.25, 0.5, 0.65, 0.9]])
    picture = boxes_in_field(image, image_boxes, boxes, 4, 200)
    assert (picture[120, 60] == 200).all() and (picture[120, 120] < 10).all()  # left and right half, inside A
    assert (picture[60, 60] == PAPER).all()  # above A
    np.testing.assert_allclose(pixels_of(picture, 0), (50, 100, 130, 180), atol=2)


def test_a_large_image_does_not_alias_in_the_field():
    stripes = np.zeros((600, 600, 3), np.uint8)
    stripes[:, ::4] = 240
    picture = boxes_in_field(stripes, np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[0.1, 0.1, 0.85, 0.85]]), 4, 200)
    assert np.abs(picture[40:150, 40:150].astype(int) - 60).max() <= 5


def test_outside_of_the_crops_the_image_is_faded():
    image_boxes, boxes = np.array([[0.5, 0.0, 1.0, 1.0]]), np.array([[0.5, 0.2, 0.8, 0.8]])
    picture = boxes_in_field(BLACK, image_boxes, boxes, 4, 200)
    assert picture[110, 70].min() > 150  # image, but in no crop
    assert picture[110, 130].max() < 10


def test_a_tile_keeps_the_crop_inside_its_frame():
    crop = np.full((3, 20, 20), 77, np.uint8)
    tile = crop_tile(crop, 2, flipped=False, side=80)
    assert tile.shape == (80, 80, 3)
    assert (tile[40:70, 40:70] == 77).all() and (tile[1, 40] == color_of(2)).all()
