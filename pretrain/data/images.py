"""Image sources by what is on disk: a folder, a list of files, a COCO annotation file, tar shards.

A source has `len()`, `load(index)` -> uint8 RGB (H, W, 3), raising `BrokenImage`, and `name(index)`, for messages.
"""

import os

from pretrain.data.decode import BrokenImage, decode_image
from pretrain.data.folder import ENDINGS, ImageFolder
from pretrain.data.lists import CocoJson, ImageList
from pretrain.data.tar_shards import TarShards
from pretrain.errors import UserError

__all__ = ["BrokenImage", "CocoJson", "ENDINGS", "ImageFolder", "ImageList", "TarShards", "decode_image", "open_source"]

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # TarShards says what is wrong with the others


def open_source(
    root: str | os.PathLike,
    images: str | os.PathLike | None = None,
    endings: tuple[str, ...] = ENDINGS,
    index: str | os.PathLike | None = None,
) -> ImageFolder | ImageList | CocoJson | TarShards:
    """The source that lies at `root`, in a config or on the command line (dataloader.train.source.root=...):

        datasets/imagenet/train                        a folder                     `ImageFolder`
        1percent.txt                                   a list of files              `ImageList`
        annotations/instances_train2017.json           a COCO annotation file       `CocoJson`
        shards/*.tar or 'shards/{000000..000146}.tar'  tar shards                   `TarShards`

    images: the folder that the paths in a .txt or .json are relative to; None is that file's own folder. endings: which
    files count as images, in folders and shards. index: a file to keep the list of a large source in; None is one in
    the user's cache folder (`pretrain.data.index`).
    Raises `UserError` when it is none of these, or as the source that it is.
    """
    path = os.fspath(root)
    is_folder, kind = os.path.isdir(path), path.lower()
    if images is not None and (is_folder or kind.endswith(TARS)):
        raise UserError(f"images={images} is for a .txt or .json file: leave it out, {path} holds its images itself")
    if is_folder:
        return ImageFolder(path, endings, index)
    if kind.endswith(TARS):
        return TarShards(path, endings, index)
    is_file = os.path.isfile(path)  # a pipe has no end
    if is_file and kind.endswith(".json"):
        return CocoJson(path, images, index)
    if is_file and kind.endswith(".txt"):
        return ImageList(path, images)
    problem = "is no kind of image source" if os.path.exists(path) else "does not exist"
    raise UserError(
        f"{path} {problem}: give a folder of images, a .txt with one path a line, a COCO .json, or .tar shards"
    )
