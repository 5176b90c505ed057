"""Our step, position loss off, against the plain DINOv2 step: the losses, and the weights after two steps."""

import pytest
import torch

from pretrain.benchmarks.plain_step import PlainDINOv2, plain_optimizer, plain_step
from pretrain.benchmarks.step_case import LR, OurStep, make_batch, make_method

SIZES = dict(num_prototypes=24, head_hidden_dim=16, bottleneck_dim=8, field_sampling=False, position_loss=False)
TRUNK = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2, field_size=5, drop_path_rate=0.0, layer_scale=0.5)


@pytest.fixture
def pair():
    """Our step and the plain model on the same weights and batch, in float64."""
    method = make_method(TRUNK, **SIZES).double()
    batch = make_batch(3, 32, 16, 3, patch=8)
    return OurStep(method, batch, amp=False), PlainDINOv2(method).train()


def test_the_losses_are_equal(pair):
    ours, plain = pair
    expected = plain(ours.batch)
    found = ours.method(ours.batch, 0)
    assert found.keys() == expected.keys()
    for name, loss in found.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-6, atol=1e-6, msg=name)  # the field is sampled in fp32


def test_two_steps_leave_equal_weights(pair):
    ours, plain = pair
    start = {name: p.detach().clone() for name, p in ours.method.named_parameters()}
    optimizer = plain_optimizer(plain, LR)
    for step in range(2):
        ours()
        plain_step(plain, optimizer, ours.batch, step, amp=False)
    expected = dict(plain.named_parameters()) | dict(plain.named_buffers())
    for name, parameter in ours.method.named_parameters():
        other = expected[name.replace("prototypes.weight", "prototypes.parametrizations.weight.original1")]
        torch.testing.assert_close(parameter, other, rtol=0, atol=1e-7, msg=name)
        assert not torch.equal(parameter, start[name]) or name.startswith("teacher"), name
    for name in ("image", "content"):
        centre = ours.method.centering[name].centre
        torch.testing.assert_close(centre, expected[f"{name}_centre"], rtol=0, atol=1e-7)
        assert centre.abs().max() > 1e-3
