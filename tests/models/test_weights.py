"""What is written, and exact changes on the way."""

import pytest
import torch
from safetensors import safe_open
from torch import nn

from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import fold_layer_scale, load_backbone, resize_field, write_backbone


def test_folding_is_gamma_times_the_layer():
    torch.manual_seed(0)
    layers = {"attn.proj": nn.Linear(3, 5), "mlp.fc2": nn.Linear(7, 5)}
    state = {f"blocks.0.{n}.{p}": t for n, layer in layers.items() for p, t in layer.state_dict().items()}
    gammas = {"attn.proj": torch.randn(5), "mlp.fc2": torch.randn(5)}
    state |= {"blocks.0.ls1.gamma": gammas["attn.proj"], "blocks.0.ls2.gamma": gammas["mlp.fc2"]}
    folded = fold_layer_scale(state)
    for name, layer in layers.items():
        x = torch.randn(2, layer.in_features)
        expected = gammas[name] * layer(x)
        got = nn.functional.linear(x, folded[f"blocks.0.{name}.weight"], folded[f"blocks.0.{name}.bias"])
        torch.testing.assert_close(got, expected)
    assert len(folded) == 4


def test_resizing_the_field_is_bicubic_interpolation():
    field = torch.randn(1, 6, 4, 8)
    expected = nn.functional.interpolate(field.permute(0, 3, 1, 2), (5, 9), mode="bicubic").flatten(2).transpose(1, 2)
    torch.testing.assert_close(resize_field(field.flatten(1, 2), (6, 4), (5, 9)), expected, atol=1e-5, rtol=0)


def test_files_hold_names_and_metadata(tmp_path):
    state = {"pos_embed": torch.arange(6.0).view(1, 3, 2).transpose(1, 2)}  # not contiguous
    write_backbone(tmp_path / "a.safetensors", state, {"method": "x"})
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert int(metadata.pop("crc32"), 16) and metadata == {"method": "x", "format": "pt"}
        assert torch.equal(file.get_tensor("pos_embed"), state["pos_embed"])
    write_backbone(tmp_path / "b.pth", state, {"method": "x"})
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert content["model"].keys() == {"backbone.net.pos_embed"} and content["metadata"] == {"method": "x"}


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="No space left"):
        write_backbone(path, {"x": torch.zeros(1)}, {})
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(UserError, match="neither .safetensors nor .pth"):
        write_backbone(tmp_path / "a.bin", {}, {})


def test_a_field_of_as_many_cells_and_other_sides_is_resized(tmp_path):
    shape = dict(patch_size=8, embed_dim=16, depth=1, num_heads=2)
    wide, square = (VisionTransformer(**shape, field_size=size) for size in ((4, 9), (6, 6)))
    write_backbone(tmp_path / "wide.safetensors", wide.state_dict(), wide.metadata)
    load_backbone(square, tmp_path / "wide.safetensors")
    torch.testing.assert_close(square.pos_embed, resize_field(wide.pos_embed, (4, 9), (6, 6)))
    assert not torch.equal(square.pos_embed, wide.pos_embed)
