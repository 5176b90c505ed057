"""Weights of transformers, MMPretrain, torchvision and Lightning give the features of the model they came from."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer as TorchvisionViT

from pretrain.errors import UserError
from pretrain.models.weights import build_backbone, fill_backbone, read_backbone

DIM, DEPTH, HEADS, SIDE = 48, 2, 3, 96


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5)
    return model.eval()


def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def saved(tmp_path, content, name="model.pth"):
    save_file(content, tmp_path / name) if name.endswith(".safetensors") else torch.save(content, tmp_path / name)
    return tmp_path / name


@torch.no_grad()
def assert_gives(path, tokens: Tensor, atol: float = 1e-4):
    """The file's backbone makes these tokens, (2, [1 +] N, D) after the last norm."""
    file = read_backbone(path)
    assert file.field_size == (6, 6)
    backbone = build_backbone(file, HEADS)
    fill_backbone(backbone, file)
    class_tokens, patches = backbone(images())
    found = patches if tokens.shape[1] == 36 else torch.cat([class_tokens[:, None], patches], dim=1)
    torch.testing.assert_close(found, tokens, atol=atol, rtol=0)
    return file


# --- transformers


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "IJepa", "ViTMAE"])
@pytest.mark.parametrize("names", ["saved", "in memory"])
def test_transformers_itself(tmp_path, kind, names):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    shape = dict(hidden_size=DIM, num_hidden_layers=DEPTH, num_attention_heads=HEADS, intermediate_size=4 * DIM)
    config = getattr(transformers, f"{kind}Config")(**shape, image_size=SIDE, patch_size=16)
    model = randomised(getattr(transformers, f"{kind}Model")(config))
    path = tmp_path / "model.safetensors"
    model.save_pretrained(tmp_path) if names == "saved" else save_file(model.state_dict(), path)
    with torch.no_grad():
        if kind == "ViTMAE":
            config.mask_ratio = 0.0
            outputs = model(images(), noise=torch.arange(36).expand(2, 36) / 36)  # keeps the patches' order
        else:
            outputs = model(images())
    file = assert_gives(path, outputs.last_hidden_state, atol=5e-4)
    assert "names of transformers" in file.notes


