"""Maps of attention: what is where in the picture."""

import numpy as np
import pytest
import torch

from cropfield.canvas import LINE, MARGIN
from lab.attention.maps import RED, map_tile, maps_picture
from pretrain.models.vit import VisionTransformer


def reddest(picture):
    """(x, y) of the middle of what has the dot's colour."""
    rows, columns = np.nonzero((picture == RED).all(-1))
    return columns.mean(), rows.mean()


def test_a_patch_is_a_square_whose_colour_is_its_attention():
    attention = np.zeros((4, 4), np.float32)
    attention[0, 3] = 16
    tile = map_tile(attention, (0.1, 0.9), 80)
    assert tile.shape == (80 + LINE, 80, 3)
    bright = tile[:80].astype(int).sum(-1) > 450  # yellow; what else there is, is dark blue
    assert bright[:20, 60:].all() and not bright[:, :60].any()
    assert reddest(tile) == pytest.approx((8, 72), abs=1)


def test_nearly_uniform_attention_looks_uniform():
    noise = 1 + 0.01 * np.random.default_rng(0).standard_normal((30, 30))
    tile = map_tile(noise, (0.0, 0.0), 240)[10:240, 10:].astype(int)
    assert tile.reshape(-1, 3).std(0).max() < 6


def test_one_patch_that_draws_everything_does_not_darken_the_rest():
    attention = np.ones((30, 30)) + np.arange(30) / 10  # brighter to the right
    attention[15, 15] = 500
    tile = map_tile(attention, (0.5, 0.9), 240)[:60].astype(int).sum(-1)
    assert tile[:, -8:].mean() > 1.3 * tile[:, :8].mean()


def test_rows_are_queries_and_columns_models():
    torch.manual_seed(0)
    backbones = {name: VisionTransformer(8, 24, 1, 3, field_size=2).eval().requires_grad_(False) for name in ("a", "b")}
    queries = [(np.full((32, 32, 3), 90, np.uint8), (0.5, 0.25)), (np.full((32, 32, 3), 180, np.uint8), (0.25, 0.5))]
    picture = maps_picture(backbones, queries, side=64)
    row = 64 + LINE + 8
    assert picture.shape == (2 * MARGIN + LINE + 2 * row, 2 * MARGIN + 3 * 64 + 2 * 8, 3)
    for index, (image, (x, y)) in enumerate(queries):
        top = MARGIN + LINE + 8 + index * row
        assert (picture[top : top + 4, MARGIN : MARGIN + 4] == image[0, 0]).all()
        for left in (MARGIN, MARGIN + 72, MARGIN + 144):
            tile = picture[top : top + 64, left : left + 64]
            assert reddest(tile) == pytest.approx((64 * x, 64 * y), abs=1)
