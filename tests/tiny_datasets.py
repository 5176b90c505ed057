"""Small datasets in the layouts of the large ones, drawn here: for the tests, and to try the evaluation commands.

    python tests/tiny_datasets.py outputs/tiny                          # shapes that OpenCV draws
    python tests/tiny_datasets.py outputs/tiny --scenes outputs/scenes  # the objects of tools/compose_coco.py's scenes

writes imagenet (with 1percent.txt), places205, inat18, cifar100 and CLEVR_v1.0 below that folder.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

Pictures = dict[str, dict[str, list[np.ndarray]]]  # by split, "train" and "val", and class; uint8 RGB
SYNSETS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331", "n01498041", "n01514668")
PLACES = ("a/abbey", "a/apartment_building/outdoor", "b/bedroom", "c/canyon", "f/forest_path", "k/kitchen", "o/ocean")
SPECIES = {"7477": "Plantae", "12": "Insecta", "3401": "Aves", "101": "Mammalia", "5000": "Plantae", "61": "Insecta"}
COARSE = {
    "apple": "fruit",
    "bear": "bears",
    "bowl": "containers",
    "lion": "bears",
    "pear": "fruit",
    "can": "containers",
}


def drawn_pictures(classes: int = 3, train: int = 6, val: int = 3, size: int = 48, seed: int = 0) -> Pictures:
    """A class is a shape, of any colour, on noise."""
    rng = np.random.default_rng(seed)
    return {
        split: {str(c): [_draw_shape(c, size, rng) for _ in range(count)] for c in range(classes)}
        for split, count in (("train", train), ("val", val))
    }


def _draw_shape(shape: int, size: int, rng: np.random.Generator) -> np.ndarray:
    image = rng.integers(60, 120, (size, size + size // 4, 3), dtype=np.uint8)
    colour = rng.integers(120, 256, 3).tolist()
    (x, y), r = rng.integers(size // 2 - 4, size // 2 + 4, 2), size // 4
    angles = np.arange(3 + shape) * 2 * np.pi / (3 + shape) + rng.uniform(0, 6.3)
    corners = np.stack([x + r * np.cos(angles), y + r * np.sin(angles)], axis=1).round().astype(np.int32)
    return cv2.fillPoly(image, [corners], colour)


def cut_from_scenes(scenes: Path, train: int = 80, val: int = 40, size: int = 64) -> Pictures:
    """The objects of a COCO folder with a quarter of their size around them, so many a class where there are."""
    found: Pictures = {}
    for split, count in (("train", train), ("val", val)):
        content = json.loads((scenes / "annotations" / f"instances_{split}.json").read_bytes())
        files = {entry["id"]: entry["file_name"] for entry in content["images"]}
        found[split] = {category["name"]: [] for category in content["categories"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        for annotation in content["annotations"]:
            pictures = found[split][names[annotation["category_id"]]]
            if len(pictures) < count:
                pictures.append(_cut(scenes / split / files[annotation["image_id"]], annotation["bbox"], size))
    return found


def _cut(path: Path, box: list[float], size: int) -> np.ndarray:
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    side = round(1.25 * max(box[2:]))
    left, top = (round(box[axis] + box[2 + axis] / 2 - side / 2) for axis in (0, 1))
    padded = cv2.copyMakeBorder(image, side, side, side, side, cv2.BORDER_REFLECT)
    square = padded[top + side : top + 2 * side, left + side : left + 2 * side]
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)


def write_imagenet(root: Path, pictures: Pictures) -> None:
    """train/ and val/ of synsets, and 1percent.txt with every third training image, as bare file names."""
    listed = []
    for split, classes in pictures.items():
        for synset, group in zip(SYNSETS, classes.values(), strict=False):
            for i, picture in enumerate(group):
                name = f"{synset}_{i}.JPEG" if split == "train" else f"ILSVRC2012_val_{len(group) + i:08d}.JPEG"
                _save(root / split / synset / name, picture)
                if split == "train" and i % 3 == 0:
                    listed.append(name)
    (root / "1percent.txt").write_text("\n".join(listed) + "\n")


def write_places205(root: Path, pictures: Pictures) -> None:
    """As Places205's archives unpack: images256 of both splits together, and the splits as csv with a space."""
    for split, classes in pictures.items():
        lines = []
        for number, (place, group) in enumerate(zip(PLACES, classes.values(), strict=False)):
            for i, picture in enumerate(group):
                name = f"{place}/gsun_{split}{i:04d}.jpg"
                _save(root / "data/vision/torralba/deeplearning/images256" / name, picture)
                lines.append(f"{name} {number}\n")
        file = root / "trainvalsplit_places205" / f"{split}_places205.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(lines))


