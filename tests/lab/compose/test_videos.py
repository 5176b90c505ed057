"""Composed videos: DAVIS's layout, exact masks, the same every time."""

import numpy as np
import pytest
from PIL import Image

from lab.compose.videos import VideoPlan, compose_videos
from pretrain.errors import UserError

PLAN = VideoPlan(videos=2, frames=6, objects=3, size=(64, 112))
PALETTE = list(range(256)) * 3


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "davis"
    compose_videos(PLAN, folder, PALETTE)
    return folder


def test_the_layout_is_davis(composed):
    names = ["composed-00", "composed-01"]
    parts = {"JPEGImages": "jpg", "Annotations": "png"}
    expected = {f"{part}/480p/{n}/{i:05d}.{end}" for part, end in parts.items() for n in names for i in range(6)}
    assert set(files(composed)) == expected | {"ImageSets/2017/val.txt"}
    assert (composed / "ImageSets/2017/val.txt").read_text().split() == names
    frame, mask = (Image.open(composed / f"{part}/480p/composed-00/00000.{end}") for part, end in parts.items())
    assert (frame.format, frame.mode, frame.size) == ("JPEG", "RGB", (112, 64))
    assert (mask.format, mask.mode, mask.size) == ("PNG", "P", (112, 64)) and mask.getpalette() == PALETTE


def test_all_objects_are_seen_at_first_and_they_move(composed):
    for name in ("composed-00", "composed-01"):
        masks = [np.array(Image.open(composed / f"Annotations/480p/{name}/{i:05d}.png")) for i in range(6)]
        assert set(np.unique(masks[0])) == {0, 1, 2, 3}
        for number in (1, 2, 3):
            places = [np.argwhere(mask == number).mean(0) for mask in masks if (mask == number).any()]
            assert np.abs(places[-1] - places[0]).max() > 1


def test_same_seed_same_bytes(composed, tmp_path):
    compose_videos(PLAN, tmp_path / "again", PALETTE)
    assert files(tmp_path / "again") == files(composed)
    compose_videos(VideoPlan(2, 6, 3, (64, 112), seed=1), tmp_path / "other", PALETTE)
    assert files(tmp_path / "other") != files(composed)


def test_another_folder_is_not_overwritten(composed, tmp_path):
    with pytest.raises(UserError, match="not empty"):
        compose_videos(PLAN, composed, PALETTE)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        compose_videos(PLAN, tmp_path / "file", PALETTE)
