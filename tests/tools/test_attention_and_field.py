"""The commands of attention and field, from a file to figures and pictures."""

import csv
import json

import cv2
import numpy as np
import pytest
import torch

from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two small backbones' files of different kinds, with attention far from uniform."""
    folder = tmp_path_factory.mktemp("weights")
    for name, class_token, size in (("ours.safetensors", True, 4), ("other.pth", False, 3)):
        torch.manual_seed(0)
        backbone = VisionTransformer(8, 24, 2, 3, field_size=size, layer_scale=0.5, class_token=class_token)
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        write_backbone(folder / name, backbone.state_dict(), {"field_size": f"{size}x{size}", "num_heads": "3"})
    return folder


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_attention_statistics_and_their_plot(weights, small_coco, tmp_path, run_tool, capsys):
    common = ("--images", small_coco / "labels.json", "--image-size", "32", "--dataset-name", "coco")
    run_tool("attention_stats", "--weights", weights / "ours.safetensors", *common, "--output", tmp_path / "a")
    run_tool(
        "attention_stats", "--weights", weights / "ours.safetensors", "--untrained", "--limit", "2", *common,
        "--output", tmp_path / "b",
    )  # fmt: skip
    trained, untrained = result_of(tmp_path / "a"), result_of(tmp_path / "b")
    assert (trained["protocol"], trained["dataset"], trained["model"]) == ("attention", "coco", "ours")
    assert untrained["model"] == "ours, untrained"
    assert (trained["settings"]["images"], untrained["settings"]["images"]) == (4, 2)
    assert trained["metrics"]["nmi_layer_02"] > 10 * untrained["metrics"]["nmi_layer_02"]
    assert untrained["metrics"]["distance_layer_01"] == pytest.approx(
        untrained["settings"]["uniform_distance_pixels"], rel=0.05
    )
    with open(tmp_path / "a" / "heads.csv", newline="") as file:
        heads = list(csv.DictReader(file))
    assert [(line["layer"], line["head"]) for line in heads] == [(a, b) for a in "12" for b in "123"]
    for name, column in (
        ("nmi", "nmi"),
        ("distance", "distance_pixels"),
        ("distance_percent", "distance_percent_of_side"),
    ):
        mean = sum(float(line[column]) for line in heads[3:]) / 3
        assert trained["metrics"][f"{name}_layer_02"] == pytest.approx(mean, rel=1e-4)
    assert "layer  2: NMI" in capsys.readouterr().out

    run_tool("attention_plot", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "fig5.png")
    assert cv2.imread(str(tmp_path / "fig5.png")).shape == (400, 1000, 3)
    assert "different images" not in capsys.readouterr().out


