"""What a step does to the parameters, against formulas written out in float64: decay, AdamW, freezing, clipping."""

import math
from types import SimpleNamespace

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.engine.param_groups import param_groups
from pretrain.engine.schedules import OptimizerSchedule, warmup_cosine
from pretrain.engine.trainer import PretrainTrainer
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer

STEPS, PEAK, FINAL = 8, 0.1, 0.01
BETAS, EPS = (0.9, 0.999), 1e-8


def make_method() -> SelfDistillation:
    torch.manual_seed(0)
    backbone = VisionTransformer(patch_size=4, embed_dim=8, depth=1, num_heads=2, field_size=3)
    sizes = dict(num_prototypes=6, head_hidden_dim=8, bottleneck_dim=4)
    return SelfDistillation(backbone, CosineParamScheduler(0.9, 1.0), STEPS, **sizes).double()


def decays(name: str) -> bool:
    """Who is decayed: everything but biases, norms and LayerScale; the field and the tokens are."""
    return not any(word in name for word in ("bias", "norm", "gamma"))


def plain_lr(step: int) -> float:
    """A quarter of the steps from zero to the peak, then half a cosine."""
    warmup = STEPS // 4
    if step < warmup:
        return PEAK * step / warmup
    return FINAL + (PEAK - FINAL) * (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) / 2


def plain_weight_decay(step: int) -> float:
    return 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * step / STEPS)) / 2


class Run:
    """Steps of the optimizer under the schedule, with gradients drawn at random."""

    def __init__(self, freeze_prototypes: float):
        self.method = make_method()
        self.named = {name: p for name, p in self.method.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(param_groups(self.method), lr=1.0, betas=BETAS, eps=EPS, fused=True)
        decay = CosineParamScheduler(0.04, 0.4)
        self.hook = OptimizerSchedule(self.optimizer, warmup_cosine(PEAK, FINAL, 0.25), decay, freeze_prototypes)
        storage = SimpleNamespace(put_scalars=lambda **_: None)
        self.hook.trainer = SimpleNamespace(iter=0, max_iter=STEPS, storage=storage)

    def step(self, step: int) -> dict[str, torch.Tensor]:
        self.hook.trainer.iter = step
        self.hook.before_step()
        for parameter in self.named.values():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        return {name: parameter.grad for name, parameter in self.named.items()}


def test_a_run_is_adamw_with_the_scheduled_rates_and_decay_where_it_belongs():
    run = Run(freeze_prototypes=0.0)
    plain = {name: p.detach().clone() for name, p in run.named.items()}
    first = {name: torch.zeros_like(p) for name, p in plain.items()}
    second = {name: torch.zeros_like(p) for name, p in plain.items()}
    for step in range(STEPS):
        gradients = run.step(step)
        lr = plain_lr(step)
        for name, gradient in gradients.items():
            first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * gradient
            second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * gradient**2
            mean = first[name] / (1 - BETAS[0] ** (step + 1))
            variance = second[name] / (1 - BETAS[1] ** (step + 1))
            shrunk = plain[name] * (1 - lr * plain_weight_decay(step)) if decays(name) else plain[name]
            plain[name] = shrunk - lr * mean / (variance.sqrt() + EPS)
    for name, parameter in run.named.items():
        torch.testing.assert_close(parameter.detach(), plain[name], rtol=1e-9, atol=1e-12, msg=name)


def test_prototypes_do_not_move_by_a_bit_in_the_first_epoch():
    run = Run(freeze_prototypes=0.5)
    before = {name: p.detach().clone() for name, p in run.named.items()}
    for step in range(STEPS):
        run.step(step)
        for name, parameter in run.named.items():
            frozen = "prototypes" in name and step < STEPS // 2
            started = step > 0  # at step 0 the learning rate is still zero
            assert torch.equal(parameter, before[name]) == (frozen or not started), (name, step)


@pytest.mark.parametrize("limit", [3.0, 0.0])
def test_each_sub_module_is_clipped_on_its_own(limit):
    method = make_method()
    trainer = PretrainTrainer(method, loader=None, optimizer=None, amp=False, clip_grad=limit)
    scale = {"backbone": 5.0, "image_head": 1e-3, "content_head": 1.0, "position_head": 100.0}
    members = {name: list(method.student[name].named_parameters(prefix=f"student.{name}")) for name in scale}
    members["backbone"] += [("mask_token", method.mask_token), ("pos_mask_token", method.pos_mask_token)]
    gradients = {}
    for name, parameters in members.items():
        for full_name, parameter in parameters:
            parameter.grad = scale[name] * torch.randn_like(parameter)
            gradients[full_name] = parameter.grad.clone()
    norms = trainer.clip_gradients()
    for name, parameters in members.items():
        norm = math.sqrt(sum((gradients[full_name] ** 2).sum().item() for full_name, _ in parameters))
        assert norms[f"grad_norm/{name}"].item() == pytest.approx(norm)  # logged as it was before
        factor = min(1.0, limit / norm) if limit else 1.0
        assert (factor == 1.0) == (name == "image_head" or not limit)
        for full_name, parameter in parameters:
            torch.testing.assert_close(parameter.grad, factor * gradients[full_name], rtol=1e-5, atol=0)
