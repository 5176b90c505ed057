"""projects/Lab/tools/embed.py: features of a folder for other programs."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lab.embeddings import features
from lab.probes.features import extract_features
from lab.probes.labelled import LabelledImages
from pretrain.data.images import open_source
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone


@pytest.fixture
def backbone(tmp_path) -> VisionTransformer:
    torch.manual_seed(0)
    backbone = VisionTransformer(patch_size=8, embed_dim=32, depth=2, num_heads=2, field_size=4)
    write_backbone(tmp_path / "backbone.safetensors", backbone.state_dict(), backbone.metadata)
    return backbone.eval()


@pytest.fixture
def embed(run_tool, tmp_path, backbone):
    def run(images, *options):
        files = ["--weights", tmp_path / "backbone.safetensors", "--images", images, "--output", tmp_path / "out"]
        run_tool("embed", *files, "--image-size", "64", "--device", "cpu", *options)
        return tmp_path / "out"

    return run


def read(path) -> tuple[dict[str, Tensor], list[str], list[str]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        return {key: file.get_tensor(key) for key in file.keys()}, *(
            json.loads(metadata[k]) for k in ("names", "broken")
        )


def test_each_row_is_its_images_features(embed, backbone, small_coco, tmp_path):
    """Class tokens as the probes compute them, means and patches that agree; a broken image is named and left out."""
    shutil.copytree(small_coco, tmp_path / "in")
    (tmp_path / "in" / "1.png").write_bytes(b"no image")
    out = embed(tmp_path / "in", "--features", "patches", "cls", "mean", "--shard", "3", "--batch-size", "2")
    first, second = (read(out / f"embeddings-0000{k}.safetensors") for k in (0, 1))
    assert (first[1], first[2], second[1], second[2]) == (["0.png", "2.png"], ["1.png"], ["3.png"], [])
    found = {kind: torch.cat([first[0][kind], second[0][kind]]) for kind in ("cls", "mean", "patches")}
    source = open_source(tmp_path / "in")
    expected, _ = extract_features(backbone, LabelledImages(source, torch.zeros(4), ["a"]), range(4), 64)
    torch.testing.assert_close(found["cls"], expected)
    assert found["patches"].shape == (3, 8, 8, 32)
    torch.testing.assert_close(found["patches"].mean((1, 2)), found["mean"])


def test_other_images_under_the_same_names_are_other_images(embed, small_coco, tmp_path):
    shutil.copytree(small_coco, tmp_path / "in")
    embed(tmp_path / "in")
    shutil.copy(tmp_path / "in" / "0.png", tmp_path / "in" / "1.png")
    with pytest.raises(UserError, match="holds embeddings with other images"):
        embed(tmp_path / "in")


def test_patches_lie_where_they_do_in_the_image(backbone):
    """A change of pixels in one patch, before the first block, is seen at its row and column."""
    backbone.blocks = backbone.blocks[:0]
    images = torch.randn(1, 3, 32, 48)
    changed = images.clone()
    changed[..., 8:16, 24:32] += 1
    difference = (
        features(backbone, changed, ("patches",))["patches"] - features(backbone, images, ("patches",))["patches"]
    )
    assert difference[0].abs().amax(-1).nonzero().tolist() == [[1, 3]]


def test_an_interrupted_call_goes_on(embed, small_coco, capsys):
    """What is there is not computed again, and the end is the same."""
    out = embed(small_coco, "--shard", "1", "--dtype", "bfloat16")
    files = sorted(out.glob("*.safetensors"))
    before = [read(file) for file in files]
    assert len(files) == 4 and read(files[0])[0]["cls"].dtype == torch.bfloat16
    kept = files[0].stat().st_mtime_ns
    files[2].unlink()
    embed(small_coco, "--shard", "1", "--dtype", "bfloat16")
    assert str([read(file) for file in files]) == str(before) and files[0].stat().st_mtime_ns == kept
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert [line.endswith("done before") for line in lines] == [True, True, False, True, False]
    for change, words in ((["--shard", "2"], "with other shard"), (["--framing", "whole"], "with other framing")):
        with pytest.raises(UserError, match=words):
            embed(small_coco, *["--shard", "1", "--dtype", "bfloat16"], *change)
    (out / "embeddings.json").write_text("{")
    with pytest.raises(UserError, match="embeddings.json cannot be read"):
        embed(small_coco, "--shard", "1")


def test_what_cannot_be_asked_for(run_tool, embed, small_coco, tmp_path):
    with pytest.raises(UserError, match="--image-size 60 is not a multiple of the patch, 8"):
        embed(small_coco, "--image-size", "60")
    plain = VisionTransformer(patch_size=8, embed_dim=32, depth=1, num_heads=2, field_size=4, class_token=False)
    write_backbone(tmp_path / "backbone.safetensors", plain.state_dict(), plain.metadata)
    with pytest.raises(UserError, match="has no class token; ask for --features mean"):
        embed(small_coco)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.safetensors"))
