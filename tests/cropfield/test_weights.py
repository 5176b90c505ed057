"""Backbone files into backbones: what matches, what is converted, what is refused."""

import pickle

import pytest
import torch
from detectron2.modeling.backbone.vit import ViT
from safetensors.torch import save_file
from torch import nn

from cropfield import CropFieldViT, load_backbone, load_weights
from pretrain.errors import UserError
from pretrain.files import write_torch_file
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import fold_layer_scale, write_backbone

SHAPE = dict(patch_size=8, embed_dim=32, depth=2, num_heads=2, field_size=4)
IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(3))


def pretrained(**changes) -> dict[str, torch.Tensor]:
    """A backbone's state as pretraining leaves it: class token, final norm, gammas of all sizes."""
    torch.manual_seed(1)
    state = VisionTransformer(**SHAPE | changes).state_dict()
    return {name: value.uniform_(-0.5, 0.5) for name, value in state.items()}


def features(backbone: CropFieldViT) -> torch.Tensor:
    with torch.no_grad():
        return backbone.eval()(IMAGES)["last_feat"]


@pytest.fixture
def reference() -> torch.Tensor:
    backbone = CropFieldViT(**SHAPE)
    backbone.load_state_dict(pretrained(), strict=False)
    return features(backbone)


def file_of(tmp_path, name: str, state, metadata=None):
    write_backbone(tmp_path / name, state, metadata or {})
    return tmp_path / name


@pytest.mark.parametrize("name", ["backbone.safetensors", "backbone.pth"])
def test_a_file_loads_whole_and_says_so(tmp_path, name, reference):
    backbone = CropFieldViT(**SHAPE)
    report = load_backbone(backbone, file_of(tmp_path, name, pretrained()))
    assert torch.equal(features(backbone), reference)
    assert report.matched == len(backbone.state_dict())
    assert report.parameters == sum(p.numel() for p in backbone.parameters())
    assert report.left_over == ["cls_token", "norm.bias", "norm.weight"]
    assert "all 31 tensors" in str(report) and "unused, as expected: cls_token" in str(report)


def test_a_bare_state_dict_loads_too(tmp_path, reference):
    torch.save(pretrained(), tmp_path / "bare.pth")
    backbone = CropFieldViT(**SHAPE)
    load_backbone(backbone, tmp_path / "bare.pth")
    assert torch.equal(features(backbone), reference)


def test_folding_layer_scale_is_exact():
    state = {name: value.double() for name, value in pretrained().items()}
    unfolded, folded = CropFieldViT(**SHAPE).double(), CropFieldViT(**SHAPE, layer_scale=None).double()
    unfolded.load_state_dict(state, strict=False)
    folded.load_state_dict(fold_layer_scale(state), strict=False)
    images = IMAGES.double()
    difference = unfolded(images)["last_feat"] - folded(images)["last_feat"]
    assert difference.abs().max() < 1e-5  # positions are sampled in float32
    assert not any(name.endswith(".gamma") for name in fold_layer_scale(state))


def test_folded_file_into_an_unfolded_backbone(tmp_path, reference):
    backbone = CropFieldViT(**SHAPE)
    report = load_backbone(backbone, file_of(tmp_path, "folded.safetensors", fold_layer_scale(pretrained())))
    torch.testing.assert_close(features(backbone), reference)
    assert all((p == 1).all() for n, p in backbone.named_parameters() if n.endswith(".gamma"))
    assert "LayerScale set to one" in str(report)


def test_unfolded_file_into_a_backbone_without_layer_scale(tmp_path, reference):
    backbone = CropFieldViT(**SHAPE, layer_scale=None)
    report = load_backbone(backbone, file_of(tmp_path, "kept.pth", pretrained()))
    torch.testing.assert_close(features(backbone), reference)
    assert "LayerScale folded" in str(report)


