"""`benchmark.py memory`: peak memory of the prototype losses, against the same losses with full logits.

Covers everything from the heads' outputs to the gradients of tokens and prototypes, with weight normalisation, for all
three losses. Bytes are counted exactly on fake tensors, which takes neither the memory nor the time.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lab.benchmarks.comparison import Comparison
from lab.benchmarks.live_bytes import LiveBytes
from pretrain.methods.losses import prototype_cross_entropy
from pretrain.models.heads import Prototypes

STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04
CROPS, VIEWS, PATCHES, MASKED = 10, 2, 196, 0.3  # numbers for each image; mean fraction of masked patches


def run(options: argparse.Namespace) -> list[Comparison]:
    """64 images (or --images) and K = 65,536; tables over K and over the batch size."""
    images, amp = options.images or 64, options.dtype == "bfloat16"
    what = {"images": images, "prototypes": 65536, "dtype": options.dtype, "counted": "fake tensors"}
    peaks = ([peak(losses, images, 65536, amp) / 2**20] for losses in (our_losses, full_logits))
    result = Comparison.of("prototype losses at their peak", *peaks, what, unit="MiB")
    result.tables[f"over K, {images} images"] = [row("K", 2**k, images, 2**k, amp) for k in range(12, 19)]
    batches = [2**power for power in range(2, 9)]
    result.tables["over images, K = 65,536"] = [row("images", b, b, 65536, amp) for b in batches]
    return [result]


def row(name: str, value: int, images: int, num_prototypes: int, amp: bool) -> dict:
    ours, plain = (peak(losses, images, num_prototypes, amp) / 2**20 for losses in (our_losses, full_logits))
    return {name: value, "ours, MiB": ours, "full logits, MiB": plain, "ratio": ours / plain}


def peak(losses: Callable, images: int, num_prototypes: int, amp: bool, dim: int = 256, fake: bool = True) -> int:
    """Peak bytes of `losses` and their backward pass."""
    with FakeTensorMode() if fake else nullcontext():
        tokens = make_tokens(images, dim)
        heads = [[Prototypes(num_prototypes, dim) for _ in range(2)] for _ in tokens]
        centre = torch.zeros(num_prototypes)
        weights = [tensor for pair in heads for head in pair for tensor in (head.weight, head.gain)]
        with LiveBytes([centre, *weights, *(token for pair in tokens for token in pair)]) as memory:
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                total = sum(losses(*pair, *head, centre) for pair, head in zip(tokens, heads, strict=True))
            total.backward()
        return memory.peak


def make_tokens(images: int, dim: int) -> list[tuple[Tensor, Tensor]]:
    """Unit tokens of student (n, S, d) and teacher (n, V, d): an image's crops, then masked content and masked
    positions.
    """
    patches = round(images * PATCHES * MASKED)  # half of the two global crops have each kind of mask
    shapes = [((images, CROPS), (images, VIEWS)), ((patches, 1), (patches, 1)), ((patches, 1), (patches, 1))]
    return [
        (F.normalize(torch.randn(*s, dim), dim=-1).requires_grad_(), F.normalize(torch.randn(*t, dim), dim=-1))
        for s, t in shapes
    ]


def make_pairing(student: Tensor, teacher: Tensor) -> Tensor:
    """(S, V): every pair of two different views, equally weighted."""
    pairing = torch.ones(student.shape[1], teacher.shape[1])
    if student.shape[1] > 1:
        pairing.fill_diagonal_(0)
    return pairing / pairing.sum()


def our_losses(student: Tensor, teacher: Tensor, own: Prototypes, theirs: Prototypes, centre: Tensor) -> Tensor:
    """One loss, computed in blocks."""
    with torch.no_grad():
        targets = theirs()
    weights, pairing = torch.full((len(student),), 1 / len(student)), make_pairing(student, teacher)
    return prototype_cross_entropy(
        student, own(), teacher, targets, centre, pairing, weights, STUDENT_TEMP, TEACHER_TEMP
    )


def full_logits(
    student: Tensor, teacher: Tensor, own: Prototypes, theirs: Prototypes, centre: Tensor, dtype=torch.float32
) -> Tensor:
    """The same loss from its formula: (tokens x K) logits, softmax, log-softmax."""
    with torch.no_grad():
        targets = F.softmax(((teacher @ theirs().T).to(dtype) - centre) / TEACHER_TEMP, dim=-1)  # (n, V, K)
    log_p, total = F.log_softmax((student @ own().T).to(dtype) / STUDENT_TEMP, dim=-1), 0.0  # (n, S, K)
    pairing = make_pairing(student, teacher)
    for s in range(student.shape[1]):
        for v in range(teacher.shape[1]):
            if student.shape[1] == 1 or s != v:
                total = total - pairing[s, v] * (targets[:, v] * log_p[:, s]).sum(-1).mean()
    return total
