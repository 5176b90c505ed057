"""Check a COCO file's masks against its images: polygons must be drawable, run lengths must cover the image."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as rle

from cropfield.run_lengths import DamagedRuns, box_of_runs, decompress
from pretrain.data.coco import Annotation, Runs, shown
from pretrain.errors import UserError

REACH = 10  # times the image's longer side; beyond it is an error, and drawing cost grows with the distance
BATCH = 10_000  # compressed masks decoded at once


@dataclass
class Faults:
    """What was found in a COCO file: how often, and where first, such as "annotations[3]", each by description."""

    counts: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, fault: str, part: str, place: int, count: int = 1) -> None:
        """Count a fault of `part`, a list of the file, at index `place`; of several, at the first one's."""
        self.counts[fault] += count
        self.first.setdefault(fault, f"{part}[{place}]")


def check_masks(
    json_file: str, annotations: list[Annotation], sizes: dict[int, tuple[int, int]], repaired: Faults
) -> list[int]:
    """Refuse damaged masks; repair minor faults: degenerate rings beside valid ones, empty boxes of objects with masks.

    Args:
        sizes: width and height of each image by id; annotations of other images are skipped.
        repaired: repairs are noted here.

    Returns:
        places of the annotations whose masks have no pixel in their image.

    Raises:
        UserError: an odd number of coordinates, fewer than three points, coordinates far outside the image, or run
            lengths whose size or total does not match the image.
    """
    compressed, empty = [], []
    for place, annotation in enumerate(annotations):
        size, mask = sizes.get(annotation.image_id), annotation.segmentation
        if size is None or not mask:
            continue
        if type(mask) is list:
            empty += [place] * _check_polygons(json_file, place, annotation, size, repaired)
        elif not isinstance(mask.counts, str):
            runs = np.array(mask.counts, dtype=object)
            empty += [place] * _check_runs(json_file, place, annotation, size, runs, repaired)
        else:
            compressed.append(place)
            if len(compressed) == BATCH:
                empty += _check_compressed(json_file, compressed, annotations, sizes, repaired)
                compressed.clear()
    if compressed:
        empty += _check_compressed(json_file, compressed, annotations, sizes, repaired)
    return empty


def _check_polygons(
    json_file: str, place: int, annotation: Annotation, size: tuple[int, int], repaired: Faults
) -> bool:
    """-> whether they have no pixel."""
    reach, highest, lowest = REACH * max(size), 0.0, 0.0
    short = False
    for ring in annotation.segmentation:
        if len(ring) < 6 or len(ring) & 1:
            short = True
        else:
            highest, lowest = max(highest, max(ring)), min(lowest, min(ring))
    if short:
        _drop_short_rings(json_file, place, annotation, repaired)
    if highest > reach or lowest < -reach or _looks_like_shares(lowest, highest, annotation.bbox):
        farthest = highest if highest > reach else lowest
        fault = (
            f"reaches to {farthest:g} in an image of {size[0]} x {size[1]}"
            if abs(farthest) > reach
            else f"lies in one pixel, far from its box {shown(list(annotation.bbox))}: it looks like shares of 1"
        )
        raise UserError(
            f"{json_file}: annotations[{place}].segmentation {fault}; write pixels, or remove the annotation"
        )
    if 0 in annotation.bbox[2:]:
        numbers = np.concatenate([np.array(ring) for ring in annotation.segmentation])
        x, y = numbers[::2], numbers[1::2]
        _take_box(place, annotation, (x.min(), y.min(), x.max() - x.min(), y.max() - y.min()), repaired)
    return not any(_shows(ring, *size) for ring in annotation.segmentation) and _is_empty(annotation, size)


def _shows(ring: list[float], width: int, height: int) -> bool:
    """Whether three corners of a polygon enclose a circle of one pixel in the image: nearly all need no drawing."""
    third = len(ring) // 6 * 2
    x, y, x1, y1, x2, y2 = *ring[:2], *ring[third : third + 2], *ring[2 * third : 2 * third + 2]
    if not (0 <= x <= width and 0 <= x1 <= width and 0 <= x2 <= width):
        return False
    if not (0 <= y <= height and 0 <= y1 <= height and 0 <= y2 <= height):
        return False
    x1, y1, x2, y2 = x1 - x, y1 - y, x2 - x, y2 - y
    return abs(x1 * y2 - x2 * y1) > 3 * (abs(x1) + abs(y1) + abs(x2) + abs(y2))


