"""Pretraining from given weights: both backbones start from a file, heads learn first, a resumed run reads no file."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from detectron2.config import instantiate
from PIL import Image

from pretrain.engine import checkpoint
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.errors import UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "cropfield_tiny.py"
SMALL = (
    "model.backbone.embed_dim=32", "model.backbone.depth=2", "model.backbone.num_heads=2",
    "model.backbone.field_size=8",
    "model.num_prototypes=32", "model.head_hidden_dim=32", "model.bottleneck_dim=16",
    "dataloader.train.batch_size=4", "dataloader.train.num_workers=0", "train.amp.enabled=False",
    "train.max_iter=2", "train.freeze_prototypes=0", "train.checkpointer.period=1", "lr_multiplier.warmup=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model of timm's, and its published file."""
    torch.manual_seed(5)
    model = timm.create_model(
        "vit_small_patch8_224", img_size=64, embed_dim=32, depth=2, num_heads=2, num_classes=3
    ).eval()
    torch.nn.init.normal_(model.cls_token)
    path = tmp_path_factory.mktemp("weights") / "pytorch_model.bin"
    torch.save(model.state_dict(), path)
    return model, path


def config(images, output, *overrides):
    root = f"dataloader.train.source.root={images}"
    return load_config(CONFIG, [root, f"train.output_dir={output}", *SMALL, *overrides])


@torch.no_grad()
def test_right_after_the_start_features_are_the_source_models(images, source, tmp_path, caplog):
    model, path = source
    with caplog.at_level("INFO"):
        method = instantiate(config(images, tmp_path, f"model.init={path}").model).eval()
    assert "all 34 tensors of the backbone matched" in caplog.text and "unused, as expected: head" in caplog.text
    crops = torch.randn(2, 3, 64, 64)
    expected = model.forward_features(crops)
    for backbone in (method.student["backbone"], method.teacher["backbone"]):
        class_tokens, patches = backbone(crops)
        found = torch.cat([class_tokens[:, None], patches], dim=1)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def states_after_each_step(cfg) -> list[dict]:
    """The model's state after every step of a run that saves after each."""
    states = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_torch_file", lambda _, state: states.append(deepcopy(state["model"])))
        pretrain(cfg)
    return states


def test_heads_alone_learn_during_the_head_warmup(images, source, tmp_path):
    """In the first of two steps the backbones stay bit for bit, decay included; in the second they move."""
    cfg = config(images, tmp_path, f"model.init={source[1]}", "train.head_warmup=0.5")
    start = {name: value for name, value in instantiate(cfg.model).state_dict().items() if ".backbone." in name}
    after = states_after_each_step(cfg)
    assert all(torch.equal(after[0][name], value) for name, value in start.items())
    head = "image_head.mlp.0.weight"  # equal in student and teacher until the student's learns
    assert not torch.equal(after[0][f"student.{head}"], after[0][f"teacher.{head}"])
    moved = {name.partition(".")[0] for name, value in start.items() if not torch.equal(after[1][name], value)}
    assert moved == {"student", "teacher"}


def test_a_resumed_run_does_not_read_the_weights_again(images, source, tmp_path):
    _, path = source
    copy = tmp_path / "weights.bin"
    copy.write_bytes(path.read_bytes())
    pretrain(config(images, tmp_path / "run", f"model.init={copy}"))
    copy.unlink()
    state = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    pretrain(config(images, tmp_path / "run", f"model.init={copy}"), resume=True)
    again = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    assert all(torch.equal(value, again["model"][name]) for name, value in state["model"].items())


def test_a_head_warmup_on_nothing_is_refused(images, tmp_path):
    with pytest.raises(UserError, match="add model.init=FILE"):
        pretrain(config(images, tmp_path, "train.head_warmup=0.1"))


def test_weights_of_another_architecture_are_refused(images, source, tmp_path):
    with pytest.raises(UserError, match="depth 2 and not 3"):
        pretrain(config(images, tmp_path, f"model.init={source[1]}", "model.backbone.depth=3"))


def test_the_recipe_warms_up_its_heads():
    cfg = load_config(CONFIG.with_name("cropfield_vits16_warmstart.py"), ["model.init=dinov2_vits14_pretrain.pth"])
    assert 0 < cfg.train.head_warmup < 0.5
    assert cfg.model.backbone.field_size == 37 and cfg.model.init.endswith(".pth")