def write_inat18(root: Path, pictures: Pictures) -> None:
    """train_val2018/Plantae/7477/*.jpg, and train2018.json and val2018.json with images, annotations, categories."""
    for split, classes in pictures.items():
        images, annotations = [], []
        for (species, kingdom), group in zip(SPECIES.items(), classes.values(), strict=False):
            for i, picture in enumerate(group):
                name, number = f"train_val2018/{kingdom}/{species}/{split}{i:04d}.jpg", len(images) + 1
                _save(root / name, picture)
                size = {"height": picture.shape[0], "width": picture.shape[1]}
                images.append({"id": number, "file_name": name, **size, "license": 1, "rights_holder": ""})
                annotations.append({"id": number, "image_id": number, "category_id": int(species)})
        categories = [{"id": int(s), "name": s, "supercategory": k} for s, k in SPECIES.items()]
        content = {"info": {"year": 2018}, "images": images, "annotations": annotations, "categories": categories}
        (root / f"{split}2018.json").write_text(json.dumps(content))


def write_cifar100(root: Path, pictures: Pictures) -> None:
    """train/ and test/ of superclasses and classes, 32 x 32 PNG."""
    for split, classes in pictures.items():
        for (name, coarse), group in zip(COARSE.items(), classes.values(), strict=False):
            for i, picture in enumerate(group):
                small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
                _save(root / {"val": "test"}.get(split, split) / coarse / name / f"{i}.png", small)


def write_clevr(root: Path, train: int = 12, val: int = 6, seed: int = 0) -> None:
    """CLEVR_v1.0/images/train/CLEVR_train_000000.png ... and scenes/CLEVR_train_scenes.json, keys as in CLEVR's."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        scenes = []
        for index in range(count):
            name = f"CLEVR_{split}_{index:06d}.png"
            objects = _clevr_objects(3 + index % 8, rng)
            _save(root / "CLEVR_v1.0" / "images" / split / name, _draw_clevr(objects, rng))
            scenes.append({"image_filename": name, "image_index": index, "split": split, "objects": objects})
            scenes[-1] |= {"relationships": _relations(objects), "directions": {"right": [0.66, 0.75, 0.0]}}
        file = root / "CLEVR_v1.0" / "scenes" / f"CLEVR_{split}_scenes.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        info = {"date": "2/14/2017", "license": "none: drawn", "split": split, "version": "1.0"}
        file.write_text(json.dumps({"info": info, "scenes": scenes}))


CLEVR_COLOURS = {"red": (173, 35, 35), "blue": (42, 75, 215), "green": (29, 105, 20), "yellow": (255, 238, 51)}


def _clevr_objects(count: int, rng: np.random.Generator) -> list[dict]:
    """The closest is at 7.5 to 10.5, the others behind it; what is closer lies lower in the image."""
    closest = rng.uniform(7.5, 10.5)
    objects = []
    for i in range(count):
        distance = closest if i == 0 else rng.uniform(closest, 13.0)
        pixel = [int(rng.integers(40, 440)), int(270 - 38 * (distance - 7.5)), float(distance)]
        traits = {"color": rng.choice(list(CLEVR_COLOURS)), "shape": rng.choice(["cube", "sphere", "cylinder"])}
        traits |= {"size": rng.choice(["small", "large"]), "material": rng.choice(["rubber", "metal"])}
        place = {"3d_coords": rng.uniform(-3, 3, 3).tolist(), "pixel_coords": pixel, "rotation": rng.uniform(0, 360)}
        objects.append({key: str(value) for key, value in traits.items()} | place)
    return objects


def _draw_clevr(objects: list[dict], rng: np.random.Generator) -> np.ndarray:
    image = np.clip(np.linspace(90, 150, 320)[:, None, None] + rng.normal(0, 3, (320, 480, 3)), 0, 255).astype(np.uint8)
    for thing in sorted(objects, key=lambda thing: -thing["pixel_coords"][2]):
        x, y, distance = thing["pixel_coords"]
        radius = int((320 if thing["size"] == "large" else 180) / distance)
        colour = CLEVR_COLOURS[thing["color"]]
        if thing["shape"] == "cube":
            cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
        else:
            axes = (radius, radius) if thing["shape"] == "sphere" else (int(0.7 * radius), radius)
            cv2.ellipse(image, (x, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        if thing["material"] == "metal":
            cv2.circle(image, (x - radius // 3, y - radius // 3), max(1, radius // 5), (255, 255, 255), -1, cv2.LINE_AA)
    return image


def _relations(objects: list[dict]) -> dict[str, list[list[int]]]:
    x = [thing["pixel_coords"][0] for thing in objects]
    return {"left": [[j for j, other in enumerate(x) if other < mine] for mine in x]}


def _save(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scenes", type=Path, help="folder of tools/compose_coco.py")
    parser.add_argument("--train", type=int, default=60, help="training images a class (default 60)")
    parser.add_argument("--val", type=int, default=30, help="validation images a class (default 30)")
    args = parser.parse_args()
    pictures = (
        cut_from_scenes(args.scenes, args.train, args.val)
        if args.scenes
        else drawn_pictures(6, args.train, args.val, 64)
    )
    write_imagenet(args.output / "imagenet", pictures)
    write_places205(args.output / "places205", pictures)
    write_inat18(args.output / "inat18", pictures)
    write_cifar100(args.output / "cifar100", pictures)
    write_clevr(args.output, 8 * args.train, 4 * args.val)


if __name__ == "__main__":
    main()
