"""Training with a share of the labels: COCO-format files with fewer images."""

import json
from pathlib import Path

import numpy as np

from cropfield.stages import Chain, read_result
from pretrain.errors import UserError
from pretrain.files import write_json


def few_images(content: dict, share: float) -> dict:
    """Keep the fraction `share` of a COCO file's images, at least one, with their annotations; categories are kept.

    Deterministic and nested: a smaller subset is part of a larger one.
    """
    images = sorted(content["images"], key=lambda image: str(image["id"]))
    order = np.random.default_rng(0).permutation(len(images))[: max(1, round(share * len(images)))]
    chosen = [images[place] for place in sorted(order)]
    kept = {image["id"] for image in chosen}
    annotations = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    return content | {"images": chosen, "annotations": annotations}


def told_subset(whole: dict, json_file: str, share: float) -> dict:
    """`few_images` of a file, and print what they show. Raises UserError if that is no object."""
    content = few_images(whole, share)
    images, objects = len(content["images"]), len(content["annotations"])
    shown = {entry["category_id"] for entry in content["annotations"]}
    absent = [entry["name"] for entry in content["categories"] if entry["id"] not in shown]
    of = f"{images:,} of the {len(whole['images']):,} images of {json_file}"
    if not objects:
        raise UserError(f"--labels {share:g}: {of} would be trained on, which show no object; give a larger share")
    without = f"; none of {', '.join(absent[:5])}{', ...' * (len(absent) > 5)}" if absent else ""
    print(f"{100 * share:g}% of the labels: {of}; objects: {objects:,}{without}")
    return content


def write_subset(chain: Chain, path: Path, content: dict) -> None:
    """Write a training file with fewer images. Raises UserError if a stage has begun with another one."""
    if path.exists() and read_result(path) == json.loads(json.dumps(content)):  # in which tuples are lists
        return
    if begun := next(
        (name for name, entry in chain.record.items() if any(str(path) in word for word in entry["command"])), None
    ):
        raise UserError(
            f"{begun} was begun with {path}, which --train-json does not give: give what was given then, or choose "
            "another --output"
        )
    write_json(path, content)
