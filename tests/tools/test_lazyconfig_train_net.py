"""Fine-tuning and evaluating the tiny detector on four images: our tool, and Detectron2's own on the same config."""

import argparse
import json
import math
import runpy
import shutil
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import detectron2
import pytest
import torch
from detectron2.config import instantiate

from cropfield import CropFieldViT
from cropfield.recipe import count_passes, fit_schedule
from pretrain.errors import UserError
from pretrain.files import read_torch_file
from pretrain.models.vit import compile_blocks
from pretrain.models.weights import write_backbone

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "COCO"
TINY = [
    "train.max_iter=2",
    "train.log_period=1",
    "train.eval_period=0",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "model.backbone.net.depth=1",
    "model.roi_heads.box_predictor.test_score_thresh=0.0",
]
NO_RESIZE = "dataloader.test.mapper.augmentations=[]"
BOXES_ONLY = [  # as in configs/common/faster_rcnn_cropfield.py
    "model.roi_heads.mask_in_features=null",
    "dataloader.train.mapper.use_instance_mask=False",
    "dataloader.train.mapper.recompute_boxes=False",
    "dataloader.evaluator.tasks=[bbox]",
]


@pytest.fixture
def train_net(run_tool):
    """Our tool's main on the tiny config."""
    config = str(CONFIGS / "mask_rcnn_cropfield_tiny.py")
    return lambda *arguments: run_tool("lazyconfig_train_net", "--config-file", config, *arguments)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_train_resume_and_evaluate(train_net, dataset, tmp_path, capsys, monkeypatch):
    state = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=50).state_dict()
    write_backbone(tmp_path / "backbone.safetensors", state, {"num_heads": "3"})
    here = [*TINY, *dataset, f"train.output_dir={tmp_path}"]

    train_net(*here, f"train.init_checkpoint={tmp_path}/backbone.safetensors")
    assert (tmp_path / "inference" / "coco_instances_results.json").is_file()
    result = read(tmp_path / "result.json")
    assert {"AP", "AP50", "AP-left", "AP-right"} <= result["bbox"].keys() and "AP" in result["segm"]
    printed = capsys.readouterr().out
    log = (tmp_path / "log.txt").read_text()
    assert "all 17 tensors of the backbone matched" in log and "2 classes, with masks" in log
    assert (
        "Adapted: batch of 2 instead of 8 images (train.lr_rule sqrt): " in log
        and "optimizer.lr 0.001 -> 0.0005" in log
    )
    assert f"box AP {result['bbox']['AP']:.2f}, mask AP" in printed.splitlines()[-1]
    *_, last = map(json.loads, (tmp_path / "metrics.json").read_text().splitlines())
    assert last["bbox/AP"] == pytest.approx(result["bbox"]["AP"]) and last["iteration"] == 2

    final = (tmp_path / "model_final.pth").read_bytes()
    for again in ([], ["--eval-only", f"train.init_checkpoint={tmp_path}/model_final.pth"]):
        with pytest.raises(UserError, match=r"last_checkpoint exists: .* holds an earlier run"):
            train_net(*again, *here, "optimizer.lr=0.5")
    assert (tmp_path / "model_final.pth").read_bytes() == final and read(tmp_path / "result.json") == result

    reads = []
    monkeypatch.setattr(
        "cropfield.checkpoint.read_torch_file", lambda path: reads.append(path) or read_torch_file(path)
    )
    train_net("--resume", *here, "train.max_iter=3")
    assert len(reads) == 1
    (tmp_path / "backbone.safetensors").unlink()  # a resumed run does not read it
    train_net("--resume", *here, "train.max_iter=3", f"train.init_checkpoint={tmp_path}/backbone.safetensors")
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()
    larger = ["dataloader.train.total_batch_size=4", "train.reference_batch_size=2"]  # max_iter by hand is not halved
    with pytest.raises(UserError, match="nothing is left to train, for 1 steps of 4 images are done .* asks for 1"):
        train_net("--resume", *here, *larger, "train.max_iter=1")
    train_net("--resume", *here, *larger, "train.max_iter=2")
    log = (tmp_path / "log.txt").read_text()
    assert "Starting training from iteration 1" in log
    assert "changed config: dataloader.train.total_batch_size: 2 -> 4" in log

    weights = f"train.init_checkpoint={tmp_path}/model_final.pth"
    train_net("--eval-only", *here, weights, f"train.output_dir={tmp_path}/again")
    assert read(tmp_path / "again" / "result.json") == read(tmp_path / "result.json")


