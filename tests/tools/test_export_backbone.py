"""One exported file, the same features in CropFieldViT, in Detectron2's own ViT and in timm."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.modeling import ViT
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from cropfield import CropFieldViT, load_backbone, load_pretrained
from pretrain.errors import UserError
from pretrain.models.export_formats import Shape
from pretrain.models.vit import VisionTransformer

ROOT = Path(__file__).parents[2]
SHAPE = dict(embed_dim=48, depth=3, num_heads=3)
SIZES = [(224, 224), (512, 768), (1024, 1024)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A training state whose gammas, biases and positions are far from their initial values."""
    torch.manual_seed(0)
    net = VisionTransformer(**SHAPE)
    state = net.state_dict()
    for name, value in state.items():
        if name.endswith((".gamma", ".bias", "pos_embed", "cls_token")):
            value.uniform_(-1, 1)
        elif ".weight" in name and value.dim() > 1:
            value.mul_(5)
    model = {
        f"{role}.backbone.{n}": v + (role == "student") for n, v in state.items() for role in ("teacher", "student")
    }
    path = tmp_path_factory.mktemp("export") / "last.pth"
    torch.save({"model": model, "metadata": {"method": "SelfDistillation", "iteration": "3", **net.metadata}}, path)
    return path


@pytest.mark.parametrize("class_position", [True, False])
def test_public_weights_become_a_file_of_ours(tmp_path, class_position):
    torch.manual_seed(0)
    timm = TimmViT(**SHAPE, img_size=64, num_classes=5, no_embed_class=not class_position)
    for name, value in timm.state_dict().items():
        if name.endswith((".bias", "pos_embed", "cls_token")):
            value.uniform_(-1, 1)
    public, exports = tmp_path / "public.pth", [tmp_path / "b.safetensors", tmp_path / "b.pth"]
    torch.save(timm.state_dict(), public)
    with pytest.raises(UserError, match="does not record its number of heads"):
        run_tool(str(public), "-o", *map(str, exports))
    run_tool(str(public), "-o", *map(str, exports), "--num-heads", "3")
    expected = cropfield_features(public, images_of((64, 96)), layer_scale=None, field_size=4)
    for path in exports:
        backbone = load_pretrained(path)
        assert backbone.num_heads == 3
        with torch.no_grad():
            found = backbone(images_of((64, 96)))["last_feat"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    with safe_open(exports[0], "pt") as file:
        assert (file.metadata()["method"], file.metadata()["source"]) == ("not pretrained here", "public.pth")


def run_tool(*arguments: str) -> None:
    """The tool's main, in this process."""
    spec = importlib.util.spec_from_file_location("export_backbone", ROOT / "tools" / "export_backbone.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["export_backbone.py", *arguments])
        tool.main()


def export(checkpoint: Path, name: str, *options: str) -> Path:
    """A backbone file of the checkpoint."""
    path = checkpoint.parent / name
    path.unlink(missing_ok=True)
    run_tool(str(checkpoint), "-o", str(path), *options)
    return path


@torch.no_grad()
def cropfield_features(path: Path, images: torch.Tensor, **switches) -> torch.Tensor:
    """(B, H*W, D)"""
    backbone = CropFieldViT(**SHAPE, **switches).eval()
    load_backbone(backbone, path)
    return backbone(images)["last_feat"].flatten(2).transpose(1, 2)


def images_of(size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["kept.safetensors", "kept.pth"])
def test_cropfield_has_the_teachers_features(checkpoint, name, size):
    net = VisionTransformer(**SHAPE).eval()
    saved = torch.load(checkpoint, weights_only=True)["model"]
    net.load_state_dict({n.removeprefix("teacher.backbone."): v for n, v in saved.items() if n.startswith("teacher.")})
    with torch.no_grad():
        _, expected = net(images_of(size))
    found = cropfield_features(export(checkpoint, name), images_of(size), class_token=True, final_norm=True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_detectron2s_own_vit_has_the_same_features(checkpoint, size):
    path = export(checkpoint, "folded.pth", "--fold-layer-scale")
    holder = nn.Module()
    holder.backbone = nn.Module()
    holder.backbone.net = vit = ViT(
        pretrain_img_size=800,
        pretrain_use_cls_token=False,
        use_rel_pos=False,
        window_size=0,
        **SHAPE,
    )
    DetectionCheckpointer(holder).load(str(path))
    with torch.no_grad():
        found = vit.eval()(images_of(size))["last_feat"].flatten(2).transpose(1, 2)
    expected = cropfield_features(export(checkpoint, "kept.safetensors"), images_of(size))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size, options", [(s, ("--image-size", f"{s[0]}x{s[1]}")) for s in SIZES] + [((800, 800), ())])
@pytest.mark.parametrize("fold", [False, True])
def test_timm_has_the_same_features(checkpoint, size, options, fold):
    options = (*options, "--fold-layer-scale") if fold else options
    state = load_file(export(checkpoint, "timm.safetensors", *options))
    timm_vit = TimmViT(
        img_size=size, no_embed_class=True, init_values=None if fold else 1.0, num_classes=0, global_pool="", **SHAPE
    ).eval()
    timm_vit.load_state_dict(state)
    images = images_of(size)[:1]
    with torch.no_grad():
        found = timm_vit.forward_features(images)[:, 1:]
    path = export(checkpoint, "kept.safetensors")
    expected = cropfield_features(path, images, class_token=True, final_norm=True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def loaded_by_printed_lines(printed: str, **names):
    """`model` as the lines that the tool printed make it."""
    exec(printed.partition("load it with")[2], names)
    return names


@pytest.mark.parametrize("options, size", [((), 800), (("--image-size", "64x96"), (64, 96))])
def test_format_timm_loads_by_its_lines(checkpoint, capsys, options, size):
    path = export(checkpoint, "for_timm.safetensors", "--format", "timm", *options)
    model = loaded_by_printed_lines(capsys.readouterr().out)["model"].eval()
    size = size if isinstance(size, tuple) else (size, size)
    images = images_of(size)[:1]
    with torch.no_grad():
        found = model.forward_features(images)[:, 1:]
    kept = export(checkpoint, "kept.safetensors")
    expected = cropfield_features(kept, images, class_token=True, final_norm=True)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    lines = capsys.readouterr()
    assert safe_open(path, "pt").metadata()["format"] == safe_open(kept, "pt").metadata()["format"] == "pt", lines


def test_format_timm_gives_features_only(checkpoint, capsys):
    export(checkpoint, "for_timm.safetensors", "--format", "timm", "--image-size", "64x96")
    lines = capsys.readouterr().out.replace("pretrained=True", "pretrained=True, features_only=True")
    images = images_of((64, 96))[:1]
    with torch.no_grad():
        *_, found = loaded_by_printed_lines(lines)["model"].eval()(images)
    expected = cropfield_features(export(checkpoint, "kept.safetensors"), images, class_token=True)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("class_token", [True, False])
def test_format_hf_loads_by_its_lines(checkpoint, capsys, tmp_path, class_token):
    pytest.importorskip("transformers", reason="transformers is not installed")
    content = torch.load(checkpoint, weights_only=True)
    if not class_token:
        content["model"] = {name: value for name, value in content["model"].items() if "cls_token" not in name}
    torch.save(content, tmp_path / "last.pth")
    run_tool(str(tmp_path / "last.pth"), "-o", str(tmp_path / "hf"), "--format", "hf")
    model = loaded_by_printed_lines(capsys.readouterr().out)["model"].eval()
    assert type(model).__name__ == ("Dinov2Model" if class_token else "IJepaModel")
    images = images_of((64, 96))
    with torch.no_grad():
        found = model(images, **{} if class_token else {"interpolate_pos_encoding": True}).last_hidden_state
    kept = tmp_path / "kept.safetensors"
    run_tool(str(tmp_path / "last.pth"), "-o", str(kept))
    expected = cropfield_features(kept, images, class_token=class_token, final_norm=True)
    torch.testing.assert_close(found[:, int(class_token) :], expected, atol=1e-4, rtol=0)


def test_format_detectron2_loads_by_its_lines(checkpoint, capsys):
    path = export(checkpoint, "for_d2.pth", "--format", "detectron2")
    holder, train = SimpleNamespace(backbone=SimpleNamespace()), SimpleNamespace()
    loaded_by_printed_lines(capsys.readouterr().out, model=holder, train=train)
    assert train.init_checkpoint == str(path)
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.net = instantiate(holder.backbone.net).eval()
    DetectionCheckpointer(model).load(train.init_checkpoint)
    with torch.no_grad():
        found = model.backbone.net(images_of((224, 224)))["last_feat"].flatten(2).transpose(1, 2)
    expected = cropfield_features(export(checkpoint, "kept.safetensors"), images_of((224, 224)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_several_files_at_once(checkpoint, tmp_path):
    run_tool(str(checkpoint), "-o", str(tmp_path / "b.pth"), str(tmp_path / "b.safetensors"))
    ours, theirs = load_file(tmp_path / "b.safetensors"), torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert all(torch.equal(value, theirs[f"backbone.net.{name}"]) for name, value in ours.items())


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("a.pth", ("--format", "timm"), "writes a .safetensors"),
        ("a.safetensors", ("--format", "detectron2"), "writes a .pth"),
        ("a.safetensors", ("--format", "hf"), "transformers wants a folder"),
        ("a", ("--format", "hf", "--image-size", "64x96"), "square images only"),
        ("a.pth", ("--format", "detectron2", "--image-size", "64x96"), "square images only"),
    ],
)
def test_a_format_that_cannot_be_written(checkpoint, tmp_path, name, options, words):
    with pytest.raises(UserError, match=words):
        run_tool(str(checkpoint), "-o", str(tmp_path / name), *options)
    assert not (tmp_path / name).exists()


def test_wrong_options_get_a_sentence(checkpoint, capsys):
    path = str(checkpoint.parent / "wrong.pth")
    with pytest.raises(UserError, match="multiples of the patch"):
        run_tool(str(checkpoint), "-o", path, "--image-size", "100x96")
    with pytest.raises(UserError, match="neither .safetensors nor .pth"):
        run_tool(str(checkpoint), "-o", path.replace(".pth", ".bin"))
    with pytest.raises(UserError, match="there is no checkpoint"):
        run_tool(str(checkpoint.with_name("absent.pth")), "-o", path)
    with pytest.raises(SystemExit):
        run_tool(str(checkpoint), "-o", path, "--image-size", "large")
    assert "not HEIGHTxWIDTH" in capsys.readouterr().err
    assert not Path(path).exists()


CONFIG = """
dataloader: {train: {source: {root: [/home/me/photos, more.txt]}}}
model: {init: hf://owner/name/vit.safetensors}
"""


def test_a_file_says_where_it_comes_from(checkpoint, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pth").write_bytes(checkpoint.read_bytes())
    (run / "config.yaml").write_text(CONFIG)
    for name in ("b.safetensors", "b.pth"):
        run_tool(str(run / "last.pth"), "-o", str(tmp_path / name), "--license", "CC-BY-4.0")
        capsys.readouterr()
        run_tool(str(tmp_path / name))
        first, *lines = capsys.readouterr().out.splitlines()
        shape = "3 blocks of 48 channels, patches of 16 pixels, 50 x 50 positions, 0.2 M parameters"
        assert first == f"{tmp_path / name}: a ViT of {shape}"
        said = {"method: SelfDistillation", "iteration: 3", "data: photos, more.txt", "started_from: vit.safetensors"}
        assert said | {"license: CC-BY-4.0", "num_heads: 3"} <= {line.strip() for line in lines}
        assert not any("/home/me" in line for line in lines), "folders of the disk are nobody's business"


@pytest.mark.parametrize("metadata", [{"method": "another project's", "epoch": 5}, {}])
def test_a_public_file_is_not_of_the_run_beside_it(tmp_path, metadata):
    (tmp_path / "config.yaml").write_text(CONFIG)
    torch.save({"model": VisionTransformer(**SHAPE).state_dict(), "metadata": metadata}, tmp_path / "public.pth")
    out = tmp_path / "b.safetensors"
    run_tool(str(tmp_path / "public.pth"), "-o", str(out), "--num-heads", "3", "--image-size", "32x64")
    with safe_open(out, "pt") as file:
        said = file.metadata()
    assert said["source"] == "public.pth" and said["field_size"] == "2x4" and "data" not in said
    assert said["method"] == "not pretrained here"


def test_pixel_statistics_go_along_and_timm_is_told_them(checkpoint, tmp_path, capsys):
    state = torch.load(checkpoint, weights_only=True)
    state["metadata"] |= {"image_mean": "51,102,127.5", "image_std": "25.5,51,255"}
    torch.save(state, tmp_path / "last.pth")
    run_tool(str(tmp_path / "last.pth"), "-o", str(tmp_path / "b.safetensors"))
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["image_mean"] == "51,102,127.5"
    run_tool(str(tmp_path / "last.pth"), "-o", str(tmp_path / "t.safetensors"), "--format", "timm")
    assert "mean=(0.2, 0.4, 0.5), std=(0.1, 0.2, 1.0)" in capsys.readouterr().out


@pytest.mark.parametrize("width, mlp", [(48, 130), (96, 260), (1408, 1414), (48, 192)])
def test_the_mlps_width_survives_others_arithmetic(width, mlp):
    ratio = Shape(16, width, 1, 1, mlp, 16, 16, 3).mlp_ratio
    assert int(width * float(f"{ratio:.17g}")) == mlp


def test_a_file_that_says_nothing_is_shown_by_its_tensors(tmp_path, capsys):
    state = VisionTransformer(**SHAPE).state_dict()
    torch.save({"model": state, "metadata": {"note": "\x1b[31mred\n"}}, tmp_path / "bare.pth")
    run_tool(str(tmp_path / "bare.pth"))
    out = capsys.readouterr().out
    assert "3 blocks of 48 channels" in out and "license: not specified" in out
    assert "\x1b" not in out and "\\x1b[31mred\\n" in out
    with pytest.raises(SystemExit):
        run_tool(str(tmp_path / "bare.pth"), "--license", "MIT")
    assert "need -o FILE" in capsys.readouterr().err


def test_an_export_replaces_no_file_unless_told_to(checkpoint):
    path = export(checkpoint, "kept.pth")
    path.write_bytes(b"someone's own")
    with pytest.raises(UserError, match=r"kept\.pth exists"):
        run_tool(str(checkpoint), "-o", str(path))
    assert path.read_bytes() == b"someone's own"
    run_tool(str(checkpoint), "-o", str(path), "--overwrite")
    load_backbone(CropFieldViT(**SHAPE), path)


def test_a_format_of_a_folder_is_not_written_over_its_input(tmp_path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"someone's own")
    with pytest.raises(UserError, match="model.safetensors is an input"):
        run_tool(str(tmp_path / "model.safetensors"), "-o", str(tmp_path), "--format", "hf", "--overwrite")


def test_what_a_file_says_itself_is_not_replaced_by_a_config_beside_it(checkpoint, tmp_path):
    """Nor completed by it: the data would be of one run, and the initial weights of another."""
    state = torch.load(checkpoint, weights_only=True)
    state["metadata"]["data"] = "own"
    torch.save(state, tmp_path / "a.pth")
    (tmp_path / "config.yaml").write_text(CONFIG)
    run_tool(str(tmp_path / "a.pth"), "-o", str(tmp_path / "b.safetensors"))
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["data"] == "own" and "started_from" not in file.metadata()


def test_text_that_is_not_utf8_is_recorded_and_shown_readably(checkpoint, tmp_path, capsys):
    outputs = [tmp_path / "b.safetensors", tmp_path / "b.pth"]
    run_tool(str(checkpoint), "-o", *map(str, outputs), "--license", "zoo\udce9 é")
    assert "license zoo\\xe9 é" in capsys.readouterr().out
    with safe_open(outputs[0], "pt") as file:
        assert file.metadata()["license"] == "zoo\\xe9 é"
    assert torch.load(outputs[1], weights_only=True)["metadata"]["license"] == "zoo\\xe9 é"


def test_all_names_are_checked_before_anything_is_read_or_written(checkpoint, tmp_path):
    with pytest.raises(UserError, match="b.txt ends in neither"):
        run_tool(str(checkpoint), "-o", str(tmp_path / "a.pth"), str(tmp_path / "b.txt"))
    assert not list(tmp_path.iterdir())
    for options in (["b.txt"], ["b.txt", "--format", "timm"], ["b.pth", "c.pth", "--format", "detectron2"]):
        with pytest.raises(UserError, match="ends in neither|writes a .safetensors|writes one --output"):
            run_tool(str(tmp_path / "absent.pth"), "-o", *options)
