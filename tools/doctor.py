#!/usr/bin/env python3
"""Print the installed versions and the attention kernel in use; for anything missing or broken, how to repair it.

Needs only the standard library, as the environment may be broken. Exit code 1 if a required package is broken.
Detectron2's table may report that its compiled `_C` is missing: nothing here uses it.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import sys
import warnings
from pathlib import Path

NEEDED = ("torch", "torchvision", "timm", "fvcore", "pycocotools", "cv2", "safetensors", "cropfield", "pkg_resources")
NEEDED += ("msgspec", "detectron2.engine", "detectron2.model_zoo")  # which imports pkg_resources
UNLISTED = ("timm", "pycocotools", "safetensors", "xformers", "setuptools")  # not in Detectron2's collect_env
REPAIR, OTHERS = "make repair", {"pkg_resources": f"{sys.executable} -m pip install 'setuptools<81'"}


def load(name: str) -> tuple[object, str]:
    """Import a module: returns it and "", or None and the error. A broken package may raise anything."""
    try:
        return importlib.import_module(name), ""
    except ModuleNotFoundError as error:
        return None, f"there is no module {error.name}"
    except Exception as error:
        return None, f"importing it fails: {type(error).__name__}: {error}".splitlines()[0]


def xformers_problem(has_cuda: bool) -> str:
    """Check that xformers matches torch: it is compiled for one version, named in its cpp_lib.json, whatever it
    requires.
    """
    try:
        folder = Path(importlib.util.find_spec("xformers").origin).parent
        built = json.loads((folder / "cpp_lib.json").read_text())["version"]["torch"].split("+")[0]
        torch = importlib.metadata.version("torch").split("+")[0]
        return "" if torch == built else f"xformers: built for torch {built}, and torch {torch} is installed"
    except (AttributeError, LookupError, OSError, TypeError, ValueError, ImportError):
        return "xformers: none that works; attention runs crop size by crop size" if has_cuda else ""


def main() -> int:
    warnings.simplefilter("ignore")
    if (Path(__file__).resolve().parents[1] / "setup.py").exists():  # in a checkout `pretrain` may not be installed
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    problems = [(f"wrong: {n}: {error}", OTHERS.get(n, REPAIR)) for n in NEEDED if (error := load(n)[1])]
    attention, collect_env = load("pretrain.models.attention")[0], load("detectron2.utils.collect_env")[0]
    if slower := xformers_problem(bool(attention) and attention.torch.cuda.is_available()):
        problems.append((f"slower: {slower}", f"{REPAIR} (or uninstall xformers)"))
    print("Python", sys.version, sys.executable)
    with contextlib.suppress(Exception):  # errors are listed below
        print(collect_env.collect_env_info())
        print("(nothing here needs detectron2._C)")
    print("also:", *sorted(f"{p.name} {p.version}" for p in importlib.metadata.distributions() if p.name in UNLISTED))
    print("attention:", attention.attention_path() if attention else "unknown")
    print("\n".join(f"{line}\n  repair with: {remedy}" for line, remedy in problems) or "all is well")
    return int(any(line.startswith("wrong") for line, _ in problems))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())
