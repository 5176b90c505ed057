"""A detector, or its backbone, in ONNX, verified with onnxruntime. See tools/export_onnx.py."""

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.files import replacing

TOLERANCE = 1e-3  # relative to the largest feature; float32 sums differ in order


class Maps(nn.Module):
    """A backbone that returns its feature maps as a tuple, in the order of `names`."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone, self.names = backbone, list(backbone.output_shape())

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(images)
        return tuple(features[name] for name in self.names)


class Detections(nn.Module):
    """A detector as a function of one image (3, h, w), without pasting masks into it."""

    def __init__(self, detector: GeneralizedRCNN):
        super().__init__()
        self.detector = detector
        heads = getattr(detector, "roi_heads", None)
        self.names = ["boxes", "scores", "classes", *(["masks"] if getattr(heads, "mask_on", False) else [])]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (found,) = self.detector.inference([{"image": image}], do_postprocess=False)
        parts = (found.pred_boxes.tensor, found.scores, found.pred_classes)
        return (*parts, found.pred_masks) if "masks" in self.names else parts


def bands_of(backbone: nn.Module) -> int:
    """Bands of its images; it may be a pyramid around the backbone."""
    return getattr(getattr(backbone, "net", backbone), "in_chans", 3)


def write_onnx(model: Maps, height: int, width: int, path: Path) -> float:
    """Export, verify with onnxruntime and write `path`; returns the largest difference relative to the largest feature.

    Raises:
        UserError: onnxruntime's features differ, or the file cannot be written.
    """
    images = torch.randn(2, bands_of(model.backbone), height, width)
    options = {"dynamo": True, "dynamic_shapes": {"images": {0: torch.export.Dim("batch")}}}
    with replacing(path) as draft:
        program = export(model, images, "images", **options)
        program.save(str(draft), external_data=False)
        return check(model, draft, [images[:1], images], path)


def write_detector(model: Detections, path: Path) -> float:
    """As `write_onnx`, verified at two sizes. The heads are traced, because torch.export does not support their
    branches.
    """
    if not isinstance(model.detector, GeneralizedRCNN):
        raise UserError(f"--detector takes R-CNNs, not a {type(model.detector).__name__}; export its backbone")
    square = model.detector.backbone.padding_constraints.get("square_size", 0)
    if not square:
        raise UserError("model.backbone.square_pad is 0, but --detector needs a value, such as 1024")
    sizes = [(square, square * 3 // 4), (square // 2, square)]
    images = [255 * torch.rand(bands_of(model.detector.backbone), *size) for size in sizes]
    with replacing(path) as draft:
        options = {"dynamo": False, "dynamic_axes": {"image": {1: "height", 2: "width"}}, "opset_version": 17}
        export(model, images[0], "image", f=str(draft), **options)
        return check(model, draft, images, path)


def export(model: nn.Module, example: Tensor, name: str, **options):
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own warnings
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        return torch.onnx.export(model, (example,), input_names=[name], output_names=model.names, **options)


def check(model: nn.Module, draft: Path, images: list[Tensor], path: Path) -> float:
    difference = max(compare(model, draft, some) for some in images)
    if not difference < TOLERANCE:
        raise UserError(f"{path}: onnxruntime's outputs differ by {difference:.1e}; try other package versions")
    return difference


@torch.no_grad()
def compare(model: nn.Module, path: Path, images: Tensor) -> float:
    """Largest difference between torch's and onnxruntime's outputs, relative to the largest value; inf if shapes
    differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(model.names, {session.get_inputs()[0].name: images.numpy()})
    pairs = [(ours, torch.from_numpy(other)) for ours, other in zip(model(images), theirs, strict=True)]
    if any(ours.shape != other.shape for ours, other in pairs):
        return float("inf")
    return max((float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs if len(a)), default=0.0)