@pytest.mark.parametrize("tool, name", [("attention_stats", "heads.csv"), ("field_stats", "field.png")])
def test_files_of_others_stay_as_they_are(weights, small_coco, tmp_path, run_tool, tool, name):
    (tmp_path / name).write_text("mine")
    given = ["--weights", weights / "ours.safetensors", "--images", small_coco, "--image-size", "32"]
    with pytest.raises(UserError, match=f"{name} exists, and would be written over"):
        run_tool(tool, *(given if tool == "attention_stats" else given[1:2]), "--output", tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_results_of_other_sizes_are_not_drawn_together(weights, small_coco, tmp_path, run_tool):
    for size in ("16", "32"):
        run_tool(
            "attention_stats", "--weights", weights / "other.pth", "--images", small_coco, "--limit", "1",
            "--image-size", size, "--output", tmp_path / size,
        )  # fmt: skip
    with pytest.raises(UserError, match="different sizes"):
        run_tool("attention_plot", tmp_path / "16", tmp_path / "32", "--output", tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()


def test_wrong_input_gets_a_sentence_before_any_work(weights, small_coco, tmp_path, run_tool, capsys):
    ours, output = weights / "ours.safetensors", ("--output", tmp_path / "none")
    with pytest.raises(UserError, match="does not exist"):
        run_tool("attention_stats", "--weights", ours, "--images", tmp_path / "absent", *output)
    with pytest.raises(UserError, match="not a multiple; use 96"):
        run_tool("attention_stats", "--weights", ours, "--images", small_coco, "--image-size", "100", *output)
    with pytest.raises(UserError, match="there is no checkpoint"):
        run_tool("attention_stats", "--weights", tmp_path / "absent.pth", "--images", small_coco, *output)
    with pytest.raises(SystemExit):
        run_tool("attention_stats", "--weights", ours, "--timm", "vit", "--images", small_coco, *output)
    with pytest.raises(SystemExit):
        run_tool("attention_stats", "--weights", ours, "--timm-random", "--images", small_coco, *output)
    assert "--timm-random needs --timm" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_maps_have_a_row_a_query_and_a_column_a_model(weights, small_coco, tmp_path, run_tool):
    files = (weights / "ours.safetensors", weights / "other.pth")
    two = ("--images", small_coco / "0.png", small_coco / "1.png")

    def draw(*options, points=("0.2,0.3",)):
        path = tmp_path / "maps.png"
        path.unlink(missing_ok=True)
        said = ("--points", *points, "--image-size", "32", "--output", path)
        run_tool("attention_maps", "--weights", *files, *options, *two, *said)
        return cv2.imread(str(path))

    first, second = draw(points=("0.2,0.3", "0.5,1")), draw("--untrained")
    assert second.shape[0] == first.shape[0] and second.shape[1] - first.shape[1] == 248
    torch.manual_seed(7)  # what was drawn before does not matter, --seed does
    for seed, same in ((0, True), (1, False)):
        assert np.array_equal(draw("--untrained", "--seed", seed), second) is same
    two = two[:2]
    assert draw(points=("0,0", "1,1", "0.5,0.5")).shape[0] - first.shape[0] == 268


def test_wrong_maps_get_a_sentence(weights, small_coco, tmp_path, run_tool, capsys):
    ours = ("--weights", weights / "ours.safetensors")
    image, output = ("--images", small_coco / "0.png"), ("--image-size", "32", "--output", tmp_path / "none.png")
    for points, words in (("0.5", "is not x,y"), ("1.2,0", "is outside the image")):
        with pytest.raises(SystemExit):
            run_tool("attention_maps", *ours, *image, "--points", points, *output)
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_tool("attention_maps", *ours, *image, small_coco / "1.png", "--points", "0,0", "0,1", "1,1", *output)
    assert "2 images and 3 points" in capsys.readouterr().err
    with pytest.raises(UserError, match="give another image"):
        run_tool("attention_maps", *ours, "--images", small_coco / "labels.json", "--points", "0,0", *output)
    with pytest.raises(UserError, match="--names, a different one"):
        run_tool("attention_maps", *ours, ours[1], *image, "--points", "0,0", *output)
    assert not (tmp_path / "none.png").exists()


def test_field(weights, tmp_path, run_tool, capsys):
    ours, other = weights / "ours.safetensors", weights / "other.pth"
    run_tool("field_stats", ours, "--output", tmp_path / "one")
    one = result_of(tmp_path / "one")
    assert (one["protocol"], one["model"], one["settings"]["field_size"]) == ("field", "ours", [4, 4])
    assert one["metrics"]["neighbour_similarity_sincos"] > one["metrics"]["neighbour_similarity"]
    assert "cka" not in one["metrics"]
    run_tool("field_stats", ours, other, "--output", tmp_path / "two")
    two = result_of(tmp_path / "two")
    assert {name: two["metrics"][name] for name in one["metrics"]} == one["metrics"]
    assert two["metrics"]["three_components_percent_difference"] > 0
    assert two["metrics"]["cka"] < 0.9 and two["metrics"]["relative_distance"] > 0.5
    rows = [cv2.imread(str(tmp_path / name / "field.png")).shape[0] for name in ("one", "two")]
    assert rows[1] > 2.5 * rows[0]  # the second field, and the difference
    assert "relative_distance: " in capsys.readouterr().out
    with pytest.raises(UserError, match="not a file of tensors only"):
        run_tool("field_stats", tmp_path / "one" / "result.json", "--output", tmp_path / "three")
