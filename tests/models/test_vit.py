import re

import pytest
import timm
import torch

from pretrain.models.attention import pack
from pretrain.models.pos_embed import sincos_field
from pretrain.models.vit import Block, VisionTransformer, compile_blocks

SMALL = dict(patch_size=8, embed_dim=32, depth=3, num_heads=2, field_size=6, layer_scale=0.5)


def randomized(**changes) -> VisionTransformer:
    """A small backbone whose every parameter matters: biases, norms and gammas random too."""
    torch.manual_seed(0)
    backbone = VisionTransformer(**{**SMALL, **changes})
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


def test_state_dict_and_features_are_timms():
    ours = randomized(field_size=4).eval()
    theirs = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=0, init_values=1.0,
        no_embed_class=True, global_pool="",
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        cls, patches = ours(images)
        expected = theirs.forward_features(images)
    torch.testing.assert_close(torch.cat([cls[:, None], patches], 1), expected, atol=1e-4, rtol=0)


def test_the_starts_of_field_and_class_token():
    """Standard sine-cosine embeddings, or those less their mean; a class token as large as a position of std 0.02."""
    shape = dict(embed_dim=384, depth=1, field_size=(12, 16))
    torch.manual_seed(0)
    normal, usual, centred = (VisionTransformer(field_init=i, **shape) for i in ("normal", "sincos", "centred_sincos"))
    assert torch.equal(usual.pos_embed, sincos_field(12, 16, 384))
    torch.testing.assert_close(centred.pos_embed.mean(1), torch.zeros(1, 384), atol=1e-6, rtol=0)
    gap = usual.pos_embed - centred.pos_embed
    torch.testing.assert_close(gap, gap[:, :1].expand_as(gap), atol=1e-6, rtol=0)
    scaled = VisionTransformer(field_init="centred_sincos", field_scale=0.3, **shape)
    torch.testing.assert_close(scaled.pos_embed, 0.3 * centred.pos_embed)
    for start in (normal.pos_embed, normal.cls_token, centred.cls_token, scaled.cls_token):
        assert 0.0175 < start.std() < 0.0225
    with pytest.raises(ValueError, match="neither 'normal' nor 'sincos' nor 'centred_sincos'"):
        VisionTransformer(field_init="cosine", **shape)


def test_packed_forward_equals_crop_by_crop():
    backbone = randomized().eval()
    crops = [torch.randn(2, 3, 48, 48), torch.randn(5, 3, 24, 24)]
    boxes = [torch.rand(2, 4), torch.rand(5, 4)]

    with torch.no_grad():
        groups = backbone.encode([backbone.embed(c, b) for c, b in zip(crops, boxes, strict=True)])
        for images, box, features in zip(crops, boxes, groups, strict=True):
            for i in range(len(images)):
                cls, patches = backbone(images[i : i + 1], box[i : i + 1])
                torch.testing.assert_close(features[i, :1], cls, atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(features[i, 1:], patches[0], atol=1e-5, rtol=1e-4)


def test_drop_path_is_drawn_per_crop_and_equals_crop_by_crop(monkeypatch):
    block = Block(16, 2, 4.0, drop_path=0.5, layer_scale=1.0)
    crops = [torch.randn(3, 5, 16), torch.randn(4, 2, 16)]
    draws = torch.rand(2, 7, 1)  # attention and MLP branch of each of the seven crops
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: queue.pop(0))
    tokens, layout = pack(crops)
    queue = list(draws)
    packed = layout.split(block(tokens, layout))
    for offset, group, result in ((0, crops[0], packed[0]), (3, crops[1], packed[1])):
        for i in range(len(group)):
            queue = [draw[offset + i : offset + i + 1] for draw in draws]
            one, own = pack([group[i : i + 1]])
            torch.testing.assert_close(block(one, own), result[i], atol=1e-5, rtol=1e-4)
    kept = draws < 0.5
    both_dropped = [i for i in range(7) if not kept[:, i].any()]
    flat = [*packed[0], *packed[1]]
    inputs = [*crops[0], *crops[1]]
    for i in both_dropped:
        torch.testing.assert_close(flat[i], inputs[i])


