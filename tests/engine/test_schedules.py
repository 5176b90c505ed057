import math
from types import SimpleNamespace

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.engine.schedules import OptimizerSchedule, scaled_lr, warmup_cosine


def test_warmup_then_cosine():
    lr = warmup_cosine(peak=2.0, final=0.5, warmup=0.1)
    for progress in (0.0, 0.05, 0.0999):
        assert lr(progress) == pytest.approx(2.0 * progress / 0.1)
    for progress in (0.1, 0.4, 0.9):
        expected = 0.5 + 0.5 * (2.0 - 0.5) * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))
        assert lr(progress) == pytest.approx(expected)
    assert lr(1 - 1e-9) == pytest.approx(0.5)
    assert warmup_cosine(2.0, 0.5, warmup=0.0)(0.0) == 2.0


def test_square_root_rule():
    assert scaled_lr(2e-3, 1024) == pytest.approx(2e-3)
    assert scaled_lr(2e-3, 512) == pytest.approx(2e-3 / math.sqrt(2))


def test_hook_sets_every_group():
    parts = (("rest", True), ("rest", False), ("prototypes", True), ("backbone", True))
    groups = [{"part": p, "decay": d, "params": [torch.nn.Parameter(torch.zeros(1))]} for p, d in parts]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    weight_decay = CosineParamScheduler(0.04, 0.4)
    hook = OptimizerSchedule(optimizer, lambda p: 1 + p, weight_decay, freeze_prototypes=0.25, head_warmup=0.5)
    hook.trainer = SimpleNamespace(iter=0, max_iter=4, storage=SimpleNamespace(put_scalars=lambda **_: None))
    seen = []
    for hook.trainer.iter in range(4):
        hook.before_step()
        seen.append([(g["lr"], g["weight_decay"]) for g in optimizer.param_groups])
    decay = pytest.approx(0.04)
    assert seen[0] == [(1.0, decay), (1.0, 0.0), (0.0, decay), (0.0, decay)]  # prototypes and backbone frozen
    assert [lr for lr, _ in seen[1]] == [1.25, 1.25, 1.25, 0.0]  # backbone frozen
    assert [lr for lr, _ in seen[2]] == [1.5, 1.5, 1.5, 1.5]
    assert seen[2][0][1] == pytest.approx(0.22)  # half way from 0.04 to 0.4


def test_past_the_end_every_schedule_keeps_its_last_value():
    optimizer = torch.optim.AdamW([{"part": "rest", "decay": True, "params": [torch.nn.Parameter(torch.zeros(1))]}])
    (group,) = optimizer.param_groups
    hook = OptimizerSchedule(optimizer, warmup_cosine(1e-3, 1e-6, 0.1, start=1e-4), CosineParamScheduler(0.04, 0.4))
    hook.trainer = SimpleNamespace(iter=0, max_iter=10, storage=SimpleNamespace(put_scalars=lambda **_: None))
    for hook.trainer.iter in (10, 11, 1000):
        hook.before_step()
        assert (group["lr"], group["weight_decay"]) == (pytest.approx(1e-6), pytest.approx(0.4))
