"""The report of any folder is a page or a sentence; tests/fuzz/report_folders.py tries more of them."""

import importlib.util
import json
import random
import shutil
from pathlib import Path

import pytest

FUZZER = Path(__file__).parents[2] / "fuzz" / "report_folders.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("report_folders", FUZZER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def good(fuzz, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "good"
    fuzz.build_run(folder)
    shutil.rmtree(folder / "pretrain")  # its pictures take seconds; `test_finished_runs` attacks it
    assert fuzz.report(folder) == "report"
    return folder


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_folder(fuzz, good, tmp_path, seed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good, tmp_path / "run")
    assert fuzz.damage(tmp_path / "run", random.Random(seed))
    fuzz.report(tmp_path / "run")
    assert not (tmp_path / "PWNED").exists()


def test_markup_in_names_stays_text(fuzz, good, tmp_path):
    folder, pages, part = tmp_path / "run", [], tmp_path / "run" / "detect_scratch"
    shutil.copytree(good, folder)
    (part / "metrics.json").write_text(json.dumps({"iteration": 1, f"loss_{fuzz.SCRIPT}": 1.0}))
    (part / "result.json").write_text(json.dumps({"bbox": {f"AP-{fuzz.SCRIPT}": 3.0}}))
    assert fuzz.report(folder, pages.append) == "report"
    assert pages[0].count("&lt;/svg&gt;&lt;script&gt;") >= 2


def test_what_is_left_out_is_said(fuzz, good, tmp_path):
    folder, pages = tmp_path / "run", []
    shutil.copytree(good, folder)
    (folder / "detect_pretrained" / "inference" / "coco_instances_results.json").write_text('[{"image_id": 1}]')
    (folder / "detect_scratch" / "metrics.json").write_text(
        '{"iteration": "a"}\n{"iteration": 1e999}\n{}\n{"iteration": 1}'
    )
    assert fuzz.report(folder, pages.append) == "report, something left out"
    assert "coco_instances_results.json" in pages[0] and "3 of 4 lines are no entries of a log" in pages[0]


def test_damage_is_done_to_copies(fuzz, tmp_path):
    """Values that are put into values: what is drawn from stays as it is, and no tree holds itself."""
    before = repr(fuzz.VALUES)
    for seed in range(400):
        (tmp_path / "result.json").write_text('{"a": [1, 2], "b": {"c": 3}}')
        fuzz._inside(tmp_path / "result.json", random.Random(seed))
    assert repr(fuzz.VALUES) == before
