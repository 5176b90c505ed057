"""Ridge regression in closed form from accumulated moments; the matrix of all samples is never stored."""

from dataclasses import dataclass

import torch
from torch import Tensor

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # per sample, for features of unit variance


def moments(features: Tensor, targets: Tensor) -> Tensor:
    """Sum of outer products of [1, features (n, D), targets (n, K)] -> float64 (1+D+K, 1+D+K); additive over
    batches.
    """
    features, targets = features.double(), targets.double()
    rows = torch.cat([features.new_ones(len(features), 1), features, targets], dim=1)
    return rows.T @ rows


@dataclass(frozen=True)
class Ridge:
    """y = x @ weight + bias; weight (D, K), bias (K,), float64."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(n, D) -> (n, K)"""
        return features.double() @ self.weight + self.bias

    def error(self, sums: Tensor) -> float:
        """Mean squared distance between prediction and target over the samples summed in `sums` (`moments`)."""
        residual = torch.cat([self.bias[None], self.weight, -torch.eye(len(self.bias)).to(self.bias)])
        return ((residual * (sums @ residual)).sum() / sums[0, 0]).item()


def fit(sums: Tensor, num_targets: int, penalty: float) -> Ridge:
    """Minimise mean |x W + b - y|^2 + `penalty` |W|^2 with standardised features and an unpenalised bias; sums:
    `moments`.
    """
    means = sums[0] / sums[0, 0]
    covariance = sums[1:, 1:] / sums[0, 0] - means[1:, None] * means[1:]
    dim = len(covariance) - num_targets
    variance = covariance.diagonal()[:dim]
    # The variance of a constant feature is only rounding error.
    scale = torch.where(variance > 1e-12 * (means[1 : 1 + dim] ** 2 + 1e-12), variance, torch.inf).sqrt()
    gram = covariance[:dim, :dim] / scale[:, None] / scale + penalty * torch.eye(dim).to(sums)
    weight = torch.linalg.solve(gram, covariance[:dim, dim:] / scale[:, None]) / scale[:, None]
    return Ridge(weight, means[1 + dim :] - means[1 : 1 + dim] @ weight)


def fit_chosen(sums: Tensor, held_out: Tensor, num_targets: int) -> Ridge:
    """Choose the penalty whose fit to `sums` has the least error on `held_out` (both `moments`), then fit all samples
    with it.
    """
    errors = [fit(sums, num_targets, penalty).error(held_out) for penalty in PENALTIES]
    return fit(sums + held_out, num_targets, PENALTIES[errors.index(min(errors))])
