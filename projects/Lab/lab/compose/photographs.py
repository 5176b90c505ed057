"""Photographs: read from a folder or from installed packages, cropped at random."""

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from pretrain.errors import UserError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
MAX_PHOTOGRAPHS = 500  # kept in memory, chosen with the seed when a folder has more

# What lies inside the wheels. The rest of skimage.data is downloads; its motorcycle_right is the left again.
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


def image_files(folder: Path) -> list[Path]:
    """All image files under `folder`, sorted by path, so that an order never depends on the file system."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def read_image(path: Path, mode: str, max_side: int) -> Image.Image:
    """Decode `path` upright in `mode`, longer side at most `max_side`. OSError, ValueError if broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
            image.draft("RGB", (max_side, max_side))  # a JPEG decodes at reduced size
            image = ImageOps.exif_transpose(image).convert(mode)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, SyntaxError) as error:
        raise ValueError(str(error)) from error
    image.thumbnail((max_side, max_side), Image.Resampling.BOX)
    return image


def load_photographs(folder: Path, max_side: int, rng: np.random.Generator) -> tuple[list[Photograph], list[str]]:
    """Photographs of `folder` and a line about each file left out. UserError if none can be read."""
    if not folder.is_dir():
        raise UserError(f"--photos: there is no folder {folder}; give a folder of photographs.")
    paths = image_files(folder)
    if len(paths) > MAX_PHOTOGRAPHS:
        chosen = np.sort(rng.choice(len(paths), MAX_PHOTOGRAPHS, replace=False))
        paths = [paths[i] for i in chosen]
    photographs, skipped = [], []
    for path in paths:
        try:
            pixels = np.asarray(read_image(path, "RGB", max_side))
        except (OSError, ValueError) as error:
            skipped.append(f"{path}: {error}")
            continue
        photographs.append(Photograph(path.relative_to(folder).as_posix(), pixels))
    if not photographs:
        raise UserError(f"--photos: no readable image in {folder} ({len(skipped)} unreadable); add some.")
    return photographs, skipped


def shipped_photographs(max_side: int) -> list[Photograph]:
    """The photographs that scikit-image, scikit-learn and matplotlib carry in their packages: no download.

    The packages are located, not imported: importing them takes longer than composing a hundred scenes.
    """
    photographs = []
    for place, names in _SHIPPED.items():
        package, _, folder = place.partition("/")
        spec = find_spec(package)
        if spec is None:
            continue
        root = Path(spec.submodule_search_locations[0]) / folder
        found = [root / name for name in names if (root / name).is_file()]
        photographs += [Photograph(p.name, np.asarray(read_image(p, "RGB", max_side))) for p in found]
    if not photographs:
        raise UserError(
            "no photograph in scikit-image, scikit-learn or matplotlib; install one of them or give --photos."
        )
    return photographs


def random_crop(photographs: list[Photograph], size: int, rng: np.random.Generator, low: float = 0.5) -> np.ndarray:
    """A square of a random photograph, flipped or not, uint8 (size, size, 3).

    Its side in the photograph is from `low` to 1 of the shorter side.
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
