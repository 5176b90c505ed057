import torch

from pretrain.models.heads import ProjectionHead


def test_head_ends_on_the_sphere_and_prototypes_are_unit_with_frozen_gain():
    head = ProjectionHead(16, num_prototypes=50, hidden_dim=32, bottleneck_dim=8)
    z = head(torch.randn(5, 16))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(head.prototypes().norm(dim=1), torch.ones(50))
    assert [name for name, _ in head.prototypes.named_parameters()] == ["weight"]


def test_prototype_gradient_is_that_of_normalisation():
    head = ProjectionHead(16, num_prototypes=20, hidden_dim=8, bottleneck_dim=4).double()
    direction = torch.randn(20, 4, dtype=torch.float64)
    (ours,) = torch.autograd.grad((head.prototypes() * direction).sum(), head.prototypes.weight)
    weight = head.prototypes.weight.detach().requires_grad_()
    (expected,) = torch.autograd.grad((weight / weight.norm(dim=1, keepdim=True) * direction).sum(), weight)
    torch.testing.assert_close(ours, expected)
