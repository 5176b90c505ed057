import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fvcore.common.history_buffer import HistoryBuffer
from fvcore.common.param_scheduler import ConstantParamScheduler
from torch import nn

from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.masks import CropMasks
from pretrain.engine.monitors import Monitor, exploding_gradients
from pretrain.engine.trainer import PretrainTrainer
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer


class Blobs:
    """Images of a few large coloured patches, made where they are asked for."""

    def __len__(self):
        return 64

    def name(self, index):
        return f"blob {index}"

    def load(self, index, min_pixels=None):
        small = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return small.repeat(12, 0).repeat(12, 1)


class Counted(nn.Module):
    """A method that counts how often it is diagnosed."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.diagnosed = []

    def forward(self, batch, step):
        return {"loss_weight": self.weight**2}

    def after_step(self, step):
        pass

    def clip_groups(self):
        return {"weight": [self.weight]}

    def diagnose(self, batch):
        self.diagnosed.append(len(batch["index"]))
        return {"feature_std": torch.tensor(0.5), "patch_std": torch.tensor(torch.nan)}


@pytest.fixture
def warned():
    """The monitor's warnings."""
    messages, logger, handler = [], logging.getLogger("pretrain.engine.monitors"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def train(method: nn.Module, monitor: Monitor, steps: int, lr: float = 0.0) -> PretrainTrainer:
    crops = MultiCrop(32, num_local=1, local_size=16)
    loader = CropLoader(Blobs(), crops, CropMasks((4, 4)), batch_size=8)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr)
    trainer = PretrainTrainer(method, loader, optimizer, amp=False, clip_grad=3.0)
    trainer.register_hooks([monitor])
    trainer.train(0, steps)
    return trainer


def test_the_method_is_asked_once_a_period_about_the_steps_own_batch():
    method = Counted()
    trainer = train(method, Monitor(period=3), steps=7)
    assert method.diagnosed == [8, 8, 8]  # after step 1, to compare with; then 3 and 6
    history = trainer.storage.history("monitor/feature_std").values()
    assert [(value, step) for value, step in history] == [(0.5, 2), (0.5, 5)]
    assert "monitor/patch_std" not in trainer.storage.histories()  # NaN is no news
    method = Counted()
    train(method, Monitor(period=0), steps=3)
    assert method.diagnosed == []


def test_a_symptom_is_warned_of_when_it_has_lasted_and_again_when_it_persists(warned):
    monitor = Monitor(period=10, confirm=3, patience=0.5, remind=40)
    monitor.trainer = SimpleNamespace(max_iter=1000)
    monitor.judge({}, 1)
    for step in range(10, 100, 10):
        monitor.judge({} if step == 20 else {"bad": "it is bad"}, step)
    assert [message.partition(":")[0] for message in warned] == ["step 50", "step 90"]
    assert warned[0] == "step 50: it is bad. Seen at every check since step 30"


def test_what_was_there_from_the_start_is_given_time(warned):
    monitor = Monitor(period=10, confirm=3, patience=0.5)
    monitor.trainer = SimpleNamespace(max_iter=100)
    for step in (1, *range(10, 60, 10)):
        monitor.judge({"slow": "it is slow"}, step)
    assert len(warned) == 1 and warned[0].startswith("step 50")


def test_gradients_explode_against_what_they_were():
    def histories(values, head=0.5):
        found = {name: HistoryBuffer() for name in ("grad_norm/backbone", "grad_norm/head", "total_loss")}
        for step, value in enumerate(values):
            for history, number in zip(found.values(), (value, head, value), strict=True):
                history.update(number, step)
        return found

    assert exploding_gradients(histories([1.0] * 110), window=10) == {}
    assert exploding_gradients(histories([1.0] * 106 + [50.0] * 4), window=10) == {}  # not in the median
    found = exploding_gradients(histories([1.0] * 100 + [50.0] * 10), window=10)
    assert found.keys() == {"grad_norm/backbone explodes"}
    assert "is 50, it was 1" in found["grad_norm/backbone explodes"]
    assert exploding_gradients(histories([50.0] * 100 + [1.0] * 10), window=10) == {}
    assert exploding_gradients(histories([0.0] * 100 + [1.0] * 10), window=10) == {}  # frozen before
    weak = [0.01] * 100 + [0.5] * 10  # as StoP's backbone starts: beside the predictor's, next to nothing
    assert exploding_gradients(histories(weak, head=0.6), window=10) == {}
    assert exploding_gradients(histories(weak, head=0.4), window=10).keys() == {"grad_norm/backbone explodes"}


def tiny_method(field_init: str = "centred_sincos", **switches) -> SelfDistillation:
    torch.manual_seed(0)
    backbone = VisionTransformer(8, 32, 2, 2, field_size=6, field_init=field_init, layer_scale=1.0)
    options = dict(momentum=ConstantParamScheduler(0.9), max_iter=100, koleo_weight=0.1)
    shape = dict(num_prototypes=16, head_hidden_dim=64, bottleneck_dim=16)
    return SelfDistillation(backbone, **options, **shape, **switches)


def test_a_run_made_to_collapse_is_flagged_soon_and_a_healthy_one_is_not(warned):
    train(tiny_method(centering="sinkhorn", teacher_temp=0.02), Monitor(period=5), steps=30, lr=2e-3)
    assert warned == []
    train(tiny_method(centering="none", teacher_temp=0.1, student_temp=0.1), Monitor(period=5), steps=30, lr=2e-3)
    assert "every token gets the same target" in warned[0] and "set model.centering" in warned[0]


@pytest.mark.parametrize(("field_init", "switches", "expected"), [
    ("normal", {}, 1),
    ("normal", dict(field_sampling=False), 1),
    ("normal", dict(position_loss=False), 1),
    ("normal", dict(field_sampling=False, position_loss=False), 0),  # DINOv2
    ("centred_sincos", {}, 0),
])  # fmt: skip
def test_a_field_that_the_backbone_does_not_read_is_warned_of(warned, field_init, switches, expected):
    method = tiny_method(field_init, centering="sinkhorn", **switches)
    train(method, Monitor(period=2, patience=0.5), steps=10, lr=1e-4)
    assert len(warned) == expected
    assert all("does not read its position field" in message for message in warned)
    assert all(message.startswith("step 6:") for message in warned)  # when its patience is over
