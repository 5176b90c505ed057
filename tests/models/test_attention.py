import torch

from pretrain.models.attention import Attention, Layout, pack, packed_attention


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


def test_short_bfloat16_sequences_on_the_cpu_equal_sdpa():
    q, k, v = torch.randn(3, 2, 4, 37, 16).bfloat16()
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    ours = packed_attention(*(t.transpose(1, 2).flatten(0, 1) for t in (q, k, v)), Layout(((2, 37),)))
    torch.testing.assert_close(ours.unflatten(0, (2, 37)).transpose(1, 2).float(), expected, atol=0.02, rtol=0.02)


def test_attention_equals_torch_multihead_attention():
    ours, reference = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(ours.qkv.weight)
        reference.in_proj_bias.copy_(ours.qkv.bias)
        reference.out_proj.load_state_dict(ours.proj.state_dict())
    x = torch.randn(3, 7, 16)
    tokens, layout = pack([x])
    torch.testing.assert_close(layout.split(ours(tokens, layout))[0], reference(x, x, x)[0], atol=1e-5, rtol=1e-4)