def test_passes_average_best_weights_and_an_early_end(train_net, dataset_of_boxes, tmp_path):
    """Boxes only, two passes a step, averaged weights; with next to no learning rate the first is the best."""
    options = [
        "train.max_iter=9",
        "optimizer.lr=1e-30",
        "train.images_per_gpu=1",
        "train.eval_period=1",
        "train.ema.enabled=True",
        "train.early_stopping.patience=2",
        "train.validation_loss=True",
    ]
    train_net(*TINY, *dataset_of_boxes, *options, f"train.output_dir={tmp_path}")
    log = (tmp_path / "log.txt").read_text()
    assert "2 classes, boxes only" in log and "has not risen above" in log
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    curve = [line["validation/total_loss"] for line in lines if "validation/total_loss" in line]
    assert curve and curve == pytest.approx([curve[0]] * len(curve), rel=1e-3)  # nothing is learnt
    assert set(read(tmp_path / "result.json")) == {"bbox"}
    final, best, average = (
        torch.load(tmp_path / f"model_{name}.pth", weights_only=True) for name in ("final", "best", "ema")
    )
    assert final["iteration"] == 2 and best["iteration"] == 0  # the first evaluation and two that were not better
    assert not any("mask_head" in name for name in final["model"])
    assert final["trainer"]["hooks"]["BestCheckpointer"]["best_iter"] == 0
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    for name, value in average["model"].items():
        torch.testing.assert_close(value, final["ema"][f"module.{name}"], rtol=0, atol=0)


def test_a_frozen_backbone_stays_to_the_bit_and_the_rest_is_trained(train_net, dataset_of_boxes, tmp_path):
    """With averaged and best weights, recomputed blocks, four blocks' maps, and a resumed end."""
    net = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16)
    write_backbone(tmp_path / "backbone.safetensors", net.state_dict(), {"num_heads": "3"})
    options = [
        "train.freeze_backbone=True",
        "train.ema.enabled=True",
        "train.eval_period=1",
        "model.backbone.net.activation_checkpointing=True",
        "model.backbone.net.drop_path_rate=0.5",
        "model.backbone.net.depth=2",
        "model.backbone.net.out_features={last_feat: [0, 1]}",
        "train.init_partial=True",
    ]
    here = [*TINY, *dataset_of_boxes, *options, f"train.init_checkpoint={tmp_path}/backbone.safetensors"]
    states = []
    for steps in (1, 2):
        train_net("--resume", *here, f"train.max_iter={steps}", f"train.output_dir={tmp_path}/run")
        states.append(torch.load(tmp_path / "run" / "model_final.pth", weights_only=True))
    first, last = (state["model"] for state in states)
    names = [name for name in last if name.startswith("backbone.")]
    assert any(name.startswith("backbone.simfp") for name in names)
    for name in names:
        frozen = name.startswith("backbone.net.")
        assert (
            torch.equal(first[name], last[name])
            == torch.equal(first[name], states[1]["ema"][f"module.{name}"])
            == frozen
        )
    for name, value in net.state_dict().items():
        assert torch.equal(last[f"backbone.net.{name}"], value)
    held = sum(value["exp_avg"].numel() for value in states[1]["trainer"]["optimizer"]["state"].values())
    assert held == sum(v.numel() for n, v in last.items() if not n.startswith(("backbone.net.", "pixel_")))
    assert "a random one" not in (tmp_path / "run" / "log.txt").read_text()
    with pytest.raises(UserError, match="cannot be resumed"):
        train_net(
            "--resume", *here, "train.freeze_backbone=False", f"train.output_dir={tmp_path}/run", "train.max_iter=3"
        )

    weights = f"train.init_checkpoint={tmp_path}/run/model_final.pth"
    free = ["train.freeze_backbone=False", "train.init_partial=False"]
    train_net("--eval-only", *here, weights, *free, f"train.output_dir={tmp_path}/again")
    assert read(tmp_path / "again" / "result.json")["bbox"].keys() >= {"AP"}


def test_from_cached_features_the_same_detector_comes(train_net, dataset_of_boxes, tmp_path):
    """Of images as in evaluation, in float32; resumed, it is read again."""
    net = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16)
    write_backbone(tmp_path / "backbone.safetensors", net.state_dict(), {"num_heads": "3"})
    frozen = ["train.freeze_backbone=True", f"train.init_checkpoint={tmp_path}/backbone.safetensors"]
    still = ["dataloader.train.mapper.augmentations=${dataloader.test.mapper.augmentations}"]
    cached = [f"dataloader.feature_cache.folder={tmp_path}/cache", "dataloader.feature_cache.dtype=float32"]
    for output, options in (("live", still), ("cached", cached)):
        for steps in (1, 3):
            run = [f"train.max_iter={steps}", f"train.output_dir={tmp_path}/{output}"]
            train_net("--resume", *TINY, *dataset_of_boxes, *frozen, *options, *run)
    live, cached = (torch.load(tmp_path / run / "model_final.pth", weights_only=True) for run in ("live", "cached"))
    assert all(torch.equal(value, cached["model"][name]) for name, value in live["model"].items())
    assert read(tmp_path / "live" / "result.json") == read(tmp_path / "cached" / "result.json")
    log = (tmp_path / "cached" / "log.txt").read_text()
    assert log.count("views computed in") == 1 and ", 0 GB still to compute" in log


