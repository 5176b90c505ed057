"""Pictographs: silhouettes of font symbols, filled with photograph texture.

They replace cut-outs if none are given. As with real objects, most instances of a category share its own material, a
photograph and a hue; the fraction is an option. At zero, only the shape identifies the category.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lab.compose.photographs import Photograph, random_crop, trim
from pretrain.errors import UserError

# Characters of DejaVu Sans: silhouettes that keep their holes, and outlines to fill, with their lines as ink.
CATEGORIES = {
    "star": ("★✶✦", "✭"),
    "cat": ("", "😺😼😽😸🙀"),
    "umbrella": ("☂☔", ""),
    "heart": ("♥❤❥", ""),
    "scissors": ("✂✁✃", ""),
    "flower": ("✿", "❀❁"),
    "hand": ("☚", "☜✌☝"),
    "telephone": ("☎", "☏"),
    "die": ("", "⚀⚁⚂⚃⚄⚅"),
    "note": ("♪♫♬♩", ""),
    "knight": ("♞", "♘"),
    "king": ("♚", "♔"),
    "pencil": ("", "✎✏✐"),
    "card": ("", "🂡🃁🂴"),
    "arrow": ("➡➔➜", ""),
    "aeroplane": ("✈", ""),
}
GOLDEN_ANGLE = 137.5  # degrees between the hues of successive categories, which keeps any number of them distinct


@dataclass(frozen=True)
class Pictograph:
    """Three float32 (H, W) in [0, 1].

    `coverage`: the silhouette. `ink`: lines on it. `depth`: 0 outside to 1 well inside. `category`: index, which
    determines the material. `typical`: fraction of instances made of that material; the others use any.
    """

    name: str
    coverage: np.ndarray
    ink: np.ndarray
    depth: np.ndarray
    category: int
    typical: float

    def render(self, photographs: list[Photograph], rng: np.random.Generator) -> np.ndarray:
        """RGBA of one instance, uint8 (H, W, 4), textured with a crop of one of `photographs`."""
        height, width = self.coverage.shape
        hue = rng.uniform(0, 360)
        if rng.random() < self.typical:
            photographs = [photographs[self.category % len(photographs)]]
            hue = self.category * GOLDEN_ANGLE + rng.normal(0, 10)
        texture = random_crop(photographs, max(height, width), rng, low=0.2)[:height, :width]
        texture = texture.astype(np.float32) / 255 - texture.mean() / 255
        hsv = np.float32([[[hue % 360, rng.uniform(0.15, 0.9), rng.uniform(0.35, 1.0)]]])  # pale to bright
        colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
        filling = colour * (1 + 0.6 * texture) + 0.4 * texture
        filling *= self._light(rng)[..., None]
        line = 0.25 * colour if colour.mean() > 0.3 else 0.4 + 0.6 * colour
        filling += self.ink[..., None] * (line - filling)
        return np.dstack([np.clip(filling * 255, 0, 255), self.coverage * 255]).astype(np.uint8)

    def _light(self, rng: np.random.Generator) -> np.ndarray:
        """Soft shading (H, W) around 1: a slope in a random direction, and darker towards the outline."""
        (height, width), angle = self.coverage.shape, rng.uniform(0, 2 * np.pi)
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(0.25 * np.sin(angle))
        x = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(0.25 * np.cos(angle))
        return (1 + x + y) * (0.55 + 0.5 * self.depth)


def load_pictographs(classes: int, side: int, typical: float = 0.0) -> dict[str, list[Pictograph]]:
    """The first `classes` categories, the longer side of each silhouette `side` pixels.

    `typical`: share of instances made of their category's own material.

    UserError if there are not so many, or matplotlib's font is not installed.
    """
    if classes > len(CATEGORIES):
        raise UserError(f"--classes {classes}: {len(CATEGORIES)} kinds of pictographs; for more give --cutouts.")
    spec = find_spec("matplotlib")
    path = Path(spec.submodule_search_locations[0]) / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec else None
    if path is None or not path.is_file():
        raise UserError("pictographs need matplotlib's font DejaVu Sans; install it or give --cutouts.")
    font = ImageFont.truetype(str(path), 2 * side)
    return {
        name: [
            Pictograph(f"U+{ord(c):04X}", *_draw(c, font, side, fill=c in outlined), category=number, typical=typical)
            for c in solid + outlined
        ]
        for number, (name, (solid, outlined)) in enumerate(list(CATEGORIES.items())[:classes])
    }


def _draw(character: str, font: ImageFont.FreeTypeFont, side: int, fill: bool) -> tuple[np.ndarray, ...]:
    """Coverage, ink and depth: draw large, fill what lies within the lines where told to, reduce to `side`."""
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), character, font=font, fill=255)
    lines = trim(np.asarray(canvas), np.asarray(canvas) > 0)
    ratio = side / max(lines.shape)
    shape = [max(round(n * ratio), 1) for n in lines.shape[::-1]]
    whole, ink = lines, np.zeros_like(lines)
    if fill:
        contours, _ = cv2.findContours((lines > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        filled = cv2.drawContours(np.zeros_like(lines), contours, -1, 255, cv2.FILLED)
        whole, ink = np.maximum(filled, lines), lines
    coverage, ink = (cv2.resize(p, shape, interpolation=cv2.INTER_AREA).astype(np.float32) / 255 for p in (whole, ink))
    depth = cv2.GaussianBlur(coverage, (0, 0), side / 24, borderType=cv2.BORDER_CONSTANT)
    return coverage, ink, depth
