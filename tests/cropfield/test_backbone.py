"""The net as a Detectron2 backbone."""

import pytest
import torch
from detectron2.structures import ImageList

from cropfield import CropFieldFeaturePyramid, CropFieldViT
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer

SMALL = dict(patch_size=8, embed_dim=32, depth=3, num_heads=2, field_size=(6, 5))


def make(**changes) -> CropFieldViT:
    """A small backbone whose LayerScale and biases are not trivial."""
    torch.manual_seed(0)
    backbone = CropFieldViT(**SMALL | changes)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith((".gamma", ".bias")):
                parameter.uniform_(0.2, 1.5)
    return backbone


def test_keys_are_the_backbones():
    net = VisionTransformer(**SMALL)
    assert make(final_norm=True, class_token=True).state_dict().keys() == net.state_dict().keys()
    left_out = net.state_dict().keys() - make().state_dict().keys()
    assert left_out == {"cls_token", "norm.weight", "norm.bias"}


def test_features_are_the_backbones():
    images = torch.randn(2, 3, 40, 24)
    backbone = make(final_norm=True, class_token=True)
    net = VisionTransformer(**SMALL)
    net.load_state_dict(backbone.state_dict())
    _, patches = net(images)
    features = backbone(images)["last_feat"]
    assert features.shape == (2, 32, 5, 3)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), patches)


def test_final_norm_is_left_to_the_pyramid():
    images = torch.randn(1, 3, 16, 16)
    features = make()(images)["last_feat"].mean(dim=1)
    assert features.abs().max() > 1e-3  # a LayerNorm without affine part would make it zero


def test_output_shape_names_the_feature_and_its_stride():
    (name, shape), *others = make(out_feature="p3").output_shape().items()
    assert (name, shape.channels, shape.stride, others) == ("p3", 32, 8, [])


def test_checkpointing_changes_neither_values_nor_gradients_nor_keys():
    images = torch.randn(2, 3, 16, 24)
    results = {}
    for switch in (False, True):
        backbone = make(activation_checkpointing=switch, drop_path_rate=0.5).train()
        torch.manual_seed(1)
        features = backbone(images)["last_feat"]
        features.square().sum().backward()
        results[switch] = {"features": features} | {n: p.grad for n, p in backbone.named_parameters()}
    assert results[False].keys() == results[True].keys()
    torch.testing.assert_close(results[True], results[False])


def test_checkpointing_recomputes():
    backbone = make(activation_checkpointing=True)
    calls = []
    backbone.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    backbone(torch.randn(1, 3, 16, 16))["last_feat"].sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("square_pad, padded", [(0, (48, 64)), (128, (128, 128))])
def test_pyramid_pads_and_has_the_strides_of_its_patch(square_pad, padded):
    pyramid = CropFieldFeaturePyramid(
        net=make(), in_feature="last_feat", out_channels=16, scale_factors=(2.0, 1.0, 0.5), square_pad=square_pad
    )
    images = [torch.randn(3, 40, 60), torch.randn(3, 35, 20)]
    batch = ImageList.from_tensors(images, pyramid.size_divisibility, padding_constraints=pyramid.padding_constraints)
    assert batch.tensor.shape[-2:] == padded
    features = pyramid(batch.tensor)
    sides = {name: tuple(feature.shape[-2:]) for name, feature in features.items()}
    assert sides == {f"p{k}": (padded[0] // 2**k, padded[1] // 2**k) for k in (2, 3, 4)}


def test_a_pyramid_without_coarse_levels_pads_to_whole_patches():
    pyramid = CropFieldFeaturePyramid(net=make(), in_feature="last_feat", out_channels=16, scale_factors=(4.0, 2.0))
    assert pyramid.size_divisibility == 8  # and not the last level's stride of 4
    assert pyramid.padding_constraints == {"size_divisibility": 8, "square_size": 0}


def test_plain_backbone_pads_to_whole_patches():
    backbone = make()
    batch = ImageList.from_tensors(
        [torch.randn(3, 33, 17)], backbone.size_divisibility, padding_constraints=backbone.padding_constraints
    )
    assert backbone(batch.tensor)["last_feat"].shape == (1, 32, 5, 3)


@pytest.mark.parametrize("final_norm", [False, True])
def test_outputs_are_the_maps_of_their_blocks(final_norm):
    """Each is what a backbone that ends there gives; several put together by channel, in the order asked for."""
    images = torch.randn(2, 3, 24, 16)
    whole = make(out_features={"early": 0, "both": [2, 0], "last": -1}, final_norm=final_norm)
    found = whole(images)
    assert {name: shape.channels for name, shape in whole.output_shape().items()} == {
        "early": 32,
        "both": 64,
        "last": 32,
    }
    for depth, name in ((1, "early"), (3, "last")):
        short = make(depth=depth, final_norm=final_norm)
        short.load_state_dict({k: v for k, v in whole.state_dict().items() if k in short.state_dict()})
        torch.testing.assert_close(found[name], short(images)["last_feat"])
    torch.testing.assert_close(found["both"], torch.cat([found["last"], found["early"]], dim=1))


@pytest.mark.parametrize("wrong", [{}, {"a": []}, {"a": 3}, {"a": [0, -4]}])
def test_blocks_that_are_not_there_are_refused(wrong):
    with pytest.raises(UserError, match="0 to 2, or a list"):
        make(out_features=wrong)


def test_a_frozen_backbone_stores_nothing_and_stays_as_it_is():
    images, stored = torch.randn(2, 3, 16, 16, requires_grad=True), []
    for options in ({}, {"activation_checkpointing": True}):
        free, frozen = (make(drop_path_rate=0.9, frozen=switch, **options).train() for switch in (False, True))
        assert free.training and not any(module.training for module in frozen.modules())
        assert not any(parameter.requires_grad for parameter in frozen.parameters())
        counts = []
        for backbone in (free, frozen):
            stored.clear()
            with torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t) or t, lambda t: t):
                features = backbone(images)["last_feat"]
            counts.append((len(stored), features.requires_grad))
        assert counts[0][0] > 0 and counts[1] == (0, False)
        assert torch.equal(frozen(images)["last_feat"], free.eval()(images)["last_feat"])


def test_linear_layers_in_eight_bits():
    net = CropFieldViT(patch_size=8, embed_dim=32, depth=2, num_heads=2, field_size=4, layer_scale=0.7).eval()
    images = torch.randn(2, 3, 32, 48)
    small = torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear}, dtype=torch.qint8)
    assert isinstance(small.blocks[0].mlp.fc2, torch.ao.nn.quantized.dynamic.Linear)
    with torch.no_grad():
        features, rounded = net(images)["last_feat"], small(images)["last_feat"]
    assert 0 < (rounded - features).abs().max() < 0.05 * features.abs().max()
