"""How an image is to be read: what a range of values may be."""

import math

import pytest

from pretrain.data.reading import Reading
from pretrain.errors import UserError


@pytest.mark.parametrize("value_range", [[], [5], [0, 1, 2], [9, 9], [9, 0], [0, math.inf], [math.nan, 1]])
def test_a_range_goes_from_a_smaller_to_a_larger_number(value_range):
    with pytest.raises(UserError, match="value_range=.* is empty: give .* 0 and 255, the smaller first"):
        Reading(value_range=value_range)


def test_a_configs_list_means_the_same_as_a_tuple():
    assert Reading(value_range=[0, 4095]) == Reading(value_range=(0, 4095)) != Reading()
