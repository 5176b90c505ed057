"""Results of every command, found and understood."""

import json

import pytest

from cropfield.results import write_result
from lab.tables.gather import gather
from pretrain.errors import UserError

CONFIG = """\
dataset: {{train_json: '', val_json: '{val_json}'}}
train: {{max_iter: {steps}, init_checkpoint: {checkpoint}, rule: !!python/name:builtins.len ''}}
dataloader: {{train: {{total_batch_size: 64}}}}
model: {{backbone: {{net: {{embed_dim: {width}, patch_size: 16}}}}}}
"""
AP = {"bbox": {"AP": 44.0, "AP50": 66.0}, "segm": {"AP": 39.0, "APl": None}}


def detector(folder, val_json="", steps=22128, checkpoint="w/vits16.safetensors", width=384):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(AP))
    (folder / "config.yaml").write_text(
        CONFIG.format(val_json=val_json, steps=steps, checkpoint=checkpoint, width=width)
    )


def test_an_evaluation_comes_back_as_it_was_written(tmp_path):
    write_result(tmp_path / "a" / "b", "video", "davis2017", "m", {"J_mean": 50.0}, {"seconds": 3})
    (result,), left_out = gather(tmp_path)
    assert (result.protocol, result.dataset, result.model) == ("video", "davis2017", "m")
    assert result.metrics == {"J_mean": 50.0} and result.settings == {"seconds": 3} and not left_out
    assert result.file.as_posix() == "a/b/result.json"


@pytest.mark.parametrize(
    ("steps", "width", "epochs", "backbone"), [(22128, 384, 12, "ViT-S/16"), (92200, 768, 50, "ViT-B/16")]
)
def test_a_detector_on_coco(tmp_path, steps, width, epochs, backbone):
    detector(tmp_path / "d", "data/annotations/instances_val2017.json", steps, width=width)
    (result,), _ = gather(tmp_path)
    assert (result.protocol, result.dataset, result.model) == ("detection", "coco", "vits16")
    assert result.metrics == {"box_AP": 44.0, "box_AP50": 66.0, "mask_AP": 39.0}
    assert result.settings == {"backbone": backbone, "epochs": epochs}


def test_a_detector_on_another_dataset_is_not_coco(tmp_path):
    detector(tmp_path / "mine", "data/scenes_val.json", checkpoint="out/model_final.pth")
    detector(tmp_path / "scratch", checkpoint="''")
    mine, scratch = gather(tmp_path)[0]
    assert (mine.dataset, mine.model) == ("scenes_val", "mine") and "epochs" not in mine.settings
    assert (scratch.dataset, scratch.model) == ("coco", "untrained")


def test_a_segmenters_config_tells_its_backbone(tmp_path):
    detector(tmp_path / "s")
    write_result(tmp_path / "s", "semantic_seg", "ade20k", "vits16", {"mIoU": 40.0, "IoU-sky": None})
    (result,), _ = gather(tmp_path)
    assert result.settings == {"backbone": "ViT-S/16"} and result.metrics == {"mIoU": 40.0}


def test_a_sweep_stands_for_its_runs(tmp_path):
    for run in ("sweep/lr1", "sweep/lr2"):
        detector(tmp_path / run)
        write_result(tmp_path / run, "semantic_seg", "ade20k", "vits16", {"mIoU": 40.0})
    write_result(tmp_path / "sweep", "semantic_seg", "ade20k", "vits16", {"mIoU": 41.0}, {"settings_tried": 2})
    for name in ("probe", "probe/patch"):  # no sweep
        write_result(tmp_path / name, "knn", "imagenet", "vits16", {"top1": 50.0})
    write_result(tmp_path / "sweep" / "other", "semantic_seg", "ade20k", "vitb16", {"mIoU": 45.0})
    results, _ = gather(tmp_path)
    folders = ["probe/patch", "probe", "sweep/other", "sweep"]
    assert [result.file.as_posix() for result in results] == [f"{folder}/result.json" for folder in folders]
    assert results[3].metrics == {"mIoU": 41.0} and results[3].settings["backbone"] == "ViT-S/16"


def test_json_has_no_nan(tmp_path):
    file = write_result(tmp_path, "field", "none", "m", {"a": float("nan"), "b": 1.5, "c": None})
    assert json.loads(file.read_text(), parse_constant=None)["metrics"] == {"a": None, "b": 1.5, "c": None}
    assert "NaN" not in file.read_text()


def test_what_cannot_be_used_is_named(tmp_path):
    write_result(tmp_path / "good", "knn", "imagenet", "m", {"top1": 50.0})
    for name, text in (("broken", "{"), ("other", '{"seconds": 3}'), ("bare", json.dumps(AP))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    results, left_out = gather(tmp_path)
    assert len(results) == 1
    assert [line.partition(":")[0] for line in left_out] == [f"{n}/result.json" for n in ("bare", "broken", "other")]


def test_no_results(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        gather(tmp_path / "gone")
    with pytest.raises(UserError, match="no usable result.json"):
        gather(tmp_path)
