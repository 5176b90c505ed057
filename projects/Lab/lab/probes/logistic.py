"""Logistic regression on a frozen backbone's features, as in StoP's release for 1% of ImageNet's labels.

Features are standardised by the training images' mean and standard deviation; no intercept, and a small L2 penalty. The
optimum is unique: no learning rate, epochs or seed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.probes.feature_cache import Features
from lab.probes.linear_probe import Heads, Probes, Setting
from pretrain.errors import UserError


def fit_logistic(
    train: Features,
    num_classes: int,
    settings: Sequence[Setting],
    max_iter: int = 1000,
    device: torch.device | str = "cpu",
) -> Probes:
    """Fit classifiers that minimise `mean cross-entropy + weight_decay / (2 n) * |W|^2` over all n images at once.

    All features and logits are in memory at once: meant for 1% of ImageNet, not all of it. L-BFGS stops when the
    largest entry of the gradient is below 1e-6, or after `max_iter` steps.

    Args:
        settings: with batch_norm, which standardises; the learning rate is ignored.

    Raises:
        UserError: fewer than two images.
    """
    if len(train) < 2:
        raise UserError(f"{len(train)} readable training image(s): a classifier needs two or more")
    probes, labels = Probes(settings, train.values.shape[-1], num_classes).to(device).eval(), train.labels.to(device)
    for ((pool, layers, _), group), heads in zip(probes.groups.items(), probes.heads, strict=True):
        features = standardised(heads, train.select(pool, layers).to(device)).double()
        for setting, head in zip(group, heads.heads, strict=True):
            weight = _optimum(features, labels, num_classes, setting.weight_decay, max_iter)
            with torch.no_grad():
                head.weight.copy_(weight)
    return probes


@torch.no_grad()
def standardised(heads: Heads, features: Tensor) -> Tensor:
    """Set the normalisation of `heads` to mean and variance of `features` (n, D); returns normalised (n, D)."""
    heads.norm.running_var, heads.norm.running_mean = torch.var_mean(features, dim=0, correction=0)
    return heads.norm(features)


def _optimum(features: Tensor, labels: Tensor, num_classes: int, weight_decay: float, max_iter: int) -> Tensor:
    """The optimum (num_classes, D) in float64; in float32 the line search stops early for lack of precision."""
    weight = features.new_zeros(num_classes, features.shape[1]).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=max_iter, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = weight_decay / (2 * len(labels)) * weight.square().sum()
        loss = F.cross_entropy(F.linear(features, weight), labels) + penalty
        loss.backward()
        return loss

    optimizer.step(objective)
    return weight.detach()
