import numpy as np
import pytest
import torch

from lab.attention.weights import (
    attention_probabilities,
    last_attention,
    patch_attention,
    tokens_before_last_block,
)
from pretrain.models.vit import VisionTransformer


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    trunk = VisionTransformer(
        patch_size=4, embed_dim=24, depth=3, num_heads=3, field_size=5, drop_path_rate=0.0, layer_scale=0.5
    )
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # far from uniform attention
    return trunk.eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def test_rows_sum_to_one(trunk, images):
    probabilities = last_attention(trunk, images)
    assert probabilities.shape == (2, 3, 13, 13)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3, 13))
    assert (probabilities >= 0).all()
    assert probabilities.std() > 0.01  # the test would be empty on a uniform trunk


def test_it_is_float32_under_autocast_too(trunk, images):
    with torch.autocast("cpu", torch.bfloat16):
        probabilities = last_attention(trunk, images)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3, 13))  # of bfloat16 only to 1e-2


def test_equals_a_softmax_written_by_hand(trunk, images):
    tokens, _ = tokens_before_last_block(trunk, images)
    block = trunk.blocks[-1]
    x = tokens.double().numpy().reshape(2, 13, 24)
    norm, qkv = block.norm1, block.attn.qkv
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.eps)
    x = x * norm.weight.double().numpy() + norm.bias.double().numpy()
    x = x @ qkv.weight.double().numpy().T + qkv.bias.double().numpy()
    expected = np.empty((2, 3, 13, 13))
    for image in range(2):
        for head in range(3):
            q = x[image, :, 8 * head : 8 * head + 8]
            k = x[image, :, 24 + 8 * head : 24 + 8 * head + 8]
            weights = np.exp(q @ k.T / np.sqrt(8))
            expected[image, head] = weights / weights.sum(1, keepdims=True)
    np.testing.assert_allclose(last_attention(trunk, images).numpy(), expected, atol=1e-5)


def test_applying_it_gives_the_blocks_own_output(trunk, images):
    tokens, layout = tokens_before_last_block(trunk, images)
    block = trunk.blocks[-1]
    probabilities = attention_probabilities(block, tokens, 13)
    v = block.attn.qkv(block.norm1(tokens))[:, 48:].reshape(2, 13, 3, 8).transpose(1, 2)
    mixed = (probabilities @ v).transpose(1, 2).reshape(26, 24)
    x = tokens + block.ls1(block.attn.proj(mixed))
    x = x + block.ls2(block.mlp(block.norm2(x)))
    torch.testing.assert_close(x, block(tokens, layout), atol=1e-5, rtol=1e-5)
    cls, patches = trunk(images)
    normed = trunk.norm(x).reshape(2, 13, 24)
    torch.testing.assert_close(normed[:, 0], cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normed[:, 1:], patches, atol=1e-5, rtol=1e-5)


def test_boxes_reach_the_positions(trunk, images):
    box = torch.tensor([[0.5, 0.0, 1.0, 0.5]]).expand(2, 4)
    assert not torch.allclose(last_attention(trunk, images), last_attention(trunk, images, box))


def test_patch_attention_picks_the_querys_row(trunk, images):
    maps = patch_attention(trunk, images[0], [(0.0, 0.0), (0.99, 0.99), (0.3, 0.5)])
    rows = last_attention(trunk, images[:1])[0].mean(0) * 13
    assert maps.shape == (3, 3, 4)
    for index, place in enumerate((0, 11, 5)):  # 3 x 4 patches, row-major; (0.3, 0.5) lies in row 1, column 1
        torch.testing.assert_close(maps[index].flatten(), rows[1 + place, 1:])
