"""Weight files as they are published: real names and shapes (narrow), and the features of the model they came from."""

import argparse
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weight_layouts import PUBLISHED_HEADS
from pretrain.models.weights import load_backbone, open_backbone, read_backbone

DIM, DEPTH, HEADS = 48, 2, 3
NARROW = dict(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, num_classes=0)


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter far from its initial value: gammas, biases and the class token's position matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5)
    return model.eval()


def timm_vit(name: str = "vit_small_patch16_224", **changes) -> TimmViT:
    return randomised(timm.create_model(name, **NARROW | changes))


def images_of(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def loaded(path, **shape):
    backbone = VisionTransformer(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, **shape).eval()
    return backbone, load_backbone(backbone, path)


@torch.no_grad()
def assert_same_features(backbone: VisionTransformer, source: TimmViT, side: int) -> None:
    """Class and patch tokens after the last norm."""
    images = images_of(side)
    expected = source.forward_features(images)[:, [0, *range(source.num_prefix_tokens, source.num_prefix_tokens + 4)]]
    class_tokens, patches = backbone(images)
    found = torch.cat([class_tokens[:, None], patches[:, :4]], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def saved(tmp_path, content, name="published.pth"):
    save_file(content, tmp_path / name) if name.endswith(".safetensors") else torch.save(content, tmp_path / name)
    return tmp_path / name


# --- DINOv2


def dinov2(num_registers: int = 0, **changes) -> tuple[TimmViT, dict[str, torch.Tensor]]:
    """timm's model, and the state that DINOv2 publishes for it: 37 x 37 positions after the class token's."""
    source = timm_vit(f"vit_small_patch14{'_reg4' * bool(num_registers)}_dinov2", img_size=518, **changes)
    state = dict(source.state_dict())
    state["mask_token"] = torch.randn(1, DIM)
    if num_registers:
        state["register_tokens"] = state.pop("reg_token")
        slot = torch.randn(1, 1, DIM)  # DINOv2 adds it to the class token; timm has it added already
        state["cls_token"] = state["cls_token"] - slot
        state["pos_embed"] = torch.cat([slot, state["pos_embed"]], dim=1)
    assert state["pos_embed"].shape == (1, 1370, DIM) and state["patch_embed.proj.weight"].shape[-1] == 14
    return source, state


def test_dinov2(tmp_path):
    source, state = dinov2()
    backbone, report = loaded(saved(tmp_path, state), patch_size=14, field_size=37)
    assert_same_features(backbone, source, 518)
    assert report.matched == len(backbone.state_dict()) and not report.resized and report.left_over == ["mask_token"]
    assert "class token's position added to cls_token" in str(report)
    assert "unused, as expected: mask_token" in str(report)


def test_dinov2s_registers_are_dropped_with_a_word(tmp_path):
    source, state = dinov2(num_registers=4)
    backbone, report = loaded(saved(tmp_path, state), patch_size=14, field_size=37)
    assert "4 register tokens dropped, so features differ" in str(report)
    with pytest.raises(AssertionError):  # as the sentence says
        assert_same_features(backbone, source, 518)
    without = randomised(TimmViT(img_size=518, patch_size=14, init_values=1.0, no_embed_class=True, **NARROW))
    without.load_state_dict({n: v for n, v in source.state_dict().items() if n != "reg_token"})
    assert_same_features(backbone, without, 518)


def test_registers_of_timm(tmp_path):
    """timm's own files: registers without positions, or with one position each after the class token's."""
    for no_embed_class, count in ((True, 16), (False, 19)):
        source = timm_vit(img_size=64, reg_tokens=2, no_embed_class=no_embed_class)
        assert source.pos_embed.shape[1] == count
        file = read_backbone(saved(tmp_path, source.state_dict(), "model.safetensors"))
        assert file.field_size == (4, 4) and file.state["pos_embed"].shape == (1, 16, DIM)
        assert torch.equal(file.state["pos_embed"], source.pos_embed[:, -16:])
        assert any("2 register tokens dropped" in note for note in file.notes)


def test_dinov2s_training_checkpoint(tmp_path):
    """Teacher below "teacher.backbone.", beside its head; blocks in FSDP's chunks."""
    source, state = dinov2()
    chunked = {re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.\1.", name): value for name, value in state.items()}
    assert "blocks.1.1.norm1.weight" in chunked
    teacher = {f"backbone.{n}": v for n, v in chunked.items()} | {"dino_head.last_layer.weight_g": torch.ones(3, 1)}
    backbone, report = loaded(saved(tmp_path, {"teacher": teacher}), patch_size=14, field_size=37)
    assert_same_features(backbone, source, 518)
    assert report.left_over == ["mask_token"]


def test_dinov2s_giant_is_refused(tmp_path):
    source = timm.create_model("vit_giant_patch14_dinov2", img_size=28, **NARROW)
    packed = saved(tmp_path, source.state_dict(), "timm.pth")
    original = {n.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): v for n, v in source.state_dict().items()}
    for path in (packed, saved(tmp_path, original)):
        with pytest.raises(UserError, match="SwiGLU.*ViT-S, B or L"):
            read_backbone(path)


# --- DINO, iBOT, MAE, DeiT


def test_dinos_full_checkpoint(tmp_path):
    """Student and teacher with their wrappers' prefixes, optimizer and command line; the teacher is taken."""
    source = timm_vit(img_size=96)
    other = {name: value + 1 for name, value in source.state_dict().items()}
    content = {
        "student": {f"module.backbone.{name}": value for name, value in other.items()},
        "teacher": {f"backbone.{name}": value for name, value in source.state_dict().items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
    }
    backbone, report = loaded(saved(tmp_path, content), field_size=6)
    assert_same_features(backbone, source, 96)
    assert "taken from teacher.backbone.* and not from student.module.backbone.*" in str(report)
    assert "LayerScale set to one" in str(report)
    del content["teacher"]
    backbone, _ = loaded(saved(tmp_path, content, "student.pth"), field_size=6)
    assert torch.equal(backbone.norm.weight, other["norm.weight"])


def test_ibot(tmp_path):
    source = timm_vit(img_size=96)
    state = source.state_dict() | {"masked_embed": torch.zeros(1, DIM)}
    backbone, report = loaded(saved(tmp_path, {"state_dict": state}), field_size=6)
    assert_same_features(backbone, source, 96)
    assert "unused, as expected: masked_embed" in str(report)


def test_mae(tmp_path):
    """Encoder and decoder; fixed sine-cosine positions with a class token's row."""
    source = timm_vit(img_size=224)
    state = {**source.state_dict(), "mask_token": torch.zeros(1, 1, 32), "decoder_embed.weight": torch.zeros(32, DIM)}
    state |= {"decoder_pos_embed": torch.zeros(1, 197, 32), "decoder_blocks.0.norm1.weight": torch.ones(32)}
    assert state["pos_embed"].shape == (1, 197, DIM)
    backbone, report = loaded(saved(tmp_path, {"model": state}), field_size=14)
    assert_same_features(backbone, source, 224)
    assert "unused, as expected" in str(report) and "decoder_blocks" in str(report)


def test_deit_and_its_distilled_and_third_versions(tmp_path):
    source = timm_vit(img_size=96, num_classes=7)
    backbone, report = loaded(saved(tmp_path, {"model": source.state_dict()}), field_size=6)
    assert_same_features(backbone, source, 96)
    assert "unused, as expected: head" in str(report)

    distilled = source.state_dict() | {"dist_token": torch.ones(1, 1, DIM), "pos_embed": torch.randn(1, 38, DIM)}
    file = read_backbone(saved(tmp_path, {"model": distilled}))
    assert torch.equal(file.state["pos_embed"], distilled["pos_embed"][:, 2:])
    assert torch.equal(file.state["cls_token"], distilled["cls_token"] + distilled["pos_embed"][:, :1])
    assert "1 distillation token dropped" in file.notes[0]

    third = timm_vit("deit3_small_patch16_224", img_size=96)
    assert third.no_embed_class
    state = {re.sub(r"ls([12])\.gamma", r"gamma_\1", name): value for name, value in third.state_dict().items()}
    assert "blocks.0.gamma_1" in state
    backbone, report = loaded(saved(tmp_path, {"model": state}), field_size=6)
    assert_same_features(backbone, third, 96)
    assert report.matched == len(backbone.state_dict()) and "LayerScale" not in str(report)


# --- timm


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("no_embed_class", [False, True])
@pytest.mark.parametrize("init_values", [None, 1e-5])
def test_timm(tmp_path, name, no_embed_class, init_values):
    source = timm_vit(img_size=96, no_embed_class=no_embed_class, init_values=init_values, num_classes=5)
    backbone, report = loaded(saved(tmp_path, source.state_dict(), name), field_size=6)
    assert_same_features(backbone, source, 96)
    assert ("position added" in str(report)) is not no_embed_class
    assert ("LayerScale set to one" in str(report)) is (init_values is None)
    assert "all 34 tensors" in str(report)


def test_half_precision_files_give_float32_backbones(tmp_path):
    source = timm_vit(img_size=96).half()
    path = saved(tmp_path, source.state_dict(), "model.safetensors")
    assert {value.dtype for value in read_backbone(path).state.values()} == {torch.float32}  # before it is interpolated
    backbone, _ = loaded(path, field_size=6)
    assert all(p.dtype == torch.float32 for p in backbone.parameters())
    assert_same_features(backbone, source.float(), 96)


def test_a_norm_after_pooling_is_not_the_backbones(tmp_path):
    source = timm_vit(img_size=96, global_pool="avg", num_classes=5)
    path = saved(tmp_path, source.state_dict())
    with pytest.raises(UserError, match="lacks norm.bias, norm.weight"):
        loaded(path, field_size=6)
    backbone = VisionTransformer(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, field_size=6)
    report = load_backbone(backbone, path, partial=True)
    assert report.missing == ["norm.bias", "norm.weight"]
    assert "32 of 34 tensors" in str(report) and "left at their initial values: norm.bias" in str(report)
    assert torch.equal(backbone.blocks[1].mlp.fc2.weight, source.blocks[1].mlp.fc2.weight)
    assert torch.equal(backbone.norm.weight, torch.ones(DIM))


@pytest.mark.parametrize(
    "extra, words",
    [
        ("norm_pre.weight", "norm_pre.weight"),  # CLIP
        ("blocks.0.attn.rel_pos_h", "rel_pos_h"),  # SAM, ViTDet
        ("blocks.0.attn.q_norm.weight", "q_norm"),
        ("patch_embed.norm.weight", "patch_embed.norm"),
    ],
)
def test_what_computes_something_else_is_refused(tmp_path, extra, words):
    state = timm_vit(img_size=96).state_dict() | {extra: torch.zeros(3)}
    with pytest.raises(UserError, match=f"published.pth is not a plain ViT.*{words}"):
        read_backbone(saved(tmp_path, state))


def test_positions_that_are_no_square(tmp_path):
    state = timm_vit(img_size=(96, 80)).state_dict()
    with pytest.raises(UserError, match="31 positions, which is not square"):
        read_backbone(saved(tmp_path, state))


# --- sizes


def test_patches_of_16_see_enlarged_patches_of_14_as_they_were(tmp_path):
    """The kernel is resized so that embedding does not change when every patch is enlarged by bicubic interpolation."""
    source, state = dinov2()
    backbone, report = loaded(saved(tmp_path, state), patch_size=16, field_size=37)
    assert report.resized == ["patch_embed resized from 14x14 to 16x16 pixels"]
    images = images_of(518)
    patches = images.unfold(2, 14, 14).unfold(3, 14, 14)  # (B, 3, H, W, 14, 14)
    larger = nn.functional.interpolate(patches.reshape(-1, 1, 14, 14), (16, 16), mode="bicubic", antialias=True)
    larger = larger.view(2, 3, 37, 37, 16, 16).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 592, 592)
    with torch.no_grad():
        expected = source.forward_features(images)
        class_tokens, found = backbone(larger)
    torch.testing.assert_close(found, expected[:, 1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(class_tokens, expected[:, 0], atol=1e-4, rtol=0)


def test_patches_of_a_file_need_not_be_square(tmp_path):
    state = timm_vit(img_size=96).state_dict() | {"patch_embed.proj.weight": torch.randn(DIM, 3, 14, 12)}
    report = loaded(saved(tmp_path, state), field_size=6)[1]
    assert report.resized == ["patch_embed resized from 14x12 to 16x16 pixels"]


def test_any_grid_becomes_the_field(tmp_path):
    source = timm_vit(img_size=96)
    backbone, report = loaded(saved(tmp_path, source.state_dict()), field_size=(9, 5))
    grid = source.pos_embed.detach()[:, 1:].view(1, 6, 6, DIM).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, (9, 5), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(backbone.pos_embed.data, expected, atol=1e-5, rtol=0)
    assert report.resized == ["pos_embed resized from 6x6 to 9x5"]


# --- ours


def test_a_training_state_gives_its_teacher(tmp_path):
    backbone = randomised(VisionTransformer(embed_dim=DIM, depth=DEPTH, num_heads=HEADS, field_size=(4, 6)))
    state = backbone.state_dict()
    model = {
        f"{role}.backbone.{n}": v + (role == "student") for n, v in state.items() for role in ("teacher", "student")
    }
    path = saved(tmp_path, {"model": model, "metadata": {"method": "X", **backbone.metadata}}, "last.pth")
    again, _ = loaded(path, field_size=(4, 6))
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    with pytest.raises(UserError, match="heads 3 and not 4"):
        load_backbone(VisionTransformer(embed_dim=DIM, depth=DEPTH, num_heads=4), path)


def test_unrecorded_heads_are_named_where_they_are_unusual(tmp_path):
    path = saved(tmp_path, timm_vit(img_size=96).state_dict())
    assert "3 of 16 channels assumed" in str(loaded(path, field_size=6)[1])


def test_a_partial_load_of_something_else_is_refused(tmp_path):
    path = saved(tmp_path, timm_vit(img_size=96).state_dict())
    backbone = VisionTransformer(embed_dim=96, depth=1, num_heads=3, layer_scale=None)
    with pytest.raises(UserError, match="nothing in it fits"):
        load_backbone(backbone, path, partial=True)
    shallow = VisionTransformer(embed_dim=DIM, depth=1, num_heads=HEADS)
    with pytest.raises(UserError, match="depth 2 and not 1"):
        load_backbone(shallow, path)
    assert load_backbone(shallow, path, partial=True).missing == []


def test_heads_of_published_widths():
    """64 channels a head up to ViT-L; So400m (1152), ViT-H, ViT-g and ViT-bigG have 16 heads, ViT-giant2 has 24."""
    narrow = {width: width // 64 for width in (192, 256, 320, 384, 512, 640, 768, 896, 1024)}
    assert PUBLISHED_HEADS == narrow | {1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}


@pytest.mark.parametrize(
    "name, change",
    [
        ("blocks.0.mlp.fc1.weight", lambda value: value.to(torch.int8)),
        ("blocks.1.attn.qkv.weight", lambda value: value.to(torch.complex64)),
        ("pos_embed", lambda value: value > 0),
        ("blocks.0.mlp.fc1.weight", lambda value: value.sum()),
        ("patch_embed.proj.weight", lambda value: value[0]),
        ("patch_embed.proj.weight", lambda value: value[:0]),
    ],
)
def test_tensors_of_no_vit_are_named(tmp_path, name, change):
    state = dict(VisionTransformer(embed_dim=DIM, depth=DEPTH, num_heads=HEADS).state_dict())
    path = saved(tmp_path, state | {"register_tokens": torch.zeros(1, 4, DIM), name: change(state[name])})
    with pytest.raises(UserError, match=f"published.pth: {name} is .* of shape .*, which is not a weight of a ViT"):
        read_backbone(path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: [state.pop(name) for name in [*state] if name.startswith("blocks.")], "no transformer blocks"),
        (lambda state: state.update(pos_embed=torch.zeros(1, 9, 5)), "pos_embed is of shape .* has 32 channels"),
        (lambda state: state.update(cls_token=torch.zeros(1, 1, 5)), "cls_token is of shape"),
        (lambda state: state.update({"blocks.0.ls1.gamma": torch.ones(1)}), "blocks.0.ls1.gamma is of shape"),
    ],
)
def test_parts_that_do_not_belong_to_the_backbone_are_named(tmp_path, change, words):
    state = VisionTransformer(8, 32, 2, 4, field_size=3, layer_scale=1.0).state_dict()
    change(state)
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(UserError, match=words):
        open_backbone(tmp_path / "b.pth", num_heads=4)


def test_a_bias_that_a_file_lacks_is_named_where_gamma_is_folded(tmp_path):
    state = VisionTransformer(8, 32, 2, 4, field_size=3, layer_scale=1.0).state_dict()
    del state["blocks.0.attn.proj.bias"]
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(UserError, match="lacks blocks.0.attn.proj.bias"):
        load_backbone(VisionTransformer(8, 32, 2, 4, field_size=3, layer_scale=None), tmp_path / "b.pth")


def test_recorded_heads_divide_the_width(tmp_path):
    state = VisionTransformer(embed_dim=DIM, depth=DEPTH, num_heads=HEADS).state_dict()
    save_file(dict(state), tmp_path / "a.safetensors", {"num_heads": "7"})
    with pytest.raises(UserError, match="7 heads, which do not divide its width"):
        read_backbone(tmp_path / "a.safetensors")
