"""The images of an analysis."""

import cv2
import numpy as np
import pytest

from lab.attention.images import MiddleSquares, check_size, load_points, middle_square
from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.decode import BrokenImage
from pretrain.errors import UserError


class Source:
    """Ten images of one colour, their number; those in `broken` cannot be read."""

    def __init__(self, broken=()):
        self.broken = broken

    def __len__(self):
        return 10

    def load(self, index):
        if index in self.broken:
            raise BrokenImage(str(index), "truncated")
        return np.full((20, 30, 3), index, np.uint8)


def numbers(squares):
    return [round(float(square[0, 0, 0]) * IMAGE_STD[0] + IMAGE_MEAN[0]) for square in squares]


def test_the_middle_is_taken_whole_and_unstretched():
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 200
    assert (middle_square(image, 20) == 200).all()
    assert middle_square(image, 35).shape == (35, 35, 3) and (middle_square(image, 7) == 200).all()


def test_a_limit_spreads_over_the_source():
    assert numbers(MiddleSquares(Source(), 8)) == list(range(10))
    assert numbers(MiddleSquares(Source(), 8, limit=4)) == [0, 3, 6, 9]
    assert len(MiddleSquares(Source(), 8, limit=99)) == 10


def test_broken_images_are_left_out_and_counted():
    squares = MiddleSquares(Source(broken={2, 5}), 8)
    assert numbers(squares) == [0, 1, 3, 4, 6, 7, 8, 9] and squares.broken == 2
    assert len(list(squares)) == 8 and squares.broken == 2  # again, not on top
    with pytest.raises(UserError, match="none of the 10 images can be read"):
        list(MiddleSquares(Source(broken=set(range(10))), 8))


def test_a_size_that_does_not_divide_names_one_that_does():
    check_size(480, 16, "dino")
    with pytest.raises(
        UserError, match="dinov2 has patches of 14 pixels and --image-size 480 is not a multiple; use 476"
    ):
        check_size(480, 14, "dinov2")
    with pytest.raises(UserError, match="use 28"):
        check_size(14, 14, "dinov2")


def test_points_go_with_images_in_order_or_one_takes_all(tmp_path):
    for level in (10, 200):
        cv2.imwrite(str(tmp_path / f"{level}.png"), np.full((8, 12, 3), level, np.uint8))
    files, points = [tmp_path / "10.png", tmp_path / "200.png"], [(0.1, 0.2), (0.3, 0.4)]
    assert [(image[0, 0, 0], point) for image, point in load_points(files, points, 8)] == [
        (10, points[0]),
        (200, points[1]),
    ]
    assert [point for _, point in load_points(files[1:], points, 8)] == points
    assert [image[0, 0, 0] for image, _ in load_points(files, points[1:], 8)] == [10, 200]
    assert load_points([], [], 8) == []
