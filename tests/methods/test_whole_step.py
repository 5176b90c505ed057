"""Whole steps against tests/reference/plain_step.py, in float64: losses, gradients, centres, student and teacher.

Ours packs the crops, reads the field by two small matrices, makes logits in blocks and the gradient with them. The
plain step does none of that, and shares no code with ours.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler
from plain_crops import place_in_field
from plain_step import PlainStep, plain_optimizer, plain_step

from lab.benchmarks.operations import Operations
from pretrain.engine.param_groups import param_groups
from pretrain.engine.schedules import OptimizerSchedule
from pretrain.engine.trainer import PretrainTrainer
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer

IMAGES, GRID, LOCAL_GRID, PATCH = 3, (4, 3), (2, 3), 4
CLIP, LR, DECAY, FROZEN = 0.5, (0.01, 0.001), (0.04, 0.4), 0.3  # the first of three steps

SWITCHES = {
    "cropfield": {},
    "no field": dict(field_sampling=False),
    "no content": dict(content_loss=False),
    "no position": dict(position_loss=False),
    "no koleo": dict(koleo_weight=0),
    "koleo .1": dict(koleo_weight=0.1),
    "sinkhorn": dict(centering="sinkhorn"),
    "no centering": dict(centering="none"),
    "dinov2": dict(field_sampling=False, position_loss=False),
    "dino": dict(field_sampling=False, content_loss=False, position_loss=False, koleo_weight=0),
}
CROPS = {"2 + 3": (2, 3), "2 + 0": (2, 0), "3 + 1": (3, 1), "1 + 2": (1, 2)}
each_variant = pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
each_number_of_crops = pytest.mark.parametrize("views, local", CROPS.values(), ids=CROPS.keys())


def make_pair(switches: dict) -> tuple[SelfDistillation, PlainStep]:
    """Both in float64, from values where everything matters: no token, bias or centre is zero, the teacher another."""
    torch.manual_seed(0)
    backbone = VisionTransformer(PATCH, embed_dim=8, depth=2, num_heads=2, field_size=(6, 5), layer_scale=0.5)
    sizes = dict(num_prototypes=10, head_hidden_dim=12, bottleneck_dim=5, block_rows=7)
    ours = SelfDistillation(backbone, CosineParamScheduler(0.6, 1.0), 4, **sizes, **switches).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in ours.named_buffers():
            if name.endswith("centre"):
                buffer.normal_(std=0.05)
    plain = PlainStep(
        ours, **{"field_sampling": True, "position_loss": True, "momentum": 0.6, "max_iter": 4, **switches}
    )
    return ours, plain.train()


def make_batch(views: int = 2, local: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Noise; boxes that t_s has placed, half of them mirrored; per view one crop masked each way and one not at all."""
    g, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    crops = IMAGES * views
    masks = torch.rand(2, crops, math.prod(GRID), generator=g) < 0.4
    masks[:, :, 0] = True
    kinds = (torch.arange(crops) + seed) % IMAGES
    batch = {"content_masks": masks[0] & (kinds == 0)[:, None], "position_masks": masks[1] & (kinds == 1)[:, None]}
    low, size = rng.uniform(0, 0.5, (IMAGES, views + local, 2)), rng.uniform(0.2, 0.5, (IMAGES, views + local, 2))
    boxes = np.concatenate([low, low + size], axis=-1)
    boxes[:, ::2] = boxes[:, ::2][..., [2, 1, 0, 3]]
    placed = torch.tensor([place_in_field(own, rng.uniform(0.2, 1), *rng.random(2)) for own in boxes]).transpose(0, 1)
    for name, part, grid in (("global", placed[:views], GRID), ("local", placed[views:], LOCAL_GRID)):
        if len(part):
            shape = (len(part) * IMAGES, 3, grid[0] * PATCH, grid[1] * PATCH)
            batch[f"{name}_crops"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=g)
            batch[f"{name}_boxes"] = part.flatten(0, 1)
    return batch | {"index": torch.arange(IMAGES)}


