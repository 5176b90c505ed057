import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrain.methods import losses
from pretrain.methods.losses import (
    block_of_logits,
    koleo_loss,
    plain_cross_entropy,
    prototype_cross_entropy,
    subtract_targets_,
)

DOUBLE = torch.float64


def inputs(groups, per_group, views, dim=8, prototypes=20):
    torch.manual_seed(0)
    return dict(
        student=torch.randn(groups, per_group, dim, dtype=DOUBLE, requires_grad=True),
        student_prototypes=torch.randn(prototypes, dim, dtype=DOUBLE, requires_grad=True),
        teacher=torch.randn(groups, views, dim, dtype=DOUBLE),
        teacher_prototypes=torch.randn(prototypes, dim, dtype=DOUBLE),
        centre=torch.randn(prototypes, dtype=DOUBLE),
        pairing=torch.rand(per_group, views, dtype=DOUBLE),
        weights=torch.rand(groups, dtype=DOUBLE),
    )


@pytest.mark.parametrize("groups,per_group,views", [(7, 10, 2), (13, 1, 1), (5, 1, 2), (5, 2, 1)])
@pytest.mark.parametrize("block_rows, cached_values", [(1, 1), (5, 450), (1000, 1), (1000, 450), (1000, 10000)])
def test_blocks_equal_full_logits_in_value_and_gradient(
    groups, per_group, views, block_rows, cached_values, monkeypatch
):
    """Blocks of one row to all, and pieces of them (20 values a row) of one group, two groups and the whole."""
    monkeypatch.setattr(losses, "CACHED_VALUES", cached_values)
    args = inputs(groups, per_group, views)
    ours = prototype_cross_entropy(**args, student_temp=0.1, teacher_temp=0.04, block_rows=block_rows)
    expected = plain_cross_entropy(**args, student_temp=0.1, teacher_temp=0.04)
    torch.testing.assert_close(ours, expected)
    wanted = (args["student"], args["student_prototypes"])
    for a, b in zip(torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * expected, wanted), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "groups,per_group,views,block_rows", [(7, 10, 2, 25), (13, 1, 1, 5), (3, 2, 4, 1), (9, 1, 2, 99)]
)
def test_a_block_has_no_more_rows_than_it_may_and_all_blocks_are_of_one_size(groups, per_group, views, block_rows):
    """A block is at least one group; only the last one may be shorter, by less than a row a block."""
    seen = []

    def subtract(logits, targets, *rest):
        assert len(logits) * views == len(targets) * per_group
        seen.append(len(logits) // per_group)
        return subtract_targets_(logits, targets, *rest)

    temps = dict(student_temp=0.1, teacher_temp=0.04)
    prototype_cross_entropy(**inputs(groups, per_group, views), **temps, block_rows=block_rows, subtract=subtract)
    assert sum(seen) == groups and max(seen) <= max(1, block_rows // max(per_group, views))
    assert len(seen) == math.ceil(groups / max(1, block_rows // max(per_group, views)))
    assert len(set(seen[:-1])) <= 1 and seen[0] - seen[-1] < len(seen)


def test_a_block_is_in_the_memory_of_the_last_and_no_gradient_is():
    """Of two losses, the first one's gradient is right after the second was computed in the same memory."""
    places, temps = set(), dict(student_temp=0.1, teacher_temp=0.04)

    def subtract(logits, targets, *rest):
        places.add((logits.data_ptr(), targets.data_ptr()))
        return subtract_targets_(logits, targets, *rest)

    first, second = inputs(7, 10, 2), inputs(5, 10, 2)
    loss = prototype_cross_entropy(**first, **temps, block_rows=30, subtract=subtract)
    prototype_cross_entropy(**second, **temps, block_rows=30, subtract=subtract)
    assert len(places) == 1 and len({*places.pop()}) == 2
    wanted = (first["student"], first["student_prototypes"])
    expected = torch.autograd.grad(plain_cross_entropy(**first, **temps), wanted)
    torch.testing.assert_close(torch.autograd.grad(loss, wanted), expected)


def test_threads_and_fake_tensors_have_blocks_of_their_own():
    """Two replicas in threads would write over each other; a fake tensor has no memory to keep."""
    tokens, prototypes = torch.ones(2, 3), torch.ones(4, 3)
    mine = block_of_logits("student", tokens, prototypes)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(block_of_logits, "student", 2 * tokens, prototypes).result()
    with FakeTensorMode() as mode:
        fake = block_of_logits("student", mode.from_tensor(tokens), mode.from_tensor(prototypes))
    assert mine.eq(3).all() and other.eq(6).all() and fake.shape == (2, 4)
    assert type(block_of_logits("student", tokens, prototypes)) is torch.Tensor


def test_training_goes_on_after_inference_mode_and_compiles():
    tokens, prototypes = torch.ones(2, 3, dtype=torch.float16), torch.ones(4, 3, dtype=torch.float16)
    with torch.inference_mode():
        block_of_logits("student", tokens, prototypes)
    assert block_of_logits("student", tokens, prototypes).eq(3).all()
    compiled = torch.compile(block_of_logits, backend="eager", fullgraph=True)
    assert compiled("student", tokens, prototypes).eq(3).all()


def test_no_gradient_reaches_the_teacher():
    args = inputs(4, 1, 1)
    for name in ("teacher", "teacher_prototypes", "centre"):
        args[name].requires_grad_()
    prototype_cross_entropy(**args, student_temp=0.1, teacher_temp=0.04).backward()
    assert all(args[name].grad is None for name in ("teacher", "teacher_prototypes", "centre"))
    assert args["student"].grad.abs().sum() > 0


def test_no_masked_token_at_all_is_a_loss_of_zero():
    args = inputs(0, 1, 1)
    loss = prototype_cross_entropy(**args, student_temp=0.1, teacher_temp=0.04)
    loss.backward()
    assert loss == 0 and not args["student_prototypes"].grad.any()


def test_loss_is_softmaxed_in_float32_under_autocast():
    args = {name: value.detach().float() for name, value in inputs(9, 2, 2).items()}
    full = prototype_cross_entropy(**args, student_temp=0.1, teacher_temp=0.04)
    with torch.autocast("cpu", torch.bfloat16):
        half = prototype_cross_entropy(**args, student_temp=0.1, teacher_temp=0.04)
    assert half.dtype == torch.float32
    assert 0 < abs(half - full) / full < 0.02  # bf16 products were used, and no worse than bf16 is


def test_koleo_equals_its_formula_and_pushes_neighbours_apart():
    torch.manual_seed(0)
    tokens = torch.randn(6, 4, dtype=DOUBLE, requires_grad=True)
    points = torch.nn.functional.normalize(tokens, dim=1)
    total = 0.0
    for i in range(6):
        total -= math.log(min((points[i] - points[j]).norm().item() for j in range(6) if j != i))
    loss = koleo_loss(tokens)
    assert loss.item() == pytest.approx(total / 6, abs=1e-6)
    loss.backward()
    moved = (tokens - 0.01 * tokens.grad).detach()
    assert koleo_loss(moved) < loss


def test_koleo_is_float32_under_autocast():
    tokens = torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = koleo_loss(tokens)
    torch.testing.assert_close(half, koleo_loss(tokens))