def test_a_field_of_another_size_is_interpolated(tmp_path):
    backbone = CropFieldViT(**SHAPE | dict(field_size=(6, 7)))
    state = pretrained(field_size=(4, 5))
    report = load_backbone(backbone, file_of(tmp_path, "f.safetensors", state, {"field_size": "4x5"}))
    field = state["pos_embed"].view(1, 4, 5, 32).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(field, (6, 7), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(backbone.pos_embed.data, expected, atol=1e-5, rtol=0)
    assert report.resized == ["pos_embed resized from 4x5 to 6x7"]


def test_detectron2s_own_vit_is_filled_and_its_positions_interpolated(tmp_path):
    shape = {name: SHAPE[name] for name in ("patch_size", "embed_dim", "depth", "num_heads")}
    file = file_of(tmp_path, "f.safetensors", pretrained(field_size=(4, 5)), {"field_size": "4x5"})
    stock = dict(use_rel_pos=False, window_size=0, pretrain_img_size=7 * SHAPE["patch_size"], **shape)
    net = ViT(**stock, pretrain_use_cls_token=False)
    report = load_backbone(net, file)
    assert "pos_embed resized from 4x5 to 7x7" in str(report) and not report.missing
    with pytest.raises(UserError, match="50 positions.*pretrain_use_cls_token=False"):
        load_backbone(ViT(**stock, pretrain_use_cls_token=True), file)


def test_a_detectors_backbone_is_found(tmp_path, reference):
    detector = nn.Module()
    detector.backbone = nn.Module()
    detector.backbone.net = CropFieldViT(**SHAPE)
    load_weights(detector, file_of(tmp_path, "backbone.pth", pretrained()))
    assert torch.equal(features(detector.backbone.net), reference)


@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
@pytest.mark.parametrize("mean, warned", [("1,2,3", False), ("1,2,4", True), ("1,2,3,4", True), ("[9, 9, 9]", False)])
def test_pixels_normalised_in_another_way_than_in_pretraining_are_told(tmp_path, caplog, input_format, mean, warned):
    model = nn.Module()
    model.backbone = CropFieldViT(**SHAPE)
    model.input_format, order = input_format, slice(None, None, -1 if input_format == "BGR" else 1)
    model.pixel_mean = torch.tensor([1.0, 2.0, 3.0][order]).view(3, 1, 1)
    state = {"num_heads": "2", "image_mean": mean, "image_std": "1,1,1"}
    write_backbone(tmp_path / "b.safetensors", model.backbone.state_dict(), state)
    with caplog.at_level("WARNING", "cropfield"):
        load_weights(model, tmp_path / "b.safetensors")
    assert ("pretrained with image_mean" in caplog.text) == warned


def test_a_detectors_checkpoint_goes_to_all_of_it(tmp_path):
    detector = nn.Module()
    detector.backbone, detector.roi_heads = CropFieldViT(**SHAPE), nn.Linear(2, 2)
    torch.save({"model": {n: v + 1 for n, v in detector.state_dict().items()}, "iteration": 5}, tmp_path / "model.pth")
    before = detector.roi_heads.weight.clone()
    assert load_weights(detector, tmp_path / "model.pth") is None
    assert torch.equal(detector.roi_heads.weight, before + 1)
    detector.roi_heads = nn.Linear(3, 2)
    with pytest.raises(UserError, match="another detector's checkpoint: roi_heads.weight"):
        load_weights(detector, tmp_path / "model.pth")


@pytest.mark.parametrize("wrapper", ["state_dict.", "module.", "model.module."])
def test_a_detector_of_another_trainer_is_one_too(tmp_path, wrapper):
    detector = nn.Module()
    detector.backbone, detector.roi_heads = CropFieldViT(**SHAPE), nn.Linear(2, 2)
    torch.save({wrapper + n: v + 1 for n, v in detector.state_dict().items()}, tmp_path / "model.pth")
    before = detector.roi_heads.weight.clone()
    assert load_weights(detector, tmp_path / "model.pth", whole=True) is None
    assert torch.equal(detector.roi_heads.weight, before + 1)


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (exec, ("import builtins; builtins.pwned = True",))


def refusal(backbone, path) -> str:
    """The sentence with which a load is refused; the backbone must be as it was."""
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(UserError) as refused:
        load_weights(backbone, path)
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert path.name in str(refused.value)
    return str(refused.value)


def test_files_that_are_no_checkpoints(tmp_path):
    import builtins

    backbone = CropFieldViT(**SHAPE)
    assert "no checkpoint" in refusal(backbone, tmp_path / "absent.pth")
    for name in ("cut.pth", "cut.safetensors"):
        path = file_of(tmp_path, name, pretrained())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "truncated" in refusal(backbone, path)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    refusal(backbone, tmp_path / "text.pth")
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps({"model": Hostile()}))
    refusal(backbone, tmp_path / "hostile.pth")
    torch.save({"model": Hostile()}, tmp_path / "zipped.pth")
    (tmp_path / "photo.pth").write_bytes(b"\xff\xd8\xff\xe0 a photo")
    assert "no file of PyTorch" in refusal(backbone, tmp_path / "photo.pth")
    assert "could run code" in refusal(backbone, tmp_path / "zipped.pth")
    assert not hasattr(builtins, "pwned")
    torch.save([1, 2], tmp_path / "list.pth")
    assert "no tensors" in refusal(backbone, tmp_path / "list.pth")


