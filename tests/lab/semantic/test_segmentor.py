"""The linear decoder and the sliding windows: what each pixel's scores are made of."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import SemanticSegmentor

from cropfield import CropFieldViT, PlainBackbone
from lab.semantic.segmentor import LinearSegmentationHead, SlidingWindowSegmentor, at_least, starts

STATISTICS = dict(pixel_mean=[120.0, 110.0, 100.0], pixel_std=[60.0, 55.0, 50.0])


def backbone(**changes) -> PlainBackbone:
    torch.manual_seed(0)
    shape = dict(patch_size=8, embed_dim=32, depth=2, num_heads=2, field_size=4, layer_scale=1.0, final_norm=True)
    return PlainBackbone(CropFieldViT(**shape | {"class_token": True, "square_pad": 32} | changes))


def parts(**changes) -> dict:
    net = backbone(**changes)
    return dict(backbone=net, sem_seg_head=LinearSegmentationHead(net.output_shape(), num_classes=5), **STATISTICS)


def image(height: int, width: int, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "height": height, "width": width}


def test_the_head_is_one_linear_layer_for_each_token_then_bilinear():
    head = LinearSegmentationHead({"last_feat": ShapeSpec(channels=6, stride=4)}, num_classes=3).eval()
    assert sum(p.numel() for p in head.parameters()) == 6 * 3 + 3
    features = torch.randn(2, 6, 5, 7)
    scores, losses = head({"last_feat": features})
    by_hand = features.permute(0, 2, 3, 1) @ head.classifier.weight.flatten(1).T + head.classifier.bias
    by_hand = F.interpolate(by_hand.permute(0, 3, 1, 2), size=(20, 28), mode="bilinear", align_corners=False)
    assert losses == {}
    torch.testing.assert_close(scores, by_hand)


def test_the_loss_is_the_mean_over_labelled_pixels():
    head = LinearSegmentationHead({"last_feat": ShapeSpec(channels=6, stride=4)}, num_classes=3, loss_weight=2.0)
    features, targets = torch.randn(2, 6, 2, 2), torch.randint(0, 3, (2, 8, 8))
    targets[:, :5] = 255
    scores = head.eval()({"last_feat": features})[0]
    nothing, losses = head.train()({"last_feat": features}, targets)
    kept = targets != 255
    chosen = F.log_softmax(scores, dim=1).gather(1, targets.clamp(max=2)[:, None])[:, 0]
    assert nothing is None
    torch.testing.assert_close(losses["loss_sem_seg"], -2 * chosen[kept].mean())
    unlabelled = head({"last_feat": features}, torch.full_like(targets, 255))[1]["loss_sem_seg"]
    assert unlabelled == 0 and torch.isfinite(unlabelled)


@pytest.mark.parametrize(
    "length, window, stride, expected",
    [
        (32, 32, 32, [0]),
        (33, 32, 32, [0, 1]),
        (64, 32, 32, [0, 32]),
        (80, 32, 32, [0, 32, 48]),
        (64, 32, 24, [0, 24, 32]),
    ],
)
def test_windows_cover_a_side_and_end_with_it(length, window, stride, expected):
    assert starts(length, window, stride) == expected
    assert set(range(length)) == {pixel for start in expected for pixel in range(start, start + window)}


@torch.no_grad()
def test_one_window_is_the_whole_image():
    """On an image of a window's size the sliding pass is Detectron2's own."""
    whole, sliding = SemanticSegmentor(**parts()).eval(), SlidingWindowSegmentor(**parts(), window=32).eval()
    for size in ((32, 32), (20, 45)):  # the second asks for another output size
        fed = image(32, 32) | dict(zip(("height", "width"), size, strict=True))
        torch.testing.assert_close(sliding([fed])[0]["sem_seg"], whole([fed])[0]["sem_seg"])


@torch.no_grad()
def test_scores_are_averaged_where_windows_overlap():
    model = SlidingWindowSegmentor(**parts(), window=32, windows_at_once=2).eval()
    fed = image(32, 80)
    scores = model([fed])[0]["sem_seg"]
    alone = [model([image(32, 32) | {"image": fed["image"][:, :, x : x + 32]}])[0]["sem_seg"] for x in (0, 32, 48)]
    torch.testing.assert_close(scores[:, :, :32], alone[0])
    torch.testing.assert_close(scores[:, :, 32:48], alone[1][:, :, :16])
    torch.testing.assert_close(scores[:, :, 48:64], (alone[1][:, :, 16:] + alone[2][:, :, :16]) / 2)
    torch.testing.assert_close(scores[:, :, 64:], alone[2][:, :, 16:])


@torch.no_grad()
def test_how_many_windows_make_a_batch_changes_nothing():
    fed = image(70, 90)
    scores = [SlidingWindowSegmentor(**parts(), window=32, stride=24, windows_at_once=n).eval()([fed]) for n in (1, 5)]
    torch.testing.assert_close(scores[0][0]["sem_seg"], scores[1][0]["sem_seg"])
    assert scores[0][0]["sem_seg"].shape == (5, 70, 90)


@torch.no_grad()
def test_a_smaller_image_is_enlarged_to_a_window():
    model = SlidingWindowSegmentor(**parts(), window=32).eval()
    assert model([image(12, 40)])[0]["sem_seg"].shape == (5, 12, 40)
    assert at_least(torch.zeros(3, 12, 40), 32).shape == (3, 32, 107)
    assert at_least(torch.zeros(3, 32, 40), 32).shape == (3, 32, 40)


def test_a_window_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="patches of 8"):
        SlidingWindowSegmentor(**parts(), window=36)


def test_a_crop_smaller_than_the_rest_is_padded_and_its_padding_not_learned():
    """Detectron2 pads targets with the head's ignore value: labels outside the crop carry no gradient."""
    model = SlidingWindowSegmentor(**parts(), window=32)
    fed = image(32, 20) | {"sem_seg": torch.zeros(32, 20, dtype=torch.long)}
    seen = []
    model.sem_seg_head.register_forward_hook(lambda module, args, out: seen.append(args[1]))
    (loss,) = model([fed]).values()
    assert seen[0].shape == (1, 32, 32) and (seen[0][..., :20] == 0).all() and (seen[0][..., 20:] == 255).all()
    assert torch.isfinite(loss)


def test_a_frozen_backbone_takes_no_gradient_and_drops_no_path():
    model = SlidingWindowSegmentor(**parts(frozen=True, drop_path_rate=0.9), window=32).train()
    fed = [image(32, 32) | {"sem_seg": torch.zeros(32, 32, dtype=torch.long)}]
    first, second = (sum(model(fed).values()) for _ in range(2))
    assert (
        first == second and not model.backbone.net.training and model.backbone.training and model.sem_seg_head.training
    )
    first.backward()
    assert model.sem_seg_head.classifier.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_the_backbone_ends_with_its_norm_and_has_its_class_token():
    """What pretraining trained is what the linear layer reads: the patch tokens of `VisionTransformer.forward`."""
    net = backbone().eval()
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        seen = net(pixels)["last_feat"].flatten(2).transpose(1, 2)
        expected = super(CropFieldViT, net.net).forward(pixels)[1]
        torch.testing.assert_close(seen, expected)
        net.net.cls_token.normal_()
        changed = net(pixels)["last_feat"].flatten(2).transpose(1, 2)
        assert (changed - expected).abs().max() > 1e-4
