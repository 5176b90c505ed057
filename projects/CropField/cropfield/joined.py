"""Join several COCO files, each with its own image folder, into one dataset; categories are matched by name."""

import glob
import os

from cropfield.coco_files import repaired_copy
from pretrain.data.coco import CocoFile, Image
from pretrain.errors import UserError

Paths = str | os.PathLike | list[str]


def several(paths: Paths) -> list[str]:
    """Expand a path, a pattern or a list of both to absolute paths; a pattern is sorted by the names without .json.

    Raises:
        UserError: a pattern without matches, or an empty list.
    """
    found = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = os.fspath(path)
        fitting = sorted(glob.glob(path), key=_stem) if is_several(path) else [path]
        if not fitting:
            raise UserError(f"no file matches {path}; give a pattern that matches files")
        found += map(os.path.abspath, fitting)
    if not found:
        raise UserError("an empty list of files; give at least one")
    return found


def is_several(paths: Paths) -> bool:
    """Whether `paths` is a list, or a pattern rather than an existing path."""
    return not isinstance(paths, str | os.PathLike) or (glob.has_magic(os.fspath(paths)) and not os.path.exists(paths))


def folders_of(json_files: list[str], images: Paths) -> list[str]:
    """The image folder of each file: one for all, or one for each in the same order.

    Raises:
        UserError: another number of folders, or a file that is called like another one's folder.
    """
    folders = several(images)
    if len(folders) == 1:
        return folders * len(json_files)
    if len(folders) != len(json_files):
        raise UserError(
            f"{len(json_files)} annotation files and {len(folders)} folders of images: give one folder for all, or as "
            f"many as files, in the same order ({json_files[0]}, ...)"
        )
    names = [os.path.basename(folder) for folder in folders]
    for json_file, folder, name in zip(json_files, folders, names, strict=True):
        own = os.path.basename(_stem(json_file))
        if own != name and own in names:
            raise UserError(
                f"{json_file} is paired with the images in {folder}, and there is also a folder {own}: give files and "
                "folders in the same order"
            )
    return folders


def _stem(path: str) -> str:
    """So that `a.json`, `a-b.json` have the order of their folders `a`, `a-b`."""
    return path.removesuffix(".json")


def join(json_files: list[str], folders: list[str], contents: list[CocoFile]) -> str:
    """Write all files as one; returns its path. Images and annotations are renumbered, and image paths made absolute.

    Raises:
        UserError: the categories differ, or an image is in two files.
    """
    if twice := [file for place, file in enumerate(json_files) if file in json_files[:place]]:
        raise UserError(f"{twice[0]} is given twice; give it once")
    first, joined = contents[0], CocoFile([], contents[0].categories, [])
    ours = {category.name: category.id for category in first.categories}
    owner: dict[str, str] = {}
    for json_file, folder, content in zip(json_files, folders, contents, strict=True):
        check_same_names(json_files[0], first, json_file, content)
        categories = {category.id: ours[category.name] for category in content.categories}
        numbers = {}
        for image in content.images:
            path = os.path.join(folder, image.file_name)
            if owner.setdefault(os.path.realpath(path), json_file) != json_file:
                other = owner[os.path.realpath(path)]
                raise UserError(
                    f"the image {path} is in both {other} and {json_file}, and objects listed in one would be "
                    "background in the other; list it in one of them, with all its objects"
                )
            numbers[image.id] = len(joined.images) + 1
            joined.images.append(Image(numbers[image.id], path, image.height, image.width))
        for annotation in content.annotations:
            if annotation.image_id in numbers:
                annotation.image_id = numbers[annotation.image_id]
                annotation.category_id = categories[annotation.category_id]
                annotation.id = len(joined.annotations) + 1
                joined.annotations.append(annotation)
    return repaired_copy(joined, json_files[0])


def check_same_names(path: str, first: CocoFile, other_path: str, other: CocoFile) -> None:
    """Raise UserError unless both files have the same category names, each unique within its file."""
    names, others = ({category.name for category in content.categories} for content in (first, other))
    if names != others:
        differing = sorted(names ^ others)
        raise UserError(
            f"{other_path} and {path} cannot be joined, because they have different categories "
            f"({', '.join(differing[:8])} in only one of them); write the same "
            "names into both files, including categories that one does not use"
        )
