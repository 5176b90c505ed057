"""Semantic segmentation from the command line: scenes, conversion, training, evaluation; our tool and Detectron2's."""

import json
import math
import runpy
import sys
from collections import OrderedDict
from pathlib import Path

import cv2
import detectron2
import numpy as np
import pytest
import torch

from cropfield import CropFieldViT
from lab.compose.dataset import Plan
from lab.compose.scene import Layout
from lab.compose.write import compose_dataset
from pretrain.errors import UserError
from pretrain.models.weights import write_backbone

CONFIG = Path(__file__).parents[2] / "projects" / "Lab" / "configs" / "ADE20K" / "semantic_linear_cropfield_tiny.py"
TINY = [
    "train.max_iter=2",
    "train.log_period=1",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.net.depth=1",
]


@pytest.fixture(scope="module")
def semantic(tmp_path_factory, run_tool) -> list[str]:
    """Six scenes in ADE20K's layout, as the overrides that choose them."""
    folder = tmp_path_factory.mktemp("semantic")
    layout = Layout(size=128, objects=(1, 3), scale=(0.3, 0.6), rotation=10.0, occlusion=0.2)
    plan = Plan(train=4, val=2, unlabeled=0, layout=layout, classes=3, unseen=False, typical=1.0, seed=0)
    compose_dataset(plan, folder / "scenes", overwrite=False, say=lambda line: None)
    run_tool("coco_to_semantic", folder / "scenes", "--output", folder / "ade")
    return [f"dataset.root={folder / 'ade'}", f"dataset.classes={folder / 'ade' / 'classes.txt'}"]


@pytest.fixture
def train_net(run_tool):
    return lambda *arguments: run_tool("lazyconfig_train_net", "--config-file", CONFIG, *arguments)


def backbone_file(path: Path, class_token: bool) -> dict[str, torch.Tensor]:
    """Write an export of CropField's kind, or of StoP's, which has no class token; its tensors."""
    shape = dict(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16)
    state = CropFieldViT(**shape, final_norm=True, class_token=class_token).state_dict()
    write_backbone(path, state, {"num_heads": "3"})
    return state


@pytest.mark.parametrize("class_token", [True, False], ids=["cropfield", "stop"])
def test_train_resume_and_evaluate_from_either_system(train_net, semantic, tmp_path, capsys, class_token):
    backbone_file(tmp_path / "backbone.safetensors", class_token)
    here = [*TINY, *semantic, f"train.output_dir={tmp_path}"]
    train_net(*here, f"train.init_checkpoint={tmp_path}/backbone.safetensors")
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["protocol"], result["dataset"], result["model"]) == ("semantic_seg", "ade", "backbone")
    assert {"mIoU", "fwIoU", "mACC", "pACC", "IoU-background"} <= result["metrics"].keys()
    assert not any("oundary" in name or "B-Iou" in name for name in result["metrics"])
    assert result["settings"]["iterations"] == 2 and result["settings"]["weight_decay"] == 0.01
    log, printed = (tmp_path / "log.txt").read_text(), capsys.readouterr().out
    whole = (
        f"all {20 if class_token else 19} tensors of the backbone matched (0.5 M parameters)\n"  # and nothing unused
    )
    assert whole in log
    assert printed.splitlines()[-1] == f"mIoU {result['metrics']['mIoU']:.2f}: {tmp_path / 'result.json'}"

    weights = f"train.init_checkpoint={tmp_path}/model_final.pth"
    train_net("--eval-only", *here, weights, f"train.output_dir={tmp_path}/again")
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["metrics"] == result["metrics"] and again["model"] == "model_final"

    train_net("--resume", *here, f"train.init_checkpoint={tmp_path}/backbone.safetensors", "train.max_iter=3")
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()


