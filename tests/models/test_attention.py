import pytest
import torch

from pretrain.models.attention import Attention, HeadByHead, Layout, _attend, pack, packed_attention


def test_layout_splits_what_pack_packs():
    groups = [torch.randn(3, 5, 2), torch.randn(2, 4, 2)]
    tokens, layout = pack(groups)
    assert tokens.shape == (23, 2) and layout.num_tokens == 23 and layout.num_sequences == 5
    assert layout.lengths == [5, 5, 5, 4, 4]
    for part, group in zip(layout.split(tokens), groups, strict=True):
        torch.testing.assert_close(part, group)


def test_starts_are_the_first_tokens_of_all_sequences():
    assert Layout(((2, 3), (3, 2), (1, 4))).starts().tolist() == [0, 3, 6, 8, 10, 12]


def test_per_token_repeats_each_sequence_value():
    layout = Layout(((2, 3), (1, 2)))
    assert layout.per_token(torch.tensor([7, 8, 9])).tolist() == [7, 7, 7, 8, 8, 8, 9, 9]


def test_no_attention_between_sequences():
    """One float64 softmax over all tokens with a block-diagonal mask is the reference."""
    layout = Layout(((2, 5), (3, 4)))
    q, k, v = torch.randn(3, layout.num_tokens, 2, 8, dtype=torch.float64)
    owner = layout.per_token(torch.arange(layout.num_sequences))
    scores = torch.einsum("qhd,khd->hqk", q, k) / 8**0.5
    scores = scores.masked_fill(owner[:, None] != owner[None], -torch.inf)
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    torch.testing.assert_close(packed_attention(q, k, v, layout), expected)


def attend_in_bfloat16(length: int) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Size]]:
    """Output and gradients on a CPU, those of SDPA in float32, and the shapes kept for the backward pass."""
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 2, 3, length, 16).bfloat16())
    upstream, kept = torch.randn(2, 3, length, 16).bfloat16(), []
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    wanted = [expected, *torch.autograd.grad(expected, (q, k, v), upstream.float())]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        packed = packed_attention(*(t.transpose(1, 2).flatten(0, 1) for t in (q, k, v)), Layout(((2, length),)))
    ours = packed.unflatten(0, (2, length)).transpose(1, 2)
    return [ours, *torch.autograd.grad(ours, (q, k, v), upstream)], wanted, kept


@pytest.mark.parametrize("length", [37, 512, 513])
def test_bfloat16_on_the_cpu_equals_sdpa_in_float32(length):
    ours, wanted, kept = attend_in_bfloat16(length)
    for found, expected in zip(ours, wanted, strict=True):
        torch.testing.assert_close(found.float(), expected.float(), atol=0.02, rtol=0.02)
    assert max(shape[-1] for shape in kept) <= 512  # of a long sequence no weights


def test_bfloat16_on_the_cpu_does_without_torchs_slow_kernel(monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
    for length in (37, 513):
        q, k, v = torch.randn(3, length, 2, 16).bfloat16()
        assert packed_attention(q, k, v, Layout(((1, length),))).isfinite().all()
    short = torch.randn(3, 1, 2, 37, 16).bfloat16()
    assert torch.jit.trace(_attend, tuple(short))(*short).isfinite().all()


def test_bfloat16_on_the_cpu_in_other_settings():
    """Traced at one length and called at another, under another autocast, and with torch.func."""
    q, k, v = torch.randn(3, 1200, 2, 16).bfloat16()

    def attend(q, k, v):
        return packed_attention(q, k, v, Layout(((2, 600),)))

    traced = torch.jit.trace(_attend, tuple(t[None, None, :600, 0] for t in (q, k, v)))
    assert traced(*(t[None, None, :1100, 0] for t in (q, k, v))).shape == (1, 1, 1100, 16)
    expected = attend(q, k, v)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(attend(q, k, v), expected)
    gradient = torch.func.grad(lambda q: attend(q, k, v).float().square().sum())(q)
    leaf = q.clone().requires_grad_()
    attend(leaf, k, v).float().square().sum().backward()
    assert torch.equal(gradient, leaf.grad)


def test_head_by_head_is_attention_in_value_and_gradient():
    """Two blocks of queries and a part of one, on views of one tensor as `qkv` gives them."""
    tensors = torch.randn(2, 1100, 3, 3, 8, dtype=torch.float64, requires_grad=True)
    q, k, v = (t.transpose(1, 2) for t in tensors.unbind(2))
    upstream = torch.randn(2, 3, 1100, 8, dtype=torch.float64)
    ours, wanted = HeadByHead.apply(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    torch.testing.assert_close(ours, wanted)
    gradients = [torch.autograd.grad(value, tensors, upstream)[0] for value in (ours, wanted)]
    torch.testing.assert_close(*gradients)


def test_attention_equals_torch_multihead_attention():
    ours, reference = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(ours.qkv.weight)
        reference.in_proj_bias.copy_(ours.qkv.bias)
        reference.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(3, 7, 16)
    tokens, layout = pack([x])
    torch.testing.assert_close(layout.split(ours(tokens, layout))[0], reference(x, x, x)[0], atol=1e-5, rtol=1e-4)
