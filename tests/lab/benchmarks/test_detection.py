import importlib.util

import pytest
import torch

from lab.benchmarks.cases import DetectorCase
from lab.benchmarks.detection import epochs_from_cache, frozen_against_trained, measure
from lab.benchmarks.gpu import measure_case
from lab.benchmarks.operations import compare_operations

CONFIG = "mask_rcnn_cropfield_tiny.py"
SMALL = ["model.backbone.net.depth=1", "model.backbone.net.embed_dim=24", "model.backbone.net.num_heads=2"]


def case(stock: bool) -> DetectorCase:
    return DetectorCase(CONFIG, SMALL, stock, 1, (64, 64), amp=False, objects=2)


def test_both_detectors_differ_in_their_backbone_alone_and_are_measured_in_turns():
    ours, stock = case(False), case(True)
    names = [{n: p.shape for n, p in c.model.named_parameters() if ".net." not in n} for c in (ours, stock)]
    assert names[0] == names[1] and type(stock.model.backbone.net).__name__ == "ViT"
    results = measure(ours, stock, {}, num_pairs=1)
    assert [r.unit for r in results] == ["s", "s", "s", "MiB", "MiB"] and all(r.ratio > 0 for r in results)
    for table in [*results[0].tables.values(), *results[1].tables.values()]:
        assert sum(row["share"] for row in table) == pytest.approx(1)
        assert all(row["seconds"] > -1e-3 for row in table)
    assert "forward" not in vars(ours.model.backbone.net)  # what was timed is itself again


def test_operations_and_waits_are_counted_for_each_part():
    results = compare_operations(case(False), case(True), {})
    ours = {result.name: result.ours for result in results}
    assert len(results) == 8 and all(r.ratio < 1 / 3 for r in results if r.name.endswith("training: waits"))
    assert ours["box and mask heads, training: waits"] == 2 and ours["proposals, training: waits"] <= 4
    assert ours["proposals, inference: waits"] <= 3
    assert min(count for name, count in ours.items() if "operations" in name) > 50


@pytest.mark.skipif(torch.cuda.is_available(), reason="the command runs there itself")
def test_a_case_of_the_gpu_command_runs_here_too(monkeypatch):
    monkeypatch.setattr("lab.benchmarks.cases.compile_blocks", lambda model: None)  # takes half a minute
    results = measure_case("tiny", case(False), num_pairs=1, matrix=64)
    assert [result.name for result in results] == ["tiny, sdpa", "tiny, compiled"]
    assert all(r.unit == "TFLOP/s" and 0 < r.ratio and r.what["images"] == 1 for r in results)


needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")


@needs_hotcoco
def test_evaluators_find_the_same_ap():
    from argparse import Namespace

    from lab.benchmarks import evaluate

    for _ in range(2):  # nothing stays registered
        (result,) = evaluate.run(Namespace(images=12, pairs=1))
    ((figures,),) = result.tables.values()
    assert 2 < figures["AP"] < 98 and result.what["images"] == 12


def test_a_frozen_backbone_and_cached_features_take_less():
    cases = [
        DetectorCase(CONFIG, [*SMALL, f"train.freeze_backbone={f}"], False, 1, (64, 64), False) for f in (True, False)
    ]
    spent, memory = frozen_against_trained(*cases, {}, num_pairs=1)
    assert spent.ratio > 0 and 0 < memory.ratio < 1
    results = epochs_from_cache(1, 8, SMALL)
    assert [result.what["images"] for result in results] == [8, 8] and all(result.ratio > 0 for result in results)
