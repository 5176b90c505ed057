"""Which room may know which, read from the imports. Arrows run one way: Lab -> StoP, CropField -> pretrain."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOTS = {"pretrain": ".", "cropfield": "projects/CropField", "stop": "projects/StoP", "lab": "projects/Lab"}
# What a room may import of this repository, by the longest prefix of its own name; and whether Detectron2 and fvcore.
ALLOWED = {
    "pretrain": (set(), False),  # errors and files: the ground floor
    "pretrain.data": ({"pretrain.errors", "pretrain.files", "pretrain.ranges", "pretrain.data"}, False),
    "pretrain.models": ({"pretrain.errors", "pretrain.files", "pretrain.ranges", "pretrain.models"}, False),
    "pretrain.methods": (
        {"pretrain.errors", "pretrain.ranges", "pretrain.data", "pretrain.models", "pretrain.methods"},
        False,
    ),
    "pretrain.engine": ({"pretrain"}, True),
    "cropfield": ({"pretrain", "cropfield"}, True),
    "stop": ({"pretrain", "stop"}, False),
    "lab": ({"pretrain", "cropfield", "stop", "lab"}, True),
}
GROUND = {
    "pretrain",
    "pretrain.errors",
    "pretrain.files",
    "pretrain.openmp",
    "pretrain.parent",
    "pretrain.progress",
    "pretrain.ranges",
}
EXTERNAL = ("detectron2",)


def modules() -> dict[str, Path]:
    found = {}
    for package, root in ROOTS.items():
        for path in sorted((ROOT / root / package).rglob("*.py")):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return found


def below(name: str, packages) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room):
    inner = [other for other in ALLOWED if other.startswith(f"{room}.")]
    own = {name: path for name, path in MODULES.items() if below(name, [room]) and not below(name, inner)}
    assert own
    allowed, detectron2 = ALLOWED[room]
    for name, path in own.items():
        for imported in imports(path):
            if below(imported, ROOTS):
                assert below(imported, allowed) or imported in GROUND, f"{name} imports {imported}"
            assert detectron2 or not below(imported, EXTERNAL), f"{name} imports {imported}"
            assert imported.partition(".")[0] != "tools", f"{name}: another package of that name may be installed"


def test_data_models_and_methods_pull_in_no_detectron2():
    names = [name for name in MODULES if below(name, ["pretrain.data", "pretrain.models", "pretrain.methods"])]
    code = (
        f"import sys\nfor name in {names}: __import__(name)\nassert not [m for m in sys.modules if 'detectron2' in m]"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True, timeout=600)
