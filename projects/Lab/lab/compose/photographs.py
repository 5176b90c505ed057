"""Photographs from a folder or installed packages, random crops of them, and cut-outs of objects from a folder."""

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from pretrain.data.decode import safe_formats
from pretrain.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
MAX_PHOTOGRAPHS = 500  # kept in memory; a random choice if the folder has more

# Included in the wheels. The rest of skimage.data is downloaded; motorcycle_right shows the same as the left.
_SKIMAGE = "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png"
_SHIPPED = {
    "skimage/data": f"{_SKIMAGE} hubble_deep_field.jpg ihc.png motorcycle_left.png rocket.jpg".split(),
    "sklearn/datasets/images": ["china.jpg", "flower.jpg"],
    "matplotlib/mpl-data/sample_data": ["grace_hopper.jpg"],
}


@dataclass(frozen=True)
class Photograph:
    """`pixels`: uint8 (H, W, 3), RGB."""

    name: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Cutout:
    """`rgba`: uint8 (H, W, 4), trimmed to the object."""

    name: str
    rgba: np.ndarray

    def render(self, photographs: list[Photograph], rng: np.random.Generator) -> np.ndarray:
        """RGBA of one instance, uint8 (H, W, 4): the cut-out in varied light; `photographs` is unused."""
        gain, shift = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
        rgba = self.rgba.copy()
        rgba[..., :3] = np.clip(rgba[..., :3] * gain + shift, 0, 255)
        return rgba


def image_files(folder: Path) -> list[Path]:
    """All image files under `folder`, sorted by path, so that the order does not depend on the file system."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def read_image(path: Path, mode: str, max_side: int) -> np.ndarray:
    """Decode `path` upright in `mode`, longer side at most `max_side`. OSError or ValueError if broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=safe_formats())
            image.draft("RGB", (max_side, max_side))  # a JPEG decodes at reduced size
            image = ImageOps.exif_transpose(image).convert(mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, SyntaxError) as error:
        raise ValueError(str(error)) from error
    image.thumbnail((max_side, max_side), Image.Resampling.BOX)
    return np.asarray(image)


def load_photographs(folder: Path, max_side: int, rng: np.random.Generator) -> tuple[list[Photograph], list[str]]:
    """Photographs of `folder`, and a line about each skipped file. UserError if none can be read."""
    if not folder.is_dir():
        raise UserError(f"--photos: there is no folder {folder}; give a folder of photographs.")
    paths, photographs, skipped = image_files(folder), [], []
    if len(paths) > MAX_PHOTOGRAPHS:
        paths = [paths[i] for i in np.sort(rng.choice(len(paths), MAX_PHOTOGRAPHS, replace=False))]
    for path in paths:
        try:
            photographs.append(Photograph(path.relative_to(folder).as_posix(), read_image(path, "RGB", max_side)))
        except (OSError, ValueError) as error:
            skipped.append(f"{path}: {error}")
    if not photographs:
        raise UserError(f"--photos: no readable image in {folder} ({len(skipped)} unreadable); add some.")
    return photographs, skipped


def shipped_photographs(max_side: int) -> list[Photograph]:
    """Photographs included in scikit-image, scikit-learn and matplotlib, without a download.

    The packages are located but not imported, because importing them takes longer than composing a hundred scenes.
    """
    photographs = []
    for folder, names in _SHIPPED.items():
        package, _, inside = folder.partition("/")
        if spec := find_spec(package):
            paths = [Path(spec.submodule_search_locations[0], inside, name) for name in names]
            photographs += [Photograph(p.name, read_image(p, "RGB", max_side)) for p in paths if p.is_file()]
    if not photographs:
        raise UserError("no photograph in scikit-image, scikit-learn or matplotlib; install one or give --photos.")
    return photographs


def load_cutouts(folder: Path, max_side: int) -> tuple[dict[str, list[Cutout]], list[str]]:
    """Cut-outs by category, RGBA files in sub-folders in alphabetical order, and a line about each skipped file.

    UserError: no folder, no sub-folder with images, or no file with transparency.
    """
    if not folder.is_dir():
        raise UserError(f"--cutouts: there is no folder {folder}; give a folder with one sub-folder per category.")
    categories, skipped = {}, []
    for category in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for path in image_files(category):
            try:
                cutout = Cutout(path.relative_to(folder).as_posix(), _read_cutout(path, max_side))
                categories.setdefault(category.name, []).append(cutout)
            except (OSError, ValueError) as error:
                skipped.append(f"{path}: {error}")
    if not categories and skipped:
        raise UserError(
            f"--cutouts: none of the {len(skipped)} images under {folder} is a cut-out ({skipped[0]}); "
            "they need an alpha channel that is transparent around the object."
        )
    if not categories:
        raise UserError(f"--cutouts: no image in the sub-folders of {folder}; put each category's files in its own.")
    return categories, skipped


def _read_cutout(path: Path, max_side: int) -> np.ndarray:
    rgba = read_image(path, "RGBA", max_side)
    solid = rgba[..., 3] >= 128
    if solid.all() or not solid.any():
        raise ValueError("no transparency" if solid.all() else "nothing but transparency")
    return trim(rgba, solid)


def trim(pixels: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """Crop `pixels` (H, W, ...) to the bounding box of the bool mask `solid` (H, W)."""
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def random_crop(photographs: list[Photograph], size: int, rng: np.random.Generator, low: float = 0.5) -> np.ndarray:
    """Random square of a random photograph, possibly flipped, uint8 (size, size, 3).

    Its side in the photograph is between `low` and 1 times the shorter side.
    """
    pixels = photographs[rng.integers(len(photographs))].pixels
    height, width = pixels.shape[:2]
    side = max(round(rng.uniform(low, 1.0) * min(height, width)), 1)
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = pixels[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=way)
