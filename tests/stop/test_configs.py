"""I-JEPA's and StoP's configs: the paper's values, deltas that are deltas, and one that trains, resumes and exports."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import ViT
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmViT

from cropfield import CropFieldViT, load_backbone
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain, resolve_length_and_lr
from pretrain.engine.trainer import PretrainTrainer
from pretrain.models.attention import pack

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "projects" / "StoP" / "configs"
ABLATIONS = CONFIGS / "ablations"

# Tables 10, 11, 12: epochs, learning rate, warm-up epochs, sigma, predictor's depth and heads, backbone's depth, width.
RECIPES = {
    "vitb16": (600, 8e-4, 15, 0.25, 6, 12, 12, 768),
    "vitl16": (600, 8e-4, 15, 0.25, 12, 16, 24, 1024),
    "vith14": (300, 1e-3, 40, 0.2, 12, 16, 32, 1280),  # 300 as in caption and text
}


class ManyImages:
    source, batch_size = range(1_281_167), 2048


@pytest.mark.parametrize("size", RECIPES)
@pytest.mark.parametrize("method", ["stop", "ijepa"])
def test_the_papers_values(method, size):
    epochs, rate, warmup, sigma, depth, heads, backbone_depth, width = RECIPES[size]
    cfg = load_config(CONFIGS / f"{method}_{size}_in1k.py", [])
    assert cfg.dataloader.train.batch_size == 2048
    resolve_length_and_lr(cfg, ManyImages)
    assert cfg.train.max_iter == epochs * 625
    assert cfg.optimizer.lr == pytest.approx(rate if method == "stop" else 1e-3)
    predictor, backbone = cfg.model.predictor, cfg.model.backbone
    assert predictor.noise_std == (sigma if method == "stop" else 0)
    assert (predictor.embed_dim, predictor.depth, predictor.num_heads) == (384, depth, heads)
    assert (predictor.backbone_dim, backbone.depth, backbone.embed_dim) == (width, backbone_depth, width)
    crops, masks = instantiate(cfg.dataloader.train.crops), instantiate(cfg.dataloader.train.masks)
    assert instantiate(masks.grid) == (crops.global_size / backbone.patch_size,) * 2 == (backbone.field_size,) * 2
    lr, weight_decay = instantiate(cfg.lr_multiplier), instantiate(cfg.weight_decay)
    assert lr(0.0) == 1e-4 and lr(warmup / epochs) == pytest.approx(cfg.optimizer.lr)
    assert lr(1.0) == pytest.approx(1e-6) and (weight_decay(0.0), weight_decay(1.0)) == pytest.approx((0.04, 0.4))


@pytest.mark.parametrize("name", ["ijepa_tiny.py", "stop_tiny.py"])
def test_tiny_positions_are_weaker_than_content(name):
    """And blocks start near the identity: a detector of few iterations needs the patches themselves."""
    backbone = instantiate(load_config(CONFIGS / name, []).model.backbone)
    with torch.no_grad():
        tokens, layout = pack([backbone.embed_patches(torch.randn(1, 3, 96, 96))])
        content, added = tokens.square().mean(), backbone.blocks[0](tokens, layout) - tokens
    assert backbone.pos_embed.square().mean() < content / 4 and added.square().mean() < content / 1000


DELTAS = {  # against stop.py
    "sincos": {"model.predictor.noise_std": 0.0},
    "learned_positions": {
        "model.predictor.noise_std": 0.0, "model.predictor.learned_positions": True,
        "model.backbone.learned_field": True, "model.backbone.field_init": "normal",
    },
    "noise_on_context": {"model.predictor.noise_on": "context"},
    "noise_on_both": {"model.predictor.noise_on": "both"},
    "half_resolution_bilinear": {"model.predictor.noise_std": 0.0, "model.half_resolution": "bilinear"},
    "half_resolution_max": {"model.predictor.noise_std": 0.0, "model.half_resolution": "max"},
    "l1": {"model.predictor.noise_std": 0.0, "model.l1": 1e-5},
    "l2": {"model.predictor.noise_std": 0.0, "model.l2": 1e-3},
    "untied": {"model.predictor.covariance": "untied"},
    **{f"sigma_0{s}": {"model.predictor.noise_std": s / 100} for s in (10, 40, 60)},
    **{f"fixed_sigma_0{s}": {"model.predictor.noise_std": s / 100, "model.predictor.covariance": "fixed"}
       for s in (10, 40, 60)},
    "fixed_sigma_025": {"model.predictor.covariance": "fixed"},
    "stop": {},
}  # fmt: skip


def flat(cfg: DictConfig) -> dict:
    """Values by key, as they are written: what follows another key is no change of its own."""

    def walk(node: dict, prefix: str = "") -> dict:
        values = {}
        for name, value in node.items():
            values |= walk(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return values

    return walk(OmegaConf.to_container(cfg))


def test_every_ablation_is_its_delta_of_table_9():
    assert {path.stem for path in ABLATIONS.glob("*.py")} == DELTAS.keys()
    listed = (ABLATIONS / "README.md").read_text()
    cfg = load_config(ABLATIONS / "stop.py", [])
    base = flat(cfg)
    resolve_length_and_lr(cfg, ManyImages)
    assert cfg.train.max_iter == 300 * 625 and cfg.optimizer.lr == pytest.approx(1e-3)
    assert instantiate(cfg.lr_multiplier)(15 / 300) == pytest.approx(1e-3)
    folders = set()
    for name, delta in DELTAS.items():
        changed = flat(load_config(ABLATIONS / f"{name}.py", []))
        folders.add(changed.pop("train.output_dir"))
        assert {key: changed[key] for key in changed if changed[key] != base.get(key)} == delta, name
        assert f"`{name}.py`" in listed
    assert len(folders) == len(DELTAS)


def test_the_release_is_its_delta_of_the_paper():
    """Each of them is said in the ablations' README."""
    cfg = load_config(CONFIGS / "stop_vitb16_release.py", [])
    base, changed = (flat(c) for c in (load_config(CONFIGS / "stop_vitb16_in1k.py", []), cfg))
    different = {key for key in base.keys() | changed.keys() if base.get(key) != changed.get(key)}
    assert different == {
        "dataloader.train.crops.flip", "dataloader.train.crops.photometric._target_",
        "dataloader.train.crops.photometric", "dataloader.train.masks.off_by_one", "dataloader.train.masks.one_number",
        "model.predictor.shared_bias", "lr_multiplier.start", "lr_multiplier.final", "train.output_dir",
    }  # fmt: skip
    resolve_length_and_lr(cfg, ManyImages)
    lr = instantiate(cfg.lr_multiplier)
    assert (lr(0.0), lr(15 / 600), lr(1.0)) == pytest.approx((2e-4, 8e-4, 1e-4))
    for photometric in instantiate(cfg.dataloader.train.crops).photometric:
        probabilities = (photometric.jitter_prob, photometric.grey_prob, photometric.blur_prob)
        assert probabilities == (0, 0.2, 0.5) and photometric.solarize_prob == 0
    assert instantiate(cfg.dataloader.train.masks).group_size == 64


