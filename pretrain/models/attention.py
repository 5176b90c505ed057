"""Attention over packed sequences: crops of different sizes, one sequence, no attention between crops."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Layout:
    """How sequences lie in a packed tensor of T tokens: groups of equally long sequences, one after the other.

    Args:
        groups: (number of sequences, tokens in each) for each group, e.g. `((16, 197), (64, 37))`.
    """

    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, groups: list[Tensor]) -> "Layout":
        """Of batches of sequences, each (B_g, L_g, ...)."""
        return cls(tuple(tuple(group.shape[:2]) for group in groups))  # len() would fix the batch size of an export

    @property
    def num_tokens(self) -> int:
        return sum(count * length for count, length in self.groups)

    @property
    def num_sequences(self) -> int:
        return sum(count for count, _ in self.groups)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence, in order."""
        return [length for count, length in self.groups for _ in range(count)]

    def starts(self, device: torch.device | str | None = None) -> Tensor:
        """Index of each sequence's first token: (num_sequences,), made on `device` without waiting for it."""
        parts, first = [], 0
        for count, length in self.groups:
            parts.append(torch.arange(count, device=device) * length + first)
            first += count * length
        return torch.cat(parts)

    def split(self, tokens: Tensor) -> list[Tensor]:
        """(T, ...) as one view (sequences, length, ...) for each group."""
        parts = tokens.split([count * length for count, length in self.groups])
        return [part.unflatten(0, group) for part, group in zip(parts, self.groups, strict=True)]

    def per_token(self, per_sequence: Tensor) -> Tensor:
        """Values of the sequences (num_sequences, ...) repeated for their tokens (T, ...)."""
        parts = per_sequence.split([count for count, _ in self.groups])
        repeated = [p.repeat_interleave(length, 0) for p, (_, length) in zip(parts, self.groups, strict=True)]
        return repeated[0] if len(repeated) == 1 else torch.cat(repeated)

    @cached_property
    def block_diagonal(self):
        """xformers' mask of this layout, made once: its sequence starts live on the device."""
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask

        return BlockDiagonalMask.from_seqlens(self.lengths)


def pack(groups: list[Tensor]) -> tuple[Tensor, Layout]:
    """Pack batches of sequences, each (B_g, L_g, D), into tokens (T, D) and their layout."""
    flat = [group.flatten(0, 1) for group in groups]
    return (flat[0] if len(flat) == 1 else torch.cat(flat)), Layout.of(groups)


def packed_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Scaled dot-product attention inside each sequence of `layout`.

    One block-diagonal xformers kernel on CUDA where xformers is installed; otherwise, and in compiled code, which
    xformers' mask would break in two, one call of torch's SDPA for each group.

    Args:
        q, k, v: (T, heads, head_dim).

    Returns:
        (T, heads, head_dim)
    """
    by_xformers = q.is_cuda and q.dtype != torch.float64 and not torch.compiler.is_compiling()
    if by_xformers and attention_path() == "xformers":
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(q[None], k[None], v[None], attn_bias=layout.block_diagonal)[0]
    outputs = []
    for group in zip(layout.split(q), layout.split(k), layout.split(v), strict=True):
        heads_first = [t.transpose(1, 2) for t in group]
        outputs.append(_attend(*heads_first).transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, L, head_dim) -> the same"""
    long = q.shape[-2] > _ROWS
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # where a long sequence's length is to remain open
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or (long and traced):
        return F.scaled_dot_product_attention(q, k, v)
    # In bfloat16 on a CPU plain matrix products take 0.15 to 0.5 of the time of torch's kernel, forward and backward.
    q = q * q.shape[-1] ** -0.5
    if long:
        with torch.autocast("cpu", enabled=False):
            return HeadByHead.apply(q, k, v)
    return torch.softmax(q @ k.transpose(-2, -1), dim=-1) @ v


_ROWS = 512  # queries in a block of `HeadByHead`; shorter sequences are one block, whose weights are kept


class HeadByHead(torch.autograd.Function):
    """`softmax(q @ k.T) @ v` of long sequences: (B, heads, L, head_dim) -> the same.

    One head and a block of queries at a time stay in the cache. The weights (L x L) are never kept: the backward pass
    makes each block of them again.
    """

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for q_, k_, v_, out_ in _heads(q, k, v, out):
            for queries, place in zip(q_.split(_ROWS), out_.split(_ROWS), strict=True):
                torch.mm(torch.softmax(queries @ k_.T, dim=-1), v_, out=place)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in (q, k, v)]
        for q_, k_, v_, grad_, grad_q, grad_k, grad_v in _heads(q, k, v, grad, *grads):
            sum_k, sum_v = (torch.zeros(k_.shape, dtype=torch.promote_types(k.dtype, torch.float32)) for _ in range(2))
            for queries, upstream, place in zip(q_.split(_ROWS), grad_.split(_ROWS), grad_q.split(_ROWS), strict=True):
                weights = torch.softmax(queries @ k_.T, dim=-1)
                sum_v += weights.T @ upstream
                of_scores = torch._softmax_backward_data(upstream @ v_.T, weights, -1, weights.dtype)
                torch.mm(of_scores, k_, out=place)
                sum_k += of_scores.T @ queries
            grad_k.copy_(sum_k)
            grad_v.copy_(sum_v)
        return tuple(grads)


def _heads(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Each head of each sequence, (L, head_dim), of all `tensors`."""
    for sequence in zip(*tensors, strict=True):
        yield from zip(*sequence, strict=True)


def attention_path() -> str:
    """Which kernel `packed_attention` runs here: "xformers" (a CUDA device and a working xformers) or "sdpa"."""
    if not torch.cuda.is_available():
        return "sdpa"
    try:
        import xformers.ops  # noqa: F401  (slow to import, and of no use on a CPU)
    except (ImportError, OSError):
        return "sdpa"
    return "xformers"


class Attention(nn.Module):
    """Multi-head self-attention over packed tokens; parameter names are timm's.

    Args:
        dim: D.
        num_heads: heads; must divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"embed_dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, tokens: Tensor, layout: Layout, kept: Tensor | None = None, scale: nn.Module | None = None
    ) -> Tensor:
        """(T, D) -> (T, D), or of the tokens with the indices `kept` (M,) alone -> (M, D). scale: the LayerScale."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        heads = packed_attention(q, k, v, layout).flatten(1)
        return scaled_linear(heads if kept is None else heads.index_select(0, kept), self.proj, scale)


def scaled_linear(x: Tensor, linear: nn.Module, scale: nn.Module | None) -> Tensor:
    """`scale(linear(x))`, LayerScale multiplied into the weights unless a layer was replaced or has hooks.

    The weights are smaller than a step's tokens: on a CPU that saves 7% of a step.
    """
    if scale is None or isinstance(scale, nn.Identity):
        return linear(x)
    if type(linear) is nn.Linear and type(scale) is LayerScale and not (has_hooks(linear) or has_hooks(scale)):
        return F.linear(x, linear.weight * scale.gamma[:, None], linear.bias * scale.gamma)
    return scale(linear(x))


def has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(len(registered) > 0 for registered in hooks)