def as_plain(name: str) -> str:
    """What the plain step calls this parameter or centre of ours."""
    for ours, theirs in (
        ("prototypes.weight", "prototypes.parametrizations.weight.original1"),
        ("pos_mask_token", "tokens.position"),
        ("mask_token", "tokens.content"),
    ):
        if name.endswith(ours):
            return name.replace(ours, theirs)
    return name.removeprefix("centering.").replace(".centre", "_centre")


def assert_same(found: dict, expected: dict) -> None:
    for name, value in found.items():
        torch.testing.assert_close(value, expected[as_plain(name)], rtol=1e-9, atol=1e-11, msg=name)


def assert_losses_and_gradients_are_equal(switches: dict, batch: dict) -> None:
    ours, plain = make_pair(switches)
    found, expected = ours(batch, 0), plain(batch)
    assert found.keys() == expected.keys() and all(loss.abs() > 1e-3 for loss in found.values())
    assert_same(found, expected)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    trained = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    assert all(gradient.abs().max() > 1e-6 for gradient in trained.values())
    assert_same(trained, {name: p.grad for name, p in plain.named_parameters()})


@each_variant
def test_losses_and_every_gradient_are_those_of_the_plain_step(switches):
    assert_losses_and_gradients_are_equal(switches, make_batch())


@each_number_of_crops
@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_losses_and_every_gradient_with_other_numbers_of_crops(views, local, centering):
    assert_losses_and_gradients_are_equal(dict(centering=centering), make_batch(views, local))


def three_steps(ours: SelfDistillation) -> None:
    """As the trainer takes them, without its loader and log."""
    optimizer = torch.optim.AdamW(param_groups(ours), lr=1.0, fused=True)
    trainer = PretrainTrainer(ours, None, optimizer, amp=False, clip_grad=CLIP)
    schedule = OptimizerSchedule(optimizer, CosineParamScheduler(*LR), CosineParamScheduler(*DECAY), FROZEN)
    schedule.trainer = SimpleNamespace(iter=0, max_iter=3, storage=SimpleNamespace(put_scalars=lambda **_: None))
    for step in range(3):
        schedule.trainer.iter = step
        schedule.before_step()
        optimizer.zero_grad()
        sum(ours(make_batch(seed=step), step).values()).backward()
        trainer.clip_gradients()
        optimizer.step()
        ours.after_step(step)


def three_plain_steps(plain: PlainStep) -> None:
    optimizer = plain_optimizer(plain, lr=1.0)
    for step in range(3):
        rest = (1 + math.cos(math.pi * step / 3)) / 2
        for group in optimizer.param_groups:
            frozen = group["name"] == "prototypes" and step == 0
            group["lr"] = 0.0 if frozen else LR[1] + (LR[0] - LR[1]) * rest
            if group["name"] != "no_decay":
                group["weight_decay"] = DECAY[1] + (DECAY[0] - DECAY[1]) * rest
        plain_step(plain, optimizer, make_batch(seed=step), step, amp=False, clip=CLIP)


@each_variant
def test_student_teacher_and_centres_after_three_steps_are_those_of_the_plain_one(switches):
    ours, plain = make_pair(switches)
    start = {name: value.clone() for name, value in ours.state_dict().items()}
    three_steps(ours)
    three_plain_steps(plain)
    assert all((value - start[name]).abs().max() > 1e-3 for name, value in ours.state_dict().items())
    assert_same(ours.state_dict(), plain.state_dict())


def test_a_step_waits_for_the_device_only_to_find_the_masked_patches():
    """A host that waits cannot launch the kernels that come next."""
    ours, _ = make_pair({})
    trainer, batch = PretrainTrainer(ours, None, None, amp=False, clip_grad=CLIP), make_batch()
    with Operations() as operations:
        sum(ours(batch, 0).values()).backward()
        trainer.clip_gradients()
        ours.after_step(0)
    assert operations.waits == ["nonzero", "nonzero"] and operations.number > 100  # content and position
