"""The hooks that look at a run, in whole runs: what they leave, and that the run does not feel them."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils.events import TensorboardXWriter
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.probes.online_knn import OnlineKnn
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import make_writers, pretrain
from pretrain.errors import UserError

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
    """Dark and light images, a folder each."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(8):
        kind = folder / ("dark" if index % 2 else "light")
        kind.mkdir(exist_ok=True)
        picture = np.random.default_rng(index).integers(0, 60, (80, 100, 3)) + (0 if index % 2 else 190)
        Image.fromarray(picture.astype(np.uint8)).save(kind / f"{index}.png")
    return folder


def run(images: Path, output: Path, *overrides: str) -> dict:
    root = f"dataloader.train.source.root={images}"
    cfg = load_config(CONFIG, [root, f"train.output_dir={output}", *SMALL, *overrides])
    return torch.load(pretrain(cfg), weights_only=True)


def flat(state, prefix: str = "") -> dict:
    """Every leaf of a nested state by its path."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, value in items for k, v in flat(value, f"{prefix}/{name}").items()}
    return {prefix: state}


def test_a_run_that_is_looked_at_is_the_run_that_is_not(images, tmp_path):
    said, logger, handler = [], logging.getLogger("pretrain.engine"), logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    knn = (f"train.knn.train={images}", f"train.knn.val={images}", "train.knn.period=2", "train.knn.image_size=32")
    looked = flat(run(images, tmp_path / "a", "train.monitor.period=2", "train.pictures.period=3", *knn))
    logger.removeHandler(handler)
    blind = flat(run(images, tmp_path / "b", "train.monitor.period=0", "train.pictures.period=0"))
    assert looked.keys() == blind.keys()
    for name, value in looked.items():
        assert torch.equal(value, blind[name]) if torch.is_tensor(value) else value == blind[name], name

    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 3]
    for line in lines:
        assert line["monitor/feature_rank"] >= 1 and 0 <= line["monitor/accuracy_position"] <= 1
        assert line["knn/top1"] == 100  # dark and light are told apart by any backbone
    events = EventAccumulator(str(tmp_path / "a")).Reload()
    for name in ("field", "masks", "attention"):
        assert [image.step for image in events.Images(f"pictures/{name}")] == [2]
    assert "monitor/patch_std" in events.Tags()["scalars"]
    (summary,) = [text for text in said if text.startswith("done: 4 steps")]
    for part in ("feature_rank", "top1 100", "broken images skipped: 0", "export_backbone.py", "total_loss"):
        assert part in summary


def test_a_value_that_an_interruption_left_out_is_made_up_for(images, tmp_path, monkeypatch):
    """Once: not where metrics.json has it."""
    made = []
    monkeypatch.setattr(OnlineKnn, "evaluate", lambda self, when: made.append(when))
    hook = OnlineKnn(str(images), str(images), period=2, image_size=32)
    backbone = SimpleNamespace(patch_size=8)
    hook.trainer = SimpleNamespace(iter=4, folder=tmp_path, model=SimpleNamespace(backbone=backbone))
    lines = '{"knn/top1": 5.0, "iteration": 1}\n{"loss": 1.0, "iteration": 3}\n'
    (tmp_path / "metrics.json").write_text(lines)
    hook.before_train()
    assert made == ["after 4 steps"]
    for iteration in (3, 4):  # in its step, or before the one after it
        (tmp_path / "metrics.json").write_text(lines + f'{{"knn/top1": 5.0, "iteration": {iteration}}}\n{{"knn/to')
        hook.before_train()
    hook.trainer.iter = 5
    hook.before_train()
    assert made == ["after 4 steps"]


def test_half_a_labelled_set_is_refused(images, tmp_path):
    with pytest.raises(UserError, match="train.knn.train and train.knn.val"):
        run(images, tmp_path, f"train.knn.train={images}")
    with pytest.raises(UserError, match="not a multiple of the patch"):
        run(images, tmp_path, f"train.knn.train={images}", f"train.knn.val={images}", "train.knn.image_size=30")


def test_tensorboard_writes_last_wherever_it_is_listed(tmp_path):
    cfg = load_config(CONFIG, [f"train.output_dir={tmp_path}"])
    cfg.train.writers = list(cfg.train.writers)[::-1]
    writers = make_writers(cfg)
    assert len(writers) == 3 and [isinstance(writer, TensorboardXWriter) for writer in writers] == [False, False, True]
