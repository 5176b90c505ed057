"""Losses of self-distillation: cross-entropy between prototype assignments, and KoLeo."""

import math
import threading
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.methods.across_ranks import gather, rank

CACHED_VALUES = 2**19  # 2 MiB of float32


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
    block_rows: int = 512,
    subtract: Callable | None = None,
) -> Tensor:
    """Cross-entropy between teacher and student assignments to K prototypes (Eqs. 1, 4 and 5), in blocks.

    The value is that of `plain_cross_entropy`, below. The class-token loss pairs the crops of an image with its teacher
    views; a masked patch has one of each. The logits (tokens x K) never exist in full: blocks of rows are made, used
    for value and gradient, and forgotten. Softmax and sums keep the tokens' type; the two matrix products follow
    autocast.

    Args:
        student: (n, S, d) unit vectors, float32 or float64.  student_prototypes: (K, d), may require gradient.
        teacher: (n, V, d) unit vectors.  teacher_prototypes: (K, d).  centre: (K,). No gradient flows to these.
        pairing: (S, V).  weights: (n,).
        block_rows: rows of a block; each block holds a few (block_rows x K) matrices.
        subtract: `subtract_targets_`, the default, or a compiled one.

    Returns:
        scalar float32, or float64 where the tokens are
    """
    device = student.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else student.dtype
    with torch.autocast(device, enabled=False):
        return _PrototypeCrossEntropy.apply(
            student, student_prototypes, teacher.detach(), teacher_prototypes.detach(), centre.detach(),
            pairing, weights, student_temp, teacher_temp, block_rows, dtype, subtract or subtract_targets_,
        )  # fmt: skip


