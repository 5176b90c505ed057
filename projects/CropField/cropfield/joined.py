"""Several COCO files as one dataset: each with its own folder of images, categories matched by their names."""

import glob
import os

from cropfield.coco_files import repaired_copy
from pretrain.data.coco import CocoFile, Image
from pretrain.errors import UserError

Paths = str | os.PathLike | list[str]


def several(paths: Paths) -> list[str]:
    """A path, a pattern or a list of both -> absolute paths, those of a pattern in alphabetical order.

    Raises:
        UserError: nothing fits a pattern, or an empty list.
    """
    found = []
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        path = os.fspath(path)
        fitting = sorted(glob.glob(path)) if is_several(path) else [path]
        if not fitting:
            raise UserError(f"nothing fits {path}; give a pattern of files that are there")
        found += map(os.path.abspath, fitting)
    if not found:
        raise UserError("an empty list of files; give at least one")
    return found


def is_several(paths: Paths) -> bool:
    """Whether it is a list, or a pattern and no path that is there."""
    return not isinstance(paths, str | os.PathLike) or (glob.has_magic(os.fspath(paths)) and not os.path.exists(paths))


def folders_of(json_files: list[str], images: Paths) -> list[str]:
    """The folder of each file's images: one for all, or one for each. Raises UserError."""
    folders = several(images)
    if len(folders) == 1:
        return folders * len(json_files)
    if len(folders) != len(json_files):
        raise UserError(
            f"{len(json_files)} annotation files and {len(folders)} folders of images: give one folder for all, or as "
            f"many as files, in the same order ({json_files[0]}, ...)"
        )
    return folders


def join(json_files: list[str], folders: list[str], contents: list[CocoFile]) -> str:
    """Write all of them as one file -> its path. Images and annotations are numbered anew, images have whole paths.

    Raises:
        UserError: other categories, or an image in two files.
    """
    if twice := [file for place, file in enumerate(json_files) if file in json_files[:place]]:
        raise UserError(f"{twice[0]} is given twice as a part of one dataset; give it once")
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
                    f"the image {path} is in {other} and in {json_file}, and what one lists the other would teach to "
                    "be background; list it in one of them, with all its objects"
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
    """Raise UserError unless both files have the same names of categories, which are unique in each."""
    names, others = ({category.name for category in content.categories} for content in (first, other))
    if names != others:
        differing = sorted(names ^ others)
        raise UserError(
            f"{other_path} and {path} are to be one dataset and have different categories "
            f"({', '.join(differing[:8])} in one of them only); write the same "
            "names into both, also of categories that one does not use"
        )
