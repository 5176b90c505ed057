"""On-disk cache of a frozen backbone's features: each image passes the backbone once, and the heads train from the
cache.

FOLDER/<fingerprint>/ contains one row for each view of each image: its map (H, W, C) in `features.bin` and its sizes in
`views.bin`. `cache.json` records what the features depend on, and is written when they are complete. The folder's name
is a hash of it, so other weights, images or augmentations use another folder. An interrupted computation resumes.
"""

import contextlib
import copy
import hashlib
import json
import logging
import os
import shutil
import time
from functools import cached_property
from pathlib import Path
from types import MethodType

import detectron2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import Tensor, nn

from cropfield.backbone import CropFieldViT
from cropfield.loading import EvaluationLoader, ReadEntries, TrainLoader
from cropfield.mapper import ImageMapper
from cropfield.random_numbers import augmenting
from pretrain.data.decode import BrokenImage
from pretrain.data.index import files_digest
from pretrain.engine.signals import EXIT_STOPPED, passing_on
from pretrain.errors import UserError
from pretrain.files import write_json
from pretrain.models.weights import fingerprint
from pretrain.progress import progress

VERSION = 1  # of the file format and the definition of a view
SEED = 0  # of the augmentations
MARGIN = 2**30  # bytes to leave free on the disk
VIEW = np.dtype((np.int32, 4))  # height and width of the image, and of the view; zeros if not computed

logger = logging.getLogger(__name__)


def check_cacheable(model: nn.Module, mapper) -> None:
    """Raise UserError unless the input of `model`, as prepared by `mapper`, is a function of each image alone."""
    net = getattr(getattr(model, "backbone", None), "net", None)
    if not isinstance(model, GeneralizedRCNN | DenseDetector) or not isinstance(net, CropFieldViT):
        raise UserError("dataloader.feature_cache is for detectors over a CropFieldViT; set its folder to ''")
    if not net.frozen:
        raise UserError("dataloader.feature_cache needs a frozen backbone; set train.freeze_backbone=True")
    if not model.backbone.padding_constraints["square_size"]:
        raise UserError("dataloader.feature_cache needs maps of one size; set model.backbone.square_pad")
    if getattr(model, "vis_period", 0):
        raise UserError("dataloader.feature_cache leaves no images to draw; set model.vis_period=0")
    if not isinstance(mapper, ImageMapper):
        raise UserError("dataloader.feature_cache needs cropfield.mapper.ImageMapper as dataloader.train.mapper")


def writable(folder: str | os.PathLike) -> Path:
    """The folder, or the nearest one above it that exists. Raises UserError unless files can be written there."""
    where = Path(folder).absolute()
    while not where.exists():
        where = where.parent
    if not where.is_dir() or not os.access(where, os.W_OK):
        raise UserError(f"dataloader.feature_cache.folder: {where} is not a folder that can be written; give another")
    return where