def test_detectron2s_own_tool_takes_the_same_config(train_net, semantic, tmp_path, monkeypatch, capsys):
    """It fills the backbone, trains, evaluates, and our tool finds the same mIoU for the same weights."""
    tool = Path(detectron2.__file__).parents[1] / "tools" / "lazyconfig_train_net.py"
    if not tool.is_file():
        pytest.skip("this Detectron2 comes without its tools")

    def run_stock(flag: str, *overrides: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(tool), flag, "--config-file", str(CONFIG), *TINY, *semantic, *overrides])
        runpy.run_path(str(tool), run_name="__main__")
        return capsys.readouterr().out.splitlines()[-1]

    state = backbone_file(tmp_path / "backbone.pth", class_token=True)
    here = f"train.output_dir={tmp_path}"
    run_stock("--num-gpus=0", here, "optimizer.lr=0.0", f"train.init_checkpoint={tmp_path}/backbone.pth")
    trained = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    for name, value in state.items():
        assert torch.equal(trained[f"backbone.net.{name}"], value)

    weights = f"train.init_checkpoint={tmp_path}/model_final.pth"
    found = {"OrderedDict": OrderedDict, "nan": math.nan, "np": __import__("numpy")}
    theirs = eval(run_stock("--eval-only", here, weights), found)["sem_seg"]  # what `print(do_test(...))` writes
    train_net("--eval-only", *TINY, *semantic, weights, f"train.output_dir={tmp_path}/ours")
    ours = json.loads((tmp_path / "ours" / "result.json").read_text())["metrics"]
    assert ours == {k: theirs[k] if math.isfinite(theirs[k]) else None for k in ours}


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["dataset.root=nowhere"], "no folder .*nowhere"),
        (["dataset.classes=nowhere.txt"], "cannot read the class names nowhere.txt"),
        (["dataset.rot=x"], "did you mean dataset.root"),
        (["train.init_checkpoint=nowhere.pth"], "no checkpoint nowhere.pth"),
        (["dataset.classes="], "DETECTRON2_DATASETS"),
    ],
)
def test_mistakes_are_told_before_any_work(train_net, semantic, tmp_path, overrides, words):
    root = [] if overrides == ["dataset.classes="] else semantic
    with pytest.raises(UserError, match=words):
        train_net(*root, f"train.output_dir={tmp_path}/out", *overrides)
    assert not (tmp_path / "out").exists()


def test_raw_labels_are_converted_by_the_tool_that_the_error_names(run_tool, semantic, tmp_path, capsys):
    root = Path(semantic[0].partition("=")[2])
    raw = tmp_path / "ADEChallengeData2016"
    (raw / "annotations").mkdir(parents=True)
    (raw / "annotations" / "training").symlink_to(root / "annotations_detectron2" / "training")
    run_tool("prepare_ade20k", raw)
    assert "training: 4 files" in capsys.readouterr().out
    assert len(list((raw / "annotations_detectron2" / "training").glob("*.png"))) == 4


def test_segmentors_are_drawn_beside_the_truth(run_tool, train_net, semantic, tmp_path):
    train_net(*TINY, *semantic, f"train.output_dir={tmp_path}", "train.max_iter=1")
    weights, there = tmp_path / "model_final.pth", tmp_path / "seen.png"
    options = ["--config-file", CONFIG, "--output", there, "--width", 64, "--set", *semantic]
    run_tool("draw_segmentation", *options, "model.backbone.net.depth=1", "--weights", f"a={weights}", f"b={weights}")
    picture = cv2.imread(str(there))
    assert picture.shape[1] == 4 * 64 + 3 * 8 and picture.shape[0] > 2 * 64
    np.testing.assert_array_equal(picture[32:, 2 * 72 : 2 * 72 + 64][:136], picture[32:, 3 * 72 : 3 * 72 + 64][:136])
    with pytest.raises(UserError, match="seen.png exists"):
        run_tool("draw_segmentation", *options, "--weights", f"a={weights}")
    there.unlink()
    with pytest.raises(UserError, match="TITLE=FILE"):
        run_tool("draw_segmentation", *options, "--weights", weights)
