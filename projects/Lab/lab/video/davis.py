"""DAVIS-2017 on disk: frames as JPEGs, annotations as indexed PNGs, splits as lists of names.

    ROOT/JPEGImages/480p/NAME/00000.jpg ...    ROOT/Annotations/480p/NAME/00000.png ...    ROOT/ImageSets/2017/val.txt

The value of an annotation's pixel is the number of its object, 0 for none, 255 for void, which is treated as none.
Results are written in the same format, one folder for each video, for DAVIS's own evaluation.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lab.commands import open_picture
from pretrain.data.decode import BrokenImage, decode_image
from pretrain.errors import UserError
from pretrain.files import replacing

VOID = 255
RESOLUTION = "480p"
VAL_VIDEOS = 30  # in DAVIS-2017's val split


@dataclass(frozen=True)
class Video:
    """`frames` and `masks`: files with matching names, in temporal order."""

    name: str
    frames: list[Path]
    masks: list[Path]


def find_videos(root: str | Path, split: str = "val") -> list[Video]:
    """Videos of ImageSets/2017/`split`.txt, in its order.

    Raises:
        UserError: a file or folder is missing, a frame has no annotation (only train and val are complete), or a video
            has fewer than three frames (the first and the last are not measured).
    """
    listed = Path(root, "ImageSets", "2017", f"{split}.txt")
    if not listed.is_file():
        raise UserError(f"there is no {listed}; give the folder of DAVIS-2017 that contains ImageSets and JPEGImages")
    try:
        names = listed.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read {listed}: {reason}; get it again") from None
    if not names:
        raise UserError(f"{listed} names no video; get it again")
    for number, name in enumerate(names):
        if name in (".", "..") or not set(name).isdisjoint("/\\\0"):
            raise UserError(f"{listed} names {name!r}, which is a path; a video is named by its folder's name alone")
        if name in names[:number]:
            raise UserError(f"{listed} names {name!r} twice; name each video once")
    return [_find_video(Path(root), name) for name in names]


def _find_video(root: Path, name: str) -> Video:
    folder = root / "JPEGImages" / RESOLUTION / name
    frames = sorted(folder.glob("*.jpg")) if os.path.isdir(folder) else []  # a name may be too long for one
    masks = [root / "Annotations" / RESOLUTION / name / f"{frame.stem}.png" for frame in frames]
    if len(frames) < 3:
        raise UserError(f"{folder} holds {len(frames)} frames; a video has three or more")
    if absent := [mask for mask in masks if not mask.is_file()]:
        raise UserError(f"there is no {absent[0]}; take a split of which every frame is annotated: train or val")
    return Video(name, frames, masks)


def dataset_name(root: str | Path, split: str, videos: list[Video]) -> str:
    """ "davis2017" for the 30 videos of its val split, as in papers; otherwise FOLDER/SPLIT, to avoid confusion."""
    names = {video.name for video in videos}
    if split == "val" and len(names) == VAL_VIDEOS and {"bike-packing", "blackswan", "soapbox"} <= names:
        return "davis2017"
    return f"{Path(root).resolve().name}/{split}"


def read_frame(path: Path) -> np.ndarray:
    """Read a frame as uint8 RGB (H, W, 3). Frames cannot be skipped: UserError if it is broken."""
    try:
        return decode_image(path)
    except BrokenImage as error:
        raise UserError(f"{error}; get the frame again") from None


def read_mask(path: Path) -> tuple[np.ndarray, list[int]]:
    """Object numbers, uint8 (H, W), with void as 0; and the palette, 768 values of 0 to 255.

    Raises:
        UserError: not a readable indexed or grey image.
    """
    image = open_picture(path)
    mode, mask = image.mode, np.array(image)
    if mode not in ("P", "L"):
        raise UserError(f"{path} has the colour mode {mode}; an annotation is an indexed PNG whose pixels are numbers")
    mask[mask == VOID] = 0
    colors = (image.getpalette() or []) if mode == "P" else davis_palette()
    return mask, colors + [0] * (768 - len(colors))


def write_mask(path: Path, mask: np.ndarray, palette: list[int]) -> None:
    """Write object numbers, uint8 (H, W), as an indexed PNG; raises UserError like `replacing`."""
    image = Image.fromarray(mask)
    image.putpalette(palette)
    with replacing(path) as draft:
        image.save(draft, format="PNG")


def davis_palette() -> list[int]:
    """DAVIS's 256 colours, which are PASCAL VOC's: the bits of a number, three at a time, from the highest."""
    numbers, channels = np.arange(256)[:, None], np.arange(3)
    colors = sum((numbers >> (3 * level + channels) & 1) << (7 - level) for level in range(8))
    return colors.ravel().tolist()
