"""Videos, a checkpoint of either system, and figures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone


@pytest.fixture(scope="module")
def videos(run_tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "davis"
    run_tool("compose_davis", "--output", folder, "--videos", 2, "--frames", 4, "--size", 64, 96)
    return folder


@pytest.mark.parametrize("class_token", [True, False])
def test_from_weights_to_figures(run_tool, videos, tmp_path, class_token, capsys):
    torch.manual_seed(0)
    backbone = VisionTransformer(8, 32, 1, 4, field_size=8, class_token=class_token, layer_scale=1.0)
    write_backbone(tmp_path / "backbone.safetensors", backbone.state_dict(), {"field_size": "8x8", "num_heads": "4"})
    arguments = ["--weights", tmp_path / "backbone.safetensors", "--davis", videos, "--short-side", 64]
    run_tool("video_propagation", *arguments, "--output", tmp_path / "out", "--pictures")
    run_tool("video_propagation", *arguments, "--output", tmp_path / "none", "--untrained", "--seed", 1)
    found, none = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("out", "none"))
    assert (found["protocol"], found["dataset"], found["model"]) == ("video", "davis/val", "backbone")
    assert none["model"] == "backbone (untrained)" and none["metrics"] != found["metrics"]
    assert set(found["settings"]["objects"]) == {f"composed-0{v}_{n}" for v in (0, 1) for n in (1, 2)}
    objects = found["settings"]["objects"].values()
    assert found["metrics"]["J_mean"] == pytest.approx(np.mean([scores["J"] for scores in objects]))
    assert 20 < found["metrics"]["JF_mean"] <= 100
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 8
    assert Image.open(tmp_path / "out" / "pictures" / "composed-01.png").width > 1000
    assert f"J&F {found['metrics']['JF_mean']:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [("--short-side", "0"), ("--top-k", "0"), ("--radius", "-1"), ("--context", "-1"), ("--temperature", "0")]
)
def test_bad_options(load_tool, option):
    base = ["--weights", "w", "--davis", "d", "--output", "o"]
    with pytest.raises(UserError, match=option[0]):
        load_tool("video_propagation").parse_args([*base, *option])


@pytest.mark.parametrize("option", [("--frames", "2"), ("--objects", "7"), ("--videos", "0"), ("--size", "8", "64")])
def test_bad_plans(load_tool, option):
    with pytest.raises(UserError, match=option[0]):
        load_tool("compose_davis").parse_args(["--output", "o", *option])