def _is_empty(annotation: Annotation, size: tuple[int, int]) -> bool:
    drawn = rle.frPyObjects(annotation.segmentation, size[1], size[0])
    return not rle.area(drawn).any()


def _looks_like_shares(lowest: float, highest: float, bbox: tuple[float, ...]) -> bool:
    x, y, width, height = bbox
    return lowest >= 0 and highest <= 1.001 and x + width > 2 and y + height > 2


def _drop_short_rings(json_file: str, place: int, annotation: Annotation, repaired: Faults) -> None:
    rings = annotation.segmentation
    number = next((i for i, ring in enumerate(rings) if len(ring) < 6), 0)
    whole = [ring for ring in rings if len(ring) >= 6]
    if not whole or any(len(ring) % 2 for ring in rings):
        number = next((i for i, ring in enumerate(rings) if len(ring) % 2), number)
        raise UserError(
            f"{json_file}: annotations[{place}].segmentation[{number}] has {len(rings[number])} numbers, "
            f"{shown(rings[number])}{_looks_like(rings, number)}; write x and y of 3 points or more, or [] for "
            "the whole segmentation where there is no mask"
        )
    annotation.segmentation = whole
    fault = "rings of fewer than 3 points beside whole ones (removed)"
    repaired.note(fault, "annotations", place, len(rings) - len(whole))


def _looks_like(rings: list[list[float]], number: int) -> str:
    if len(rings) > 2 and all(len(ring) == 2 for ring in rings):
        return ", points in pairs (write their numbers in one flat list)"
    if len(rings[number]) % 2:
        return ", so one is missing or too many"
    return ", the corners of a box" if len(rings[number]) == 4 else ""


def _check_compressed(
    json_file: str, places: list[int], annotations: list[Annotation], sizes: dict, repaired: Faults
) -> list[int]:
    try:
        runs, counts = decompress([annotations[place].segmentation.counts for place in places])
    except DamagedRuns as error:
        place = places[error.place]
        raise UserError(
            f"{json_file}: annotations[{place}].segmentation.counts, "
            f"{shown(annotations[place].segmentation.counts)}, are not compressed run lengths; "
            "write it again with pycocotools"
        ) from None
    empty = []
    for place, own in zip(places, np.split(runs, np.cumsum(counts)[:-1]), strict=True):
        annotation = annotations[place]
        if _check_runs(json_file, place, annotation, sizes[annotation.image_id], own, repaired):
            empty.append(place)
    return empty


def _check_runs(
    json_file: str, place: int, annotation: Annotation, size: tuple[int, int], runs: np.ndarray, repaired: Faults
) -> bool:
    """Check one mask's run lengths; returns whether it has no pixel."""
    (width, height), where = size, f"{json_file}: annotations[{place}].segmentation"
    if annotation.segmentation.size != (height, width):
        swapped = annotation.segmentation.size == (width, height)
        raise UserError(
            f"{where}.size is {list(annotation.segmentation.size)}, and its image is {width} wide and {height} high"
            f"{': width and height are swapped' if swapped else ''}; write [height, width]"
        )
    covered = runs.sum()
    if covered != width * height or runs.min(initial=0) < 0:
        raise UserError(
            f"{where}.counts cover {covered:,} pixels of an image of {width} x {height} = {width * height:,}"
            f"{', with negative lengths' if runs.min(initial=0) < 0 else ''}; write the mask again, with all its runs"
        )
    if 0 in annotation.bbox[2:]:
        _take_box(place, annotation, box_of_runs(runs.astype(np.int64), height), repaired)
    return runs[0] == covered or not runs[1::2].any()


def _take_box(place: int, annotation: Annotation, box: tuple[float, ...], repaired: Faults) -> None:
    if box[2] > 0 and box[3] > 0:
        annotation.bbox = tuple(map(float, box))
        repaired.note("boxes without area beside masks (taken from the masks)", "annotations", place)


def has_mask(annotation: Annotation) -> bool:
    """Whether there is a mask; null and empty lists are none."""
    return isinstance(annotation.segmentation, Runs) or bool(annotation.segmentation)


def polygon_area(polygons: list[list[float]]) -> float:
    """Area in square pixels of checked polygons; overlaps count twice."""
    rings = [np.array(ring).reshape(-1, 2).T for ring in polygons]
    return float(sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in rings))
