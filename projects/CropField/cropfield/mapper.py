"""Detectron2's dataset mapper with this project's image reader, and resizing that never yields an empty image."""

import copy
import sys

import numpy as np
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from PIL import Image

from pretrain.data.decode import BrokenImage, decode_image, safe_formats
from pretrain.data.reading import MAX_PIXELS, Reading, ValueRange
from pretrain.errors import UserError
from pretrain.ranges import Channels, Count, Pixels, Positive


class ImageMapper(DatasetMapper):
    """`DatasetMapper` that reads images as in pretraining (`decode_image`). Its other arguments are Detectron2's.

    An image without objects gets empty boxes, classes and, if the model uses them, masks.

    Args:
        max_pixels, channels, value_range: see `Reading`. Other images than RGB stay as they are in any `image_format`.
    """

    def __init__(
        self,
        *args,
        max_pixels: Count = MAX_PIXELS,
        channels: Channels = 3,
        value_range: ValueRange | None = None,
        **options,
    ):
        super().__init__(*args, **options)
        self.reading = Reading(max_pixels, channels, value_range)

    def __call__(self, entry: dict, image: np.ndarray | None = None) -> dict:
        """Map an entry of a Detectron2 dataset to a model's input: `image`, uint8 (C, H, W), `instances`, `sem_seg`.

        image: uint8 (H, W, channels), used instead of the file.

        Raises:
            BrokenImage: the image or its label map cannot be read.
            UserError: the image's size differs from the dataset's entry.
        """
        entry = copy.deepcopy(entry)
        image = in_format(self.read(entry["file_name"]) if image is None else image, self.image_format)
        check_size(entry, image)
        labels = read_labels(entry.pop("sem_seg_file_name")) if "sem_seg_file_name" in entry else None
        augmented = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(augmented)
        shape = augmented.image.shape[:2]
        entry["image"] = torch.as_tensor(np.array(augmented.image.transpose(2, 0, 1), order="C"))
        if labels is not None:
            entry["sem_seg"] = torch.as_tensor(augmented.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(entry, shape, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            entry.pop("annotations", None)
        elif any(not annotation.get("iscrowd") for annotation in entry.get("annotations", ())):
            entry["annotations"] = [with_fractions(annotation) for annotation in entry["annotations"]]
            self._transform_annotations(entry, transforms, shape)
        elif entry.pop("annotations", None) is not None:
            entry["instances"] = self.no_objects(shape)
        return entry

    def read(self, path: str) -> np.ndarray:
        """Read an image -> uint8 (H, W, channels). Raises `BrokenImage`."""
        return decode_image(path, reading=self.reading)

    def no_objects(self, shape: tuple[int, int]) -> Instances:
        """Empty `Instances` for an image of shape (height, width)."""
        none = Instances(shape, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
        if self.use_instance_mask:
            bitmasks = self.instance_mask_format == "bitmask"
            none.gt_masks = BitMasks(torch.zeros(0, *shape, dtype=torch.bool)) if bitmasks else PolygonMasks([])
        return none


def with_fractions(annotation: dict) -> dict:
    """Convert the annotation's box and polygons to float: Detectron2 scales arrays in place, and integer ones would be
    truncated.
    """
    annotation = dict(annotation)
    if "bbox" in annotation:
        annotation["bbox"] = np.asarray(annotation["bbox"], dtype=np.float64).tolist()
    if isinstance(polygons := annotation.get("segmentation"), list):
        annotation["segmentation"] = [np.asarray(polygon, dtype=np.float64) for polygon in polygons]
    return annotation


def in_format(image: np.ndarray, image_format: str) -> np.ndarray:
    """Convert uint8 RGB (H, W, 3) to a Detectron2 format: "RGB", "BGR", "L" (H, W, 1), "YUV-BT.601" (float). Other
    bands stay as they are.
    """
    if image_format == "RGB" or image.shape[2] != 3:
        return image
    if image_format == "BGR":
        return image[..., ::-1]
    return detection_utils.convert_PIL_to_numpy(Image.fromarray(image), image_format)


def check_size(entry: dict, image: np.ndarray) -> None:
    """Fill in missing `height` and `width`; raise UserError if they differ from the image's."""
    found = image.shape[:2]
    wanted = entry.setdefault("height", found[0]), entry.setdefault("width", found[1])
    if tuple(wanted) != tuple(found):
        raise UserError(
            f"{entry['file_name']} has {found[1]} x {found[0]} pixels (width x height, upright), and its annotations "
            f"say {wanted[1]} x {wanted[0]}; correct width and height, and check that the boxes fit the upright image"
        )


def read_labels(path: str) -> np.ndarray:
    """Read a label map, grey of 8 bits or a palette's indices -> uint8 (H, W). Raises `BrokenImage`."""
    try:
        with Image.open(path, formats=safe_formats()) as labels:
            mode, values = labels.mode, np.array(labels)
    except Exception as error:  # decoders may raise anything
        raise BrokenImage(path, "cannot be read") from error
    if mode not in ("L", "P"):
        raise BrokenImage(path, f"labels of mode {mode}, not L or P")
    return values


class ResizeBands(T.ResizeTransform):
    """Detectron2's, also for bands other than RGB: Pillow would take the second or fourth for transparency."""

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """(H, W) or (H, W, C) -> the same of the new size."""
        if img.ndim < 3 or img.shape[2] in (1, 3):
            return super().apply_image(img, interp)
        bands = np.split(img, img.shape[2], axis=2)
        return np.concatenate([super(ResizeBands, self).apply_image(band, interp) for band in bands], axis=2)


def _with_pixels(resize: T.Transform) -> T.Transform:
    """Keep at least one pixel a side: Detectron2 rounds the short side of a very thin image to zero. For any bands."""
    if isinstance(resize, T.ResizeTransform):
        return ResizeBands(resize.h, resize.w, max(resize.new_h, 1), max(resize.new_w, 1), resize.interp)
    return resize


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, with at least one pixel on each side."""

    def __init__(
        self, short_edge_length: Pixels | list[Pixels], max_size: Count = sys.maxsize, sample_style: str = "range"
    ):
        super().__init__(short_edge_length, max_size, sample_style)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return _with_pixels(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """Detectron2's, with at least one pixel on each side."""

    def __init__(self, min_scale: Positive, max_scale: Positive, target_height: Pixels, target_width: Pixels):
        super().__init__(min_scale, max_scale, target_height, target_width)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return _with_pixels(super().get_transform(image))