OLD_NAMES = (  # of transformers 4, and of every file of it that is published
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def renamed(state: dict[str, Tensor], names) -> dict[str, Tensor]:
    for pattern, replacement in names:
        state = {re.sub(pattern, replacement, name): value for name, value in state.items()}
    return state


def timm_vit(**changes) -> nn.Module:
    shape = dict(img_size=SIDE, embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0)
    return randomised(timm.create_model("vit_small_patch16_224", **shape | changes))


def tokens_of(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.forward_features(images())


def of_transformers(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, value in renamed(model.state_dict(), OLD_NAMES).items():
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                state[name.replace(".attn.qkv.", f".attention.attention.{part}.")] = third.clone()
        else:
            state[name] = value
    return state


@pytest.mark.parametrize("prefix", ["", "vit.", "model.encoder."])
def test_names_of_transformers(tmp_path, prefix):
    model = timm_vit()
    state = of_transformers(model) | {"pooler.dense.weight": torch.zeros(DIM, DIM)}
    assert "encoder.layer.1.attention.attention.query.bias" in state
    path = saved(tmp_path, {prefix + name: value for name, value in state.items()}, "model.safetensors")
    assert_gives(path, tokens_of(model))


def test_queries_keys_and_values_without_bias(tmp_path):
    model = timm_vit(qkv_bias=False)
    assert_gives(saved(tmp_path, of_transformers(model)), tokens_of(model))
    assert_gives(saved(tmp_path, model.state_dict()), tokens_of(model))


@pytest.mark.parametrize("damage", ["absent", "misshapen", "flat"])
def test_a_part_of_queries_keys_and_values_is_not_enough(tmp_path, damage):
    state = of_transformers(timm_vit())
    name = "encoder.layer.1.attention.attention.key.weight"
    value = state.pop(name)
    if damage == "misshapen":
        state[name] = value[1:]
    if damage == "flat":
        state |= {name.replace("key", part): torch.tensor(1.0) for part in ("query", "key", "value")}
    with pytest.raises(UserError, match="not a plain ViT: it also has blocks.1.attn"):
        read_backbone(saved(tmp_path, state))


def test_dinov3_is_refused_with_the_reason(tmp_path):
    state = {name: value for name, value in timm_vit().state_dict().items() if name != "pos_embed"}
    files = {
        "release": state | {"rope_embed.periods": torch.ones(4), "storage_tokens": torch.ones(1, 4, DIM)},
        "timm": state | {"reg_token": torch.ones(1, 4, DIM)},
        "transformers": {"embeddings.patch_embeddings.weight": torch.ones(DIM, 3, 16, 16)},
    }
    for name, content in files.items():
        with pytest.raises(UserError, match=f"{name}.pth cannot be taken: it has rotary positions, as DINOv3"):
            read_backbone(saved(tmp_path, content, f"{name}.pth"))


# --- MMPretrain, MMSegmentation, torchvision


MMPRETRAIN = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^norm\.", "ln1."),
    (r"^blocks\.", "layers."),
    (r"\.norm([12])\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"\.ls1\.gamma$", ".attn.gamma1.weight"),
    (r"\.ls2\.gamma$", ".ffn.gamma2.weight"),
)
MMSEGMENTATION = (*MMPRETRAIN, (r"\.attn\.qkv\.", ".attn.attn.in_proj_"), (r"\.attn\.proj\.", ".attn.attn.out_proj."))


@pytest.mark.parametrize("names, init_values", [(MMPRETRAIN, None), (MMPRETRAIN, 1.0), (MMSEGMENTATION, None)])
def test_mmpretrain(tmp_path, names, init_values):
    """The average of the weights is taken where a file has one."""
    model = timm_vit(init_values=init_values)
    state = {f"backbone.{name}": value for name, value in renamed(model.state_dict(), names).items()}
    content = {"meta": {"epoch": 3}, "state_dict": {name: value + 1 for name, value in state.items()}}
    content["ema_state_dict"] = {f"module.{name}": value for name, value in state.items()} | {"steps": torch.tensor(7)}
    file = assert_gives(saved(tmp_path, content), tokens_of(model))
    assert "taken from ema_state_dict.module.backbone.*" in file.notes[0]


def test_torchvision(tmp_path):
    model = randomised(TorchvisionViT(SIDE, 16, DEPTH, HEADS, DIM, 4 * DIM, num_classes=5))
    with torch.no_grad():
        tokens = torch.cat([model.class_token.expand(2, -1, -1), model._process_input(images())], dim=1)
        tokens = model.encoder(tokens)
    assert_gives(saved(tmp_path, model.state_dict()), tokens)


# --- where a training keeps them


@pytest.mark.parametrize(
    "ours, others",
    [
        ("state_dict.model.teacher_backbone.", ["state_dict.model.student_backbone."]),  # Lightning
        ("callbacks.EMA.state_dict.net.", ["state_dict.net."]),
        ("state_dict_ema.", ["state_dict."]),  # timm
        ("model_ema.module.", ["model.semantic."]),
        ("ema.", []),
        ("state_dict.momentum_encoder.", ["state_dict.encoder."]),
    ],
)
def test_the_average_is_taken_wherever_it_lies(tmp_path, ours, others):
    state, content = timm_vit().state_dict(), {}
    for prefix in [*others, ours]:
        *path, rest = prefix.split(".")[:-1] + [""]
        place = content
        for part in path:
            place = place.setdefault(part, {})
        place |= {name: value + (prefix != ours) for name, value in state.items()}
    file = read_backbone(saved(tmp_path, content | {"pytorch-lightning_version": "2.5", "optimizer_states": [{}]}))
    assert torch.equal(file.state["norm.weight"], state["norm.weight"])
