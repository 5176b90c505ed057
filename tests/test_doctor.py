import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pretrain import doctor
from pretrain.doctor import Finding, report


def printed(findings):
    lines = []
    return report(findings, lines.append), "\n".join(lines)


def test_all_well_is_exit_code_zero():
    code, text = printed([Finding("torch", "2.10.0")])
    assert code == 0 and "all is well" in text


def test_a_needed_package_missing_is_exit_code_one_with_its_remedy():
    code, text = printed([Finding("timm", "none", "there is no module timm", "make repair")])
    assert code == 1 and "make repair" in text and "no module timm" in text


def test_what_only_costs_speed_is_told_and_not_an_error():
    code, text = printed([Finding("xformers", "0.0.1", "built for another torch", "make repair", needed=False)])
    assert code == 0 and "built for another torch" in text and "all is well" not in text


def test_one_remedy_is_named_once():
    _, text = printed([Finding(n, "none", "gone", "make repair") for n in ("timm", "fvcore")])
    assert text.count("make repair") == 1


def test_a_missing_package_is_found_missing():
    finding = doctor.check_package("no_such_module", ["no-such-distribution"])
    assert finding.needed and "no_such_module" in finding.problem and finding.mend


def test_a_package_that_raises_on_import_is_reported_not_raised(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise RuntimeError('wrong CUDA')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "wrong CUDA" in doctor.check_package("broken_package", ["broken-package"]).problem


@pytest.mark.parametrize("built, wrong", [("9.9.0+cu1", False), ("9.8.0+cu1", True)])
def test_xformers_must_be_built_for_the_torch_that_is_there(tmp_path, monkeypatch, built, wrong):
    (tmp_path / "cpp_lib.json").write_text(json.dumps({"version": {"torch": built}}))
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"torch": "9.9.0+cpu", "xformers": "1.0"}[name])
    finding = doctor.check_xformers()
    assert bool(finding.problem) == wrong and not (wrong and finding.needed)


def test_setuptools_without_pkg_resources_is_found(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "setuptools<81" in doctor.check_pkg_resources().mend


def test_an_empty_environment_is_described_and_told_how_to_mend():
    tool = Path(__file__).parents[1] / "tools" / "doctor.py"
    done = subprocess.run([sys.executable, "-I", "-S", tool], capture_output=True, text=True)  # -S: no site-packages
    assert done.returncode == 1 and not done.stderr
    for name in ("torch", "detectron2", "cropfield", "pycocotools"):
        assert f"wrong: {name}: there is no module" in done.stdout
    assert "make repair" in done.stdout
