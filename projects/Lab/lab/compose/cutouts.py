"""Cut-outs from a folder: one sub-folder a category, RGBA files, transparent around the object."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.compose.photographs import Photograph, image_files, read_image
from pretrain.errors import UserError


@dataclass(frozen=True)
class Cutout:
    """`rgba`: uint8 (H, W, 4), trimmed to the object."""

    name: str
    rgba: np.ndarray

    def render(self, photographs: list[Photograph], rng: np.random.Generator) -> np.ndarray:
        """RGBA of one instance, uint8 (H, W, 4): the cut-out in other light; `photographs` unused."""
        gain, shift = rng.uniform(0.85, 1.15), rng.uniform(-12, 12)
        rgba = self.rgba.copy()
        rgba[..., :3] = np.clip(rgba[..., :3] * gain + shift, 0, 255)
        return rgba


def load_cutouts(folder: Path, max_side: int) -> tuple[dict[str, list[Cutout]], list[str]]:
    """Cut-outs of each category (sub-folders in alphabetical order) and a line about each file left out.

    UserError: no folder, no sub-folder with images, or no file with transparency anywhere.
    """
    if not folder.is_dir():
        raise UserError(f"--cutouts: there is no folder {folder}; give a folder with one sub-folder a category.")
    categories, skipped = {}, []
    for place in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        cutouts = []
        for path in image_files(place):
            try:
                cutouts.append(Cutout(path.relative_to(folder).as_posix(), _read_cutout(path, max_side)))
            except (OSError, ValueError) as error:
                skipped.append(f"{path}: {error}")
        if cutouts:
            categories[place.name] = cutouts
    if categories:
        return categories, skipped
    if skipped:
        raise UserError(
            f"--cutouts: none of the {len(skipped)} images under {folder} is a cut-out ({skipped[0]}); "
            "they need an alpha channel that is transparent around the object."
        )
    raise UserError(f"--cutouts: no image in the sub-folders of {folder}; put each category's RGBA files in its own.")


def _read_cutout(path: Path, max_side: int) -> np.ndarray:
    rgba = np.asarray(read_image(path, "RGBA", max_side))
    solid = rgba[..., 3] >= 128
    if solid.all():
        raise ValueError("no transparency")
    if not solid.any():
        raise ValueError("nothing but transparency")
    return trim(rgba, solid)


def trim(pixels: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """`pixels` (H, W, ...) cut to the extent of the bool mask `solid` (H, W)."""
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
