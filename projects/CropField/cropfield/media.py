"""Input images and videos of a detector, and the pictures drawn from them."""

import functools
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from pretrain.data.bands import luma
from pretrain.data.decode import BrokenImage, decode_image
from pretrain.data.folder import ENDINGS, list_folder
from pretrain.data.reading import AS_RGB, Reading
from pretrain.errors import UserError, printable
from pretrain.files import replacing
from pretrain.outputs import UniqueNames, is_output

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
DRAWN = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")  # drawn in the same format; other images become .png


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Medium:
    """An image or a video. `place`: path of its drawn picture, relative to the output folder."""

    path: Path
    place: Path

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def find_media(
    inputs: list[Path], output: Path, reserved: Iterable[str] = ()
) -> tuple[list[Medium], list[str], list[Path]]:
    """List every image and video of `inputs` once; no picture is called like a `reserved` file of the output folder.

    Returns:
        The media; subfolders left out because they contain a tool's output; files that were given more than once.

    Raises:
        UserError: an input is missing or neither image, folder nor video, or there is nothing to detect in.
    """
    found, left_out, again = {}, [], []

    def leave_out(folder: str) -> bool:
        if is_output(folder) or (output.exists() and os.path.samefile(folder, output)):
            left_out.append(folder)
            return True
        return False

    real = functools.cache(os.path.realpath)  # resolves folders only: links to the same file may be intended

    def take(path: Path, place: Path) -> None:
        key = real(path.parent), path.name
        if key in found:
            again.append(path)
        found.setdefault(key, (path, place))

    for path in inputs:
        if path.is_dir():
            for name in list_folder(os.path.abspath(path), (*ENDINGS, *VIDEOS), leave_out).names:
                take(path / name, Path(path.resolve().name or "root", name))
        elif not path.exists():
            raise UserError(f"there is no image, folder or video {path}; check the path")
        elif path.name.lower().endswith((*ENDINGS, *VIDEOS)):
            take(path, Path(path.name))
        else:
            known = ", ".join((*ENDINGS, *VIDEOS))
            raise UserError(f"{path} is neither an image nor a video by its ending; supported are {known}")
    if not found:
        raise UserError(f"no image or video in {', '.join(map(str, inputs))}; give files or folders that contain some")
    names = UniqueNames()
    for name in reserved:
        names.take(name)
    return [Medium(path, names.take(_picture_name(place))) for path, place in found.values()], left_out, again


def _picture_name(place: Path) -> Path:
    if is_video(place):
        return place.with_suffix(".mp4")
    return place if place.suffix.lower() in DRAWN else place.with_suffix(".png")


def as_png(place: Path) -> Path:
    """Where a picture is drawn that its own format cannot hold."""
    return place.with_name(f"{place.name}.png")


def frames(medium: Medium, reading: Reading = AS_RGB) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and pixels of an image, or of each frame of a video; see `decode_image`. Raises `BrokenImage`."""
    name = str(medium.path)
    if not medium.is_video:
        yield name, decode_image(medium.path, reading=reading)
        return
    if reading.channels not in (1, 3):
        raise BrokenImage(name, f"3 of {reading.channels} bands")
    count = 0
    with _open_video(medium.path) as video:
        while (read := video.read())[0]:
            rgb = cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
            yield f"{name}#{count}", rgb if reading.channels == 3 else luma(rgb)
            count += 1
        expected = video.get(cv2.CAP_PROP_FRAME_COUNT)
    if not count:
        raise BrokenImage(name, "not a video")
    if count < 0.98 * expected - 1:  # some formats only estimate it
        logger.warning(f"{printable(name)}: {count} of {expected:.0f} frames can be read; the file may be cut off")


@contextmanager
def _open_video(path: Path) -> Iterator[cv2.VideoCapture]:
    """Open a video. Raises `BrokenImage` for anything but a file: reading from a pipe could block forever."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
        open(path, "rb").close() if regular else None
    except OSError as error:
        raise BrokenImage(str(path), "missing" if isinstance(error, FileNotFoundError) else "cannot be read") from error
    if not regular:
        raise BrokenImage(str(path), "not a file")
    with _in_utf8(path) as readable:
        video = cv2.VideoCapture(str(readable))
        try:
            yield video
        finally:
            video.release()


@contextmanager
def _in_utf8(path: Path) -> Iterator[Path]:
    """An equivalent path in UTF-8, because OpenCV kills the interpreter on other encodings."""
    path = Path(os.path.abspath(path))
    try:
        os.fspath(path).encode()
        yield path
    except UnicodeEncodeError:
        with TemporaryDirectory() as folder:
            link = Path(folder, "link")
            link.symlink_to(path.parent)
            named = link / path.name
            if not path.name.isprintable():
                named = Path(folder, f"file{path.suffix}")
                named.symlink_to(path)
            yield named


class Picture:
    """Writes drawn images: an image as an image, a video's frames as one video. Incomplete files are removed.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, medium: Medium):
        self.path, self.medium, self.video = path, medium, None
        self.draft = path.with_name(f".{os.getpid()}.partial.mp4")

    def write(self, image: np.ndarray) -> None:
        """Add an image or frame, uint8 RGB (H, W, 3)."""
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        if self.medium.is_video:
            self._add_frame(bgr)
            return
        for path in (self.path, as_png(self.path)):  # JPEG has no side above 65,535 pixels
            encoded, data = cv2.imencode(path.suffix.lower(), bgr)
            if encoded:
                with replacing(path) as draft:
                    draft.write_bytes(data)
                return
        raise UserError(f"cannot write {self.path}: OpenCV cannot encode an image of {bgr.shape[:2]} pixels")

    def _add_frame(self, bgr: np.ndarray) -> None:
        if self.video is None:
            with _open_video(self.medium.path) as source:
                rate = source.get(cv2.CAP_PROP_FPS) or 25
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot write {self.path}: {error.strerror}; choose another output folder") from None
            with _in_utf8(self.draft) as draft:
                self.video = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*"mp4v"), rate, bgr.shape[1::-1])
            if not self.video.isOpened():
                raise UserError(f"cannot write {self.path}: OpenCV makes no video of {bgr.shape[1::-1]} pixels here")
        self.video.write(bgr)

    def close(self, keep: bool) -> None:
        """Finish a video; `keep` the file or delete it."""
        if self.video is None:
            return
        self.video.release()
        if keep:
            try:
                os.replace(self.draft, self.path)
            except OSError as error:
                raise UserError(
                    f"cannot write {self.path}: {error.strerror}; "
                    "make room on the disk, or choose another output folder"
                ) from None
        self.draft.unlink(missing_ok=True)
