"""projects/CropField/tools/probe_detection.py."""

import json

import pytest
import torch

from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone


def test_several_backbones_make_one_table(run_tool, small_coco, tmp_path, capsys):
    files = []
    for patch in (8, 16):
        torch.manual_seed(patch)
        backbone = VisionTransformer(patch_size=patch, embed_dim=32, depth=2, num_heads=2, field_size=4)
        files.append(tmp_path / f"{patch}.safetensors")
        write_backbone(files[-1], backbone.state_dict(), backbone.metadata)
    data = []
    for split in ("train", "val"):
        data += [f"--{split}-json={small_coco / 'labels.json'}", f"--{split}-images={small_coco}"]
    options = [*data, "--image-size", "64", "--device", "cpu"]
    output = tmp_path / "probes.json"
    run_tool("probe_detection", *files, *options, "--output", output)
    names = [*map(str, files), "colours and positions (patches of 8)", "colours and positions (patches of 16)"]
    rows = json.loads(output.read_text())["backbones"]
    assert [row["backbone"] for row in rows] == names
    printed = capsys.readouterr().out
    for row in rows:
        (line,) = [line for line in printed.splitlines() if line.startswith(row["backbone"])]
        values = [f"{value:.2f}" for value in list(row.values())[1:]]
        assert line.split()[-len(values) :] == values
        assert 0 < row["patch_box_iou"] <= 100 and row["object_rank"] >= 1
    run_tool("probe_detection", files[1], *options)  # a file has the same figures alone
    assert [line for line in printed.splitlines() if names[1] in line][0] in capsys.readouterr().out

    four_bands = tmp_path / "4.safetensors"
    backbone = VisionTransformer(patch_size=8, embed_dim=32, depth=2, num_heads=2, field_size=4, in_chans=4)
    write_backbone(four_bands, backbone.state_dict(), backbone.metadata)
    for extra, words in (
        ([], "exists, and would be written over"),
        (["--output", tmp_path / "new.json", "--image-size", "60"], "is not a multiple of the backbone's patch, 8"),
        (["--output", tmp_path], "--output .* is a folder; give a .json file"),
        (["--output", tmp_path / "new.json", "--layers", "99"], "--layers 99: .* has 2"),
        (["--output", tmp_path / "new.json", "--device", "gpu0"], "--device: 'gpu0' cannot be used here"),
        (["--output", tmp_path / "new.json", "--train-json", tmp_path / "no.json"], "cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            run_tool("probe_detection", *files, *options, "--output", output, *extra)
    labels = tmp_path / "mine.json"
    labels.write_text((small_coco / "labels.json").read_text())
    with pytest.raises(UserError, match="mine.json is an input, and would be written over"):
        given = ["--val-json", labels, "--overwrite", "--output", labels]
        run_tool("probe_detection", *files, *options, *given)
    with pytest.raises(UserError, match="4.safetensors takes images of 4 bands"):
        run_tool("probe_detection", four_bands, *options, "--output", tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()
