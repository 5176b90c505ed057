import math

import pytest
import torch
import torch.nn.functional as F

from pretrain.errors import UserError
from pretrain.models.pos_embed import interpolation_matrix, sample_pos_embed, sincos_field, sincos_pos_embed

FIELD = torch.randn(1, 50 * 50, 8, generator=torch.Generator().manual_seed(0))
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize("grid", [(14, 14), (50, 50), (64, 64), (32, 48)])
def test_whole_box_is_bicubic_interpolation(grid):
    image = FIELD.view(1, 50, 50, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(image, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(sample_pos_embed(FIELD, WHOLE, grid), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [14, 19, 28, 50])
def test_on_its_own_grid_a_field_is_read_as_it_is(side):
    field = torch.randn(1, side, side, 3)
    assert torch.equal(sample_pos_embed(field, None, (side, side)), field.flatten(1, 2))
    mirrored = sample_pos_embed(field, torch.tensor([[1.0, 0.0, 0.0, 1.0]]), (side, side))
    assert torch.equal(mirrored, field.flip(2).flatten(1, 2))


def test_flipped_box_is_the_mirrored_embedding():
    box = torch.tensor([[0.1, 0.2, 0.7, 0.5]])
    mirrored = sample_pos_embed(FIELD, box[:, [2, 1, 0, 3]], (5, 7)).view(5, 7, 8)
    straight = sample_pos_embed(FIELD, box, (5, 7)).view(5, 7, 8)
    torch.testing.assert_close(mirrored, straight.flip(1), atol=1e-4, rtol=0)


def test_same_place_same_position_whatever_the_crop():
    """A 2x2 crop inside a 4x4 crop, with patches of equal size: their patch centres coincide."""
    outer = sample_pos_embed(FIELD, torch.tensor([[0.2, 0.3, 0.6, 0.7]]), (4, 4)).view(4, 4, 8)
    inner = sample_pos_embed(FIELD, torch.tensor([[0.3, 0.4, 0.5, 0.6]]), (2, 2)).view(2, 2, 8)
    torch.testing.assert_close(inner, outer[1:3, 1:3], atol=1e-5, rtol=1e-5)


def test_boxes_are_sampled_independently_and_field_need_not_be_square():
    field = torch.randn(1, 6, 9, 4)
    boxes = torch.rand(5, 4)
    together = sample_pos_embed(field, boxes, (3, 2))
    alone = torch.cat([sample_pos_embed(field, box[None], (3, 2)) for box in boxes])
    torch.testing.assert_close(together, alone)
    with pytest.raises(ValueError, match="54 positions is not square"):
        sample_pos_embed(field.flatten(1, 2), boxes, (3, 2))


def test_equals_grid_sample_inside_the_field():
    """Far enough from the border that no clamping takes part, torch's grid_sample is an independent reference."""
    box = torch.tensor([[0.15, 0.25, 0.8, 0.6]])
    ys = 0.25 + (torch.arange(4) + 0.5) / 4 * (0.6 - 0.25)
    xs = 0.15 + (torch.arange(6) + 0.5) / 6 * (0.8 - 0.15)
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None] * 2 - 1
    image = FIELD.view(1, 50, 50, 8).permute(0, 3, 1, 2)
    expected = F.grid_sample(image, points, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(sample_pos_embed(FIELD, box, (4, 6)), expected, atol=1e-4, rtol=0)


def test_weights_sum_to_one_even_at_and_beyond_the_border():
    weights = interpolation_matrix(torch.tensor([-0.2, 0.0]), torch.tensor([0.3, 1.0]), 9, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 9))


def test_gradient_reaches_the_field_and_stays_float32_under_autocast():
    field = FIELD.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        samples = sample_pos_embed(field, WHOLE, (5, 5))
    assert samples.dtype == torch.float32
    torch.testing.assert_close(samples, sample_pos_embed(FIELD, WHOLE, (5, 5)))
    samples.sum().backward()
    torch.testing.assert_close(field.grad.sum(), torch.tensor(5.0 * 5 * 8))  # weights sum to one


def test_a_field_in_float64_is_read_in_float64():
    field = torch.randn(1, 6, 9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(field.permute(0, 3, 1, 2), (5, 7), mode="bicubic").flatten(2).transpose(1, 2)
    for boxes in (None, WHOLE):
        torch.testing.assert_close(sample_pos_embed(field, boxes, (5, 7)), expected, rtol=1e-12, atol=1e-12)


def test_sincos_similarity_depends_on_the_offset_alone():
    a, b = torch.rand(2, 5, 2, dtype=torch.float64) * 16
    shift = torch.tensor([3.0, -2.0], dtype=torch.float64)
    here = (sincos_pos_embed(a, 32) * sincos_pos_embed(b, 32)).sum(-1)
    there = (sincos_pos_embed(a + shift, 32) * sincos_pos_embed(b + shift, 32)).sum(-1)
    torch.testing.assert_close(here, there)
    assert (here < 16).all()  # and is largest, 32 / 2, for a point and itself


def test_sincos_is_the_formula_with_wavelengths_up_to_10000():
    """x in the first half of the channels, y in the second, each as sines and then cosines."""
    x, y, dim = 3.25, -7.5, 16
    rates = [1 / 10000 ** (4 * i / dim) for i in range(dim // 4)]
    expected = [f(v * rate) for v in (x, y) for f in (math.sin, math.cos) for rate in rates]
    torch.testing.assert_close(sincos_pos_embed(torch.tensor([x, y]), dim), torch.tensor(expected))


def test_sincos_needs_sine_and_cosine_of_both_axes():
    with pytest.raises(UserError, match="a multiple of 4, and it is 198"):
        sincos_field(2, 3, 198)


def test_sincos_field_holds_its_cells_centres():
    field = sincos_field(3, 5, 16).view(3, 5, 16)
    torch.testing.assert_close(field[1, 4], sincos_pos_embed(torch.tensor([4.5, 1.5]), 16))
