import pytest
import torch

from lab.figures.pca import colors


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([5.0, 3.0, 2.0, 0.1, 0.1, 0.1])
    return torch.randn(200, 6, generator=generator, dtype=torch.float64) * spread


def own_colors(vectors):
    return colors([vectors])[0].int()


def test_moving_turning_and_scaling_change_no_color(vectors):
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    moved = 7.5 * vectors @ turn + torch.arange(6)
    assert (own_colors(moved) - own_colors(vectors)).abs().max() <= 1


def test_order_of_the_vectors_does_not_matter(vectors):
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    assert (own_colors(vectors[order]) - own_colors(vectors)[order]).abs().max() <= 1


def test_channels_are_the_largest_directions_in_order(vectors):
    rgb = own_colors(vectors).double()
    together = torch.corrcoef(torch.cat([rgb, vectors], 1).T)[:3, 3:].abs()
    assert together.argmax(1).tolist() == [0, 1, 2] and together.diagonal().min() > 0.9


def test_whole_range_is_used():
    rgb = own_colors(torch.randn(200, 6, generator=torch.Generator().manual_seed(3)))
    assert rgb.min() == 0 and rgb.max() == 255


def test_arrays_share_their_directions_and_keep_their_shapes(vectors):
    first, second = colors([vectors[:60].view(6, 10, 6), vectors[60:]])
    assert first.shape == (6, 10, 3) and second.shape == (140, 3)
    assert torch.equal(torch.cat([first.flatten(0, 1), second]).int(), own_colors(vectors))
    assert not torch.equal(first.flatten(0, 1).int(), own_colors(vectors[:60]))


def test_equal_vectors_have_equal_colors_without_nan():
    rgb = own_colors(torch.ones(20, 6))
    assert (rgb == rgb[0]).all()
