import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, Required, TypedDict

import pytest
import torch
from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from pretrain.engine.argument_types import CALL, arguments, fits, words
from pretrain.engine.config_values import check_config
from pretrain.errors import UserError
from pretrain.ranges import Count, Positive, Range, Share, ShareBelowOne, Whole


@pytest.mark.parametrize(
    "hint, good, bad",
    [
        (int, [0, -3, CALL], [True, 1.0, "1", None, [1]]),
        (float, [1, 0.5], [True, "1", None]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "1"], [1, None, ["a"]]),
        (int | None, [1, None], ["1", 1.5]),
        (Count, [1, 10**9], [0, -1, True, 1.0]),
        (Whole, [0, 7], [-1]),
        (Positive, [1e-9, 3], [0, -1.0]),
        (Share, [0, 1, 0.5], [-0.1, 1.1]),
        (ShareBelowOne, [0, 0.99], [1]),
        (Annotated[int, Range(2, 5)], [2, 5], [1, 6]),
        (Literal["a", 1], ["a", 1], ["b", True, "1"]),
        (tuple[int, float], [[1, 2.5], (1, 2)], [[1], [1, 2, 3], ["a", 2], 3, None]),
        (tuple[int, ...], [[], [1, 2, 3]], [["a"], "abc"]),
        (tuple[int], [[1], [1, 2, 3]], [["a"]]),  # as Detectron2 writes it
        (list[Count], [[1, 2]], [[0]]),
        (dict[str, int], [{}, {"a": 1}], [[], 1]),
        (str | os.PathLike, ["a"], [None, 3]),
        (torch.nn.Module, [CALL, torch.nn.ReLU()], [3, "relu", None, []]),
        (str | Callable, ["BN", torch.nn.ReLU], []),
        (Any, [None, 3, "a"], []),
    ],
)  # fmt: skip
def test_what_fits_a_type(hint, good, bad):
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []
    assert words(hint)


def function(size: Count, name: str = "a", old=None, rate=0.5, on=False, *, more: tuple[Share, Share] = (0, 1)):
    return size


class Base:
    def __init__(self, width: Count, depth: int = 3):
        pass


class Derived(Base):
    def __init__(self, extra: str | None = None, **rest):
        pass


def test_arguments_have_the_types_of_their_signatures_or_of_their_defaults():
    hints, open_ended = arguments(function)
    assert not open_ended and hints["size"] is Count and hints["rate"] is float and hints["on"] is bool
    assert fits(None, hints["old"]) and fits(3, hints["old"])
    hints, open_ended = arguments(Derived)
    assert hints.keys() == {"extra", "width", "depth"} and not open_ended


class Inner(TypedDict, total=False):
    period: Required[Count]


class Form(TypedDict):
    train: Inner
    model: Any


def config(**changes):
    cfg = OmegaConf.create({"train": {"period": 1}, "model": L(function)(size=1)}, flags={"allow_objects": True})
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    return cfg


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"train__period": 0}, "^train.period is 0; give a whole number of at least 1"),
        ({"train__perod": 5}, "^nothing reads train.perod; did you mean train.period"),
        ({"trian": {"period": 5}}, "^nothing reads trian; did you mean train"),
        ({"model__sise": 5}, "^nothing reads model.sise; did you mean model.size"),
        ({"model__size": None}, "^model.size is null; give a whole number"),
        ({"model__more": [0.5, 2]}, "^model.more.1 is 2; give a number from 0 to 1"),
        ({"model__more": [0.5]}, r"^model.more is \[0.5\]; give a list of 2"),
        ({"model__name": 3}, "^model.name is 3; give text"),
        ({"model__rate": "much"}, "^model.rate is 'much'; give a number"),
        ({"model__size": "${absent.key}"}, "^model.size is .*absent.key.*, which has no value"),
        ({"model__size": "${model.size}"}, "^model.size is .*Recursive interpolation"),
        ({"model__old": float("nan")}, "^model.old is nan; give a finite number"),
        ({"model__old": [{"a": float("inf")}]}, "^model.old.0.a is inf"),
        ({"model___target_": "nowhere.nothing"}, "^model._target_ is 'nowhere.nothing', which is not found"),
        ({"train__own": 0.5, "model__size": "${train.own}"}, "^model.size, which ..train.own. gives, is 0.5; give"),
        ({"model___target_": "${absent.key}"}, "^model._target_ is .*absent.key.*, which has no value"),
        ({"model__old": {"_target_": 3}}, "^model.old._target_ is 3, which cannot be called"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_key_and_what_it_takes(changes, words):
    check_config(config(), Form)
    with pytest.raises(UserError, match=words) as refused:
        check_config(config(**changes), Form)
    assert "\n" not in str(refused.value)


def test_what_is_a_files_own_stays():
    """Variables at the top, and below `train` calls and keys that another key refers to."""
    check_config(config(train__own=L(function)(size=1)), Form)
    check_config(config(levels={"a": 1}, train__own=3, model__old="${train.own}"), Form)
    with pytest.raises(UserError, match="nothing reads train.own; known are period"):
        check_config(config(train__own=3), Form)


def test_a_null_is_left_to_who_fills_it_in():
    check_config(config(model__size=None))  # without a form: tools that only look
    check_config(config(empty={"value": None}, model__size="${empty.value}"), Form)


def test_missing_keys_are_named():
    with pytest.raises(UserError, match="the config has no train.period"):
        check_config(OmegaConf.create({"train": {}, "model": 1}), Form)
