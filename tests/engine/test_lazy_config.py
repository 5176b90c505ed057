import builtins
import random
from typing import Any, TypedDict

import pytest
from detectron2.config import LazyConfig

from cropfield.commands import override
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError

FILE = """from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler
schedule = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
train = dict(output_dir="outputs", max_iter=3, hooks=[1, 2], device=None)
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    "line, words",
    [
        ("train.update(a=1 b=2)", "line 5: .*[Ii]nvalid syntax"),
        ("trian.max_iter = 5", "line 5: name 'trian' is not defined"),
        ("train['a']['b']", "line 5: KeyError: 'a'"),
        ("from .absent import train", "line 5: .*absent"),
        ("from .other import nothing", "line 5: KeyError: 'nothing' in 'from .other import nothing'"),
        ("from .broken import train", r"broken.py, line 2: "),
        ("1 / 0", "line 5: division by zero in '1 / 0'"),
        ("import nowhere_to_be_found", "line 5: No module named"),
        ("x = '\0'", "config.py: .*null"),
    ],
)
def test_a_file_that_python_does_not_read_is_told_with_its_line(file, line, words):
    file.with_name("other.py").write_text("train = {}\n")
    file.with_name("broken.py").write_text("train = {}\ntrain = {(}\n")
    file.write_text(f"{FILE}{line}\n")
    before = builtins.__import__
    with pytest.raises(UserError, match=words) as refused:
        load_config(file, [])
    assert builtins.__import__ is before and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "path",
    [
        "2024",
        "1e5",
        "true",
        "a,b",
        "jürgen",
        "it's",
        "a (1)",
        "a=b",
        "{0..3}.tar",
        "a b",
        "C:\\x",
        "*.tar",
        "nan",
        "#1",
    ],
)
def test_text_is_taken_as_it_is_typed(file, path):
    assert load_config(file, [f"train.output_dir={path}"]).train.output_dir == path


def test_quoted_text_numbers_lists_and_nulls_are_what_they_were(file):
    cfg = load_config(file, ['train.output_dir="a,b"', "train.max_iter=5", "train.hooks=[3]", "schedule.end_value=1"])
    assert (cfg.train.output_dir, cfg.train.max_iter, cfg.train.hooks, cfg.schedule.end_value) == ("a,b", 5, [3], 1)
    assert load_config(file, ["train.output_dir=null"]).train.output_dir is None
    assert load_config(file, ["train.device=${train.output_dir}"]).train.device == "outputs"


@pytest.mark.parametrize(
    "given, words",
    [
        ("train.max_iter=[1", "cannot read the override"),
        ("train.max_iter=many", "train.max_iter is a number"),
        ("train.output_dir=${", "cannot read the override|which has no value"),
        ("schedule.end=1", "has no key schedule.end; did you mean schedule.end_value"),
        ("schedule.end_value=[1]", r"schedule.end_value is \[1\]; give a number"),
        ("schedule.start_value=null", None),
        ("=1", "has no key"),
        ("train..max_iter=1", "has no key"),
        ("train.hooks.²=1", "has no key"),
        ("--eval-only", "options stand before the overrides"),
    ],
)
def test_overrides_that_cannot_be(file, given, words):
    if words is None:
        assert load_config(file, [given]) is not None
        return
    with pytest.raises(UserError, match=words):
        load_config(file, [given])


class Form(TypedDict, total=False):
    schedule: Any
    train: dict


def test_a_variable_of_the_file_is_no_key(file):
    file.write_text(f"{FILE}own = dict(rate=1)\nlevels = dict(low=0.0)\nschedule.end_value = '${{levels.low}}'\n")
    assert load_config(file, ["levels.low=0.5"], Form).schedule.end_value == 0.5
    with pytest.raises(UserError, match="nothing reads own.rate: own is a variable of the config file"):
        load_config(file, ["own.rate=2"], Form)


def test_what_the_pipeline_passes_on_is_read_back_by_this_loader_and_detectron2s(file):
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("ab/.\\\"'(),[]{}$ =:#üé~+*?!&;%@\t1-0") for _ in range(rng.randint(1, 8)))
        given = override("train.output_dir", text)
        assert LazyConfig.apply_overrides(LazyConfig.load(str(file)), [given]).train.output_dir == text, given
    for text in ("null", "true", "2024", "${x}", "jürgen", "a,b", "it's (1)", "/plain/path-1.png", ".1", "inf", "é\\"):
        given = override("train.output_dir", text)
        assert load_config(file, [given]).train.output_dir == text


def test_a_number_may_become_what_else_its_reader_takes(file):
    file.write_text(
        f"{FILE}from pretrain.models.vit import VisionTransformer\nnet = L(VisionTransformer)(field_size=16)\n"
    )
    assert load_config(file, ["net.field_size=[8,16]"]).net.field_size == [8, 16]
    with pytest.raises(UserError, match=r"net.field_size is \[8, 16, 2\]; give .* or a list of 2"):
        load_config(file, ["net.field_size=[8,16,2]"])
