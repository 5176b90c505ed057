import pytest
import torch

from pretrain.models.heads import ProjectionHead


def test_head_ends_on_the_sphere_and_prototypes_are_unit_with_frozen_gain():
    head = ProjectionHead(16, num_prototypes=50, hidden_dim=32, bottleneck_dim=8)
    z = head(torch.randn(5, 16))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(head.prototypes().norm(dim=1), torch.ones(50))
    assert [name for name, _ in head.prototypes.named_parameters()] == ["weight"]


def test_points_are_unit_vectors_in_float32_under_autocast():
    torch.manual_seed(0)
    head, tokens = ProjectionHead(16, num_prototypes=50, hidden_dim=32, bottleneck_dim=8), torch.randn(5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        half = head(tokens)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=1), torch.ones(5), atol=1e-6, rtol=0)  # bfloat16 is off by 1e-3
    torch.testing.assert_close(half, head(tokens), atol=0.05, rtol=0)
    assert head.double()(tokens.double()).dtype == torch.float64


def test_prototype_gradient_is_that_of_normalisation():
    head = ProjectionHead(16, num_prototypes=20, hidden_dim=8, bottleneck_dim=4).double()
    direction = torch.randn(20, 4, dtype=torch.float64)
    (ours,) = torch.autograd.grad((head.prototypes() * direction).sum(), head.prototypes.weight)
    weight = head.prototypes.weight.detach().requires_grad_()
    (expected,) = torch.autograd.grad((weight / weight.norm(dim=1, keepdim=True) * direction).sum(), weight)
    torch.testing.assert_close(ours, expected)


def test_prototypes_begin_as_a_linear_layers_weights_and_are_all_that_a_checkpoint_holds():
    torch.manual_seed(0)
    prototypes = ProjectionHead(16, num_prototypes=500, hidden_dim=8, bottleneck_dim=64).prototypes
    assert prototypes.weight.abs().max().item() == pytest.approx(64**-0.5, rel=1e-3)
    assert prototypes.state_dict().keys() == {"weight"}


def test_the_mlp_begins_small_and_has_the_papers_shape():
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in ProjectionHead(384).parameters() if p.dim() > 1]
    assert shapes == [(2048, 384), (2048, 2048), (256, 2048), (65536, 256)]
    head = ProjectionHead(64, num_prototypes=5, hidden_dim=96, bottleneck_dim=48)
    for linear in head.mlp[::2]:
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and not linear.bias.any()
