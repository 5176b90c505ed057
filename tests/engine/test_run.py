import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.env import seed_all_rng
from PIL import Image

from pretrain.engine.checkpoint import load_checkpoint
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.engine.trainer import PretrainTrainer
from pretrain.errors import UserError
from pretrain.models.weights import read_backbone

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "pretrain" / "cropfield_tiny.py"
SMALL = (
    "model.backbone.embed_dim=32", "model.backbone.depth=2", "model.backbone.num_heads=2",
    "model.backbone.drop_path_rate=0.2",
    "model.num_prototypes=32", "model.head_hidden_dim=32", "model.bottleneck_dim=16",
    "dataloader.train.batch_size=4", "dataloader.train.num_workers=0", "train.amp.enabled=False",
    "train.max_iter=4", "train.log_period=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / f"{i}.jpg")
    (folder / "broken.jpg").write_bytes(b"not an image")
    return folder


def config(images, output, *overrides):
    root = f"dataloader.train.source.root={images}"
    return load_config(CONFIG, [root, f"train.output_dir={output}", *SMALL, *overrides])


def assert_equal(a, b):
    assert type(a) is type(b)
    if torch.is_tensor(a):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def test_a_run_keeps_its_initial_backbone(images, tmp_path):
    """Also once it is resumed; and it is what the seed makes, not what was learned."""
    cfg = config(images, tmp_path, "train.max_iter=1")
    pretrain(cfg)
    first = (tmp_path / "initial.safetensors").read_bytes()
    pretrain(config(images, tmp_path, "train.max_iter=2"), resume=True)
    assert (tmp_path / "initial.safetensors").read_bytes() == first
    initial, learned = read_backbone(tmp_path / "initial.safetensors"), read_backbone(tmp_path / "last.pth")
    assert initial.metadata["iteration"] == "0" and learned.metadata["iteration"] == "2"
    seed_all_rng(cfg.train.seed)
    made = instantiate(cfg.model).backbone.state_dict()
    assert initial.state.keys() == made.keys() and all(torch.equal(initial.state[name], made[name]) for name in made)
    assert not torch.equal(initial.state["pos_embed"], learned.state["pos_embed"])


def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one(images, tmp_path, monkeypatch):
    whole = torch.load(pretrain(config(images, tmp_path / "whole")), weights_only=True)

    calls = []

    def cut_power(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    original = PretrainTrainer.run_step
    monkeypatch.setattr(PretrainTrainer, "run_step", cut_power)
    again = config(images, tmp_path / "cut", "train.checkpointer.period=1")
    with pytest.raises(KeyboardInterrupt):
        pretrain(again)
    torch.rand(7)  # whatever happened in between must not matter
    again = config(images, tmp_path / "cut", "train.checkpointer.period=1")
    resumed = torch.load(pretrain(again, resume=True), weights_only=True)
    assert resumed["iteration"] == 4
    assert_equal(whole, resumed)

    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 3]
    assert lines[-1]["loss_position"] > 0 and lines[-1]["broken_images"] == 1
    assert any(name.startswith("events") for name in os.listdir(tmp_path / "whole"))


@pytest.mark.parametrize("epochs, steps", [(1.5, 2), (0.1, 1)])
def test_a_part_of_an_epoch_is_whole_steps(images, tmp_path, epochs, steps):
    """The seven images are one step of four an epoch."""
    assert load_checkpoint(pretrain(config(images, tmp_path, "train.max_iter=null", f"train.epochs={epochs}")))[
        "iteration"
    ] == pytest.approx(steps)


def test_a_state_says_how_pixels_were_normalised(images, tmp_path):
    last = pretrain(
        config(images, tmp_path, "train.max_iter=1", "model.image_mean=[1,2,3.5]", "model.image_std=[4,5,6]")
    )
    said = read_backbone(last).metadata
    assert (said["image_mean"], said["image_std"]) == ("1,2,3.5", "4,5,6")


def test_checkpoints_of_others_are_not_overwritten(images, tmp_path):
    (tmp_path / "step_0000001.pth").write_bytes(b"precious")
    with pytest.raises(UserError, match="step_0000001.pth exists, and would be written over"):
        pretrain(config(images, tmp_path, "train.max_iter=1"))


def test_an_earlier_run_is_not_overwritten(images, tmp_path):
    (tmp_path / "last.pth").write_bytes(b"precious")
    with pytest.raises(UserError, match="add --resume"):
        pretrain(config(images, tmp_path))
    assert (tmp_path / "last.pth").read_bytes() == b"precious"


def test_resuming_says_what_changed_and_a_refused_config_leaves_no_trace(images, tmp_path):
    pretrain(config(images, tmp_path, "train.max_iter=1"))
    saved = (tmp_path / "config.yaml").read_text()
    (tmp_path / ".last.pth.123.partial").write_bytes(b"half a checkpoint, of a killed process")
    with pytest.raises(UserError, match="another model or config"):
        pretrain(config(images, tmp_path, "model.backbone.depth=1"), resume=True)
    assert (tmp_path / "config.yaml").read_text() == saved
    pretrain(config(images, tmp_path, "train.max_iter=2", "optimizer.lr=0.001"), resume=True)
    log = (tmp_path / "log.txt").read_text()
    assert "resumed with a changed config: model.backbone.depth: 2 -> 1" in log
    assert "resumed with a changed config: train.max_iter: 1 -> 2" in log
    assert "max_iter: 2" in (tmp_path / "config.yaml").read_text()
    assert not list(tmp_path.glob(".*.partial*"))


@pytest.mark.parametrize("name", ["model_final.pth", "result.json", "step_0000002.pth"])
def test_results_of_another_run_or_of_one_without_its_last_state_are_not_written_over(images, tmp_path, name):
    """In a folder that a tool has opened; config.yaml and the figures there are part of the results."""
    for file in (".cropfield.lock", "config.yaml", "metrics.json", name):
        (tmp_path / file).write_bytes(b"precious")
    for resume in (False, True):
        with pytest.raises(UserError, match=f"{name} exists: .* choose another train.output_dir, or put its last.pth"):
            pretrain(config(images, tmp_path), resume)
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"precious"}