SMALL = (
    "model.backbone.embed_dim=48", "model.backbone.depth=2", "model.predictor.embed_dim=24", "model.predictor.depth=1",
    "model.backbone.field_size=6", "dataloader.train.crops.global_size=48", "dataloader.train.masks.grid=[6,6]",
    "dataloader.train.masks.min_keep=3", "dataloader.train.batch_size=4", "dataloader.train.num_workers=0",
    "train.amp.enabled=False", "train.max_iter=4", "train.log_period=2", "train.base_lr=0.1", "train.device=cpu",
    "model.backbone.layer_scale=null",  # as in all but the tiny recipes
)  # fmt: skip
SHAPE = dict(patch_size=8, embed_dim=48, depth=2, num_heads=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`whole`: four steps of a small StoP. `cut`: the same, stopped after two steps and resumed."""
    folder, images = tmp_path_factory.mktemp("stop"), tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(images / f"{i}.png")

    def config(name, *more):
        places = (f"dataloader.train.source.root={images}", f"train.output_dir={folder / name}")
        return load_config(CONFIGS / "stop_tiny.py", [*SMALL, *places, *more])

    pretrain(config("whole"))
    run_step = PretrainTrainer.run_step

    def stop_at_two(self):
        if self.iter == 2:
            raise KeyboardInterrupt
        run_step(self)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PretrainTrainer, "run_step", stop_at_two)
        pretrain(config("cut", "train.checkpointer.period=1"))
    torch.rand(7)
    pretrain(config("cut", "train.checkpointer.period=1"), resume=True)
    return folder


def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one(runs):
    whole, cut = (torch.load(runs / name / "last.pth", weights_only=True) for name in ("whole", "cut"))
    assert whole["iteration"] == cut["iteration"] == 4 and whole["metadata"]["method"] == "JEPA"
    assert whole["model"].keys() == cut["model"].keys()
    assert all(torch.equal(whole["model"][name], cut["model"][name]) for name in whole["model"])
    first = instantiate(OmegaConf.load(runs / "whole" / "config.yaml").model).state_dict()["predictor.embed.weight"]
    assert not torch.equal(first, whole["model"]["predictor.embed.weight"])
    for a, b in zip(whole["optimizer"]["state"].values(), cut["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def export(runs, *options) -> Path:
    path = runs / f"backbone{len(options)}.safetensors"
    tool = runpy.run_path(str(ROOT / "tools" / "export_backbone.py"), run_name="imported")
    with pytest.MonkeyPatch.context() as patch:
        command = ["export_backbone.py", str(runs / "whole" / "last.pth"), "--overwrite", "-o", str(path), *options]
        patch.setattr(sys, "argv", command)
        tool["main"]()
    return path


@pytest.mark.parametrize("size", [(48, 48), (32, 64)])
@torch.no_grad()
def test_exported_features_agree_everywhere(runs, size):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    cfg = OmegaConf.load(runs / "whole" / "config.yaml")
    model = instantiate(cfg.model)
    model.load_state_dict(torch.load(runs / "whole" / "last.pth", weights_only=True)["model"])
    _, expected = model.teacher["backbone"].eval()(images)

    ours = CropFieldViT(**SHAPE, field_size=6, layer_scale=None, final_norm=True).eval()
    load_backbone(ours, export(runs))
    found = ours(images)["last_feat"].flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)

    options = () if size == (48, 48) else ("--image-size", f"{size[0]}x{size[1]}")
    theirs = TimmViT(img_size=size, class_token=False, global_pool="avg", fc_norm=False, num_classes=0, **SHAPE).eval()
    theirs.load_state_dict(load_file(export(runs, *options)))
    torch.testing.assert_close(theirs.forward_features(images), expected, atol=1e-4, rtol=0)

    stock = ViT(pretrain_img_size=48, pretrain_use_cls_token=False, use_rel_pos=False, window_size=0, **SHAPE).eval()
    missing = stock.load_state_dict(load_file(export(runs)), strict=False)
    assert set(missing.unexpected_keys) == {"norm.weight", "norm.bias"} and not missing.missing_keys
    found = model.teacher["backbone"].norm(stock(images)["last_feat"].flatten(2).transpose(1, 2))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
