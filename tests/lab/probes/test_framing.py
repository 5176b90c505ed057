"""The squares that a backbone sees."""

import cv2
import numpy as np
import pytest
import torch

from lab.probes.framing import FramedImages, central_square, random_square, view, whole_square
from lab.probes.labelled import labelled_folder


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows downwards, green to the right, both from 0 to 250."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.linspace(0, 250, height)[:, None]
    image[..., 1] = np.linspace(0, 250, width)[None]
    return image


@pytest.mark.parametrize("size", [(80, 120), (33, 21), (64, 64)])
def test_the_central_square_is_the_middle_of_the_image(size):
    square = central_square(ramp(*size), 56).astype(float)
    assert square.shape == (56, 56, 3)
    np.testing.assert_allclose(square[..., :2].mean((0, 1)), 125, atol=3)
    short = int(np.argmin(size))
    assert square[..., short].max() - square[..., short].min() == pytest.approx(250 * 7 / 8, abs=25)


@pytest.mark.parametrize("size", [(80, 120), (33, 21)])
def test_the_whole_square_loses_nothing(size):
    square = whole_square(ramp(*size), 56).astype(float)
    assert square.shape == (56, 56, 3)
    for channel in (0, 1):
        assert square[..., channel].min() < 6 and square[..., channel].max() > 244


def test_view_0_is_the_test_view_and_the_others_are_as_the_framing_says():
    image, rng = ramp(80, 120), np.random.default_rng(0)
    np.testing.assert_array_equal(view(image, 32, "centre", 0, rng), central_square(image, 32))
    np.testing.assert_array_equal(view(image, 32, "whole", 2, rng), whole_square(image, 32))
    np.testing.assert_array_equal(view(image, 32, "whole", 3, rng), whole_square(image, 32)[:, ::-1])
    others = [view(image, 32, "centre", 1, rng).astype(int) for _ in range(60)]
    mirrored = [square[0, 0, 1] > square[0, -1, 1] for square in others]
    assert 15 < sum(mirrored) < 45
    spans = [np.ptp(square[..., 0]) / 250 * np.ptp(square[..., 1]) / 250 for square in others]
    assert (
        0.03 < min(spans) < 0.3 and max(spans) > 0.7
    )  # areas from 0.08 on, of which a resized crop shows a little less


def test_a_random_square_is_a_part_of_the_image():
    rng = np.random.default_rng(1)
    image = ramp(90, 60)
    for _ in range(20):
        square = random_square(image, 24, rng).astype(float)
        assert np.all(np.diff(square[..., 0], axis=0) >= -1)  # never upside down
        assert np.all(np.diff(square[..., 1], axis=1) >= -1) or np.all(np.diff(square[..., 1], axis=1) <= 1)


def test_squares_are_the_same_whenever_they_are_asked_for(tmp_path):
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), ramp(50, 40))
    (tmp_path / "b" / "3.png").write_bytes(b"no image")
    squares = FramedImages(labelled_folder(tmp_path), [1, 2], 16, views=3, seed=5)
    assert len(squares) == 6
    assert [squares[item][1] for item in range(6)] == [0, -1] * 3
    assert torch.equal(squares[2][0], squares[2][0]) and not torch.equal(squares[2][0], squares[4][0])
    assert not torch.equal(squares[2][0], FramedImages(squares.images, [1, 2], 16, views=3, seed=6)[2][0])
