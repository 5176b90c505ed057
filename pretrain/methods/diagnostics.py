"""Is it learning? Numbers that tell early: rank and spread of features, distances."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def effective_rank(features: Tensor) -> Tensor:
    """How many directions the features use: exp of the entropy of their singular values.

    The effective rank of Roy and Vetterli (2007), which RankMe (Garrido et al., ICML 2023, Eq. 1) applies to features
    as they are, not centred. 1 when all features are multiples of one; r when r directions carry equal weight. Features
    of n tokens and D channels reach min(n, D) at most, so compare values of one batch size only.

    Args:
        features: (n, D).

    Returns:
        scalar float64; NaN where a feature is not finite.
    """
    points = features.double()
    gram = points.T @ points if len(points) > points.shape[1] else points @ points.T
    if not torch.isfinite(gram).all():
        return gram.new_tensor(torch.nan)
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    return entropy(singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)).exp()


def directional_std(features: Tensor) -> Tensor:
    """Standard deviation of features (n, D) on the unit sphere, all channels together: sqrt(1 - |mean direction|^2).

    0 when all point one way, 1 when they cancel out. SimSiam's measure of collapse (Chen and He, 2021, Sec. 4.1) times
    sqrt(D), so that it means the same at every width.
    """
    return F.normalize(features.float(), dim=-1).var(0, correction=0).sum().sqrt()


def entropy(probabilities: Tensor) -> Tensor:
    """-sum p log p over the last axis, in nats: 0 for one certain outcome, log K for K equal ones."""
    return torch.special.entr(probabilities).sum(-1)


def relative_distance(student: nn.Module, teacher: nn.Module) -> Tensor:
    """|student - teacher| / |teacher| over all parameters."""
    theirs = list(teacher.parameters())
    gaps = torch._foreach_norm(torch._foreach_sub(list(student.parameters()), theirs))
    return torch.stack(gaps).norm() / torch.stack(torch._foreach_norm(theirs)).norm()
