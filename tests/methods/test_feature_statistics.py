import math

import pytest
import torch
from torch import nn

from pretrain.methods.feature_statistics import (
    assignment_statistics,
    directional_std,
    effective_rank,
    entropy,
    mean_cosine,
    relative_distance,
    rms,
)


def orthogonal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """(rows, columns) with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))[0]


@pytest.mark.parametrize(("n", "dim"), [(40, 12), (12, 40)])
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_effective_rank_of_equal_singular_values_is_the_rank(n, dim, rank):
    features = 7.5 * orthogonal(n, rank) @ orthogonal(dim, rank, seed=1).T
    assert effective_rank(features).item() == pytest.approx(rank, rel=1e-4)


def test_effective_rank_is_rankmes_formula_and_says_when_features_are_not_finite():
    features = torch.randn(30, 9, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -2, 9)
    share = torch.linalg.svdvals(features.double())
    share = share / share.sum()
    expected = math.exp(-sum(p * math.log(p) for p in share.tolist()))
    assert effective_rank(features).item() == pytest.approx(expected, rel=1e-5)
    features[3, 2] = torch.inf
    assert effective_rank(features).isnan()
    assert effective_rank(torch.zeros(5, 4)).item() == 1


def test_directional_std_is_zero_for_equal_directions_and_one_where_they_cancel():
    direction = torch.randn(16, generator=torch.Generator().manual_seed(0))
    same = torch.linspace(0.1, 9, 20)[:, None] * direction
    assert directional_std(same).item() < 1e-3
    assert directional_std(torch.cat([same, -same])).item() == pytest.approx(1)
    two = torch.eye(2).repeat(4, 1)  # mean direction (1/2, 1/2)
    assert directional_std(two).item() == pytest.approx(math.sqrt(1 / 2))


def test_entropy_is_zero_for_certainty_and_log_k_for_none():
    assert entropy(torch.eye(7)).abs().max() == 0
    torch.testing.assert_close(entropy(torch.full((3, 7), 1 / 7)), torch.full((3,), math.log(7)))


def test_relative_distance_is_over_all_parameters():
    student, teacher = nn.Linear(2, 2), nn.Linear(2, 2)
    for module, value in ((teacher, 2.0), (student, 2.5)):
        for parameter in module.parameters():
            nn.init.constant_(parameter, value)
    assert relative_distance(student, teacher).item() == pytest.approx(0.25)


def test_assignment_statistics_are_the_formulas_written_out():
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(11, 6, generator=g, dtype=torch.float64) for _ in range(2))
    student_prototypes, prototypes = (torch.randn(5, 6, generator=g, dtype=torch.float64) for _ in range(2))
    centre = torch.randn(5, generator=g, dtype=torch.float64)
    found = assignment_statistics(student, student_prototypes, teacher, prototypes, centre, 0.7, block_rows=4)

    targets = [
        [math.exp((row @ p - c).item() / 0.7) for p, c in zip(prototypes, centre, strict=True)] for row in teacher
    ]
    targets = [[value / sum(row) for value in row] for row in targets]
    mean = [sum(column) / 11 for column in zip(*targets, strict=True)]
    single = sum(-p * math.log(p) for row in targets for p in row) / 11
    agreed = [row.index(max(row)) == (student_prototypes @ s).argmax() for row, s in zip(targets, student, strict=True)]
    assert found["target_entropy"].item() == pytest.approx(single / math.log(5))
    assert found["target_spread"].item() == pytest.approx(-sum(p * math.log(p) for p in mean) / math.log(5))
    assert found["accuracy"].item() == pytest.approx(sum(agreed).item() / 11)
    assert 0 < sum(agreed) < 11


def test_assignments_at_their_extremes():
    prototypes = torch.eye(6)

    def statistics(tokens, temperature):
        found = assignment_statistics(tokens, prototypes, tokens, prototypes, torch.zeros(6), temperature)
        return found["target_entropy"].item(), found["target_spread"].item(), found["accuracy"].item()

    each = torch.eye(6).repeat(3, 1)
    assert statistics(each, 1e-3) == pytest.approx((0, 1, 1), abs=1e-6)  # sharp, and all prototypes used
    assert statistics(each[:1].repeat(9, 1), 1e-3) == pytest.approx((0, 0, 1), abs=1e-6)  # one prototype for all
    assert statistics(each, 1e6)[:2] == pytest.approx((1, 1), abs=1e-6)  # uniform
    entropies = statistics(each[:1].repeat(9, 1), 1.0)
    assert entropies[0] == pytest.approx(entropies[1]) and 0.1 < entropies[0] < 0.99  # a constant of its own
    assert all(math.isnan(value) for value in statistics(each[:0], 1.0))


def test_rms_and_mean_cosine_are_their_formulas():
    assert rms(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).item() == pytest.approx(2.5)
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [3.0, 0.0]])
    assert mean_cosine(a, b).item() == pytest.approx(0.5)
