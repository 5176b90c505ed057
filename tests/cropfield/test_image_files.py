"""Image files against what a COCO file says of them; headers only."""

import numpy as np
import pytest
from PIL import Image as Pillow

from cropfield.image_files import check_image_files
from pretrain.data.coco import Image
from pretrain.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    return tmp_path


def save(path, width=30, height=20, orientation=None) -> None:
    exif = Pillow.Exif()
    if orientation:
        exif[0x0112] = orientation
    Pillow.fromarray(np.zeros((height, width, 3), np.uint8)).save(path, exif=exif)


def check(folder, name="a.jpg", width=30, height=20) -> int:
    return check_image_files("labels.json", [Image(7, name, height, width)], str(folder))


def refusal(*arguments, **options) -> str:
    with pytest.raises(UserError) as refused:
        check(*arguments, **options)
    return str(refused.value)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation, turned", [(None, 0), (1, 0), (3, 1), (6, 0), (8, 0)])
def test_sizes_are_of_the_upright_image(folder, ending, orientation, turned):
    save(folder / f"a.{ending}", orientation=orientation)
    width, height = (20, 30) if orientation in (6, 8) else (30, 20)
    assert check(folder, f"a.{ending}", width, height) == turned  # 3 is upside down, and no size tells it
    assert "images[0] has width" in refusal(folder, f"a.{ending}", height, width)


def test_of_a_square_no_size_tells_whether_it_was_turned(folder):
    save(folder / "a.jpg", 20, 20, orientation=6)
    assert check(folder, width=20, height=20) == 1


def test_what_the_wrong_size_looks_like(folder):
    save(folder / "a.jpg")
    assert "swapped" in refusal(folder, width=20, height=30)
    assert "1 of 1 images" in refusal(folder, width=29, height=20)
    save(folder / "a.jpg", orientation=6)
    assert "EXIF orientation 6" in refusal(folder)


@pytest.mark.parametrize(
    "name, said",
    [
        ("b.jpg", "'b.jpg' first; give"),
        ("deep\\b.jpg", "backslashes of a Windows path: write / instead)"),
        (".\\a.jpg", "write / instead, and it is found"),
        ("C:\\data\\a.jpg", "backslashes of a Windows path"),
        ("C:/data/a.jpg", "an absolute path of another machine: make it relative"),
        ("a%20b.jpg", "percent codes"),
        ("https://x.org/a.jpg", "a URL"),
        ("train/a.jpg", "'a.jpg' is there: leave out the folder"),
        ("a", "'a.jpg' is there"),
        ("a.PNG", "'a.jpg' is there"),
        ("a.jpg ", "a space at its end"),
        ("\ud800.jpg", r"'\ud800.jpg' first"),
        ("a\0.jpg", r"'a\x00.jpg' first"),
        ("deep", "'deep' first"),
    ],
)
def test_what_the_name_of_an_absent_file_looks_like(folder, name, said):
    save(folder / "a.jpg")
    assert said in refusal(folder, name)


def test_what_is_no_image_is_named(folder):
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    assert "1 of 1 images" in refusal(folder) and "(images[0])" in refusal(folder)
    with pytest.raises(UserError, match="not a folder"):
        check(folder / "nowhere")


def test_what_is_not_decoded_is_no_image_here_either(folder):
    Pillow.new("RGB", (30, 20)).save(folder / "b.eps")
    assert "cannot be read as images" in refusal(folder, "b.eps")