class FeatureCache:
    """The features of a loader's images, and a mapper that returns them instead of the images.

    Args:
        model: a detector with the backbone's final weights, not wrapped in DistributedDataParallel.
        folder: may contain any number of caches.
        augmentations: number of views of each image, drawn once with the loader's augmentations; 0: one view, augmented
            with `still`.
        dtype: of the stored maps, "bfloat16" or "float32".
        still: the evaluation's augmentations.
        precision: autocast type that the model is trained with, or None.

    Raises:
        UserError: see `check_cacheable`.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: TrainLoader,
        folder: str | os.PathLike,
        *,
        still: T.Augmentation,
        augmentations: int = 0,
        dtype: str = "bfloat16",
        precision: torch.dtype | None = None,
    ):
        if not isinstance(loader, TrainLoader):
            raise UserError("dataloader.feature_cache needs cropfield.loading.build_train_loader as dataloader.train")
        check_cacheable(model, loader.dataset.mapper)
        self.loader, self.entries = loader, loader.dataset.entries
        self.mapper, self.views = copy.copy(loader.dataset.mapper), max(augmentations, 1)
        if not augmentations:
            self.mapper.augmentations = still
        self.dtype, self.numpy_dtype = getattr(torch, dtype), {"bfloat16": np.uint16, "float32": np.float32}[dtype]
        self.precision = precision
        self.first: dict[str, int] = {}  # entry index of each image; several entries may share an image
        for number, entry in enumerate(self.entries):
            self.first.setdefault(entry["file_name"], number)
        self.image_of = {name: number for number, name in enumerate(self.first)}
        self.numbers = list(self.first.values())
        shape, side = model.backbone.net.output_shape()[model.backbone.in_feature], padded_side(model)
        self.shape = (len(self), side // shape.stride, side // shape.stride, shape.channels)
        self.facts = self.depends_on(model)
        self.path = Path(folder) / hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:16]

    def depends_on(self, model: nn.Module) -> dict[str, str]:
        """Everything that determines the features, as text or hashes."""
        statistics = [model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()]
        value_range = self.mapper.reading.value_range
        stretched = f", values {value_range}" if value_range else ""
        blocks = model.backbone.net.out_blocks[model.backbone.in_feature]
        return {
            "weights": f"{fingerprint(model.backbone.net)}, blocks {blocks}",
            "images": files_digest((name, name) for name in self.first),
            "augmentations": f"{self.views} x {described(self.mapper.augmentations)}",
            "pixels": f"{self.mapper.image_format} {statistics}, padded to {padded_side(model)}{stretched}",
            "precision": f"{self.dtype}, computed in {self.precision}",
            "versions": f"{VERSION}, Detectron2 {detectron2.__version__}",
        }

    def __len__(self) -> int:
        """Rows."""
        return len(self.first) * self.views

    def __getitem__(self, row: int) -> dict:
        """The dataset entry of a row, without its objects."""
        entry = self.entries[self.numbers[row // self.views]]
        return {key: value for key, value in entry.items() if key != "annotations"} | {"row": row}

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def read_views(self) -> np.ndarray:
        """int32 (rows, 4), as `VIEW`; zeros for rows that are not computed, or that a cut-off file has lost."""
        views, path = np.zeros((len(self), 4), dtype=np.int32), self.path / "views.bin"
        if path.is_file():
            found = np.fromfile(path, dtype=VIEW)[: self.size_on_disk() // self.row_bytes]
            views[: len(found)] = found[: len(self)]
        return views

    def size_on_disk(self) -> int:
        path = self.path / "features.bin"
        return path.stat().st_size if path.is_file() else 0

    def is_whole(self) -> bool:
        return (self.path / "cache.json").is_file() and self.size_on_disk() == len(self) * self.row_bytes

    def missing(self) -> np.ndarray:
        """Rows that are not computed."""
        return np.flatnonzero(self.read_views()[:, 0] == 0)

    def check_disk(self) -> None:
        """Log the size of the cache; raise UserError if the disk has not enough space left."""
        absent = 0 if self.is_whole() else len(self.missing())
        need, where = absent * self.row_bytes, writable(self.path.parent)
        size, free = len(self) * self.row_bytes / 1e9, shutil.disk_usage(where).free
        of = f"{len(self.first):,} images" + (f" ({self.views} views of each)" if self.views > 1 else "")
        logger.info("features of %s: %.3g GB in %s, %.3g GB still to compute", of, size, self.path, need / 1e9)
        if need and need + MARGIN > free:
            smaller = "" if self.dtype == torch.bfloat16 else ", dtype=bfloat16"
            raise UserError(
                f"features of {of} take {need / 1e9:.3g} GB in dataloader.feature_cache.folder, and {where} has "
                f"{free / 1e9:.3g} GB left; choose another folder, fewer augmentations{smaller} or no cache"
            )

    def attach(self, model: nn.Module) -> None:
        """Compute missing features, then make the loader return features and the model accept them beside images."""
        self.check_disk()
        self.tell_others()
        if not all(comm.all_gather(self.is_whole())):
            self.compute(model)
        self.loader.dataset.mapper = self.features_of
        model.preprocess_image = MethodType(images_or_features, model)

    def tell_others(self) -> None:
        for file in sorted(self.path.parent.glob("*/cache.json")):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # not a cache of this project
                theirs = json.loads(file.read_text())
                differing = ", ".join(key for key in self.facts if theirs.get(key) != self.facts[key])
                if differing:
                    logger.info("%s is of other %s and is not used", file.parent, differing)

    @torch.no_grad()
    def compute(self, model: nn.Module) -> None:
        """Compute the missing rows, split over the processes. A stop signal ends the process with EXIT_STOPPED."""
        start, done = time.monotonic(), 0
        rows = self.missing()[comm.get_rank() :: comm.get_world_size()]
        comm.synchronize()  # every process has read the files before one writes
        sizes = self.loader.batch_size, self.loader.num_workers, self.loader.broken.max_share
        views = EvaluationLoader(ReadEntries(self, self.view), rows, *sizes)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with (
                self.opened("features.bin") as maps,
                self.opened("views.bin") as sizes,
                passing_on(lambda: None) as signals,
            ):
                for batch in progress(views, "views", len(rows), len, logger.info):
                    self.write(maps, sizes, batch, self.maps(model, batch))
                    done += len(batch)
                    if signals:
                        raise SystemExit(EXIT_STOPPED)
                maps.truncate(len(self) * self.row_bytes)  # the last images may be broken
                for file in (maps, sizes):
                    os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; make room, and start again") from error
        comm.synchronize()
        if comm.is_main_process():
            write_json(self.path / "cache.json", self.facts)
        logger.info("features of %d views computed in %.1f s", done, time.monotonic() - start)
        comm.synchronize()

    def opened(self, name: str):
        """Open a file for random reads and writes without truncating it."""
        return open(os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o666), "r+b")

    def view(self, entry: dict) -> dict:
        """Load an image with the augmentation of its row."""
        with augmenting(SEED, entry["row"]):
            return self.mapper(entry)

    def maps(self, model: nn.Module, batch: list[dict]) -> Tensor:
        """The backbone's output as the pyramid reads it in training: (B, H, W, C) in the cache's dtype, on the CPU."""
        images = type(model).preprocess_image(model, batch).tensor
        with torch.autocast(images.device.type, self.precision, enabled=self.precision is not None):
            features = model.backbone.net(images)[model.backbone.in_feature]
        return features.permute(0, 2, 3, 1).to(self.dtype).cpu().contiguous()  # the layout of tokens

    def write(self, maps, sizes, batch: list[dict], values: Tensor) -> None:
        """Write and sync the maps first, then mark their rows as computed."""
        for entry, value in zip(batch, values, strict=True):
            maps.seek(entry["row"] * self.row_bytes)
            maps.write(value.flatten().view(torch.uint8).numpy())
        maps.flush()
        os.fsync(maps.fileno())
        for entry in batch:
            sizes.seek(entry["row"] * VIEW.itemsize)
            sizes.write(np.array([entry["height"], entry["width"], *entry["image"].shape[-2:]], dtype=np.int32))
        sizes.flush()

    @cached_property
    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """The memory-mapped maps, and their sizes; opened by each process itself."""
        return np.memmap(self.path / "features.bin", self.numpy_dtype, "r", shape=self.shape), self.read_views()

    def features_of(self, entry: dict) -> dict:
        """Mapper: as `ImageMapper`, with `features` (H, W, C) and `image_size` instead of `image`.

        Raises:
            BrokenImage: the image could not be read when its features were computed.
            UserError: the augmentations now give another view than the stored one.
        """
        maps, sizes = self.stored
        row = self.image_of[entry["file_name"]] * self.views + np.random.randint(self.views)
        height, width, *size = sizes[row].tolist()
        if not height:
            raise BrokenImage(entry["file_name"], "broken when features were computed")
        with augmenting(SEED, row):
            mapped = self.mapper(entry, np.zeros((height, width, self.mapper.reading.channels), dtype=np.uint8))
        if list(mapped.pop("image").shape[-2:]) != size:
            raise UserError(f"{self.path} was made with other augmentations than the current ones; remove that folder")
        return mapped | {"features": torch.from_numpy(maps[row].copy()).view(self.dtype), "image_size": tuple(size)}


def images_or_features(model: nn.Module, batch: list[dict]) -> ImageList:
    """A detector's `preprocess_image` that, for entries with features, returns these by name instead of images."""
    if "features" not in batch[0]:
        return type(model).preprocess_image(model, batch)
    maps = torch.stack([entry["features"] for entry in batch]).to(model.device).float()
    maps = maps.permute(0, 3, 1, 2)  # the backbone's memory layout, so that convolutions round alike
    return ImageList({model.backbone.in_feature: maps}, [entry["image_size"] for entry in batch])


def padded_side(model: nn.Module) -> int:
    return model.backbone.padding_constraints["square_size"]


def described(value) -> str:
    """Classes and values of augmentations, whole and the same in every process; Detectron2 shortens long ones, and
    writes addresses for some.
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(described, value))}]"
    if isinstance(value, np.ndarray):
        return described(value.tolist())
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if not isinstance(value, T.Augmentation | T.Transform):
        return repr(value)
    return f"{type(value).__qualname__}({', '.join(f'{k}={described(v)}' for k, v in sorted(vars(value).items()))})"