def test_a_runs_folder_is_not_among_its_images(images, tmp_path):
    (tmp_path / "link").symlink_to(images)
    (tmp_path / "more").mkdir()
    Image.new("RGB", (90, 90)).save(tmp_path / "more" / "1.jpg")
    for root in (images, f"[{tmp_path / 'more'},{images}]"):
        for output in (images, images / "out", tmp_path / "link" / "out"):
            with pytest.raises(UserError, match="the output folder .* lies in .*, all of whose images are taken"):
                pretrain(config(root, output))
    assert not (images / "out").exists()


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(images, tmp_path):
    """Its probe may already have kept a backbone."""
    for file in (".cropfield.lock", "best_detection.pth"):
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(UserError, match="best_detection.pth exists: .* add --resume to begin that run again"):
        pretrain(config(images, tmp_path))
    assert pretrain(config(images, tmp_path, "train.max_iter=1"), resume=True).exists()


@pytest.mark.parametrize("override", ["optimizer.lr=0.0005", "train.accumulate=3 train.max_iter=2"])
def test_the_config_stays_where_no_step_is_added(images, tmp_path, override):
    """The run is at its end, or what is asked for is refused."""
    pretrain(config(images, tmp_path, "train.max_iter=1"))
    saved = (tmp_path / "config.yaml").read_bytes()
    with contextlib.suppress(UserError):
        pretrain(config(images, tmp_path, "train.max_iter=1", *override.split()), resume=True)
    assert (tmp_path / "config.yaml").read_bytes() == saved


def test_with_another_batch_size_it_goes_on_after_as_many_images(images, tmp_path, monkeypatch):
    run, steps = PretrainTrainer.run_step, []
    monkeypatch.setattr(PretrainTrainer, "run_step", lambda self: steps.append(self.iter) or run(self))
    pretrain(config(images, tmp_path, "train.max_iter=3"))
    pretrain(config(images, tmp_path, "train.max_iter=8", "dataloader.train.batch_size=2"), resume=True)
    assert steps == [0, 1, 2, 6, 7] and "3 steps of 4 images are 6 of 2" in (tmp_path / "log.txt").read_text()
    with pytest.raises(UserError, match="nothing is left to train"):
        pretrain(config(images, tmp_path, "train.max_iter=1", "dataloader.train.batch_size=16"), resume=True)