def test_a_random_backbone_that_is_frozen_is_warned_of(train_net, dataset_of_boxes, tmp_path):
    train_net(
        *TINY, *dataset_of_boxes, "train.freeze_backbone=True", "train.max_iter=1", f"train.output_dir={tmp_path}"
    )
    assert (tmp_path / "log.txt").read_text().count("the frozen backbone has random weights: give its weights") == 1


def test_a_config_without_a_seed(run_tool, dataset_of_boxes, tmp_path):
    """As Detectron2's own common/train.py."""
    file, tiny = tmp_path / "config.py", str(CONFIGS / "mask_rcnn_cropfield_tiny.py")
    lines = ["from detectron2.config import LazyConfig", f"tiny = LazyConfig.load({tiny!r})"]
    parts = ("dataloader", "dataset", "lr_multiplier", "model", "optimizer", "train")
    file.write_text("\n".join([*lines, *(f"{part} = tiny.{part}" for part in parts), "del train.seed, tiny"]))
    output = f"train.output_dir={tmp_path}/out"
    run_tool("lazyconfig_train_net", "--config-file", str(file), *TINY, *dataset_of_boxes, "train.max_iter=1", output)
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_a_compiled_backbone_is_saved_under_the_same_names(train_net, small_coco, dataset, tmp_path, monkeypatch):
    """Of a detector of boxes only, which does not mind that some objects have masks and some have none."""
    content = read(small_coco / "labels.json")
    content["annotations"][0].pop("segmentation")
    (tmp_path / "some.json").write_text(json.dumps(content))
    some_masks = [*dataset, *(f"dataset.{part}_json={tmp_path}/some.json" for part in ("train", "val"))]
    graphs = []
    compiler = partial(compile_blocks, backend=lambda graph, _: graphs.append(graph) or graph)
    monkeypatch.setattr("cropfield.run.compile_blocks", compiler)
    names = []
    for output, options in ((tmp_path / "eager", []), (tmp_path / "compiled", ["train.compile=True"])):
        with pytest.raises(UserError, match="1 of 4 annotations have no .*use a box-only config"):
            train_net(*TINY, *some_masks, *options, f"train.output_dir={output}")
        train_net(*TINY, *some_masks, *BOXES_ONLY, *options, "train.seed=1", f"train.output_dir={output}")
        names.append([*torch.load(output / "model_final.pth", weights_only=True)["model"]])
    assert graphs and names[0] == names[1]


def test_a_loss_that_is_not_finite_stops_with_the_weights_of_before(train_net, dataset, tmp_path):
    with pytest.raises(UserError, match=r"png.*--resume continues") as stopped:
        train_net(*TINY, *dataset, "optimizer.lr=1e30", "train.max_iter=50", f"train.output_dir={tmp_path}")
    (saved,) = tmp_path.glob("model_before_*.pth")
    assert saved.name in str(stopped.value)
    iteration = int(saved.stem.rsplit("_", 1)[1])
    assert torch.load(saved, weights_only=True)["iteration"] == iteration > 0


def test_detectron2s_own_tool_takes_the_same_config(train_net, dataset, tmp_path, monkeypatch, capsys):
    """It trains, it evaluates, and our tool finds the same AP for the same weights."""
    tool = Path(detectron2.__file__).parents[1] / "tools" / "lazyconfig_train_net.py"
    if not tool.is_file():
        pytest.skip("this Detectron2 comes without its tools")

    def run_stock(*arguments: str) -> str:
        command = [str(tool), "--config-file", str(CONFIGS / "mask_rcnn_cropfield_tiny.py"), *TINY, *dataset]
        monkeypatch.setattr(sys, "argv", [*command[:1], *arguments[:1], *command[1:], *arguments[1:]])
        runpy.run_path(str(tool), run_name="__main__")
        return capsys.readouterr().out.splitlines()[-1]

    net = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16)
    write_backbone(tmp_path / "backbone.pth", net.state_dict(), {})
    here = f"train.output_dir={tmp_path}"
    run_stock("--num-gpus=0", here, "optimizer.lr=0.0", f"train.init_checkpoint={tmp_path}/backbone.pth")
    trained = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    for name, value in net.state_dict().items():
        assert torch.equal(trained[f"backbone.net.{name}"], value)

    weights = f"train.init_checkpoint={tmp_path}/model_final.pth"
    printed = run_stock("--eval-only", here, weights)
    theirs = eval(printed, {"OrderedDict": OrderedDict, "nan": math.nan})  # what `print(do_test(...))` writes
    train_net("--eval-only", *TINY, *dataset, weights, f"train.output_dir={tmp_path}/ours")
    ours = read(tmp_path / "ours" / "result.json")
    assert {t: {k: v if math.isfinite(v) else None for k, v in r.items()} for t, r in theirs.items()} == ours


