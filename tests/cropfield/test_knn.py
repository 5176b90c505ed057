import math

import pytest
import torch

from cropfield.knn import knn_accuracy


def clusters(per_class: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Five planted clusters in 12 dimensions, far apart; lengths differ and mean nothing."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(5).repeat(per_class)
    features = torch.eye(12)[labels] + 0.1 * torch.randn(len(labels), 12, generator=g)
    return features * (1 + 9 * torch.rand(len(labels), 1, generator=g)), labels


def test_planted_clusters_are_found_without_a_mistake():
    train, labels = clusters(30, seed=0)
    val, val_labels = clusters(10, seed=1)
    assert knn_accuracy(train, labels, val, val_labels) == 1
    assert knn_accuracy(train, labels.roll(1), val, val_labels) == 0  # every cluster under its neighbour's name
    assert knn_accuracy(train[:3], labels[:3], val, val_labels, k=20) == pytest.approx(3 / 5)  # fewer than k


def test_a_low_temperature_leaves_the_nearest():
    train, labels = clusters(30, seed=0)
    val, val_labels = clusters(10, seed=1)
    assert knn_accuracy(train, labels, val, val_labels, k=len(train), temperature=1e-3) == 1


def test_the_vote_is_the_formula_written_out():
    g = torch.Generator().manual_seed(3)
    train, val = torch.randn(40, 6, generator=g), torch.randn(25, 6, generator=g)
    labels, val_labels = torch.randint(0, 3, (40,), generator=g), torch.randint(0, 3, (25,), generator=g)
    right = 0
    for feature, label in zip(val.double(), val_labels, strict=True):
        cosines = [(feature @ t / feature.norm() / t.norm()).item() for t in train.double()]
        nearest = sorted(range(40), key=lambda i: -cosines[i])[:7]
        votes = [sum(math.exp(cosines[i] / 0.2) for i in nearest if labels[i] == c) for c in range(3)]
        right += votes.index(max(votes)) == label
    assert knn_accuracy(train, labels, val, val_labels, k=7, temperature=0.2) == pytest.approx(right / 25)
    assert 0 < right < 25


def test_one_near_neighbour_outvotes_two_far_ones_where_the_temperature_is_low():
    train = torch.tensor([[1.0, 0.1], [0.5, 1.0], [0.5, -1.0]])
    labels, val = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(train, labels, val, torch.tensor([0])) == 1
    assert knn_accuracy(train, labels, val, torch.tensor([1]), temperature=10.0) == 1
