"""Fine-tuning and evaluating the tiny detector on four images: our tool, and Detectron2's own on the same config."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import cv2
import detectron2
import numpy as np
import pytest
import torch
from cropfield import CropFieldViT
from pycocotools import mask as run_lengths

from pretrain.errors import UserError
from pretrain.models.export import write_backbone

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py")
TINY = [
    "train.max_iter=2",
    "train.log_period=1",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.net.depth=1",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> list[str]:
    """Overrides for a dataset of four images with a bright box each; masks as polygons and as run lengths."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        picture = rng.integers(0, 80, (128, 96 + 32 * (i % 2), 3), dtype=np.uint8)
        x, y = 8 + 10 * i, 20
        picture[y : y + 40, x : x + 30] = 220
        cv2.imwrite(str(folder / f"{i}.png"), picture)
        height, width = picture.shape[:2]
        inside = np.zeros((height, width), np.uint8, order="F")
        inside[y : y + 40, x : x + 30] = 1
        counts = run_lengths.encode(inside)
        polygon = [[x, y, x + 30, y, x + 30, y + 40, x, y + 40]]
        segmentation = polygon if i % 2 else counts | {"counts": counts["counts"].decode()}
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 3 + i % 2, "bbox": [x, y, 30, 40], "area": 1200, "iscrowd": 0}
            | {"segmentation": segmentation}
        )
    categories = [{"id": 3, "name": "left"}, {"id": 4, "name": "right"}]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "labels.json").write_text(json.dumps(content))
    return [
        f"dataset.{p}_{what}" for p in ("train", "val") for what in (f"json={folder}/labels.json", f"images={folder}")
    ]


def run_tool(*arguments: str) -> None:
    """Our tool's main, in this process."""
    spec = importlib.util.spec_from_file_location("train_net", ROOT / "tools" / "lazyconfig_train_net.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lazyconfig_train_net.py", "--config-file", CONFIG, *arguments])
        tool.main()


def test_train_resume_and_evaluate(dataset, tmp_path, capsys):
    state = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=50).state_dict()
    write_backbone(tmp_path / "trunk.safetensors", state, {"num_heads": "3"})
    here = [*TINY, *dataset, f"train.output_dir={tmp_path}"]

    run_tool(*here, f"train.init_checkpoint={tmp_path}/trunk.safetensors")
    assert (tmp_path / "inference" / "coco_instances_results.json").is_file()
    result = json.loads((tmp_path / "result.json").read_text())
    assert {"AP", "AP50", "AP-left", "AP-right"} <= result["bbox"].keys() and "AP" in result["segm"]
    printed = capsys.readouterr().out
    assert "all 17 tensors of the trunk matched" in (tmp_path / "log.txt").read_text()
    assert f"box AP {result['bbox']['AP']:.2f}, mask AP" in printed.splitlines()[-1]
    *_, last = map(json.loads, (tmp_path / "metrics.json").read_text().splitlines())
    assert last["bbox/AP"] == pytest.approx(result["bbox"]["AP"]) and last["iteration"] == 2

    run_tool("--resume", *here, "train.max_iter=3")
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()

    (tmp_path / "again").mkdir()
    weights = f"train.init_checkpoint={tmp_path}/model_final.pth"
    run_tool("--eval-only", *here, weights, f"train.output_dir={tmp_path}/again")
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again == json.loads((tmp_path / "result.json").read_text())


def test_detectron2s_own_tool_takes_the_same_config(dataset, tmp_path, monkeypatch):
    tool = Path(detectron2.__file__).parents[1] / "tools" / "lazyconfig_train_net.py"
    if not tool.is_file():
        pytest.skip("this Detectron2 comes without its tools")
    net = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16)
    write_backbone(tmp_path / "trunk.pth", net.state_dict(), {})
    weights = f"train.init_checkpoint={tmp_path}/trunk.pth"
    overrides = [*TINY, *dataset, "optimizer.lr=0.0", weights, f"train.output_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [str(tool), "--config-file", CONFIG, *overrides])
    runpy.run_path(str(tool), run_name="__main__")
    trained = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    for name, value in net.state_dict().items():
        assert torch.equal(trained[f"backbone.net.{name}"], value)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["optimizer.lrr=1"], "did you mean optimizer.lr"),
        (["optimizer.lr=high"], "is a number"),
        (["dataset.train_json=nowhere.json"], "nowhere.json"),
        (["train.init_checkpoint=nowhere.pth"], "no checkpoint nowhere.pth"),
        (["--num-gpus", "99"], "--num-gpus 99"),
        (["--eval-only"], "add train.init_checkpoint"),
    ],
)
def test_mistakes_are_told_before_any_work(dataset, tmp_path, overrides, words):
    flags = [word for word in overrides if "=" not in word]
    changes = [word for word in overrides if "=" in word]
    with pytest.raises(UserError, match=words):
        run_tool(*flags, *dataset, f"train.output_dir={tmp_path}/out", *changes)
    assert not (tmp_path / "out").exists()


def test_without_coco_the_default_dataset_gets_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        run_tool(f"train.output_dir={tmp_path}/out")
