from importlib.util import find_spec

import cv2
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from lab.compose.dataset import Plan, load_kits
from lab.compose.photographs import load_cutouts, load_photographs, shipped_photographs
from lab.compose.pictographs import CATEGORIES, load_pictographs
from lab.compose.scene import Layout
from pretrain.errors import UserError


def save(path, mode, size=(40, 30), box=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size)
    if box:
        image.paste((200, 100, 50, 255), box)
    image.save(path)


def test_a_cutout_is_trimmed_to_its_object(tmp_path):
    save(tmp_path / "cup" / "a.png", "RGBA", box=(5, 10, 25, 22))
    categories, skipped = load_cutouts(tmp_path, 64)
    assert categories["cup"][0].rgba.shape == (12, 20, 4)
    assert not skipped


def test_files_that_are_no_cutouts_are_left_out_by_name(tmp_path):
    save(tmp_path / "cup" / "good.png", "RGBA", box=(5, 10, 25, 22))
    save(tmp_path / "cup" / "opaque.png", "RGB")
    save(tmp_path / "cup" / "empty.png", "RGBA")
    (tmp_path / "cup" / "broken.png").write_bytes(b"\x89PNG, nearly")
    categories, skipped = load_cutouts(tmp_path, 64)
    assert [c.name for c in categories["cup"]] == ["cup/good.png"]
    assert sorted(line.split(":")[0].rsplit("/")[-1] for line in skipped) == [
        "broken.png",
        "empty.png",
        "opaque.png",
    ]


def test_folders_without_cutouts_are_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        load_cutouts(tmp_path / "missing", 64)
    with pytest.raises(UserError, match="no image"):
        load_cutouts(tmp_path, 64)
    save(tmp_path / "cup" / "opaque.png", "RGB")
    with pytest.raises(UserError, match="alpha"):
        load_cutouts(tmp_path, 64)


def test_broken_photographs_are_left_out_and_the_rest_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("CMYK", (60, 20)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    photographs, skipped = load_photographs(tmp_path, 30, np.random.default_rng(0))
    assert photographs[0].pixels.shape == (30, 10, 3)
    assert len(skipped) == 1 and "broken.jpg" in skipped[0]


def test_folders_without_photographs_are_refused(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        load_photographs(tmp_path / "missing", 64, np.random.default_rng(0))
    with pytest.raises(UserError, match="no readable image"):
        load_photographs(tmp_path, 64, np.random.default_rng(0))


def test_the_shipped_photographs_are_there():
    photographs = shipped_photographs(96)
    assert len(photographs) >= 10
    assert all(p.pixels.dtype == np.uint8 and max(p.pixels.shape[:2]) <= 96 for p in photographs)


def test_pictographs_are_in_the_font_and_differ():
    font = TTFont(find_spec("matplotlib").submodule_search_locations[0] + "/mpl-data/fonts/ttf/DejaVuSans.ttf")
    assert {ord(c) for pair in CATEGORIES.values() for c in "".join(pair)} <= set(font.getBestCmap())
    seen = set()
    for group in load_pictographs(len(CATEGORIES), 32).values():
        for pictograph in group:
            assert max(pictograph.coverage.shape) == 32
            assert (pictograph.coverage >= 0.5).mean() > 0.1
            seen.add((pictograph.coverage + pictograph.ink).tobytes())
    assert len(seen) == sum(len(a + b) for a, b in CATEGORIES.values())


def test_instances_of_a_pictograph_share_the_shape_and_not_the_colours():
    pictograph = load_pictographs(1, 64)["star"][0]
    rng, photographs = np.random.default_rng(0), shipped_photographs(64)
    first, second = (pictograph.render(photographs, rng) for _ in range(2))
    assert np.array_equal(first[..., 3], second[..., 3])
    assert np.abs(first[..., :3].astype(int) - second[..., :3]).mean() > 10


def hues(instances: list[np.ndarray]) -> np.ndarray:
    """Median hue of each instance's solid pixels, in degrees."""
    solid = [rgba[rgba[..., 3] == 255][:, :3] for rgba in instances]
    return np.array([2.0 * np.median(cv2.cvtColor(pixels[None], cv2.COLOR_RGB2HSV)[..., 0]) for pixels in solid])


def spread(degrees: np.ndarray) -> float:
    """0 for one direction, 1 for all directions alike."""
    return 1 - abs(np.exp(1j * np.deg2rad(degrees)).mean())


def test_typical_instances_share_their_categorys_material():
    photographs = shipped_photographs(64)

    def instances(typical, category):
        rng, group = np.random.default_rng(0), list(load_pictographs(4, 64, typical).values())[category]
        return [group[0].render(photographs, rng) for _ in range(40)]

    assert spread(hues(instances(1.0, 3))) < 0.3 < 0.5 < spread(hues(instances(0.0, 3)))
    apart = np.median(hues(instances(1.0, 1))) - np.median(hues(instances(1.0, 3)))
    assert min(apart % 360, -apart % 360) > 60


def test_the_same_cutouts_are_held_back_whatever_categories_are_beside_them(tmp_path):
    """What pretraining has seen of a larger collection is not what a detector is validated on."""
    for category, folder in (("cup", "few"), ("cup", "many"), ("bag", "many"), ("saw", "many")):
        for number in range(10):
            save(tmp_path / folder / category / f"{number}.png", "RGBA", box=(5, 10, 25, 12 + number))
    save(tmp_path / "photos" / "a.png", "RGB")
    save(tmp_path / "photos" / "b.png", "RGB")
    layout = Layout(96, (1, 1), (0.5, 0.9), 0.0, 0.0)

    def held_back(folder: str) -> list[str]:
        plan = Plan(1, 1, 0, layout, None, True, 0.0, 3, tmp_path / folder, tmp_path / "photos")
        names, kits, _ = load_kits(plan)
        train, val = (kits[split].categories[names.index("cup")] for split in ("unlabeled", "val"))
        assert len(train) == 7 and not {item.name for item in train} & {item.name for item in val}
        return [item.name for item in val]

    assert held_back("few") == held_back("many")
