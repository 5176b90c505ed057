"""projects/Lab/tools/predictor_maps.py on two small runs: what it leaves, and what it refuses."""

import json

import cv2
import pytest
import torch

from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.errors import UserError

SMALL = [
    "model.backbone.embed_dim=24", "model.backbone.depth=1", "model.predictor.backbone_dim=24",
    "model.predictor.embed_dim=24",
    "model.predictor.depth=1", "dataloader.train.batch_size=4", "dataloader.train.num_workers=0", "train.max_iter=1",
    "train.amp.enabled=False", "train.device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(small_coco, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (images,) = {path.parent for path in small_coco.rglob("*.png")}
    for name, noise in (("ijepa", 0.0), ("stop", 100.0)):  # A is small after one step
        where = [
            f"model.predictor.noise_std={noise}",
            f"dataloader.train.source.root={images}",
            f"train.output_dir={folder / name}",
        ]
        pretrain(load_config(f"projects/StoP/configs/{name}_tiny.py", [*SMALL, *where]))
    return folder


def test_two_runs_give_both_pictures_and_their_figures(runs, small_coco, tmp_path, run_tool, capsys):
    image = sorted(small_coco.rglob("*.png"))[0]
    run_tool(
        "predictor_maps", runs / "ijepa", runs / "stop", "--images", image, "--points", "0.3,0.3", "0.8,0.5",
        "--output", tmp_path,
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["protocol"] == "predictor" and result["settings"]["queries"] == 2
    figures = result["metrics"]
    assert figures.keys() == {
        f"{what}_{run}" for what in ("cosine", "displacement", "nearness") for run in ("ijepa", "stop")
    }
    assert figures["displacement_ijepa"] == 0 < figures["displacement_stop"]
    assert all(-1 <= figures[f"nearness_{run}"] <= 1 for run in ("ijepa", "stop"))
    for name in ("positions.png", "predictions.png"):
        assert cv2.imread(str(tmp_path / name)).shape[1] > 400
    assert f"displacement_stop: {figures['displacement_stop']:.3f}" in capsys.readouterr().out


def test_the_noise_follows_the_seed(runs, tmp_path, run_tool):
    for folder, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        run_tool("predictor_maps", runs / "stop", "--seed", seed, "--output", tmp_path / folder)
    a, b, c = ((tmp_path / folder / "positions.png").read_bytes() for folder in "abc")
    assert a == b != c and not (tmp_path / "a" / "predictions.png").exists()


def test_what_holds_no_predictor_is_refused(runs, tmp_path, run_tool):
    with pytest.raises(UserError, match="nowhere/config.yaml: cannot be read as the config of a run"):
        run_tool("predictor_maps", tmp_path / "nowhere", "--output", tmp_path / "out")
    with pytest.raises(SystemExit):
        run_tool("predictor_maps", runs / "stop", runs / "stop", "--output", tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text((runs / "stop" / "config.yaml").read_text())
    state = torch.load(runs / "stop" / "last.pth", weights_only=True)
    state["model"].pop("predictor.mask_token")
    torch.save(state, other / "last.pth")
    with pytest.raises(UserError, match="does not belong to the config beside it"):
        run_tool("predictor_maps", other, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
