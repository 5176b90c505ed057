"""Which room may know which: imports, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "pretrain/data": ("detectron2", "cropfield", "pretrain.methods", "pretrain.engine", "lab"),
    "pretrain/models": ("detectron2", "cropfield", "pretrain.data", "pretrain.methods", "pretrain.engine"),
    "pretrain/methods": ("detectron2", "cropfield", "pretrain.engine", "lab"),
    "pretrain/engine": ("cropfield",),
    "projects/Lab/lab": ("detectron2", "cropfield", "pretrain.engine"),
    "projects/CropField/cropfield": ("pretrain.data", "pretrain.methods", "pretrain.engine", "lab"),
    ".": ("tools",),  # another package of that name may lie in site-packages
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_room_knows_only_whom_it_may(room):
    files = [f for f in (ROOT / room).rglob("*.py") if not any(p.startswith(".") for p in f.relative_to(ROOT).parts)]
    assert files
    for file in files:
        for name in imports(file):
            for forbidden in FORBIDDEN[room]:
                assert name != forbidden and not name.startswith(forbidden + "."), f"{file} imports {name}"


def test_nobody_but_tools_and_tests_knows_the_benchmarks():
    for room in ("pretrain", "projects", "configs"):
        for file in (ROOT / room).rglob("*.py"):
            if "benchmarks" not in file.relative_to(ROOT).parts:
                assert not any(name.startswith("lab.benchmarks") for name in imports(file)), file


def test_the_trainer_names_no_method():
    for name in ("trainer.py", "checkpoint.py", "schedules.py", "run.py"):
        text = (ROOT / "pretrain" / "engine" / name).read_text().lower()
        assert not any(word in text for word in ("distillation", "jepa", "teacher", "student", "cropfield"))


def test_what_is_loaded_cannot_run_code():
    """`torch.load` says weights_only=True; nothing else unpickles."""
    for room in ("pretrain", "projects", "tools", "configs", "tests"):
        for file in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    place, name = f"{file}:{node.lineno}", node.func
                    said = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
                    assert said.get("allow_pickle") is not True, place
                    if isinstance(name, ast.Attribute) and name.attr in ("load", "loads"):
                        module = ast.unparse(name.value)
                        assert module != "torch" or said.get("weights_only") is True, place
                        assert module not in ("pickle", "cloudpickle", "joblib", "dill"), place
