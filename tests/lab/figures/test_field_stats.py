"""Figures of the field: noise, waves and rotations, whose answers are known."""

import math

import pytest
import torch

from lab.figures.field_stats import (
    compare_fields,
    field_stats,
    linear_cka,
    on_finer_grid,
    read_field,
    reference_stats,
    spectrum,
)
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(dim):
    return torch.linalg.qr(noise(dim, dim, seed=9))[0]


def wave(height, width, across, down):
    """`across` half waves along x and `down` along y, one channel, and a mean that does not count."""
    x = torch.cos(math.pi * across * (torch.arange(width) + 0.5) / width)
    y = torch.cos(math.pi * down * (torch.arange(height) + 0.5) / height)
    return (y[:, None] * x)[..., None] + 3


def test_the_spectrum_of_a_wave_is_one_line_at_its_frequency():
    frequency, share = spectrum(wave(12, 20, 6, 8))
    assert share.max().item() == pytest.approx(1)
    assert frequency[share.argmax()].item() == pytest.approx(5)  # 3 and 4 cycles a side
    assert (frequency.diff() >= 0).all() and share.sum().item() == pytest.approx(1)
    assert field_stats(wave(12, 20, 0, 4).repeat(1, 1, 5))["median_frequency"] == pytest.approx(2)


def test_a_share_is_that_of_the_variance_in_float64():
    waves = torch.cat([wave(12, 20, 6, 0), wave(12, 20, 6, 8)], dim=-1).double()
    frequency, share = spectrum(waves)
    variance = waves.var((0, 1), correction=0)
    assert share[frequency == 3].sum().item() == pytest.approx((variance[0] / variance.sum()).item(), rel=1e-11)


def test_noise_is_noise_and_the_sine_cosine_field_is_smooth():
    found = reference_stats((20, 20), 64)
    assert abs(found["noise"]["neighbour_similarity"]) < 0.05
    assert found["noise"]["median_frequency"] == pytest.approx(20 * math.sqrt(0.5 / math.pi), rel=0.05)
    assert found["sincos"]["neighbour_similarity"] > 0.9 and found["sincos"]["median_frequency"] < 2
    assert found["sincos"]["three_components_percent"] > 4 * found["noise"]["three_components_percent"]


def test_three_components_and_mean():
    field = torch.zeros(4, 5, 6)
    field[..., :2] = noise(4, 5, 2)
    assert field_stats(field)["three_components_percent"] == pytest.approx(100)
    field = noise(4, 5, 6)
    field -= field.mean((0, 1))
    assert field_stats(field)["mean_percent"] == pytest.approx(0, abs=1e-4)
    length = field.square().sum(-1).mean().sqrt()
    shifted = field + torch.tensor([3.0, 0, 0, 0, 0, 0]) * length  # nine times the squared length
    assert field_stats(shifted)["mean_percent"] == pytest.approx(90, abs=1e-3)


def test_cka_does_not_see_rotation_shift_and_scale_and_the_plain_distance_does():
    field = noise(8, 8, 32)
    turned = 5 * field @ rotation(32) + 7
    found = compare_fields(field, turned)
    assert found["cka"] == pytest.approx(1, abs=1e-5) and found["relative_distance"] > 1
    assert compare_fields(field, field) == {"cka": pytest.approx(1), "relative_distance": 0}


def test_independent_noise_has_no_cka_even_in_many_channels():
    """Plain linear CKA would say 0.8 here."""
    values = [linear_cka(noise(196, 768, seed=i), noise(196, 768, seed=50 + i)) for i in range(3)]
    assert abs(sum(values) / 3) < 0.02
    found = compare_fields(noise(14, 14, 384), noise(14, 14, 384, seed=1))
    assert found["relative_distance"] == pytest.approx(math.sqrt(2), rel=0.02)


def test_cka_against_the_definition():
    """Song et al.'s sum over all pairs, triples and quadruples of different cells, written out for few of them."""
    x, y = noise(6, 3), noise(6, 2, seed=1)

    def hsic(a, b):
        k, m = a @ a.T, b @ b.T
        n, different = len(a), lambda *i: len(set(i)) == len(i)
        places = range(n)
        pairs = sum(k[i, j] * m[i, j] for i in places for j in places if i != j)
        triples = sum(k[i, j] * m[i, q] for i in places for j in places for q in places if different(i, j, q))
        fours = sum(
            k[i, j] * m[q, r] for i in places for j in places for q in places for r in places if different(i, j, q, r)
        )
        two, three, four = n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)
        return pairs / two + fours / four - 2 * triples / three

    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert linear_cka(x, y) == pytest.approx(expected.item(), abs=1e-5)


def test_fields_of_different_sizes_are_compared_on_the_finer_grid():
    coarse = wave(10, 10, 2, 1) * noise(16)
    fine = wave(30, 25, 2, 1) * noise(16)
    first, second = on_finer_grid(coarse, fine)
    assert first.shape == second.shape == (30, 25, 16) and torch.equal(second, fine)
    found = compare_fields(coarse, fine)
    assert found["cka"] > 0.99 and found["relative_distance"] < 0.05
    assert "relative_distance" not in compare_fields(coarse, fine[..., :8])


def test_the_field_of_a_file(tmp_path):
    backbone = VisionTransformer(8, 32, 1, 4, field_size=(3, 5))
    write_backbone(tmp_path / "backbone.pth", backbone.state_dict(), {"field_size": "3x5"})
    assert torch.equal(read_field(tmp_path / "backbone.pth"), backbone.pos_embed.data[0].unflatten(0, (3, 5)))
    state = {name: value for name, value in backbone.state_dict().items() if name != "pos_embed"}
    write_backbone(tmp_path / "none.pth", state, {})
    with pytest.raises(UserError, match="no absolute position embeddings"):
        read_field(tmp_path / "none.pth")