def test_classes_are_matched_by_their_names(train_net, small_coco, dataset, tmp_path):
    """The same images with the two categories' ids exchanged are the same task, and with other names another one."""
    here = [*TINY, f"train.output_dir={tmp_path}/run"]
    train_net(*here, *dataset)
    weights = f"train.init_checkpoint={tmp_path}/run/model_final.pth"
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["metadata"]["categories"]
    assert saved == [{"id": 3, "name": "left"}, {"id": 4, "name": "right"}]

    content = read(small_coco / "labels.json")
    content["categories"] = [{"id": 4, "name": "left"}, {"id": 3, "name": "right"}]
    for annotation in content["annotations"]:
        annotation["category_id"] = 7 - annotation["category_id"]
    (tmp_path / "exchanged.json").write_text(json.dumps(content))
    content["categories"][0]["name"] = "port"
    (tmp_path / "other.json").write_text(json.dumps(content))
    files = {n: [f"dataset.{p}_json={tmp_path}/{n}.json" for p in ("train", "val")] for n in ("exchanged", "other")}

    train_net("--eval-only", *here, *dataset, *files["exchanged"], weights, f"train.output_dir={tmp_path}/exchanged")
    first, second = (read(tmp_path / run / "inference" / "coco_instances_results.json") for run in ("run", "exchanged"))
    assert {found["category_id"] for found in first} == {3, 4}
    assert sorted(map(str, second)) == sorted(str(found | {"category_id": 7 - found["category_id"]}) for found in first)
    both = r"knows 2 \(left, right\), the dataset has 2 \(right, %s\)"
    with pytest.raises(UserError, match=both % "left"):
        train_net("--resume", *here, *dataset, *files["exchanged"], "train.max_iter=3")
    with pytest.raises(UserError, match=both % "port"):
        train_net("--eval-only", *here, *dataset, *files["other"], weights, f"train.output_dir={tmp_path}/other")
    with pytest.raises(UserError, match="has 7 classes and its dataset 2"):
        train_net(*here, *dataset, f"train.output_dir={tmp_path}/seven", "model.roi_heads.num_classes=7")


