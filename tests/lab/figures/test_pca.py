import numpy as np
import pytest
import torch

from lab.figures.pca import color_basis, colors


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1, 0.1])
    return torch.randn(200, 6, generator=generator, dtype=torch.float64) * spread


def own_colors(vectors):
    return colors(vectors, color_basis(vectors)).int()


def test_moving_turning_and_scaling_change_no_color(vectors):
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    moved = 7.5 * vectors @ turn + torch.arange(6)
    assert (own_colors(moved) - own_colors(vectors)).abs().max() <= 1


def test_order_of_the_vectors_does_not_matter(vectors):
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    assert (own_colors(vectors[order]) - own_colors(vectors)[order]).abs().max() <= 1


def test_channels_are_the_largest_directions_in_order(vectors):
    basis = color_basis(vectors)
    strongest = basis.components.abs().argmax(1)
    assert strongest.tolist() == [0, 1, 2]
    torch.testing.assert_close(basis.components @ basis.components.T, torch.eye(3, dtype=torch.float64))


def test_whole_range_is_used_and_another_basis_gives_other_colors(vectors):
    rgb = own_colors(vectors)
    assert rgb.min() == 0 and rgb.max() == 255
    other = color_basis(vectors.flip(1))
    assert not np.array_equal(colors(vectors, other), rgb)


def test_equal_vectors_have_equal_colors_without_nan():
    rgb = own_colors(torch.ones(20, 6))
    assert (rgb == rgb[0]).all()
