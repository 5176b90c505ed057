"""Image sources: a folder, a list file. Every kind of file that is met in the wild becomes 8-bit RGB, or a
`BrokenImage`.
"""

import io
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pretrain.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # where Pillow too starts to suspect a decompression bomb
ALPHA_BACKGROUND = (128, 128, 128)


class BrokenImage(Exception):
    """An image that cannot be used. `name`: which one; `reason`: one short phrase per kind, so that kinds can
    be counted.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ImageFiles:
    """Images in files below one folder. Base of `ImageFolder` and `ImageList`.

    Names are kept as one array of bytes: a list of a million strings would be copied page by page into every
    worker process, because reading a Python object writes its reference count.
    """

    def __init__(self, root: str | os.PathLike, names: list[str]):
        self.root = Path(root)
        self._names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The file's path relative to `root`."""
        return os.fsdecode(bytes(self._names[index]))

    def load(self, index: int) -> np.ndarray:
        """-> uint8 RGB (H, W, 3). Raises `BrokenImage`."""
        name = self.name(index)
        return decode_image(self.root / name, name)


class ImageFolder(ImageFiles):
    """All images below `root`, at any depth, sorted by their path (by code point, so alike on every machine).

    Links to folders are followed, each real folder once; hidden files and folders are left out.
    Raises `UserError` when the folder is missing, cannot be read, or holds no file with one of `endings`.
    """

    def __init__(self, root: str | os.PathLike, endings: tuple[str, ...] = ENDINGS):
        if not os.path.isdir(root):
            raise UserError(f"image folder {root} does not exist or is not a folder: give a folder that holds images")
        names = sorted(_walk(root, tuple(ending.lower() for ending in endings)))
        if not names:
            raise UserError(
                f"no image found under {root}: looked, at any depth, for files ending in {', '.join(endings)}"
            )
        super().__init__(root, names)


class ImageList(ImageFiles):
    """Images listed in a text file, one path a line, relative to that file's folder or absolute.

    The order is the file's; blank lines are skipped. A listed file that is absent is a `BrokenImage` when its
    turn comes.
    Raises `UserError` when the list is missing, is not UTF-8 text, or is empty.
    """

    def __init__(self, file: str | os.PathLike):
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(
                f"image list {file} cannot be read ({error.strerror}): give a text file of paths"
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"image list {file} is not UTF-8 text: give a text file with one path a line") from error
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            raise UserError(f"image list {file} is empty: give one image path a line, relative to {Path(file).parent}")
        super().__init__(Path(file).parent, names)


def _walk(root: str | os.PathLike, endings: tuple[str, ...]) -> list[str]:
    """Files below `root` with one of `endings`: paths relative to it, "/" between their parts."""

    def fail(error: OSError):
        raise UserError(f"folder {error.filename} cannot be read ({error.strerror}): mend its permissions") from error

    names, seen = [], {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=fail):
        kept = []
        for sub in sorted(subfolders):
            real = os.path.realpath(os.path.join(folder, sub))
            if not sub.startswith(".") and real not in seen:  # `seen` also ends loops of links
                seen.add(real)
                kept.append(sub)
        subfolders[:] = kept
        relative = Path(os.path.relpath(folder, root))
        for file in files:
            if file.lower().endswith(endings) and not file.startswith("."):
                names.append((relative / file).as_posix())
    return names


def decode_image(
    source: bytes | str | os.PathLike, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode a file, or the bytes of one -> uint8 RGB (H, W, 3), upright.

    EXIF orientation is applied; of several frames the first is taken. 16-bit values keep their upper half;
    32-bit ones have no agreed white and are stretched from their own minimum to maximum. Transparent images
    are laid on mid-grey: dropping alpha would show whatever colour hides under transparent pixels, and grey
    says least. Pixels are counted in the header, before decoding. OpenCV decodes plain JPEGs, Pillow all
    else.

    Raises `BrokenImage` with reason "missing", "cannot be read", "empty file", "not an image", "zero size",
    "too many pixels", "truncated" or "cannot be decoded".
    """
    is_bytes = isinstance(source, bytes)
    name = name or ("<bytes>" if is_bytes else os.fspath(source))
    data = source if is_bytes else _read(source, name)
    if not data:
        raise BrokenImage(name, "empty file")
    image = _open(data, name)
    width, height = image.size
    if width < 1 or height < 1:
        raise BrokenImage(name, "zero size")
    if width * height > max_pixels:
        raise BrokenImage(name, "too many pixels")
    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB") and _jpeg_is_whole(data):
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # applies EXIF orientation itself
        if bgr is not None:
            return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return _decode_with_pillow(image, name)


def _read(path: str | os.PathLike, name: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise BrokenImage(name, "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise BrokenImage(name, "cannot be read") from error


def _open(data: bytes, name: str) -> Image.Image:
    """Read the header only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of size, which `decode_image` judges
            return Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise BrokenImage(name, "too many pixels") from error
    except UnidentifiedImageError as error:
        raise BrokenImage(name, "not an image") from error
    except Exception as error:  # a hostile header can make a parser raise anything
        raise BrokenImage(name, _decoder_reason(error)) from error


def _jpeg_is_whole(data: bytes) -> bool:
    """Is there an end marker after the last scan? Some OpenCV releases silently fill what is missing."""
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")


def _decode_with_pillow(image: Image.Image, name: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, zlib.error and more
        raise BrokenImage(name, _decoder_reason(error)) from error


def _decoder_reason(error: Exception) -> str:
    return "truncated" if "truncated" in str(error).lower() else "cannot be decoded"


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Any Pillow mode -> uint8 RGB (H, W, 3)."""
    if image.mode.startswith("I;16"):
        return _grey_to_rgb(np.asarray(image) >> 8)
    if image.mode in ("I", "F"):
        grey = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
        low, high = grey.min(), grey.max()
        return _grey_to_rgb((grey - low) * (255.0 / max(high - low, 1e-12)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, (*ALPHA_BACKGROUND, 255))
        image = Image.alpha_composite(background, image)
    return np.array(image.convert("RGB"))


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(grey.astype(np.uint8), cv2.COLOR_GRAY2RGB)
