"""Logistic regression: the optimum, and what it is the optimum of."""

import pytest
import torch
import torch.nn.functional as F

from lab.probes.feature_cache import Features
from lab.probes.linear_probe import evaluate_probes, sweep
from lab.probes.logistic import fit_logistic
from pretrain.errors import UserError


def planted(count: int, seed: int) -> Features:
    """Four layers of 6 channels of unlike sizes and means; the last knows the class, one of 3, but not for sure."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    values = torch.randn(1, count, 1, 4, 6, generator=g)
    values[0, torch.arange(count), 0, 3, labels] += 2
    values = values * torch.tensor([1.0, 20, 1, 1, 0.1, 1]) + torch.arange(6)
    return Features(values.half(), ("patch",), torch.arange(count), labels)


def test_the_gradient_of_the_written_out_objective_is_zero():
    """In float64; the objective is strictly convex, so this is the optimum and the only one."""
    train, settings = planted(120, 0), sweep(["patch"], (1, 2), [True], [0.0], [1.0, 30.0])
    probes = fit_logistic(train, 3, settings)
    for place, setting in enumerate(settings):
        features = probes.heads[place // 2].norm(train.select("patch", setting.layers)).double()
        variance, mean = torch.var_mean(features, 0, correction=0)
        assert mean.abs().max() < 1e-4 and (variance - 1).abs().max() < 1e-3
        weight = probes.heads[place // 2].heads[place % 2].weight.detach().double()
        error = (features @ weight.T).softmax(1) - F.one_hot(train.labels, 3)
        gradient = (error.T @ features + setting.weight_decay * weight) / 120
        assert gradient.abs().max() < 2e-6 < 1e-2 < weight.abs().max()
    norms = [probes.heads[0].heads[i].weight.norm() for i in range(2)]
    assert norms[0] > 1.5 * norms[1]  # a larger penalty, smaller weights


def test_it_tells_the_classes_apart_from_the_layer_that_knows():
    settings = sweep(["patch"], (1,), [True], [0.0], [1.0])
    (result,) = evaluate_probes(fit_logistic(planted(300, 0), 3, settings), planted(150, 1))
    assert result.top1 > 75 and result.top5 == 100
    shuffled = planted(300, 0)
    shuffled.labels[:] = shuffled.labels[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    (result,) = evaluate_probes(fit_logistic(shuffled, 3, settings), planted(150, 1))
    assert result.top1 < 60


def test_nothing_is_drawn_and_one_image_is_refused():
    settings = sweep(["patch"], (1,), [True], [0.0], [1.0])
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights.append(fit_logistic(planted(30, 0), 3, settings).heads[0].heads[0].weight)
    assert torch.equal(*weights)
    with pytest.raises(UserError, match="a classifier needs two or more"):
        fit_logistic(planted(1, 0), 3, settings)
