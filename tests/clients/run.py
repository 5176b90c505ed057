"""Packages of others, each with the real thing in an environment of its own over this one: `make test-clients`.

    python tests/clients/run.py [NAME ...]

Environments lie in .venv/clients; a package that cannot be installed is skipped, with the reason. Not part of `make
test`: run it before a release.
"""

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CLIENTS = {  # name: packages, and what to run with them
    "peft": ("peft", ["tests/clients/client_peft.py"]),
    "sahi": ("sahi", ["tests/clients/client_sahi.py"]),
    "supervision": ("supervision", ["tests/clients/client_figures.py", "-k", "supervision"]),
    "torchmetrics": ("torchmetrics", ["tests/clients/client_figures.py", "-k", "torchmetrics"]),
    "faster-coco-eval": ("faster-coco-eval", ["tests/clients/client_figures.py", "-k", "faster_coco_eval"]),
    "globox": ("globox", ["tests/clients/client_figures.py", "tests/clients/client_files.py", "-k", "globox"]),
    "pylabel": ("pylabel", ["tests/clients/client_files.py", "-k", "pylabel"]),
    "datumaro": ("datumaro", ["tests/clients/client_files.py", "-k", "datumaro"]),
    "lightly": ("lightly", ["tests/clients/client_lightly.py"]),
    "transformers": ("transformers accelerate", ["tests/models/test_weights_of_others.py"]),
    "transformers-4": ("transformers<5 accelerate", ["tests/models/test_weights_of_others.py"]),
    "onnxruntime": ("onnx onnxscript onnxruntime", ["tests/tools/test_detector_tools.py", "-k", "onnx"]),
}  # fmt: skip


def environment(name: str, packages: str) -> tuple[Path, str]:
    """Its interpreter, and why it lacks the packages, or ""."""
    folder = Path(sys.prefix, "clients", name)
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, symlinks=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages.split()],
        capture_output=True,
        text=True,
    )
    return python, (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""


def main() -> int:
    failed, skipped, names = [], [], sys.argv[1:] or [*CLIENTS]
    if unknown := set(names) - CLIENTS.keys():
        sys.exit(f"error: no client is called {', '.join(unknown)}; there are {', '.join(CLIENTS)}")
    for name in names:
        packages, arguments = CLIENTS[name]
        python, fault = environment(name, packages)
        if fault:
            print(f"{name}: skipped, cannot be installed: {fault}", flush=True)
            skipped.append(name)
            continue
        (site,) = python.parents[1].glob("lib/python*/site-packages")
        found = {d.name: d.version for d in importlib.metadata.distributions(path=[str(site)])}
        wanted = [package.partition("<")[0] for package in packages.split()]
        versions = ", ".join(f"{package} {found.get(package, '(of .venv)')}" for package in wanted)
        print(f"{name}: {versions}", flush=True)
        path = os.pathsep.join([str(ROOT), str(ROOT / "projects" / "CropField"), os.environ.get("PYTHONPATH", "")])
        command = [python, "-m", "pytest", "-q", "-W", "ignore", *arguments]
        if subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}).returncode:
            failed.append(name)
    print(
        f"failed: {', '.join(failed)}" if failed else f"{len(names) - len(skipped)} all right, {len(skipped)} skipped"
    )
    return bool(failed) or len(skipped) == len(names)


if __name__ == "__main__":
    sys.exit(main())
