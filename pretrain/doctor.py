"""What is installed, which attention will run, what is missing and how to mend it.

Every package is looked at on its own and nothing but the standard library is needed to do so: this is for
environments that are broken.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPAIR = "make repair"
# Import name: distribution names, the first one installed counts.
_NEEDED = {
    "torchvision": ["torchvision"],
    "timm": ["timm"],
    "fvcore": ["fvcore"],
    "pycocotools": ["pycocotools"],
    "cv2": ["opencv-python", "opencv-python-headless"],
    "safetensors": ["safetensors"],
    "cropfield": ["cropfield"],
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: `name`, what was `found`, and where something is wrong `problem` and how to `mend` it.

    `needed`: nothing works without it; a problem elsewhere costs speed only.
    """

    name: str
    found: str
    problem: str = ""
    mend: str = ""
    needed: bool = True


def diagnose() -> list[Finding]:
    """All findings, in the order in which things depend on each other."""
    findings = [check_python(), check_torch(), check_device()]
    findings += [check_package(module, names) for module, names in _NEEDED.items()]
    return findings + [check_pkg_resources(), check_detectron2(), check_xformers(), check_attention()]


def report(findings: list[Finding], say: Callable[[str], None] = print) -> int:
    """Print the findings, then what is wrong under each remedy; 1 if something needed is missing, else 0."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        say(f"{finding.name:<{width}}  {finding.found}")
    problems = [finding for finding in findings if finding.problem]
    for remedy in dict.fromkeys(finding.mend for finding in problems):
        say("")
        for finding in (f for f in problems if f.mend == remedy):
            say(f"{'wrong' if finding.needed else 'slower'}: {finding.name}: {finding.problem}")
        say(f"  mend with: {remedy}")
    if not problems:
        say("\nall is well")
    return int(any(finding.needed for finding in problems))


def check_python() -> Finding:
    return Finding("python", f"{platform.python_version()} ({sys.executable})")


def check_torch() -> Finding:
    torch, error = _load("torch")
    if torch is None:
        return Finding("torch", "none", error, REPAIR)
    return Finding("torch", torch.__version__)


def check_device() -> Finding:
    """Where training runs, and whether bf16 is faster there."""
    torch, _ = _load("torch")
    devices, _ = _load("pretrain.engine.devices")
    if torch is None or devices is None:
        return Finding("device", "unknown")
    bf16 = "bf16 pays" if devices.bf16_pays() else "bf16 does not pay"
    if torch.cuda.is_available():
        return Finding("device", f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}, {bf16}")
    return Finding("device", f"CPU, {torch.get_num_threads()} threads, {bf16}")


def check_package(module: str, distributions: list[str]) -> Finding:
    loaded, error = _load(module)
    if loaded is None:
        return Finding(module, "none", error, REPAIR)
    return Finding(module, _version(distributions) or "of unknown version")


def check_pkg_resources() -> Finding:
    """Detectron2's model zoo imports it; setuptools has it up to version 80."""
    found = f"setuptools {_version(['setuptools']) or 'none'}"
    if importlib.util.find_spec("pkg_resources") is None:
        problem = "it has no pkg_resources, which detectron2.model_zoo imports"
        return Finding("pkg_resources", found, problem, f"{sys.executable} -m pip install 'setuptools<81'")
    return Finding("pkg_resources", found)


def check_detectron2() -> Finding:
    for module in ("detectron2", "detectron2.engine", "detectron2.model_zoo"):
        loaded, error = _load(module)
        if loaded is None:
            return Finding("detectron2", "none" if module == "detectron2" else "broken", error, REPAIR)
    detectron2 = sys.modules["detectron2"]
    names = ["detectron2", "sal-detectron2"]
    return Finding("detectron2", f"{_version(names) or detectron2.__version__} ({Path(detectron2.__file__).parent})")


def check_xformers() -> Finding:
    """xformers is compiled for one version of torch, whatever its requirements say."""
    version = _version(["xformers"])
    if version is None:
        problem = "CUDA runs attention group by group without it"
        return Finding("xformers", "none", problem if _has_cuda() else "", REPAIR, needed=False)
    built_for, torch_version = _xformers_torch(), _version(["torch"])
    if built_for and torch_version and built_for != torch_version.split("+")[0]:
        problem = f"built for torch {built_for}, and torch {torch_version} is installed"
        return Finding("xformers", version, problem, f"{REPAIR} (or uninstall xformers)", needed=False)
    return Finding("xformers", f"{version}, built for torch {built_for or '?'}")


def _xformers_torch() -> str | None:
    """The version of torch that xformers was compiled with, from the file that it carries."""
    spec = importlib.util.find_spec("xformers")
    try:
        facts = json.loads((Path(spec.origin).parent / "cpp_lib.json").read_text())
        return facts["version"]["torch"].split("+")[0]
    except (AttributeError, TypeError, OSError, ValueError, KeyError):
        return None


def check_attention() -> Finding:
    """The path that packed attention takes on this machine."""
    module, error = _load("pretrain.models.attention")
    if module is None:
        return Finding("attention", "unknown", error, REPAIR)
    path = module.attention_path()
    return Finding("attention", path if _has_cuda() else f"{path} (xformers has no operator for the CPU)")


def _has_cuda() -> bool:
    torch, _ = _load("torch")
    return torch is not None and torch.cuda.is_available()


def _version(distributions: list[str]) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _load(module: str):
    """The imported module and "", or None and what went wrong. A broken package may raise anything."""
    try:
        return importlib.import_module(module), ""
    except ModuleNotFoundError as error:
        return None, f"there is no module {error.name}"
    except Exception as error:
        return None, f"importing it fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
