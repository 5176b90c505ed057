"""How far a reader of a config has to go."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [
    p for where in ("configs", "projects/*/configs") for p in ROOT.glob(f"{where}/**/*.py") if "common" not in p.parts
]


def starts_from(path: Path) -> set[Path]:
    """The configs that this one imports, and that those do."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            other = path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
            found |= {other} | starts_from(other)
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_config_stands_on_three_files_at_most(config):
    assert len(starts_from(config)) <= 3, sorted(map(str, starts_from(config)))
