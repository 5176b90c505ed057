"""The pretraining configs: the paper's values, the ablations as small deltas, and that every one of them trains."""

import json
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from pretrain.data.folder import ImageFolder
from pretrain.data.masks import CropMasks
from pretrain.engine.forms import Pretraining
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain, resolve_length_and_lr
from pretrain.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.py"))
DEFAULT = "cropfield_vits16_in1k_100ep"
IMAGENET = 1_281_167

# What each config changes of the paper's ViT-S, besides its output folder.
CROPS, MASKS = "dataloader.train.crops", "dataloader.train.masks"
NO_SAMPLING = {"model.field_sampling": False, "model.backbone.field_size": 14}
NO_POSITION_LOSS = {"model.position_loss": False}
VIT_B = {"model.backbone.embed_dim": 768, "model.backbone.num_heads": 12}
DINOV2 = NO_SAMPLING | NO_POSITION_LOSS | {"model.koleo_weight": 0.1}
DELTAS = {
    "cropfield_vits16_in1k_100ep": {},
    "cropfield_vitb16_in1k_100ep": VIT_B,
    "dinov2_vits16_in1k_100ep": DINOV2,
    "dinov2_vitb16_in1k_100ep": VIT_B | DINOV2,
    "cropfield_vits16_1gpu": {
        "dataloader.train.batch_size": 128,
        "model.momentum.start_value": pytest.approx(0.998),
        "model.centre_momentum": pytest.approx(0.975),
    },
    "ablations/table3_neither": NO_SAMPLING | NO_POSITION_LOSS,
    "ablations/table3_sampling": NO_POSITION_LOSS,
    "ablations/table3_position_loss": NO_SAMPLING,
    "ablations/table4a_constant": {f"{CROPS}.scale_distribution": "constant"},
    "ablations/table4a_uniform": {f"{CROPS}.scale_distribution": "uniform"},
    "ablations/table4b_19x19": {"model.backbone.field_size": 19},
    "ablations/table5a_box": {f"{MASKS}.position_mask": "box"},
    "ablations/table5b_content": NO_POSITION_LOSS | {f"{MASKS}.content_share": 1.0, f"{MASKS}.position_share": 0.0},
    "ablations/table5b_position": {
        "model.content_loss": False,
        f"{MASKS}.content_share": 0.0,
        f"{MASKS}.position_share": 1.0,
    },
}


def load(name: str) -> DictConfig:
    return load_config(CONFIGS / f"{name}.py", [])


def flat(node, prefix: str = "") -> dict:
    """Every leaf of a config by its dotted key, interpolations unresolved."""
    if not isinstance(node, dict):
        return {prefix: node}
    leaves = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}.{key}" if prefix else key)
    return leaves


def flat_config(name: str) -> dict:
    return flat(OmegaConf.to_container(load(name), resolve=False))


def settled(name: str, images: int = IMAGENET) -> DictConfig:
    cfg = load(name)
    resolve_length_and_lr(cfg, SimpleNamespace(source=range(images), batch_size=cfg.dataloader.train.batch_size))
    return cfg


# --- what they say


