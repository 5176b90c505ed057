"""Losses of self-distillation: cross-entropy between prototype assignments, and KoLeo."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.methods.across_ranks import gather, rank


def prototype_cross_entropy(
    student: Tensor,
    student_prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    centre: Tensor,
    pairing: Tensor,
    weights: Tensor,
    student_temp: float,
    teacher_temp: float,
    block_rows: int = 64,
) -> Tensor:
    """Cross-entropy between teacher and student assignments to K prototypes (Eqs. 1, 4 and 5), in blocks.

    With `t = softmax((teacher_logits - centre) / teacher_temp)`, the value is

        sum_n weights[n] * sum_{s,v} pairing[s, v] * -t[n, v] . log softmax(student_logits[n, s] / student_temp)

    The class-token loss pairs the crops of an image with its teacher views; a masked patch has one of each. The logits
    (tokens x K) never exist in full: blocks of rows are made, used for value and gradient, and forgotten. Softmax and
    sums are float32; the two matrix products follow autocast.

    Args:
        student: (n, S, d) unit vectors.  student_prototypes: (K, d), may require gradient.
        teacher: (n, V, d) unit vectors.  teacher_prototypes: (K, d).  centre: (K,). No gradient flows to these.
        pairing: (S, V).  weights: (n,).
        block_rows: rows of a block; each block holds a few (block_rows x K) matrices.

    Returns:
        scalar float32
    """
    device = student.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student.dtype
    with torch.autocast(device, enabled=False):
        return _PrototypeCrossEntropy.apply(
            student, student_prototypes, teacher.detach(), teacher_prototypes.detach(), centre.detach(),
            pairing, weights, student_temp, teacher_temp, block_rows, dtype,
        )  # fmt: skip


class _PrototypeCrossEntropy(torch.autograd.Function):
    """Makes the gradient together with the value, because both need the same blocks of logits."""

    @staticmethod
    def forward(
        ctx, student, w_student, teacher, w_teacher, centre, pairing, weights, temp_s, temp_t, block_rows, dtype
    ):
        num_groups, per_group, _ = student.shape
        groups = max(1, block_rows // max(per_group, teacher.shape[1]))
        total = student.new_zeros(())
        grad_student = torch.empty_like(student)
        grad_w = torch.zeros_like(w_student) if ctx.needs_input_grad[1] else None
        w_s, w_t = w_student.to(dtype), w_teacher.to(dtype)
        mass = pairing.sum(1)[:, None]  # (S, 1), what each student row's targets sum to
        for start in range(0, num_groups, groups):
            rows = slice(start, start + groups)
            z_s = student[rows].to(dtype)
            targets = pairing @ assign(teacher[rows].to(dtype), w_t, centre, temp_t)  # (g, S, K)
            log_p = torch.log_softmax((z_s @ w_s.T).to(student.dtype).div_(temp_s), dim=-1)
            weight = weights[rows, None, None]
            total -= (torch.linalg.vecdot(targets, log_p) * weight[..., 0]).sum()
            grad_logits = log_p.exp_().mul_(mass).sub_(targets).mul_(weight / temp_s).to(dtype)
            grad_student[rows] = (grad_logits @ w_s).to(student.dtype)
            if grad_w is not None:
                grad_w += (grad_logits.flatten(0, 1).T @ z_s.flatten(0, 1)).to(grad_w.dtype)
        ctx.save_for_backward(grad_student, grad_w)
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_student, grad_w = ctx.saved_tensors
        return grad_student * grad_output, None if grad_w is None else grad_w * grad_output, *[None] * 9


def assign(tokens: Tensor, prototypes: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Teacher assignments (..., K) of tokens (..., d)."""
    return torch.softmax(((tokens @ prototypes.T).to(centre.dtype) - centre).div_(temperature), dim=-1)


def koleo_loss(tokens: Tensor, eps: float = 1e-8) -> Tensor:
    """KoLeo: -mean log distance to the nearest neighbour on the unit sphere (Sablayrolles et al., 2019).

    Neighbours are searched among the tokens of all ranks; the mean is over this rank's tokens, so that the mean of the
    ranks' losses is the loss of one process with all tokens, and their mean gradient its gradient.

    Args:
        tokens: (n, D) of *different* images: one global view at a time. At least two over all ranks.

    Returns:
        scalar float32
    """
    with torch.autocast(tokens.device.type, enabled=False):
        points = F.normalize(tokens.float() if tokens.dtype != torch.float64 else tokens, dim=-1, eps=eps)
        everyone = gather(points)
        with torch.no_grad():
            similarity = points @ everyone.T
            similarity.diagonal(rank() * len(points)).fill_(-2)  # a point is not its own neighbour
            nearest = similarity.argmax(dim=1)
        distances = F.pairwise_distance(points, everyone[nearest], eps=eps)
        return -(distances + eps).log().mean()
