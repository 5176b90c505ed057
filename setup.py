"""Installs `pretrain` (the pretrainer) and its projects: `cropfield` (the Detectron2 plugin), `stop` and `lab`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
ROOTS = {"pretrain": ".", "cropfield": "projects/CropField", "stop": "projects/StoP", "lab": "projects/Lab"}
# An installed `cropfield` holds these folders as the checkout does, so that configs and tools find one another in both.
BESIDE = ("configs", "tools", *(f"projects/{name}/configs" for name in ("CropField", "StoP", "Lab")))
COMMANDS = ("pretrain", "export", "train", "detect", "predict")


def packages() -> list[str]:
    """Names of all packages; below `cropfield`, also the folders of `BESIDE`."""
    found = [name for root, folder in ROOTS.items() for name in find_packages(folder, include=[root, f"{root}.*"])]
    files = [file for folder in BESIDE for kind in ("*.py", "*.yaml") for file in (HERE / folder).rglob(kind)]
    return found + sorted({".".join(("cropfield", *file.relative_to(HERE).parent.parts)) for file in files})


setup(
    name="cropfield",
    version=re.search('__version__ = "(.+)"', (HERE / "projects/CropField/cropfield/__init__.py").read_text())[1],
    description="Self-supervised ViT pretraining for object detection, and the plain ViTDet that uses it",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages(),
    package_dir={
        **{name: f"{root}/{name}" for name, root in ROOTS.items()},
        **{f"cropfield.{name}": name for name in ("configs", "tools", "projects")},
    },
    package_data={"": ["*.yaml"], "lab": ["tables/papers/*", "report/*.j2"]},
    entry_points={"console_scripts": [f"cropfield-{name} = lab.console:{name}" for name in COMMANDS]},
    # Detectron2 has no current release on the Python registry, so it is not listed here: see docs/getting-started.md.
    install_requires=[
        "torch>=2.6",
        "torchvision",
        "timm>=1.0",
        "fvcore",
        "pycocotools",
        "opencv-python>=4.11",  # IMREAD_COLOR_RGB
        "safetensors",
        "shapely",
        "tabulate",
        "numpy",
        "msgspec>=0.19",
    ],
    extras_require={
        "cuda": ["xformers"],
        # what Detectron2 imports, for a build of it that was installed without its dependencies
        "detectron2": [
            "cloudpickle",
            "hydra-core>=1.1",
            "iopath",
            "matplotlib",
            "omegaconf>=2.1",
            "packaging",
            "setuptools<81",  # pkg_resources
            "tensorboard",
            "termcolor",
            "tqdm",
            "yacs",
        ],
        "demo": ["scikit-image", "scikit-learn", "scipy", "matplotlib", "jinja2"],
        "eval": ["hotcoco"],
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
        "wandb": ["wandb"],
    },
)
