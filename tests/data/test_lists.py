import json

import cv2
import numpy as np
import pytest

from pretrain.data.decode import BrokenImage
from pretrain.data.lists import CocoJson, ImageList
from pretrain.errors import UserError

JPEG = cv2.imencode(".jpg", np.full((4, 6, 3), 90, np.uint8))[1].tobytes()


def write(path, data=JPEG):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def names(source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


# --- text


def test_list_is_relative_to_its_file_and_keeps_its_order(tmp_path):
    write(tmp_path / "pictures/b.jpg")
    write(tmp_path / "far/a.jpg")
    (tmp_path / "list.txt").write_text(f"pictures/b.jpg\n\n{tmp_path / 'far/a.jpg'}\npictures/absent.jpg\n")
    source = ImageList(tmp_path / "list.txt")
    assert names(source) == ["pictures/b.jpg", str(tmp_path / "far/a.jpg"), "pictures/absent.jpg"]
    assert source.load(0).shape == source.load(1).shape == (4, 6, 3)
    with pytest.raises(BrokenImage, match="missing"):
        source.load(2)


def test_list_of_another_folder(tmp_path):
    write(tmp_path / "pictures/b.jpg")
    write(tmp_path / "lists/list.txt", b"b.jpg\r\nsub/c.jpg\n")
    source = ImageList(tmp_path / "lists/list.txt", tmp_path / "pictures")
    assert names(source) == ["b.jpg", "sub/c.jpg"] and source.load(0).size


def test_imagenets_published_subsets_list_bare_names(tmp_path):
    for name in ("n04235860_14959.JPEG", "n04239074_7724.JPEG"):
        write(tmp_path / "train" / name.split("_")[0] / name)
    write(tmp_path / "1percent.txt", b"n04235860_14959.JPEG\nn04239074_7724.JPEG\n")
    source = ImageList(tmp_path / "1percent.txt", tmp_path / "train")
    assert names(source) == ["n04235860/n04235860_14959.JPEG", "n04239074/n04239074_7724.JPEG"]
    assert source.load(1).size


def test_useless_lists_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        ImageList(tmp_path / "absent.txt")
    write(tmp_path / "empty.txt", b"\n \n")
    with pytest.raises(UserError, match="is empty"):
        ImageList(tmp_path / "empty.txt")
    write(tmp_path / "image.txt", b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="not UTF-8"):
        ImageList(tmp_path / "image.txt")


def test_the_wrong_folder_is_noticed_at_once(tmp_path):
    write(tmp_path / "list.txt", b"".join(b"%d.jpg\n" % i for i in range(1000)))
    with pytest.raises(UserError, match=r"1,000 images .*list\.txt lists, none .* below .*nowhere \(such as 0\.jpg\)"):
        ImageList(tmp_path / "list.txt", tmp_path / "nowhere")
    write(tmp_path / "999.jpg")
    assert len(ImageList(tmp_path / "list.txt")) == 1000


# --- COCO


def coco(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_coco_gives_the_images_in_the_files_order(tmp_path):
    for name in ("train2017/b.jpg", "train2017/sub/a.jpg"):
        write(tmp_path / name)
    entries = [{"id": 7, "file_name": "sub/a.jpg"}, {"id": 3, "file_name": "b.jpg"}, {"id": 4, "file_name": "gone.jpg"}]
    file = coco(tmp_path / "annotations/x.json", {"images": entries, "annotations": [], "categories": []})
    source = CocoJson(file, tmp_path / "train2017")
    assert names(source) == ["sub/a.jpg", "b.jpg", "gone.jpg"] and source.load(0).size
    with pytest.raises(BrokenImage, match=r"gone\.jpg: missing"):
        source.load(2)
    with pytest.raises(UserError, match="say with images which folder"):
        CocoJson(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [', "is not complete JSON"),
        ("[1, 2]", r"the content is \[1, 2\]"),
        ({"annotations": []}, 'has no "images"'),
        ({"images": []}, "lists no images"),
        ({"images": [{"file_name": "a.jpg"}, {"id": 1}]}, r'images\[1\] has no "file_name"'),
        ({"images": [{"file_name": 3}]}, r"images\[0\]\.file_name is 3, a number"),
        ({"images": ["a.jpg"]}, r'images\[0\] is "a.jpg"'),
        ({"images": [{"file_name": "\ud800.jpg"}]}, r"images\[0\]\.file_name is '\\ud800.jpg'"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        CocoJson(coco(tmp_path / "x.json", content))
    assert "x.json" in str(error.value)


def test_missing_and_binary_coco_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        CocoJson(tmp_path / "absent.json")
    write(tmp_path / "x.json")
    with pytest.raises(UserError, match="is a JPEG image"):
        CocoJson(tmp_path / "x.json")


def test_a_byte_order_mark_and_odd_blanks_belong_to_no_name(tmp_path):
    for name in ("a.jpg", "b\x0bc\u2028d.jpg"):
        write(tmp_path / name)
    (tmp_path / "list.txt").write_bytes("a.jpg\r\nb\x0bc\u2028d.jpg\r\n".encode("utf-8-sig"))
    assert names(ImageList(tmp_path / "list.txt")) == ["a.jpg", "b\x0bc\u2028d.jpg"]
