"""Attention statistics: cases with known answers, and the definitions in plain form."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from lab.attention.stats import attention_stats, head_stats, image_stats, patch_distances
from pretrain.models.vit import VisionTransformer

_spec = importlib.util.spec_from_file_location(
    "plain_attention", Path(__file__).parents[2] / "reference" / "plain_attention.py"
)
plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain)


def keys_by_place(count: int, looks_at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k of one head, with which query i looks at key looks_at[i] alone: softmax of 1,000 there, 0 elsewhere."""
    eye = torch.eye(count)
    return (1000 * eye[looks_at] * math.sqrt(count))[None], eye[None]


def backbone_of(class_token: bool = True) -> VisionTransformer:
    torch.manual_seed(0)
    backbone = VisionTransformer(4, 24, 3, 3, field_size=5, layer_scale=0.5, class_token=class_token)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # far from uniform attention
    return backbone.eval().requires_grad_(False)


def images_of(count: int = 3, height: int = 12, width: int = 20) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grid", [(30, 30), (3, 7), (1, 4)])
def test_uniform_attention_has_no_information_and_the_distance_of_geometry(grid):
    height, width = grid
    nmi, distance = head_stats(torch.zeros(2, height * width, 8), torch.randn(2, height * width, 8), grid)
    assert nmi.abs().max() < 1e-12
    pairs = sum(  # how often two places of the grid are (rows, columns) apart
        (height - abs(rows)) * (width - abs(columns)) * math.sqrt(rows**2 + columns**2)
        for rows in range(1 - height, height)
        for columns in range(1 - width, width)
    )
    expected = pairs / (height * width) ** 2
    torch.testing.assert_close(distance, torch.full((2,), expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_mean_distance_of_a_fine_grid_is_that_of_the_unit_square():
    (_, distance) = head_stats(torch.zeros(1, 1600, 2), torch.zeros(1, 1600, 2), (40, 40))
    root = math.sqrt(2)
    assert distance.item() / 40 == pytest.approx((2 + root + 5 * math.log(1 + root)) / 15, rel=1e-3)


def test_attention_on_oneself_has_distance_zero_and_full_information():
    nmi, distance = head_stats(*keys_by_place(35, torch.arange(35)), (5, 7))
    assert nmi.item() == pytest.approx(1, abs=1e-6) and distance.item() == 0


def test_a_permutation_has_full_information_too_and_its_own_distance():
    right = torch.arange(35).view(5, 7).roll(-1, dims=1).flatten()  # the neighbour; from the last column to the first
    nmi, distance = head_stats(*keys_by_place(35, right), (5, 7))
    assert nmi.item() == pytest.approx(1, abs=1e-6)
    assert distance.item() == pytest.approx((6 * 1 + 6) / 7)


def test_all_on_one_patch_has_no_information():
    nmi, distance = head_stats(*keys_by_place(9, torch.full((9,), 4)), (3, 3))
    assert nmi.item() == 0
    assert distance.item() == pytest.approx((4 + 4 * math.sqrt(2)) / 9)


def test_half_of_the_information():
    """Eight keys in pairs: a query looks evenly at its pair, so I = log 4, H(q) = H(k) = log 8."""
    eye = torch.eye(4).repeat_interleave(2, 0)
    nmi, _ = head_stats(2000 * eye[None], eye[None], (2, 4))
    assert nmi.item() == pytest.approx(math.log(4) / math.log(8), abs=1e-6)


@pytest.mark.parametrize("class_token", [True, False])
def test_equals_the_definitions_written_out(class_token):
    backbone, images = backbone_of(class_token), images_of()
    nmi, distance = plain.plain_stats(backbone, images)
    stats = attention_stats(backbone, images)
    assert stats.nmi.shape == (3, 3) and stats.num_images == 3
    assert nmi.min() > 0.01 and nmi.std() > 1e-3  # the test would be empty on a uniform backbone
    torch.testing.assert_close(stats.nmi, nmi, atol=1e-5, rtol=0)
    torch.testing.assert_close(stats.distance, distance, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 4, 7, 100])
def test_blocks_of_rows_change_nothing(rows):
    torch.manual_seed(0)
    q, k = 3 * torch.randn(2, 2, 21, 8)
    torch.testing.assert_close(head_stats(q, k, (3, 7), rows), head_stats(q, k, (3, 7), 21), atol=1e-12, rtol=0)


def test_the_spread_is_that_of_the_images():
    backbone, images = backbone_of(), images_of()
    each = torch.stack([image_stats(backbone, image) for image in images])
    stats = attention_stats(backbone, iter(images))
    torch.testing.assert_close(torch.stack([stats.nmi, stats.distance]), each.mean(0))
    torch.testing.assert_close(
        torch.stack([stats.nmi_std, stats.distance_std]), each.std(0, correction=0), atol=1e-6, rtol=0
    )


def test_distances_are_those_of_centres():
    distances = patch_distances((2, 3), 1, 4)
    assert distances.shape == (3, 6)
    assert distances[0].tolist() == pytest.approx([1, 0, 1, math.sqrt(2), 1, math.sqrt(2)])


def test_no_matrix_of_all_pairs_is_made():
    """The largest tensor of a head's statistics is a block of rows, so memory does not grow with pairs of patches."""
    largest = 0

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            output = function(*args, **kwargs or {})
            if isinstance(output, torch.Tensor):
                largest = max(largest, output.numel())
            return output

    q = torch.randn(2, 400, 4)
    with Sizes():
        head_stats(q, q, (20, 20), rows=16)
    assert largest == 2 * 16 * 400
