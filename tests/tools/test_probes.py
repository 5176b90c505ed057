"""linear_probe.py, knn.py and finetune.py from a weight file to result.json, both systems and all datasets."""

import json

import pytest
import torch

from pretrain.engine.devices import default_device
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A backbone as CropField's and one as StoP's."""
    folder = tmp_path_factory.mktemp("weights")
    for name, own in (("cropfield", dict(layer_scale=1.0)), ("stop", dict(class_token=False, layer_scale=None))):
        backbone = VisionTransformer(8, 16, 4, 2, field_size=4, field_init="sincos", **own)
        write_backbone(folder / f"{name}.safetensors", backbone.state_dict(), {"num_heads": "2", "field_size": "4x4"})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_datasets):
    root = tmp_path_factory.mktemp("data")
    pictures = tiny_datasets.drawn_pictures(3, train=6, val=3, size=32)
    for name in ("imagenet", "places205", "inat18", "cifar100"):
        getattr(tiny_datasets, f"write_{name}")(root / name, pictures)
    tiny_datasets.write_clevr(root, train=8, val=8)
    return root


def options(data, dataset: str) -> list[str]:
    folder = "CLEVR_v1.0" if dataset.startswith("clevr") else dataset.removesuffix("_1pct")
    extra = ["--train-list", str(data / "imagenet" / "1percent.txt")] if dataset == "imagenet_1pct" else []
    return ["--dataset", dataset, "--data", str(data / folder), "--image-size", "32", *extra]


@pytest.mark.parametrize("system", ["cropfield", "stop"])
def test_each_dataset_from_weights_to_result(run_tool, weights, data, tmp_path, system):
    common = ["--weights", weights / f"{system}.safetensors", "--cache", tmp_path / "features"]
    pool = "cls" if system == "cropfield" else "patch"
    for dataset in ("imagenet", "imagenet_1pct", "places205", "inat18", "cifar100", "clevr_count", "clevr_dist"):
        output = tmp_path / dataset
        run_tool("linear_probe", *common, *options(data, dataset), "--output", output, "--epochs", "2", "--views", "2")
        result = json.loads((output / "result.json").read_text())
        assert [result[name] for name in ("protocol", "dataset", "model")] == ["linear_probe", dataset, system]
        assert set(result["metrics"]) == {"top1", "top5", f"top1_{pool}_last", f"top1_{pool}_last4"}
        assert result["settings"]["device"] == default_device()
        sweep = result["settings"]["sweep"]
        assert len(sweep) == 2 * 2 * 5 * 2 and result["metrics"]["top1"] == max(entry["top1"] for entry in sweep)
    assert len(list((tmp_path / "features").iterdir())) == 6 * 2 - 1  # CLEVR's questions share; 1% shares validation


def test_epochs_are_vissls_and_logistic_regression_has_none(run_tool, weights, data, tmp_path):
    common = ["--weights", weights / "stop.safetensors", "--cache", tmp_path / "features", "--layers", "1"]
    settings = {}
    for name, dataset, more in (
        ("places205", "places205", ()), ("count", "clevr_count", ()), ("dist", "clevr_dist", ()),
        ("given", "clevr_dist", ("--epochs", "3")), ("logistic", "imagenet_1pct", ("--logistic", "--l2", "1e-2", "1")),
    ):  # fmt: skip
        run_tool("linear_probe", *common, *options(data, dataset), *more, "--output", tmp_path / name)
        settings[name] = json.loads((tmp_path / name / "result.json").read_text())["settings"]
    epochs = {name: found.get("epochs") for name, found in settings.items()}
    assert epochs == {"places205": 14, "count": 50, "dist": 100, "given": 3, "logistic": None}
    assert settings["logistic"]["classifier"] == "logistic"
    assert sorted(found["weight_decay"] for found in settings["logistic"]["sweep"]) == [1e-2, 1]


def test_neighbours_use_what_the_probe_has_kept(run_tool, weights, data, tmp_path, capsys):
    common = ["--weights", weights / "stop.safetensors", "--cache", tmp_path / "features", *options(data, "cifar100")]
    run_tool("linear_probe", *common, "--output", tmp_path / "probe", "--epochs", "1")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    run_tool("knn", *common, "--output", tmp_path / "knn", "--k", "1", "5")
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    result = json.loads((tmp_path / "knn" / "result.json").read_text())
    assert result["protocol"] == "knn" and set(result["metrics"]) == {"top1", "top1_k1", "top1_k5"}
    assert f"top1 {result['metrics']['top1']:.2f}" in capsys.readouterr().out
    run_tool("knn", *common, "--output", tmp_path / "untrained", "--untrained")
    assert json.loads((tmp_path / "untrained" / "result.json").read_text())["model"] == "stop-untrained"
    assert len(list((tmp_path / "features").iterdir())) == 4


def test_fine_tuning_writes_its_result_and_can_go_on(run_tool, weights, data, tmp_path):
    common = ["--weights", weights / "cropfield.safetensors", *options(data, "imagenet_1pct"), "--output", tmp_path]
    common += ["--epochs", "2", "--warmup-epochs", "0", "--batch-size", "4"]
    run_tool("finetune", *common)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["protocol"] == "finetune" and set(result["metrics"]) == {"top1", "top5"}
    (tmp_path / "result.json").unlink()
    run_tool("finetune", *common, "--resume")  # nothing is left to train
    assert json.loads((tmp_path / "result.json").read_text())["metrics"] == result["metrics"]
    assert torch.load(tmp_path / "last.pth", weights_only=True)["epoch"] == 2


@pytest.mark.parametrize(
    "tool, option, value",
    [
        ("knn", "--temperature", "0"),
        ("knn", "--num-workers", "-1"),
        ("knn", "--seed", "99999999999999999999"),
        ("linear_probe", "--lr", "nan"),
        ("linear_probe", "--lr", "inf"),
        ("linear_probe", "--l2", "-1"),
        ("linear_probe", "--batch-size", "1"),
        ("finetune", "--label-smoothing", "2"),
        ("finetune", "--drop-path", "1.0"),
        ("finetune", "--weight-decay", "-5"),
    ],
)
def test_numbers_that_cannot_be_are_told_with_their_option(load_tool, capsys, tool, option, value):
    start = ["--weights", "w", "--dataset", "imagenet", "--data", "d", "--output", "o"]
    with pytest.raises(SystemExit):
        load_tool(tool).parse_args([*start, option, value])
    assert option in capsys.readouterr().err.splitlines()[-1]


def test_bad_input_is_told(run_tool, weights, data, tmp_path):
    start = ["--weights", weights / "stop.safetensors", *options(data, "imagenet"), "--output", tmp_path]
    with pytest.raises(UserError, match="30 is not a multiple of the backbone's patch, 8"):
        run_tool("knn", *start, "--image-size", "30")
    with pytest.raises(UserError, match="no class token"):
        run_tool("linear_probe", *start, "--pool", "cls", "--cache", tmp_path)
    with pytest.raises(UserError, match="4 layers, not 9"):
        run_tool("linear_probe", *start, "--layers", "9", "--cache", tmp_path)
    with pytest.raises(UserError, match="--warmup-epochs 5"):
        run_tool("finetune", *start, "--epochs", "3")
    with pytest.raises(SystemExit):
        run_tool("knn", *start, "--k", "0")
    assert not (tmp_path / "result.json").exists()
