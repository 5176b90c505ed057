"""Features of a frozen backbone, against a forward pass that is written out."""

import math

import cv2
import numpy as np
import pytest
import torch

from lab.figures.feature_pictures import normalised
from lab.probes.features import extract_features, own_pool, pooled_layers
from lab.probes.framing import central_square
from lab.probes.labelled import labelled_folder
from pretrain.models.vit import VisionTransformer


def small_backbone(class_token: bool = True, depth: int = 5) -> VisionTransformer:
    """Weights large enough that every layer says something of its own."""
    torch.manual_seed(0)
    backbone = VisionTransformer(8, 16, depth, 2, field_size=(3, 4), class_token=class_token, layer_scale=0.7)
    with torch.no_grad():
        for name, value in backbone.state_dict().items():
            value.add_(torch.randn_like(value) * (0.1 if "norm" in name else 0.3))
    return backbone.eval()


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def by_hand(backbone: VisionTransformer, image: np.ndarray) -> list[np.ndarray]:
    """Tokens (1 + N, D) after each block and the final norm, of one image (3, H, W): numpy, float64, a loop a head."""
    w = {name: value.double().numpy() for name, value in backbone.state_dict().items()}
    p, grid = 8, (image.shape[1] // 8, image.shape[2] // 8)
    patches = [image[:, p * y : p * y + p, p * x : p * x + p] for y in range(grid[0]) for x in range(grid[1])]
    kernel = w["patch_embed.proj.weight"].reshape(16, -1)
    tokens = (
        np.stack([kernel @ patch.reshape(-1) for patch in patches]) + w["patch_embed.proj.bias"] + w["pos_embed"][0]
    )
    if "cls_token" in w:
        tokens = np.concatenate([w["cls_token"][0], tokens])
    erf, outputs = np.vectorize(math.erf), []
    for i in range(len(backbone.blocks)):
        b = {name.removeprefix(f"blocks.{i}."): value for name, value in w.items() if name.startswith(f"blocks.{i}.")}
        x = layer_norm(tokens, b["norm1.weight"], b["norm1.bias"])
        q, k, v = np.split(x @ b["attn.qkv.weight"].T + b["attn.qkv.bias"], 3, axis=1)
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            scores = np.exp(q[:, h] @ k[:, h].T / math.sqrt(8))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, h])
        mixed = np.concatenate(heads, axis=1) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        tokens = tokens + b["ls1.gamma"] * mixed
        x = layer_norm(tokens, b["norm2.weight"], b["norm2.bias"]) @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"]
        x = x * (1 + erf(x / math.sqrt(2))) / 2
        tokens = tokens + b["ls2.gamma"] * (x @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"])
        outputs.append(layer_norm(tokens, w["norm.weight"], w["norm.bias"]))
    return outputs


def test_pooled_last_four_are_those_of_a_forward_pass_by_hand():
    images = np.random.default_rng(0).normal(size=(2, 3, 24, 32))
    backbone = small_backbone()
    pooled = pooled_layers(backbone, torch.from_numpy(images).float(), 4, ["patch", "cls"])
    bare = small_backbone(class_token=False)
    bare_pooled = pooled_layers(bare, torch.from_numpy(images).float(), 4, ["patch"])
    assert pooled.shape == (2, 2, 4, 16) and bare_pooled.shape == (2, 1, 4, 16)
    for i, image in enumerate(images):
        layers = by_hand(backbone, image)[-4:]
        np.testing.assert_allclose(pooled[i, 0], [tokens[1:].mean(0) for tokens in layers], atol=2e-5)
        np.testing.assert_allclose(pooled[i, 1], [tokens[0] for tokens in layers], atol=2e-5)
        np.testing.assert_allclose(bare_pooled[i, 0], [t.mean(0) for t in by_hand(bare, image)[-4:]], atol=2e-5)
    assert (pooled[:, :, 0] - pooled[:, :, 1]).abs().mean() > 0.05  # the layers do differ


def test_the_last_layer_is_the_backbones_own_output():
    backbone, images = small_backbone(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        cls, patches = backbone(images)
    pooled = pooled_layers(backbone, images, 1, ["cls", "patch"])[:, :, 0]
    torch.testing.assert_close(pooled, torch.stack([cls, patches.mean(1)], dim=1))


@pytest.mark.parametrize("class_token", [True, False])
def test_features_are_the_backbones_own_and_broken_images_are_left_out(tmp_path, class_token):
    rng = np.random.default_rng(0)
    for index in range(5):
        path = tmp_path / ("dark" if index % 2 else "light") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    (tmp_path / "dark" / "0.png").write_bytes(b"not an image")
    folder, backbone = labelled_folder(tmp_path), small_backbone(class_token)
    state = torch.get_rng_state()
    features, labels = extract_features(backbone, folder, range(len(folder)), image_size=32, batch_size=4)
    assert torch.equal(state, torch.get_rng_state())
    assert labels.tolist() == [0, 0, 1, 1, 1] and features.shape == (5, 16)
    with torch.no_grad():
        cls, patches = backbone(normalised(central_square(folder.load(4), 32), 8)[None])
    assert own_pool(backbone) == ("cls" if class_token else "patch")
    torch.testing.assert_close(features[3], cls[0] if class_token else patches.mean(1)[0])
    some, _ = extract_features(backbone, folder, [4, 1], image_size=32)
    torch.testing.assert_close(some, features[[3, 0]])
