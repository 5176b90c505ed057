import numpy as np
import pytest
import torch

from cropfield.canvas import as_rgb, enlarge
from lab.figures.mask_pictures import content_mask_picture, position_mask_picture, spread_by_count

PATCH, FACTOR = 8, 2


@pytest.fixture
def crop():
    return torch.randint(0, 120, (3, 40, 40), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def mask():
    return torch.rand(25, generator=torch.Generator().manual_seed(1)) < 0.4


def patches_of(picture):
    """(25, pixels, 3)"""
    side = PATCH * FACTOR
    return picture.reshape(5, side, 5, side, 3).swapaxes(1, 2).reshape(25, -1, 3)


@pytest.mark.parametrize("draw", [content_mask_picture, position_mask_picture])
def test_exactly_the_masked_patches_are_marked(draw, crop, mask):
    before = patches_of(enlarge(as_rgb(crop), FACTOR))
    after = patches_of(draw(crop, mask, PATCH, FACTOR))
    changed = (before != after).any((1, 2))
    np.testing.assert_array_equal(changed, mask.numpy())
    assert 0 < changed.sum() < 25


def test_masked_content_shows_nothing_of_the_crop(crop, mask):
    after = patches_of(content_mask_picture(crop, mask, PATCH, FACTOR))[mask.numpy()]
    assert (after == after[0, 0]).all()


def test_masked_positions_still_show_the_content(crop, mask):
    before = patches_of(enlarge(as_rgb(crop), FACTOR))[mask.numpy()].astype(float)
    after = patches_of(position_mask_picture(crop, mask, PATCH, FACTOR))[mask.numpy()].astype(float)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.2


def test_the_crop_itself_is_left_alone(crop, mask):
    copy = crop.clone()
    content_mask_picture(crop, mask, PATCH)
    position_mask_picture(crop, mask, PATCH)
    assert torch.equal(crop, copy)


def test_masks_of_all_sizes_are_shown_from_the_smallest_on():
    masks = torch.zeros(6, 25, dtype=torch.bool)
    for crop, count in enumerate((7, 0, 3, 25, 0, 12)):
        masks[crop, :count] = True
    assert spread_by_count(masks, 4) == [2, 0, 5, 3]
    assert spread_by_count(masks, 2) == [2, 3] and spread_by_count(masks, 9) == [2, 0, 5, 3]
    assert spread_by_count(masks[1:2], 4) == spread_by_count(None, 4) == []