def test_tokens_that_are_kept_are_as_without_keeping_with_all_gradients():
    """Drop path included: the same draws, and the same random numbers after it."""
    backbone = randomized(drop_path_rate=0.5).train()
    groups = [torch.randn(3, 5, 32).requires_grad_(), torch.randn(4, 2, 32).requires_grad_()]
    kept = torch.tensor([15, 3, 0, 22])
    found = []
    for features in (lambda: pack(backbone.encode(groups))[0][kept], lambda: backbone.encode(groups, kept)):
        torch.manual_seed(0)
        value = features()
        wanted = [*groups, *backbone.blocks.parameters()]
        found.append([value, *torch.autograd.grad(value.square().sum(), wanted), torch.rand(1)])
    for without, keeping in zip(*found, strict=True):
        torch.testing.assert_close(keeping, without, atol=1e-5, rtol=1e-5)


def test_hooks_and_other_layers_see_what_follows_the_heads_and_the_hidden_layer():
    """LayerScale is multiplied into weights only where nobody looks: same output, and every module is called."""
    backbone, images = randomized().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = backbone(images)[1]
        seen = {}
        for name, module in backbone.named_modules():
            module.register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
        torch.testing.assert_close(backbone(images)[1], expected)
    leaves = {name for name, module in backbone.named_modules() if not [*module.children()]}
    unused = {name for name in leaves if ".mlp." in name and not name.endswith(("fc1", "fc2", "act"))}
    assert leaves - unused <= seen.keys()
    gamma = backbone.blocks[1].ls2.gamma
    torch.testing.assert_close(seen["blocks.1.ls2"], gamma * seen["blocks.1.mlp.fc2"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("class_token", [True, False])
def test_half_precision_and_the_meta_device(dtype, class_token):
    backbone, images = randomized(class_token=class_token).eval(), torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        expected = backbone(images)[1]
        found = backbone.to(dtype)(images.to(dtype))[1]
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=0.1 * expected.abs().max().item(), rtol=0)
        shape = backbone.to("meta")(images.to("meta", dtype))[1]
        assert shape.shape == expected.shape and shape.dtype == dtype


def test_a_layer_in_the_projections_place_is_trained():
    """Low-rank adapters replace `attn.proj` and `fc2`; past them their parameters would get no gradient."""

    class Adapter(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear, self.down = linear.requires_grad_(False), torch.nn.Linear(linear.in_features, 2, bias=False)
            self.up = torch.nn.Linear(2, linear.out_features, bias=False)

        def forward(self, x):
            return self.linear(x) + self.up(self.down(x))

    backbone = randomized()
    for block in backbone.blocks:
        block.attn.proj, block.mlp.fc2 = Adapter(block.attn.proj), Adapter(block.mlp.fc2)
    backbone(torch.randn(2, 3, 32, 32))[1].square().sum().backward()
    adapters = [module for module in backbone.modules() if isinstance(module, Adapter)]
    assert len(adapters) == 6 and all(p.grad.any() for a in adapters for p in (a.up.weight, a.down.weight))


def test_drop_path_keeps_the_expectation():
    block = Block(4, 1, 4.0, drop_path=0.3, layer_scale=None)
    _, layout = pack([torch.zeros(20000, 1, 4)])
    dropped = block.drop_path(torch.ones(20000, 4), layout)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(block.eval().drop_path(torch.ones(20000, 4), layout), torch.ones(20000, 4))


def test_drop_path_grows_linearly_with_depth():
    rates = [block.drop_path.rate for block in VisionTransformer(**SMALL, drop_path_rate=0.1).blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1])


def test_an_image_that_does_not_divide_into_patches_is_refused():
    with pytest.raises(ValueError, match="30x32 does not divide into patches of 8"):
        VisionTransformer(**SMALL)(torch.zeros(1, 3, 30, 32))


def features_and_gradients(backbone, amp):
    backbone.zero_grad()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        cls, patches = backbone(torch.linspace(0, 1, 4 * 3 * 32 * 32).view(4, 3, 32, 32).cos())
    (cls.square().sum() + patches.float().mean()).backward()
    return [cls.detach(), patches.detach(), *(p.grad for p in backbone.parameters()), torch.rand(2)]


@pytest.mark.parametrize("amp", [False, True])
def test_recomputed_blocks_give_the_same_gradients(amp, monkeypatch):
    """Drop path included, and the random numbers after it."""
    backbone = randomized(drop_path_rate=0.5).train()
    expected = features_and_gradients(backbone, amp)
    calls = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda *args: calls.append(1) or forward(*args))
    backbone.activation_checkpointing = True
    for found, wanted in zip(features_and_gradients(backbone, amp), expected, strict=True):
        assert torch.equal(found, wanted)
    assert len(calls) == 2 * len(backbone.blocks)


