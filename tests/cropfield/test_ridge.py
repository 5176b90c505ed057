"""Ridge regression from summed moments, beside numpy's least squares on the whole matrix."""

import numpy as np
import torch

from cropfield.ridge import PENALTIES, fit, fit_chosen, moments


def samples(n: int, noise: float = 0.5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of very different means and scales, and one that is constant."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)) * [1, 10, 0.1, 3, 1, 0] + [0, 100, 5, -3, 0, 7]
    y = x[:, :2] * [0.3, 0.02] + x[:, 2:4] + noise * rng.normal(size=(n, 2))
    return torch.from_numpy(x), torch.from_numpy(y)


def least_squares(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The plain way -> predictions for x: standardise, append sqrt(n penalty) I as further rows, solve."""
    n, dim = x.shape
    scale = np.where(x.std(0) > 0, x.std(0), 1)
    z = (x - x.mean(0)) / scale
    rows, zeros = np.concatenate([z, np.sqrt(n * penalty) * np.eye(dim)]), np.zeros((dim, y.shape[1]))
    weight = np.linalg.lstsq(rows, np.concatenate([y - y.mean(0), zeros]), rcond=None)[0]
    return z @ weight + y.mean(0)


def test_it_is_least_squares_with_a_penalty():
    x, y = samples(200)
    sums = sum(moments(part, target) for part, target in zip(x.split(37), y.split(37), strict=True))
    for penalty in (1e-5, 0.1, 10.0):
        ridge = fit(sums, 2, penalty)
        np.testing.assert_allclose(ridge(x), least_squares(x.numpy(), y.numpy(), penalty), rtol=0, atol=1e-9)
        torch.testing.assert_close(ridge.error(sums), ((ridge(x) - y) ** 2).sum(1).mean().item(), rtol=1e-9, atol=0)
    assert ridge.weight[5].abs().max() == 0  # of the constant feature


def test_the_penalty_is_chosen_by_samples_that_were_held_out():
    (x, y), (held_x, held_y) = samples(12, noise=3.0), samples(400, noise=3.0, seed=1)
    noise = torch.from_numpy(np.random.default_rng(2).normal(size=(412, 8)))  # features that mean nothing
    x, held_x = torch.cat([x, noise[:12]], 1), torch.cat([held_x, noise[12:]], 1)
    sums, held_out = moments(x, y), moments(held_x, held_y)
    errors = [((fit(sums, 2, penalty)(held_x) - held_y) ** 2).sum(1).mean() for penalty in PENALTIES]
    best = int(np.argmin(errors))
    assert PENALTIES[best] >= 0.01  # a small one fits the noise
    expected = fit(moments(torch.cat([x, held_x]), torch.cat([y, held_y])), 2, PENALTIES[best])
    torch.testing.assert_close(fit_chosen(sums, held_out, 2)(x), expected(x))
