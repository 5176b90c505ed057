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
    block_rows: int = 256,
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
    """Makes the gradient together with the value, because both need the same blocks of logits.

    All factors are multiplied into the small matrices (rows x d) or the row's weight, never into a block of logits:
    a block is written by a matrix product, softmaxed, subtracted, and read by two matrix products.
    """

    @staticmethod
    def forward(
        ctx, student, w_student, teacher, w_teacher, centre, pairing, weights, temp_s, temp_t, block_rows, dtype
    ):
        num_groups, per_group, _ = student.shape
        most = max(1, block_rows // max(per_group, teacher.shape[1]))
        groups = -(-num_groups // max(1, -(-num_groups // most)))  # blocks of one size: a short one costs as much
        mass = pairing.sum(1)  # (S,), what each student row's targets sum to
        pairing = pairing / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None]
        weights = torch.outer(weights, mass)  # (n, S)
        total = student.new_zeros(())
        grad_student = torch.empty_like(student)
        grad_w = torch.zeros_like(w_student) if ctx.needs_input_grad[1] and not num_groups else None
        w_s, w_t = w_student.to(dtype), w_teacher.to(dtype)
        for start in range(0, num_groups, max(1, groups)):
            rows = slice(start, start + groups)
            tokens, weight = student[rows].flatten(0, 1), weights[rows].flatten()  # (r, d), (r,)
            targets = assign(teacher[rows], w_t, centre, temp_t)  # (g, V, K)
            targets = (pairing @ targets if pairing.numel() > 1 else targets).flatten(0, 1)  # (r, K)
            log_p = ((tokens / temp_s).to(dtype) @ w_s.T).to(student.dtype)
            torch.log_softmax(log_p, dim=-1, out=log_p)
            total -= weight @ row_dots(targets, log_p)
            difference = log_p.exp_().sub_(targets).to(dtype)
            scale = (weight / temp_s)[:, None]
            grad_student[rows] = ((difference @ w_s) * scale).to(student.dtype).unflatten(0, (-1, per_group))
            if ctx.needs_input_grad[1]:
                grad_w = add_product(grad_w, difference.T, (tokens * scale).to(dtype), w_student.dtype)
        ctx.save_for_backward(grad_student, grad_w)
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_student, grad_w = ctx.saved_tensors
        # In place: a second call is refused, because torch sees that what was saved has changed.
        return grad_student.mul_(grad_output), None if grad_w is None else grad_w.mul_(grad_output), *[None] * 9


def add_product(total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """total + a @ b in `dtype`, in place, without a copy of the product where the types agree; None counts as zero."""
    if total is None:
        return (a @ b).to(dtype)
    return total.addmm_(a, b) if total.dtype == a.dtype else total.add_(a @ b)


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of the rows of a and b (n, K) -> (n,), without their product (n, K)."""
    if a.device.type == "cpu":  # a fifth of bmm's time on long rows
        return torch.stack([torch.dot(x, y) for x, y in zip(a, b, strict=True)])
    return torch.bmm(a[:, None], b[..., None]).flatten()


def assign(tokens: Tensor, prototypes: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Teacher assignments (..., K) of tokens (..., d)."""
    # As a matrix: with a batch dimension torch may copy the prototypes for each element of the batch.
    logits = ((tokens / temperature).to(prototypes.dtype).flatten(0, -2) @ prototypes.T).to(centre.dtype)
    torch.softmax(logits.sub_(centre / temperature), dim=-1, out=logits)
    return logits.unflatten(0, tokens.shape[:-1])


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
