import math

import pytest

from pretrain.methods.symptoms import symptoms

HEALTHY = {
    "feature_std": 0.9,
    "feature_rank": 12.0,
    "patch_std": 0.9,
    "patch_rank": 60.0,
    "target_entropy_image": 0.6,
    "target_spread_image": 0.9,
    "teacher_student_distance": 0.02,
}


@pytest.mark.parametrize(
    ("change", "name", "sentence"),
    [
        ({"feature_std": 0.01}, "equal: feature", "collapsed to nearly one vector"),
        ({"patch_rank": 1.1}, "equal: patch", "a single direction"),
        ({"target_std": 0.0}, "equal: target", "all equal"),
        ({"target_entropy_image": 0.001, "target_spread_image": 0.003}, "image targets alike", "one prototype"),
        ({"target_entropy_image": 0.998, "target_spread_image": 1.0}, "image targets alike", "uniform"),
        ({"target_entropy_image": 0.700, "target_spread_image": 0.701}, "image targets alike", "agree on a constant"),
    ],
)
def test_each_collapse_has_its_own_sentence_and_the_healthy_none(change, name, sentence):
    assert symptoms(HEALTHY) == {}
    found = symptoms(HEALTHY | change)
    assert found.keys() == {name}
    assert sentence in found[name] and "Likely cause" in found[name]


def test_every_head_is_judged_on_its_own_and_absent_or_nan_numbers_say_nothing():
    position = {"target_entropy_position": 1.0, "target_spread_position": 1.0}
    assert symptoms(HEALTHY | position).keys() == {"position targets alike"}
    assert symptoms({}) == {} and symptoms({"feature_std": math.nan, "patch_rank": math.nan}) == {}


UNREAD = {"moved_patch_cosine": 0.999, "hidden_position_cost": 0.003, "field_rms": 0.02, "content_rms": 0.6}


def test_a_field_is_unread_when_neither_another_place_nor_a_hidden_position_changes_anything():
    found = symptoms(HEALTHY | UNREAD)
    assert found.keys() == {"field unread"}
    for part in ("does not read its position field", "cosine 0.999", "0.003 nats", "rms 0.020 and 0.600", "field_init"):
        assert part in found["field unread"]
    assert symptoms(HEALTHY | UNREAD | {"moved_patch_cosine": 0.9}) == {}
    assert symptoms(HEALTHY | UNREAD | {"hidden_position_cost": 0.1}) == {}


@pytest.mark.parametrize(("name", "unread", "read"), [
    ("moved_patch_cosine", 0.999, 0.9),  # no position loss
    ("hidden_position_cost", 0.003, 0.1),  # a field that is not sampled
])  # fmt: skip
def test_a_variant_that_has_one_of_the_two_is_judged_by_it_and_one_that_has_none_by_nothing(name, unread, read):
    assert symptoms(HEALTHY | {name: unread}).keys() == {"field unread"}
    assert symptoms(HEALTHY | {name: read}) == {} == symptoms(HEALTHY | {name: math.nan})
    assert symptoms(HEALTHY | {"field_rms": 0.02, "content_rms": 0.6}) == {}
