"""What an installed package holds: built as a wheel is, and used where there is no checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cropfield
from lab.console import with_files

ROOT = Path(__file__).resolve().parents[1]
PROBE = """
import json
import cropfield
names = "COCO/mask_rcnn_cropfield_tiny.py", "pretrain/cropfield_tiny.py", "projects/StoP/configs/stop_tiny.py"
loaded = [cropfield.get_config(name)["train"]["output_dir"] for name in names]
yaml = cropfield.get_config("projects/CropField/configs/retinanet_cropfield_vits.yaml")
print(json.dumps({"file": cropfield.__file__, "loaded": loaded, "yaml": yaml.MODEL.BACKBONE.NAME}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that a wheel would unpack into site-packages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_an_installed_package_carries_every_config_and_tool(installed):
    assert {path.name for path in installed.iterdir()} == {"pretrain", "cropfield", "stop", "lab"}, "no top-level tools"
    for package in installed.iterdir():
        assert (package / "py.typed").is_file()
    folders = ROOT / "configs", ROOT / "tools", *ROOT.glob("projects/*/configs")
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".yaml")]
    assert len(files) > 80
    for file in files:
        assert (installed / "cropfield" / file.relative_to(ROOT)).read_bytes() == file.read_bytes()


def test_configs_and_commands_work_without_a_checkout(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-W", "ignore", "-c", PROBE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["file"]).is_relative_to(installed)
    assert all(found["loaded"]) and len(found["loaded"]) == 3
    assert found["yaml"] == "build_cropfield_vit_fpn_backbone"


@pytest.mark.parametrize("name", ["pretrain", "export", "train", "detect", "predict"])
def test_commands_become_their_tools_and_answer_without_torch(name, installed, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('not for --help')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{installed}"}
    code = f"import lab.console as console; assert console.__file__.startswith({str(installed)!r}); console.{name}()"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def test_commands_know_configs_by_name_and_prefer_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config-file", "COCO/mask_rcnn_cropfield_tiny.py", "COCO/mask_rcnn_cropfield_tiny.py"]
    found = with_files(words)
    assert found == ["--config-file", str(ROOT / "configs" / words[1]), words[2]], "only what is a config's name"
    assert with_files([f"--config-file={words[1]}", f"a={words[1]}"]) == [f"--config-file={found[1]}", f"a={words[1]}"]
    own = tmp_path / words[1]
    own.parent.mkdir()
    own.touch()
    assert with_files(words) == words
    assert with_files(["--config-file", "COCO/nothing.py"]) == ["--config-file", "COCO/nothing.py"]


def test_the_version_is_the_packages_everywhere():
    said = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert said.stdout.split()[-1] == cropfield.__version__
    assert f"\nversion: {cropfield.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{cropfield.__version__}}}" in (ROOT / "README.md").read_text()