@pytest.mark.parametrize("name", [DEFAULT, "cropfield_vitb16_in1k_100ep"])
def test_the_default_is_table_6(name):
    cfg = settled(name)
    model, crops, masks = cfg.model, cfg.dataloader.train.crops, cfg.dataloader.train.masks
    assert cfg.train.epochs == 100 and cfg.dataloader.train.batch_size == 512
    assert cfg.optimizer._target_ == torch.optim.AdamW and cfg.train.base_lr == 2e-3
    assert cfg.lr_multiplier.warmup * cfg.train.epochs == 10
    assert (cfg.weight_decay.start_value, cfg.weight_decay.end_value) == (0.04, 0.4)
    assert model.backbone.drop_path_rate == 0.1
    assert model.teacher_temp == 0.04 and model.momentum.start_value == 0.992
    assert tuple(masks.ratio) == (0.1, 0.5) and (masks.content_share, masks.position_share) == (0.5, 0.5)
    assert (masks.content_mask, masks.position_mask) == ("box", "cross")
    assert model.num_prototypes == 65536
    assert crops.scale_distribution == "beta" and model.backbone.field_size == 50
    assert (crops.num_global, crops.global_size, crops.num_local, crops.local_size) == (2, 224, 8, 96)  # Sec. 4.1
    assert model.koleo_weight == 1 and model.field_sampling and model.position_loss  # Eq. 6
    assert instantiate(masks.grid) == (crops.global_size // model.backbone.patch_size,) * 2


@pytest.mark.parametrize("name, width", [(DEFAULT, 384), ("cropfield_vitb16_in1k_100ep", 768)])
def test_the_model_is_table_6_where_the_config_leaves_no_choice(name, width):
    with torch.device("meta"):
        method = instantiate(load(name).model)
    backbone, rates = method.student["backbone"], torch.linspace(0, 0.1, 12).tolist()
    assert (backbone.embed_dim, len(backbone.blocks), backbone.patch_size) == (width, 12, 16)
    assert [block.drop_path.rate for block in backbone.blocks] == pytest.approx(rates)  # drop path: linear
    assert backbone.pos_embed.shape == (1, 50 * 50, width)
    heads = {name: module for name, module in method.student.items() if name != "backbone"}
    assert heads.keys() == {"image_head", "content_head", "position_head"}  # separate heads
    for head in heads.values():
        assert head.prototypes.weight.shape == (65536, 256)
        assert not head.prototypes.gain.requires_grad  # norm. last layer


@pytest.mark.parametrize("flips", [True, False])
def test_the_field_flips_with_a_crop_unless_the_config_says_no(flips):
    assert load(DEFAULT).dataloader.train.crops.flip_field is True  # ours, and shown
    cfg = load_config(CONFIGS / f"{DEFAULT}.py", [f"dataloader.train.crops.flip_field={flips}"])
    assert instantiate(cfg.dataloader.train.crops).flip_field is flips


@pytest.mark.parametrize("name", DELTAS)
def test_a_variant_differs_from_the_default_by_what_it_says(name):
    default, variant = flat_config(DEFAULT), flat_config(name)
    changed = {key: value for key, value in variant.items() if key not in default or default[key] != value}
    assert default.keys() <= variant.keys()
    assert name == DEFAULT or changed.pop("train.output_dir") == f"outputs/{name}"
    assert changed == DELTAS[name]


def test_every_ablation_is_held_to_its_delta_and_listed_with_its_command():
    readme = (CONFIGS / "README.md").read_text()
    ablations = {name for name in NAMES if name.startswith("ablations/table")}
    assert ablations == {name for name in DELTAS if name.startswith("ablations/")}
    for name in DELTAS:
        assert f"configs/pretrain/{name}.py" in readme
    for path in re.findall(r"configs/pretrain/[\w/]+\.py", readme):
        assert (CONFIGS.parents[1] / path).is_file(), path


def test_no_two_configs_write_to_the_same_folder():
    folders = [load(name).train.output_dir for name in NAMES]
    assert len(set(folders)) == len(folders)


# --- what follows from batch size and length


def test_length_and_learning_rate_follow_the_batch_size_and_the_log_says_how(caplog):
    with caplog.at_level(logging.INFO, logger="pretrain.engine.run"):
        large, small = settled(DEFAULT), settled("cropfield_vits16_1gpu")
    assert large.train.max_iter == 100 * 2502 == 250_200
    assert large.optimizer.lr == pytest.approx(2e-3 / math.sqrt(2))
    assert small.train.max_iter == 100 * 10_009
    assert small.optimizer.lr == pytest.approx(2e-3 / math.sqrt(8))
    first, second = (record.getMessage() for record in caplog.records)
    assert "rule: 100 epochs * (1281167 // 512)" in first and "rule: 0.002 * sqrt(512 / 1024)" in first
    assert "1,000,900 steps" in second and "0.000707" in second


def test_the_log_names_no_rule_where_the_value_was_given(caplog):
    cfg = load(DEFAULT)
    cfg.train.max_iter, cfg.optimizer.lr = 1000, 5e-4
    with caplog.at_level(logging.INFO, logger="pretrain.engine.run"):
        resolve_length_and_lr(cfg, SimpleNamespace(source=range(IMAGENET), batch_size=512))
    assert (cfg.train.max_iter, cfg.optimizer.lr) == (1000, 5e-4)
    assert "1,000 steps (as given)" in caplog.text and "0.0005 (as given)" in caplog.text


@pytest.mark.parametrize("name", [DEFAULT, "cropfield_vits16_1gpu"])
def test_schedules_of_the_recipe_at_explicit_steps(name):
    cfg = settled(name)
    steps, peak = cfg.train.max_iter, cfg.optimizer.lr
    lr, decay, momentum = (instantiate(s) for s in (cfg.lr_multiplier, cfg.weight_decay, cfg.model.momentum))
    start = 1 - 0.008 * cfg.dataloader.train.batch_size / 512  # of the teacher's momentum
    warmup = steps // 10

    def cosine(first, last, share):
        return last + (first - last) * (1 + math.cos(math.pi * share)) / 2

    for step in (0, 1, warmup // 2, warmup - 2, warmup, steps // 2, steps - 1):
        share = step / steps
        warm = peak * step / warmup
        cool = cosine(peak, 1e-6, (step - warmup) / (steps - warmup))
        assert lr(share) == pytest.approx(warm if step < warmup else cool, rel=1e-9)
        assert decay(share) == pytest.approx(cosine(0.04, 0.4, share), rel=1e-9)
        assert momentum(share) == pytest.approx(cosine(start, 1.0, share), rel=1e-12)
    assert lr((steps - 1) / steps) == pytest.approx(1e-6, rel=1e-3)
    frozen = math.ceil(cfg.train.freeze_prototypes * steps)
    assert frozen == steps // 100  # one epoch


# --- that they run


@pytest.mark.parametrize("name", NAMES)
def test_a_config_builds_on_the_meta_device(name):
    with torch.device("meta"):
        method = instantiate(load(name).model)
    assert all(tensor.is_meta for tensor in (*method.parameters(), *method.buffers()))
    assert any(parameter.requires_grad for parameter in method.parameters())


TINY = {  # by key, wherever in the model it stands
    "embed_dim": 32, "depth": 2, "num_heads": 2, "num_prototypes": 32, "head_hidden_dim": 32, "bottleneck_dim": 16,
}  # fmt: skip


def shrink(node: DictConfig) -> None:
    for key in list(node):
        if OmegaConf.is_interpolation(node, key):
            continue
        if key in TINY:
            node[key] = TINY[key]
        elif isinstance(node[key], DictConfig):
            shrink(node[key])


def tiny(cfg: DictConfig, images: Path, output: Path) -> DictConfig:
    """The config at the smallest size that keeps its structure: two steps of four small images on the CPU."""
    shrink(cfg.model)
    loader = cfg.dataloader.train
    loader.source = LazyCall(ImageFolder)(root=str(images))
    loader.update(batch_size=4, num_workers=0)
    if loader.masks._target_ is CropMasks:  # others need room for their blocks
        patch = cfg.model.backbone.patch_size
        loader.crops.update(global_size=4 * patch, local_size=2 * patch)
        loader.masks.grid = (4, 4)
    cfg.train.update(max_iter=2, output_dir=str(output), device="cpu", log_period=1)
    cfg.train.amp.enabled = False
    if "head_warmup" in cfg.train:  # it needs weights to start from
        cfg.train.head_warmup = 0.0
    return cfg


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_config_trains_two_steps(name, images, tmp_path):
    cfg = tiny(load(name), images, tmp_path)
    checkpoint = pretrain(cfg)
    assert torch.load(checkpoint, weights_only=True)["iteration"] == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1]
    assert all(math.isfinite(line["total_loss"]) for line in lines)
    assert all(line["grad_norm/backbone"] > 0 for line in lines)


@pytest.mark.parametrize(
    "override, key",
    [
        ("train.hooks.0=0.5", "train.hooks.0"),
        ("train.hooks=[1]", "train.hooks.0"),
        ("train.writers=[x]", "train.writers.0"),
    ],
)
def test_what_is_no_hook_and_no_writer_is_refused(override, key):
    cfg = load_config(CONFIGS / f"{DEFAULT}.py", ["train.hooks.0=null"], Pretraining)
    assert cfg.train.hooks[0] is None
    with pytest.raises(UserError, match=rf"^{key} is .*; give a call that makes an? (HookBase or null|EventWriter)$"):
        load_config(CONFIGS / f"{DEFAULT}.py", [override], Pretraining)


@torch.no_grad()
def test_the_tiny_start_has_a_field_to_read_and_blocks_that_add_little():
    """docs/results.md, "Which start": a field of 0.03 of the content was not read; from one of 0.55, and from a
    LayerScale of 1, detectors started badly."""
    torch.manual_seed(0)
    net = instantiate(load_config(CONFIGS / "cropfield_tiny.py", []).model.backbone)
    content = net.embed_patches(torch.randn(4, 3, 96, 96))
    share = net.pos_embed.square().mean().sqrt() / content.square().mean().sqrt()
    assert 0.1 < share < 0.3
    assert all(0.05 <= gamma.abs().mean() <= 0.2 for name, gamma in net.named_parameters() if name.endswith(".gamma"))
