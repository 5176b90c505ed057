"""Broken environments, described and told how to be repaired."""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

DOCTOR = Path(__file__).parents[2] / "tools" / "doctor.py"


@pytest.fixture(scope="module")
def doctor(load_tool):
    return load_tool("doctor")


def run_bare(*options, path=""):
    """The tool without any installed package; `path` replaces PYTHONPATH."""
    command = [sys.executable, "-S", *options, DOCTOR]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "", "PYTHONPATH": str(path)})


def test_an_empty_environment_is_described_and_told_how_to_repair():
    done = run_bare("-I")
    assert done.returncode == 1 and not done.stderr
    for name in ("torch", "detectron2.engine", "cropfield", "pycocotools"):
        assert f"wrong: {name}: there is no module" in done.stdout
    assert "make repair" in done.stdout and "setuptools<81" in done.stdout and "all is well" not in done.stdout


def test_a_torch_that_raises_on_import_is_reported_not_raised(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('wrong CUDA\\nand more')")
    done = run_bare(path=tmp_path)
    assert done.returncode == 1 and not done.stderr
    assert "wrong: torch: importing it fails: RuntimeError: wrong CUDA\n  repair with: make repair" in done.stdout


def test_all_well_is_exit_code_zero_and_a_problem_is_one(doctor, monkeypatch, capsys):
    environment = SimpleNamespace(collect_env_info=lambda: "the environment")
    cuda = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    modules = {
        "detectron2.utils.collect_env": environment,
        "pretrain.models.attention": SimpleNamespace(torch=cuda, attention_path=lambda: "sdpa"),
    }
    monkeypatch.setattr(doctor, "load", lambda name: (modules.get(name), ""))
    monkeypatch.setattr(doctor, "xformers_problem", lambda has_cuda: "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert doctor.main() == 0
    said = capsys.readouterr().out
    assert all(words in said for words in ("the environment", "attention: sdpa", "all is well"))
    monkeypatch.setattr(doctor, "xformers_problem", lambda has_cuda: "xformers: built for another torch")
    assert doctor.main() == 0  # it costs speed only
    said = capsys.readouterr().out
    assert "slower: xformers" in said and "all is well" not in said
    monkeypatch.setattr(doctor, "load", lambda name: (None, "gone" if name == "timm" else ""))
    assert doctor.main() == 1 and "wrong: timm: gone" in capsys.readouterr().out


@pytest.mark.parametrize("built, wrong", [("9.9.0+cu1", False), ("9.8.0+cu1", True)])
def test_xformers_must_be_built_for_the_torch_that_is_there(doctor, tmp_path, monkeypatch, built, wrong):
    (tmp_path / "cpp_lib.json").write_text(json.dumps({"version": {"torch": built}}))
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9.0+cpu")
    assert ("built for torch 9.8.0" in doctor.xformers_problem(has_cuda=True)) == wrong


def test_no_xformers_matters_where_there_is_a_gpu(doctor, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.xformers_problem(has_cuda=True) and not doctor.xformers_problem(has_cuda=False)