def plain_cross_entropy(
    student: Tensor,
    student_prototypes: Tensor,
    teacher: Tensor,
    teacher_prototypes: Tensor,
    centre: Tensor,
    pairing: Tensor,
    weights: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> Tensor:
    """The formula of `prototype_cross_entropy`, with full logits: what it means, and what the tests compare it with."""
    targets = torch.softmax((teacher @ teacher_prototypes.T - centre) / teacher_temp, dim=-1)  # (n, V, K)
    log_p = torch.log_softmax(student @ student_prototypes.T / student_temp, dim=-1)  # (n, S, K)
    pairs = -torch.einsum("nvk,nsk->nsv", targets, log_p)
    return (weights[:, None, None] * pairing * pairs).sum()


class _PrototypeCrossEntropy(torch.autograd.Function):
    """Makes the gradient together with the value, because both need the same blocks of logits.

    All factors are multiplied into the small matrices (rows x d) or the row's weight, never into a block of logits:
    a block is written by a matrix product, becomes softmax minus targets in its place, and is read by two products.
    """

    @staticmethod
    def forward(
        ctx, student, w_student, teacher, w_teacher, centre, pairing, weights,
        temp_s, temp_t, block_rows, dtype, subtract,
    ):  # fmt: skip
        num_groups, per_group, views = student.shape[0], student.shape[1], teacher.shape[1]
        most = max(1, block_rows // max(per_group, views))
        num_blocks = max(1, math.ceil(num_groups / most))
        groups = max(1, math.ceil(num_groups / num_blocks))  # in each block; a last short one would cost as much
        mass = pairing.sum(1)  # (S,), what each student row's targets sum to
        pairing = pairing / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None]
        weights = torch.outer(weights, mass)  # (n, S)
        total = student.new_zeros(())
        grad_student = torch.empty_like(student)
        grad_w = torch.zeros_like(w_student) if ctx.needs_input_grad[1] and not num_groups else None
        w_s, w_t, shift = w_student.to(dtype), w_teacher.to(dtype), centre / temp_t
        for start in range(0, num_groups, groups):
            rows = slice(start, start + groups)
            tokens, weight = student[rows].flatten(0, 1), weights[rows].flatten()  # (r, d), (r,)
            logits = block_of_logits("student", (tokens / temp_s).to(dtype), w_s)  # (r, K)
            # As a matrix: with a batch dimension torch may copy the prototypes for each element of the batch.
            targets = block_of_logits("teacher", (teacher[rows].flatten(0, 1) / temp_t).to(dtype), w_t)  # (g * V, K)
            total -= weight @ subtract(logits, targets, shift, pairing, student.dtype)
            scale = (weight / temp_s)[:, None]
            grad_student[rows] = ((logits @ w_s) * scale).to(student.dtype).unflatten(0, (-1, per_group))
            if ctx.needs_input_grad[1]:
                grad_w = add_product(grad_w, logits.T, (tokens * scale).to(dtype), w_student.dtype)
        ctx.save_for_backward(grad_student, grad_w)
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_student, grad_w = ctx.saved_tensors
        # In place: a second call is refused, because torch sees that what was saved has changed.
        return grad_student.mul_(grad_output), None if grad_w is None else grad_w.mul_(grad_output), *[None] * 10


_blocks = threading.local()  # .memory of each thread: {(whose, dtype): tensor}, for as long as the thread lives


def block_of_logits(whose: str, tokens: Tensor, prototypes: Tensor) -> Tensor:
    """tokens (r, d) @ prototypes (K, d).T, in memory that stays with the process on a CPU: valid until the next call.

    Otherwise the C library returns so large a block to the kernel, which clears its pages for the next one: a tenth of
    a step in somebody's own loop, without `pretrain.engine.cpu_memory`.
    """
    usual = type(tokens) is Tensor and tokens.device.type == "cpu"
    if torch.compiler.is_compiling() or not usual or torch.is_inference_mode_enabled():
        return tokens @ prototypes.T
    kept, key, size = vars(_blocks).setdefault("memory", {}), (whose, tokens.dtype), len(tokens) * len(prototypes)
    if key not in kept or kept[key].numel() < size:
        kept[key] = tokens.new_empty(size)
    return torch.mm(tokens, prototypes.T, out=kept[key][:size].view(len(tokens), len(prototypes)))


def subtract_targets_(logits: Tensor, teacher: Tensor, shift: Tensor, pairing: Tensor, dtype: torch.dtype) -> Tensor:
    """Student logits (g * S, K) become `softmax(logits) - pairing @ softmax(teacher - shift)`, in place.

    teacher: logits (g * V, K). shift: (K,). pairing: (S, V), rows of which sum to one. dtype: of all but the matrices.

    -> (g * S,): targets . log softmax(logits)
    """
    if logits.device.type != "cpu":
        return _subtract_targets_(logits, teacher, shift, pairing, dtype)
    # A few rows at a time stay in the cache through all of this.
    per_group, views = pairing.shape
    groups = max(1, CACHED_VALUES // (logits.shape[1] * max(per_group, views)))
    pieces = zip(logits.split(groups * per_group), teacher.split(groups * views), strict=True)
    return torch.cat([_subtract_targets_(own, theirs, shift, pairing, dtype) for own, theirs in pieces])


def _subtract_targets_(own: Tensor, theirs: Tensor, shift: Tensor, pairing: Tensor, dtype: torch.dtype) -> Tensor:
    targets = torch.softmax(theirs.to(dtype) - shift, dim=-1)
    if pairing.numel() > 1:
        targets = (pairing @ targets.unflatten(0, (-1, pairing.shape[1]))).flatten(0, 1)
    log_p = torch.log_softmax(own.to(dtype), dim=-1)
    dots = row_dots(targets, log_p)
    own.copy_(log_p.exp_().sub_(targets))
    return dots


def row_dots(a: Tensor, b: Tensor) -> Tensor:
    """Dot products of the rows of a and b (n, K) -> (n,)"""
    if a.device.type == "cpu":  # no product (n, K), and a fifth of bmm's time on long rows
        return torch.stack([torch.dot(x, y) for x, y in zip(a, b, strict=True)])
    return (a * b).sum(-1)  # which compiled code does not keep


def add_product(total: Tensor | None, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """total + a @ b in `dtype`, in place, without a copy of the product where the types agree; None counts as zero."""
    if total is None:
        return (a @ b).to(dtype)
    return total.addmm_(a, b) if total.dtype == a.dtype else total.add_(a @ b)


def koleo_loss(tokens: Tensor, eps: float = 1e-8) -> Tensor:
    """KoLeo: -mean log distance to the nearest neighbour on the unit sphere (Sablayrolles et al., 2019).

    Neighbours are searched among the tokens of all ranks; the mean is over this rank's tokens, so that the mean of the
    ranks' losses is the loss of one process with all tokens, and their mean gradient its gradient.

    Args:
        tokens: (n, D) of *different* images: one global view at a time. At least two over all ranks.

    Returns:
        scalar float32, or float64 where the tokens are
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
