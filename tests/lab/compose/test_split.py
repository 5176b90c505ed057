import numpy as np
import pytest

from lab.compose.dataset import cut_photograph, hold_out
from lab.compose.photographs import Photograph, random_crop
from pretrain.errors import UserError


@pytest.mark.parametrize("shape", [(10, 33, 3), (40, 7, 3)])
def test_the_two_parts_of_a_photograph_are_the_photograph(shape):
    pixels = np.arange(np.prod(shape)).reshape(shape)
    first, second = cut_photograph(Photograph("p", pixels))
    together = np.concatenate([first.pixels, second.pixels], axis=int(shape[1] > shape[0]))
    assert np.array_equal(together, pixels)
    assert first.pixels.size > second.pixels.size > 0


@pytest.mark.parametrize("count", [2, 3, 10])
def test_held_out_items_are_in_one_part_only(count):
    train, val = hold_out(list(range(count)), "few", np.random.default_rng(0))
    assert train and val
    assert sorted(train + val) == list(range(count))


def test_one_item_cannot_be_held_out():
    with pytest.raises(UserError, match="--unseen: category 'cat' has one"):
        hold_out(["only"], "category 'cat' has one cut-out only", np.random.default_rng(0))


def test_a_crop_lies_within_its_photograph_whatever_its_size():
    for shape in [(5, 300, 3), (300, 5, 3), (1, 1, 3)]:
        photographs = [Photograph("p", np.full(shape, 7, np.uint8))]
        crop = random_crop(photographs, 16, np.random.default_rng(0))
        assert crop.shape == (16, 16, 3) and (crop == 7).all()