def test_a_backbone_is_not_evaluated(train_net, dataset, tmp_path):
    state = CropFieldViT(patch_size=8, embed_dim=192, depth=1, num_heads=3, field_size=16).state_dict()
    write_backbone(tmp_path / "backbone.safetensors", state, {"num_heads": "3"})
    weights = f"train.init_checkpoint={tmp_path}/backbone.safetensors"
    missing = "train.init_checkpoint=1e9"
    for given, words in ((weights, "contains only a backbone"), (missing, "there is no checkpoint 1e9")):
        with pytest.raises(UserError, match=f"^train.init_checkpoint: .*{words}"):
            train_net("--eval-only", *TINY, *dataset, given, f"train.output_dir={tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_broken_images_are_skipped_and_listed(train_net, small_coco, dataset_of_boxes, tmp_path):
    images, name = tmp_path / "images", "1.png"
    shutil.copytree(small_coco, images)
    (images / name).write_bytes((small_coco / name).read_bytes()[:700])
    folders = [f"dataset.{part}_images={images}" for part in ("train", "val")]
    few = ["dataloader.train.max_broken=0.3", "dataloader.test.max_broken=0.3", "train.max_iter=4"]
    train_net(*TINY, *dataset_of_boxes, *folders, *few, f"train.output_dir={tmp_path}/out")
    for listed in ("broken_images.txt", "inference/broken_images.txt"):
        assert (tmp_path / "out" / listed).read_text() == f"truncated\t{images / name}\n"
    assert "their objects count as missed" in (tmp_path / "out" / "log.txt").read_text()
    with pytest.raises(UserError, match=r"too many of the 4 images are broken, 1 so far: 1 truncated \(.*1.png\)"):
        train_net(*TINY, *dataset_of_boxes, *folders, "train.max_iter=8", f"train.output_dir={tmp_path}/strict")


@pytest.mark.parametrize(
    "batch, rule, expected, decays, lr",
    [
        (64, "sqrt", 22128, [19667, 21306], 3e-4),
        (16, "sqrt", 88512, [78668, 85224], 1.5e-4),
        (16, "linear", 88512, [78668, 85224], 0.75e-4),
        (128, "none", 11064, [9834, 10653], 3e-4),
    ],
)
def test_the_schedule_follows_the_batch_size(load_tool, batch, rule, expected, decays, lr):
    """12 epochs are 22,128 iterations at batch 64 (App. B.2); as many images at any other."""
    tool = load_tool("lazyconfig_train_net")
    options = [f"dataloader.train.total_batch_size={batch}", f"train.lr_rule={rule}"]
    cfg = tool.load_config(CONFIGS / "mask_rcnn_cropfield_vitb_12ep.py", options)
    changes = fit_schedule(cfg, options)
    assert bool(changes) == (batch != 64)
    assert cfg.train.max_iter == expected and cfg.optimizer.lr == pytest.approx(lr)
    steps = cfg.lr_multiplier.scheduler
    assert list(steps.milestones) == decays and steps.num_updates == expected
    factor = instantiate(cfg.lr_multiplier)
    for count, decay in enumerate(decays):
        assert factor((decay - 1) / expected) == pytest.approx(0.1**count)
        assert factor((decay + 1) / expected) == pytest.approx(0.1 ** (count + 1))


def test_what_is_given_by_hand_is_not_rescaled(load_tool):
    tool = load_tool("lazyconfig_train_net")
    options = ["dataloader.train.total_batch_size=16", "train.max_iter=100", "optimizer.lr=1.0"]
    cfg = tool.load_config(CONFIGS / "mask_rcnn_cropfield_vitb_12ep.py", options)
    (change,) = fit_schedule(cfg, options)
    assert cfg.train.max_iter == 100 and cfg.optimizer.lr == 1.0
    assert "max_iter" not in change and "train.eval_period 5000 -> 20000" in change


@pytest.mark.parametrize("card, family", [(8, "mask_rcnn"), (16, "cascade_mask_rcnn"), (24, "faster_rcnn")])
def test_a_cards_preset_keeps_the_recipe(load_tool, card, family):
    tool = load_tool("lazyconfig_train_net")
    config = str(CONFIGS / f"{family}_cropfield_vitb_12ep.py")
    cfg, changes = tool.read_config(argparse.Namespace(config_file=config, opts=[], card=card))
    assert cfg.model.backbone.net.activation_checkpointing and len(changes) > 1
    assert count_passes(cfg, 1) * cfg.train.images_per_gpu == cfg.dataloader.train.total_batch_size == 64
    assert (cfg.optimizer.lr, cfg.train.max_iter) == (3e-4, 22128)


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["optimizer.lrr=1"], "did you mean optimizer.lr"),
        (["optimizer.lr=high"], "optimizer.lr is .high.; give a number above 0"),
        (["dataset.train_json=nowhere.json"], "nowhere.json"),
        (["train.init_checkpoint=nowhere.pth"], "no checkpoint nowhere.pth"),
        (["train.images_per_gpu=3"], "choose a divisor of 8"),
        (["train.lr_rule=cubic", "dataloader.train.total_batch_size=4"], "choose sqrt, linear or none"),
        (["--num-gpus", "99"], "--num-gpus 99"),
        (["--eval-only"], "add train.init_checkpoint"),
        (
            ["train.validation_loss=True", "model._target_=cropfield.tiles.TiledRCNN", NO_RESIZE],
            "train.validation_loss: dataloader.test.mapper.augmentations make images of up to",
        ),
        (["dataloader.train.mapper.instance_mask_format=polygon"], "has masks as run lengths, which no polygon"),
        (["train.freeze_backbone=last"], "train.freeze_backbone is 'last'; give true or false"),
        (["model.backbone.net.out_features={last_feat: [3, 6]}"], "0 to 5, or a list"),
    ],
)
def test_mistakes_are_told_before_any_work(train_net, dataset, tmp_path, overrides, words):
    flags = [word for word in overrides if "=" not in word]
    changes = [word for word in overrides if "=" in word]
    with pytest.raises(UserError, match=words):
        train_net(*flags, *dataset, f"train.output_dir={tmp_path}/out", *changes)
    assert not (tmp_path / "out").exists()


def test_without_coco_the_default_dataset_gets_a_sentence(train_net, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        train_net(f"train.output_dir={tmp_path}/out")
