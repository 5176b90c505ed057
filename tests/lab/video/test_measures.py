"""J and F: masks whose answers are known by hand, and the definitions written out pixel by pixel."""

import math

import numpy as np
import pytest

from lab.video.measures import boundary, boundary_measure, region_similarity, summarise

SIZE = (60, 80)  # the diagonal is 100 pixels: 0.008 of it is 0.8, so a boundary may be off by one pixel


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def blob(seed: int) -> np.ndarray:
    """A ragged region that touches the image's border for some seeds."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.random((6, 8)) > 0.5, np.ones((10, 10), bool))
    return np.roll(coarse, rng.integers(0, 9, 2), (0, 1))


NOTHING = np.zeros(SIZE, bool)


def test_j_by_hand():
    truth = rectangle(10, 10, 20, 30)
    assert region_similarity(truth, truth) == 1
    assert region_similarity(rectangle(10, 20, 20, 30), truth) == 20 / 40  # 20 of 40 columns in common
    assert region_similarity(rectangle(40, 50, 5, 5), truth) == 0
    assert region_similarity(NOTHING, truth) == region_similarity(truth, NOTHING) == 0
    assert region_similarity(NOTHING, NOTHING) == 1


def test_f_by_hand():
    truth = rectangle(10, 10, 20, 30)
    assert boundary(truth).sum() == 2 * (20 + 30)
    assert boundary_measure(truth, truth) == 1
    assert boundary_measure(rectangle(11, 10, 20, 30), truth) == 1  # one pixel off is near
    assert boundary_measure(rectangle(40, 50, 5, 5), truth) == 0
    assert boundary_measure(NOTHING, truth) == boundary_measure(truth, NOTHING) == 0
    assert boundary_measure(NOTHING, NOTHING) == 1
    both = truth | rectangle(40, 50, 10, 15)  # all of the true boundary, and 2 (10 + 15) pixels of another
    precision = 100 / 150
    assert boundary_measure(both, truth) == pytest.approx(2 * precision / (precision + 1))
    assert boundary_measure(truth, both) == pytest.approx(2 * precision / (precision + 1))


def test_f_does_not_count_the_image_border():
    whole, left = np.ones(SIZE, bool), rectangle(0, 0, 60, 40)
    assert not boundary(whole).any()
    assert boundary(left).sum() == 60


def test_f_of_two_pixels_off_counts_only_what_crosses():
    truth, found = rectangle(10, 10, 20, 30), rectangle(12, 10, 20, 30)
    assert boundary_measure(found, truth) == pytest.approx(direct_f(found, truth, 1))
    assert 0 < boundary_measure(found, truth) < 1


def direct_boundary(mask: np.ndarray) -> list[tuple[int, int]]:
    height, width = mask.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if any(
            mask[y, x] != mask[min(y + dy, height - 1), min(x + dx, width - 1)] for dy, dx in ((0, 1), (1, 0), (1, 1))
        )
    ]


def direct_f(found: np.ndarray, truth: np.ndarray, radius: int) -> float:
    """F from the distances between all pairs of boundary pixels."""
    mine, theirs = np.array(direct_boundary(found)), np.array(direct_boundary(truth))
    distances = np.sqrt(((mine[:, None] - theirs) ** 2).sum(-1))
    precision, recall = (distances.min(1) <= radius).mean(), (distances.min(0) <= radius).mean()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tolerance", [0.008, 0.025, 0.05])
def test_f_is_its_definition(seed, tolerance):
    found, truth = blob(seed), blob(seed + 100)
    assert sorted(zip(*np.nonzero(boundary(truth)), strict=True)) == direct_boundary(truth)
    expected = direct_f(found, truth, math.ceil(tolerance * 100))
    assert boundary_measure(found, truth, tolerance) == pytest.approx(expected, abs=1e-12)


def test_statistics_by_hand():
    values = [1.0, 1.0, 1.0, 0.8, 0.7, 0.6, 0.5, 0.2, 0.2]  # quarters of frames 1-3, 3-5, 5-7, 7-9
    found = summarise(values)
    assert found.mean == pytest.approx(sum(values) / 9)
    assert found.recall == pytest.approx(6 / 9)  # one half itself is not above one half
    assert found.decay == pytest.approx(1.0 - (0.5 + 0.2 + 0.2) / 3)


def test_statistics_of_a_long_video_and_of_one_frame():
    falling = np.linspace(1, 0, 401)
    assert summarise(list(falling)).decay == pytest.approx(0.75)
    assert summarise([0.4]).decay == 0 and summarise([0.4]).mean == 0.4
