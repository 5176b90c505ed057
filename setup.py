"""Installs `pretrain` (the pretrainer) and its projects: `cropfield` (the Detectron2 plugin), `stop` and `lab`."""

from setuptools import find_packages, setup

ROOTS = {"pretrain": ".", "cropfield": "projects/CropField", "stop": "projects/StoP", "lab": "projects/Lab"}

setup(
    name="cropfield",
    version="0.1.0",
    description="Self-supervised ViT pretraining for object detection, and the plain ViTDet that uses it",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[found for name, root in ROOTS.items() for found in find_packages(root, include=[name, f"{name}.*"])],
    package_dir={name: f"{root}/{name}" for name, root in ROOTS.items()},
    package_data={"lab": ["tables/papers/*", "report/*.j2"]},
    # Detectron2 has no current release on the Python registry, so it is not listed here: see README, "Installing".
    install_requires=[
        "torch>=2.4",
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
        "demo": ["scikit-image", "scikit-learn", "scipy", "matplotlib", "jinja2"],
        "eval": ["hotcoco"],
        "onnx": ["onnx", "onnxscript", "onnxruntime"],
        "wandb": ["wandb"],
    },
)