def test_files_of_something_else(tmp_path):
    backbone = CropFieldViT(**SHAPE)
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    assert "no ViT backbone" in refusal(backbone, tmp_path / "resnet.safetensors")


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(embed_dim=64), "width 64 and not 32"),
        (dict(depth=3), "depth 3 and not 2"),
        (dict(mlp_ratio=2.0), "MLP width 64 and not 128"),
    ],
)
def test_another_architecture(tmp_path, changes, words):
    path = file_of(tmp_path, "other.pth", pretrained(**changes))
    assert words in refusal(CropFieldViT(**SHAPE), path)


def test_the_number_of_heads_is_checked_where_it_is_recorded(tmp_path):
    path = file_of(tmp_path, "heads.safetensors", pretrained(), {"num_heads": "4"})
    assert "heads 4 and not 2" in refusal(CropFieldViT(**SHAPE), path)


def test_a_backbone_that_would_not_match_whole(tmp_path):
    state = pretrained()
    del state["blocks.1.mlp.fc2.weight"]
    assert "lacks blocks.1.mlp.fc2.weight" in refusal(CropFieldViT(**SHAPE), file_of(tmp_path, "hole.pth", state))
    state = pretrained() | {"blocks.0.norm1.bias": torch.zeros(7)}
    assert "other shapes for blocks.0.norm1.bias" in refusal(
        CropFieldViT(**SHAPE), file_of(tmp_path, "bent.pth", state)
    )


def test_a_detectors_backbone_takes_a_part_where_it_is_told_to(tmp_path):
    state = pretrained()
    del state["blocks.1.mlp.fc2.weight"]
    detector = nn.Module()
    detector.backbone = CropFieldViT(**SHAPE)
    initial = detector.backbone.blocks[1].mlp.fc2.weight.clone()
    report = load_weights(detector, file_of(tmp_path, "hole.pth", state), partial=True)
    assert report.missing == ["blocks.1.mlp.fc2.weight"] and "30 of 31 tensors" in str(report)
    assert torch.equal(detector.backbone.blocks[1].mlp.fc2.weight, initial)
    assert torch.equal(detector.backbone.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])


class Heads(nn.Module):
    """A detector's tensors by name: an R-CNN's, or with `dense` those of one that keeps its classes elsewhere."""

    def __init__(self, classes: int, value: float, dense: bool = False):
        super().__init__()
        scores = {"head.cls_score": 9 * classes} if dense else {"roi_heads.box_predictor.cls_score": classes + 1}
        sizes = {"backbone.simfp_2.0": 3, "proposal_generator.rpn_head.objectness_logits": 3, **scores}
        for name, size in sizes.items():
            *path, last = f"{name}.bias".split(".")
            module = self
            for part in path:
                module = module._modules.setdefault(part, nn.Module())
            module.register_parameter(last, nn.Parameter(torch.full((size,), value)))


