"""The commands' measurements at a size that takes no time: what they report, not how fast."""

import pytest
import torch

from lab.benchmarks import gpu, growth, step
from lab.benchmarks.cases import OurStep, make_batch, make_method
from pretrain.errors import UserError

BACKBONE = dict(patch_size=8, embed_dim=16, depth=1, num_heads=2, field_size=4, drop_path_rate=0.0)
HEADS = dict(head_hidden_dim=8, bottleneck_dim=4)


@pytest.mark.parametrize("amp, count", [(False, 2), (True, 4)])
def test_step_reports_time_parts_and_rate(amp, count, monkeypatch):
    monkeypatch.setattr(step, "set_memory", lambda tuned: None)  # for good, and other tests run in this process
    method = make_method(BACKBONE, num_prototypes=16, **HEADS)
    results = step.measure(
        lambda: OurStep(method, make_batch(2, 32, 16, 2, patch=8), amp), {"images": 2}, num_pairs=1, matrix=256
    )
    assert len(results) == count + 1
    assert [r.what["memory_tuned"] for r in results[:-1]] == [False] * (count // 2) + [True] * (count // 2)
    parts = results[-2].tables["where the time of our step goes"]
    assert sum(row["share"] for row in parts) == pytest.approx(1) and all(row["seconds"] > -1e-3 for row in parts)
    rate = results[-1]
    assert rate.unit == "GFLOP/s" and 0 < rate.ratio < 1  # so small a step is nowhere near a matmul's rate
    ours, plain = (row["GFLOP"] for row in rate.tables["arithmetic of a step"])
    assert 0.5 < ours / plain < 1.5  # more losses, and in the last block fewer tokens


def test_without_a_checkout_the_plain_step_is_missed_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(step, "REFERENCES", tmp_path / "tests" / "reference")
    with pytest.raises(UserError, match="run this from a checkout"):
        step.reference("plain_step")


def test_growth_measures_every_point_against_the_base_and_draws(tmp_path):
    axes = {
        "local crops": ((1, 2), 2),
        "global crops' pixels": ((32,), 32),
        "prototypes": ((16, 512), 16),
        "images": ((2, 6), 2),
    }
    results = growth.measure(axes, False, 1, BACKBONE, local_size=16, patch=8, **HEADS)
    rows = {result.name.split()[0]: next(iter(result.tables.values())) for result in results}
    assert rows["local"][0]["GFLOP"] < rows["local"][1]["GFLOP"]
    assert rows["images"][1]["arithmetic / base"] == pytest.approx(3, rel=0.2)
    assert rows["prototypes"][1]["peak, MiB"] > rows["prototypes"][0]["peak, MiB"]
    for result in results:
        assert result.ratio == pytest.approx(next(iter(result.tables.values()))[-1]["time / arithmetic"])
    growth.draw(results, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_an_optimizer_step_of_ours_changes_the_student():
    method = make_method(BACKBONE, num_prototypes=16, **HEADS)
    case = OurStep(method, make_batch(2, 32, 16, 2, patch=8), amp=True)
    before = method.student["backbone"].pos_embed.detach().clone()
    assert torch.isfinite(torch.tensor(case())) and not torch.equal(method.student["backbone"].pos_embed, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the command runs there itself")
def test_the_gpu_command_compares_a_step_of_pretraining_with_the_plain_one(monkeypatch):
    compiled, step = [], gpu.pretraining(BACKBONE | {"patch_size": 16}, 2, "cpu", num_prototypes=16, **HEADS)
    monkeypatch.setattr(step.method, "compile_parts", lambda: compiled.append(1))
    names = [result.name for result in gpu.measure_case("tiny", step, num_pairs=1, matrix=64)]
    assert names == ["tiny, sdpa", "tiny, compiled", "step of tiny, compiled; plain"] and compiled == [1]