def test_all_blocks_share_few_compilations_and_keep_their_names():
    backbone, graphs = randomized(depth=3, drop_path_rate=0.5).train(), []
    keys, expected = [*backbone.state_dict()], features_and_gradients(backbone, False)
    compile_blocks(backbone, backend=lambda graph, _: graphs.append(graph) or graph)
    for found, wanted in zip(features_and_gradients(backbone, False), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert len(graphs) == 2  # without and with drop path, whatever its rate
    assert [*backbone.state_dict()] == keys


def test_the_last_block_is_compiled_once_more_whatever_the_number_of_kept_tokens():
    backbone, graphs = randomized(depth=3).train(), []
    groups = [torch.randn(3, 5, 32).requires_grad_(), torch.randn(4, 2, 32)]
    expected = pack(backbone.encode(groups))[0]
    compile_blocks(backbone, backend=lambda graph, _: graphs.append(graph) or graph)
    for count in (4, 7, 9, 12, 5):
        torch.testing.assert_close(backbone.encode(groups, torch.arange(count)), expected[:count])
    assert len(graphs) <= 3  # all other blocks; the last, with its first number, and with any


def test_the_narrowest_mlp_has_one_channel():
    assert VisionTransformer(8, 8, 1, 2, field_size=2, mlp_ratio=0.001).blocks[0].mlp.fc1.out_features == 1


def test_a_new_backbone_begins_as_the_papers_and_dinov2s():
    """Linear weights and field: normal of std .02, cut at two units as torch does; no bias; a LayerScale of 1e-5."""
    torch.manual_seed(0)
    state = VisionTransformer(embed_dim=96, depth=2, num_heads=3, field_size=20).state_dict()
    drawn = ["pos_embed"] + [name for name in state if re.search(r"(qkv|proj|fc[12])\.weight", name)]
    drawn.remove("patch_embed.proj.weight")
    for name in drawn:
        assert state[name].std().item() == pytest.approx(0.02, rel=0.05), name
        assert abs(state[name].mean().item()) < 1e-3, name
    for name, value in state.items():
        if name.endswith("gamma"):
            assert (value == torch.tensor(1e-5)).all(), name
        if name.startswith("blocks") and name.endswith("bias"):
            assert not value.any(), name
    fan_in = 3 * 16 * 16  # the patch embedding keeps a convolution's own start
    assert state["patch_embed.proj.weight"].abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.01)


def test_the_default_backbone_is_vit_s16_with_a_field_of_50():
    with torch.device("meta"):
        backbone = VisionTransformer()
    assert backbone.metadata == dict(
        patch_size="16", embed_dim="384", depth="12", num_heads="6", mlp_ratio="4.0", field_size="50x50",
        layer_scale="kept",
    )  # fmt: skip
    assert (
        backbone.cls_token is not None
        and VisionTransformer(**SMALL | {"layer_scale": None}).metadata["layer_scale"] == "none"
    )
    assert backbone.pos_embed.requires_grad and not any(block.drop_path.drops for block in backbone.blocks)
    assert {m.eps for m in backbone.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    assert isinstance(backbone.norm, torch.nn.LayerNorm) and not backbone.activation_checkpointing
    assert not VisionTransformer(**SMALL, learned_field=False).pos_embed.requires_grad
    with pytest.raises(ValueError, match="'zero' is neither"):
        VisionTransformer(**SMALL, field_init="zero")