@pytest.mark.parametrize("dense, ours", [(False, "cxy"), (False, "xy"), (True, "xy"), (True, "xyz")])
def test_a_detector_of_other_classes_is_a_start_where_that_is_asked_for(tmp_path, caplog, dense, ours):
    """All but the outputs of its classes is kept, and the log says what."""
    named = lambda names: [{"id": i, "name": name} for i, name in enumerate(names)]  # noqa: E731
    metadata = {"categories": named("ab")}
    write_torch_file(tmp_path / "w.pth", {"model": Heads(2, 1.0, dense).state_dict(), "metadata": metadata})
    detector = Heads(len(ours), 0.0, dense)
    with pytest.raises(UserError, match="other classes than the dataset's.*train.init_partial=True"):
        load_weights(detector, tmp_path / "w.pth", categories=named(ours))
    with caplog.at_level("INFO"):
        load_weights(detector, tmp_path / "w.pth", partial=True, categories=named(ours))
    state = detector.state_dict()
    assert state["backbone.simfp_2.0.bias"].tolist() == [1, 1, 1]
    assert state["proposal_generator.rpn_head.objectness_logits.bias"].tolist() == [1, 1, 1]
    scores = state["head.cls_score.bias" if dense else "roi_heads.box_predictor.cls_score.bias"]
    assert (scores[: len(ours)] == 0).all()
    assert "backbone.simfp_2 1, proposal_generator 1" in caplog.text
    assert not dense or "1 tensors keep their initial values: head.cls_score.bias" in caplog.text


def test_a_detector_of_which_nothing_fits_is_no_start(tmp_path):
    write_torch_file(tmp_path / "w.pth", {"model": {"roi_heads.other.bias": torch.zeros(3)}})
    with pytest.raises(UserError, match="nothing in it fits"):
        load_weights(Heads(2, 0.0), tmp_path / "w.pth", partial=True)


def test_public_weights_fill_a_detectors_backbone(tmp_path, reference):
    """MAE's names: a class token's position, a decoder, no LayerScale."""
    state = fold_layer_scale(pretrained())
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 32), state["pos_embed"]], dim=1)
    torch.save({"model": state | {"decoder_embed.weight": torch.zeros(3)}}, tmp_path / "mae_pretrain_vit_base.pth")
    backbone = CropFieldViT(**SHAPE)
    report = load_backbone(backbone, tmp_path / "mae_pretrain_vit_base.pth")
    torch.testing.assert_close(features(backbone), reference)
    assert "unused, as expected: cls_token, decoder_embed, norm" in str(report)


def test_a_backbone_with_class_token_needs_one_in_the_file(tmp_path):
    state = {name: value for name, value in pretrained().items() if name != "cls_token"}
    assert "lacks cls_token" in refusal(CropFieldViT(**SHAPE, class_token=True), file_of(tmp_path, "x.pth", state))


def test_numbers_that_are_not_finite(tmp_path):
    state = pretrained()
    state["pos_embed"][0, 0, 0] = float("nan")
    assert "not finite in pos_embed" in refusal(CropFieldViT(**SHAPE), file_of(tmp_path, "nan.pth", state))


@pytest.mark.parametrize("damage, words", [(float("nan"), "not finite in roi_heads.weight"), (torch.int8, "are int8")])
def test_a_detectors_numbers_are_checked_as_well(tmp_path, damage, words):
    detector = nn.Module()
    detector.backbone, detector.roi_heads = CropFieldViT(**SHAPE), nn.Linear(2, 2)
    detector.register_buffer("seen", torch.tensor(3))  # whole on both sides
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    value = state["roi_heads.weight"]
    state["roi_heads.weight"] = value.to(damage) if isinstance(damage, torch.dtype) else value * damage
    torch.save({"model": state}, tmp_path / "model.pth")
    assert words in refusal(detector, tmp_path / "model.pth")


def test_a_detector_without_a_vit_is_refused(tmp_path):
    detector = nn.Module()
    detector.backbone = nn.Linear(2, 2)
    with pytest.raises(UserError, match="backbone is a Linear and not a ViT"):
        load_weights(detector, file_of(tmp_path, "backbone.pth", pretrained()))
