"""CLEVR as it is published, and the two questions that VTAB asks about it (StoP, Table 4: CLEVR/Count, CLEVR/Dist)."""

import json
from pathlib import Path

import numpy as np
import torch

from lab.probes.labelled import LabelledImages, listed_files
from pretrain.errors import UserError

OBJECTS = range(3, 11)  # in a scene; their number is the class
# Upper ends of VTAB's bins of the closest object's distance from the camera, in Blender's units; the last has no end
# that is met. A distance that equals an end is in the bin below it.
DISTANCE_ENDS = (8.0, 8.5, 9.0, 9.5, 10.0)
QUESTIONS = ("count", "dist")


def count_label(scene: dict) -> int:
    """The number of objects, from 3 on, as class 0 to 7. Raises ValueError for another number."""
    return OBJECTS.index(len(scene["objects"]))


def distance_label(scene: dict) -> int:
    """Which of six bins the closest object's distance, the third of its `pixel_coords`, lies in."""
    return int(np.searchsorted(DISTANCE_ENDS, min(thing["pixel_coords"][2] for thing in scene["objects"]), side="left"))


def clevr_split(root: str | Path, split: str, question: str) -> LabelledImages:
    """Images of `root`/images/`split`, labelled from `root`/scenes/CLEVR_`split`_scenes.json.

    Args:
        root: the folder CLEVR_v1.0, or the one that it was unpacked in.
        question: "count" or "dist".

    Raises:
        UserError: a file is absent, no JSON, or a scene is not as CLEVR's are.
    """
    root = Path(root, "CLEVR_v1.0") if Path(root, "CLEVR_v1.0").is_dir() else Path(root)
    file = root / "scenes" / f"CLEVR_{split}_scenes.json"
    try:
        scenes = json.loads(file.read_bytes())["scenes"]
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give the folder CLEVR_v1.0") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no CLEVR scene file ({error}); unpack it again") from error
    label_of, names, labels = count_label if question == "count" else distance_label, [], []
    for place, scene in enumerate(scenes):
        try:
            names.append(scene["image_filename"])
            labels.append(label_of(scene))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{file}: scenes[{place}] is not as CLEVR's are ({error}); unpack it again") from error
    classes = [f"{n} objects" for n in OBJECTS] if question == "count" else _bin_names()
    return LabelledImages(listed_files(root / "images" / split, names, file), torch.tensor(labels), classes)


def _bin_names() -> list[str]:
    return [f"up to {end}" for end in DISTANCE_ENDS] + [f"above {DISTANCE_ENDS[-1]}"]
