"""projects/Lab/tools/correlate_figures.py, and the figures and correlations of lab/correlation.py."""

import json
import math

import pytest
import torch
from scipy import stats

from cropfield.stages import Chain
from lab.correlation import Correlation
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import write_backbone


def test_a_correlation_is_of_ranks_and_of_the_pairs_that_are_whole():
    x, y = [1.0, 2.0, 3.0, 4.0, 50.0, None], [1.0, 4.0, 9.0, 8.0, 25.0, 3.0]
    found = Correlation.of(x, y)
    assert found.rho == pytest.approx(stats.spearmanr(x[:5], y[:5]).statistic) == pytest.approx(0.9)
    assert found.count == 5 and -1 < found.low < found.rho < found.high < 1
    assert Correlation.of([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]).rho == pytest.approx(-1)
    assert math.isnan(Correlation.of([1, 1, 1, 1], [1, 2, 3, 4]).rho)
    assert math.isnan(Correlation.of([1, 2, 3], [1, 2, 3]).rho)


def test_an_interval_covers_the_true_correlation():
    """Of 500 draws of 12 pairs from a bivariate normal distribution, 95% of the intervals hold its rank correlation."""
    generator = torch.Generator().manual_seed(0)
    r = 0.7
    truth, inside = 6 / math.pi * math.asin(r / 2), 0
    for _ in range(500):
        a, b = torch.randn(2, 12, generator=generator)
        found = Correlation.of(a.tolist(), (r * a + math.sqrt(1 - r * r) * b).tolist())
        inside += found.low <= truth <= found.high
    assert 460 <= inside <= 495


def test_a_table_and_a_plot_of_all_backbones(run_tool, small_coco, tmp_path, capsys, monkeypatch):
    """Detectors are stages of a chain, here without their training; the loss is that of the run beside."""
    files = []
    for seed in range(4):
        torch.manual_seed(seed)
        backbone = VisionTransformer(patch_size=8, embed_dim=32, depth=1, num_heads=2, field_size=4)
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        files.append(folder / "backbone.safetensors")
        write_backbone(files[-1], backbone.state_dict(), backbone.metadata)
    ran = []

    def run(chain, stage):
        ran.append(stage)
        (chain.output / stage.name).mkdir(exist_ok=True)
        (chain.output / stage.name / "result.json").write_text(json.dumps({"bbox": {"AP": float(len(ran))}}))

    monkeypatch.setattr(Chain, "run", run)
    data = [
        f"--{s}-{k}={v}"
        for s in ("train", "val")
        for k, v in (("json", small_coco / "labels.json"), ("images", small_coco))
    ]
    out = tmp_path / "out"
    options = [*data, "--image-size", "64", "detect.train.max_iter=1"]
    run_tool("correlate_figures", *files, *options, "--output", out)
    rows = json.loads((out / "correlation.json").read_text())
    assert [row["backbone"] for row in rows] == ["run0", "run1", "run2", "run3"]
    assert [row["frozen AP"] for row in rows] == [1, 3, 5, 7] and [row["fine-tuned AP"] for row in rows] == [2, 4, 6, 8]
    assert all(0 < row["object_rank"] <= 4 and row["object_knn"] in (25, 50, 75, 100) for row in rows)
    assert ["train.freeze_backbone=True" in stage.command for stage in ran] == [True, False] * 4
    assert all("train.max_iter=1" in stage.command for stage in ran)
    expected = Correlation.of([row["patch_box_iou"] for row in rows], [1, 3, 5, 7])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| patch_box_iou")]
    assert " detect.train.max_iter=1 --output " in (out / "correlation.md").read_text()
    assert str(expected) in line and (out / "correlation.png").stat().st_size > 1000
    with pytest.raises(UserError, match="would be called run0-backbone"):
        run_tool("correlate_figures", files[0], files[0], *options, "--output", tmp_path / "new")