@pytest.mark.parametrize(
    "override, words",
    [
        (
            "dataloader.train.masks.grid=[6,6]",
            "masks.grid: .6, 6., and global crops of 96 pixels have .12,12. patches of 8",
        ),
        (
            "model.backbone.patch_size=7",
            "^dataloader.train.masks.grid: crops of 96 pixels do not divide into patches of 7",
        ),
        ("dataloader.train.crops.num_global=0", "crops.num_global is 0; give a whole number from 1 to 1,000"),
        ("dataloader.train.crops.local_size=0", "crops.local_size is 0; give a whole number from 1"),
        ("dataloader.train.masks.content_share=-0.1", "masks.content_share is -0.1; give a number from 0 to 1"),
        ("dataloader.train.batch_size=0", "dataloader.train.batch_size is 0; give a whole number from 1"),
        ("dataloader.train.num_workers=-1", "dataloader.train.num_workers is -1; give a whole number from 0"),
        ("dataloader.train.seed=-1", "dataloader.train.seed is -1; give a whole number of at least 0"),
        ("dataloader.train.crops.local_size=33", "local_size: 33 pixels do not divide into patches of 8"),
        ("model.backbone.embed_dim=50", "^model.backbone: embed_dim 50 is not a multiple of num_heads"),
        ("model.backbone.field_init=foo", "^model.backbone: field_init 'foo' is neither"),
        ("model.backbone.depth=two", "model.backbone.depth is .two.; give a whole number"),
        ("optimizer.lr=0", "^optimizer.lr is 0; give a number above 0"),
        ("train.base_lr=0", "^train.base_lr is 0; give a number above 0"),
        ("lr_multiplier.peak=0 lr_multiplier.final=0", "^lr_multiplier: gives 0 throughout"),
        ("optimizer.betas=[0.9]", "^optimizer.betas is .*; give a list of 2 .a number."),
        ("dataloader.train.crops.aspect=[1,2,3]", "^dataloader.train.crops.aspect is .*; give a list of 2"),
        ("model.num_prototypes=0", "^model.num_prototypes is 0; give a whole number from 1"),
        ("train.max_iter=0", "^train.max_iter is 0; give a whole number"),
        ("train.checkpointer.period=0", "^train.checkpointer.period is 0"),
        ("train.device=xyz", "^train.device: 'xyz' cannot be used here"),
        ("lr_multiplier.final=nan", "^lr_multiplier.final is nan"),
        (
            "model.momentum.end_value=2.0",
            "^model.momentum: gives 1.104 at 0.25 of training; it must give numbers from 0 to 1",
        ),
        ("train.writers.0.max_iter=${train.writers.0.max_iter}", "^train.writers.0.max_iter .*Recursive interpolation"),
    ],
)
def test_what_a_part_refuses_is_one_sentence_with_its_key(images, tmp_path, override, words):
    with pytest.raises(UserError, match=words):
        pretrain(config(images, tmp_path, "model.backbone.num_heads=4", *override.split()))
    assert not (tmp_path / "last.pth").exists()


def test_masks_follow_the_size_of_crops_and_patches(images, tmp_path):
    """The loader's own check, on a grid that no override gave."""
    sizes = "dataloader.train.crops.global_size=64", "model.backbone.patch_size=16"
    assert instantiate(config(images, tmp_path, *sizes).dataloader.train).dataset.masks.grid == (4, 4)


def test_what_parts_cannot_do_together_is_told_in_the_first_step_and_later_errors_are_not(
    images, tmp_path, monkeypatch
):
    from pretrain.methods.distillation import SelfDistillation

    def fail_at(failing):
        def forward(self, batch, step):
            if step == failing:
                raise RuntimeError("shapes differ\nby much")
            return {"loss": self.mask_token.sum()}

        return forward

    monkeypatch.setattr(SelfDistillation, "forward", fail_at(0))
    with pytest.raises(UserError, match=r"^the first step failed \(RuntimeError: shapes differ\): "):
        pretrain(config(images, tmp_path / "first", "train.monitor.period=0"))
    monkeypatch.setattr(SelfDistillation, "forward", fail_at(1))
    with pytest.raises(RuntimeError, match="shapes differ"):
        pretrain(config(images, tmp_path / "second", "train.monitor.period=0"))


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(images, tmp_path, monkeypatch):
    from pretrain.methods.distillation import SelfDistillation

    forward = SelfDistillation.forward

    def diverge(self, batch, step):
        losses = forward(self, batch, step)
        return losses if step < 2 else {**losses, "loss_image": losses["loss_image"] * float("nan")}

    monkeypatch.setattr(SelfDistillation, "forward", diverge)
    with pytest.raises(UserError, match=r"step 2: the loss is not finite .*loss_image nan.*\.jpg"):
        pretrain(config(images, tmp_path, "train.checkpointer.period=1"))
    assert torch.load(tmp_path / "last.pth", weights_only=True)["iteration"] == 2


def test_length_and_learning_rate_follow_data_and_batch_size(images, tmp_path):
    from pretrain.engine.run import resolve_length_and_lr

    cfg = config(images, tmp_path, "train.max_iter=null", "train.epochs=5", "train.base_lr=0.01")
    resolve_length_and_lr(cfg, instantiate(cfg.dataloader.train))
    assert cfg.train.max_iter == 5 * (7 // 4)
    assert cfg.optimizer.lr == pytest.approx(0.01 * (4 / 1024) ** 0.5)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(images, tmp_path, monkeypatch):
    from pretrain.methods.distillation import SelfDistillation

    forward, seen = SelfDistillation.forward, {}

    def overflow(self, batch, step):
        losses = forward(self, batch, step)
        if step == 2:
            seen["model"], seen["weights"] = self, [p.clone() for p in self.parameters()]
            losses["loss_image"].register_hook(lambda gradient: gradient * float("inf"))
        return losses

    monkeypatch.setattr(SelfDistillation, "forward", overflow)
    with pytest.raises(UserError, match=r"step 2: the gradient is not finite .*grad_norm/backbone nan.*\.jpg"):
        pretrain(config(images, tmp_path, "train.checkpointer.period=1"))
    assert torch.load(tmp_path / "last.pth", weights_only=True)["iteration"] == 2
    assert all(torch.equal(a, b) for a, b in zip(seen["weights"], seen["model"].parameters(), strict=True))
