"""Is it learning? Numbers that tell early: rank and spread of features, entropies of assignments, distances."""

import math

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


def rms(values: Tensor) -> Tensor:
    """Root mean square over all entries."""
    return values.float().square().mean().sqrt()


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine between the vectors (..., D) of a and b."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1).mean()


def assignment_statistics(
    student: Tensor,
    student_prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    centre: Tensor,
    temperature: float,
    block_rows: int = 64,
) -> dict[str, Tensor]:
    """How n teacher tokens are assigned to K prototypes, and whether the student would say the same.

    Args:
        student, teacher: (n, d) unit vectors, row by row two views of one thing. Of no rows all values are NaN.
        student_prototypes, teacher_prototypes: (K, d).  centre: (K,).  temperature: the teacher's.
        block_rows: rows of logits (block_rows x K) held at a time.

    Returns:
        target_entropy: of a single assignment, on average, as a share of log K: 0 is one prototype, 1 is all alike.
        target_spread: of the mean assignment, likewise: 0 is one prototype for every token, 1 is all used equally. It
            is never below target_entropy; where they are equal, all tokens are assigned alike.
        accuracy: share of tokens for which student and teacher name the same prototype.
    """
    total, entropies, agreed = torch.zeros_like(centre), centre.new_zeros(()), centre.new_zeros(())
    for own, targets in zip(student.split(block_rows), teacher.split(block_rows), strict=True):
        targets = assign(targets, teacher_prototypes, centre, temperature)
        total += targets.sum(0)
        entropies += entropy(targets).sum()
        agreed += ((own @ student_prototypes.T).argmax(1) == targets.argmax(1)).sum()
    count, log_k = len(teacher), math.log(len(centre))
    return {
        "target_entropy": entropies / count / log_k,
        "target_spread": entropy(total / count) / log_k,
        "accuracy": agreed / count,
    }


def assign(tokens: Tensor, prototypes: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Teacher assignments (..., K) of tokens (..., d)."""
    logits = (tokens / temperature).to(prototypes.dtype).flatten(0, -2) @ prototypes.T
    return torch.softmax(logits.to(centre.dtype) - centre / temperature, dim=-1).unflatten(0, tokens.shape[:-1])
