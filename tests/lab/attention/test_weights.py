import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.attention.weights import patch_attention
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer

_spec = importlib.util.spec_from_file_location(
    "plain_attention", Path(__file__).parents[2] / "reference" / "plain_attention.py"
)
plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain)


def tokens_before_last_block(backbone, images):
    tokens = backbone.embed_patches(images) + backbone.sample_positions(None, backbone.grid(images))
    packed, layout = pack([backbone.with_class_token(tokens)])
    for block in backbone.blocks[:-1]:
        packed = block(packed, layout)
    return packed, layout


def last_attention(backbone, images):
    """(B, heads, L, L), class token first."""
    tokens, layout = tokens_before_last_block(backbone, images)
    return plain.attention_probabilities(backbone.blocks[-1], tokens, layout.lengths[0])


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    backbone = VisionTransformer(
        patch_size=4, embed_dim=24, depth=3, num_heads=3, field_size=5, drop_path_rate=0.0, layer_scale=0.5
    )
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # far from uniform attention
    return backbone.eval().requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def test_equals_a_softmax_written_by_hand(backbone, images):
    tokens, _ = tokens_before_last_block(backbone, images)
    block = backbone.blocks[-1]
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
    np.testing.assert_allclose(last_attention(backbone, images).numpy(), expected, atol=1e-5)


def test_applying_it_gives_the_blocks_own_output(backbone, images):
    tokens, layout = tokens_before_last_block(backbone, images)
    block = backbone.blocks[-1]
    probabilities = plain.attention_probabilities(block, tokens, 13)
    v = block.attn.qkv(block.norm1(tokens))[:, 48:].reshape(2, 13, 3, 8).transpose(1, 2)
    mixed = (probabilities @ v).transpose(1, 2).reshape(26, 24)
    x = tokens + block.ls1(block.attn.proj(mixed))
    x = x + block.ls2(block.mlp(block.norm2(x)))
    torch.testing.assert_close(x, block(tokens, layout), atol=1e-5, rtol=1e-5)
    cls, patches = backbone(images)
    normed = backbone.norm(x).reshape(2, 13, 24)
    torch.testing.assert_close(normed[:, 0], cls, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(normed[:, 1:], patches, atol=1e-5, rtol=1e-5)


def test_patch_attention_picks_the_row_of_its_point(backbone, images):
    maps = patch_attention(backbone, images[0], [(0.0, 0.0), (0.99, 0.99), (0.3, 0.5)])
    rows = last_attention(backbone, images[:1])[0].mean(0) * 13
    assert maps.shape == (3, 3, 4)
    for index, patch in enumerate((0, 11, 5)):  # 3 x 4 patches, row-major; (0.3, 0.5) lies in row 1, column 1
        torch.testing.assert_close(maps[index].flatten(), rows[1 + patch, 1:])


def test_it_is_float32_under_autocast_too(images):
    torch.manual_seed(0)
    backbone = VisionTransformer(
        patch_size=4, embed_dim=24, depth=2, num_heads=3, field_size=5, class_token=False
    ).eval()
    with torch.autocast("cpu", torch.bfloat16):
        maps = patch_attention(backbone, images[0], [(0.3, 0.5)])
    assert maps.sum().item() == pytest.approx(12, abs=1e-4)  # of bfloat16 only to 1e-2
