"""One way to read an image: the detector's loaders beside pretraining's decoder, and their account of broken images."""

import itertools
import json
import os
import random
import signal
from functools import partial

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import BoxMode
from PIL import Image

from cropfield.loading import build_test_loader, build_train_loader
from cropfield.mapper import ImageMapper, ResizeScale, ResizeShortestEdge, in_format
from pretrain.data.decode import decode_image
from pretrain.errors import UserError


def write_kinds(folder) -> list[str]:
    """An image of each kind that readers disagree about."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 20, 4), dtype=np.uint8)
    Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) | 7).save(folder / "grey16.png")
    Image.fromarray(pixels, "RGBA").save(folder / "transparent.png")
    turned = Image.fromarray(pixels[..., :3])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(pixels[..., :3]).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels[..., :3]).convert("P").save(folder / "palette.gif")
    return [str(folder / name) for name in ("grey16.png", "transparent.png", "turned.jpg", "cmyk.jpg", "palette.gif")]


def mapper(is_train=False, masks=False, image_format="RGB", augmentations=()):
    return ImageMapper(
        is_train, augmentations=[*augmentations], image_format=image_format, use_instance_mask=masks,
        instance_mask_format="bitmask", recompute_boxes=masks and is_train,
    )  # fmt: skip


@pytest.mark.parametrize("is_train", [False, True])
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_a_detector_sees_what_pretraining_sees(tmp_path, is_train, image_format):
    for name in write_kinds(tmp_path):
        image, upright = mapper(is_train, image_format=image_format)({"file_name": name})["image"], decode_image(name)
        expected = in_format(upright, image_format)
        assert torch.equal(image, torch.from_numpy(np.array(expected.transpose(2, 0, 1), order="C")))
        if image_format == "BGR":
            assert np.array_equal(image.numpy()[::-1].transpose(1, 2, 0), upright)


def test_whole_numbers_are_the_same_objects_as_decimals(tmp_path):
    Image.fromarray(np.zeros((37, 53, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    resize = T.ResizeShortestEdge(101, 1000)
    read = ImageMapper(
        True, augmentations=[resize], image_format="RGB", use_instance_mask=True, instance_mask_format="polygon"
    )

    def mapped(number):
        box, polygon = [number(v) for v in (3, 5, 21, 17)], [number(v) for v in (3, 5, 24, 5, 24, 22, 7, 22)]
        objects = [{"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "segmentation": [polygon], "category_id": 0}]
        return read({"file_name": str(tmp_path / "a.png"), "annotations": objects})["instances"]

    whole, decimal = mapped(int), mapped(float)
    assert torch.equal(whole.gt_boxes.tensor, decimal.gt_boxes.tensor)
    assert (whole.gt_boxes.tensor != whole.gt_boxes.tensor.round()).any()
    assert np.array_equal(whole.gt_masks.polygons[0][0], decimal.gt_masks.polygons[0][0])


def entries(folder, count=10, broken=()):
    """A Detectron2 dataset of one object an image; `broken` ones are cut off."""
    found, rng = [], np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)).save(path)
        if number in broken:
            path.write_bytes(path.read_bytes()[:200])
        box = {"bbox": [2, 2, 8, 8], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
        found.append({"file_name": str(path), "image_id": number, "height": 16, "width": 24, "annotations": [box]})
    return found


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("grouped", [False, True])
def test_training_goes_on_beside_a_broken_image(tmp_path, workers, grouped):
    loader = build_train_loader(
        entries(tmp_path, broken=[3]), mapper=mapper(True), total_batch_size=4, num_workers=workers,
        aspect_ratio_grouping=grouped,
    )  # fmt: skip
    batches = iter(loader)
    seen = [entry for _ in range(6) for entry in next(batches)]
    assert len(seen) == 24 and all("image" in entry and len(entry["instances"]) == 1 for entry in seen)
    assert loader.broken.reasons == {str(tmp_path / "3.png"): "truncated"}


def test_an_evaluation_leaves_broken_images_out_and_never_shows_another_twice(tmp_path):
    loader = build_test_loader(entries(tmp_path, broken=[0, 7]), mapper=mapper(), num_workers=0)
    assert [entry["image_id"] for batch in loader for entry in batch] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert len(loader.broken) == 2


@pytest.mark.parametrize("build", [build_train_loader, build_test_loader])
def test_too_many_broken_images_end_it(tmp_path, build):
    more = {"total_batch_size": 2} if build is build_train_loader else {}
    loader = build(entries(tmp_path, broken=[1, 5, 8]), mapper=mapper(), **more)
    with pytest.raises(UserError, match="too many of the 10 images are broken, 3 so far: 3 truncated"):
        for number, _ in enumerate(loader):
            assert number < 30


@pytest.mark.parametrize("workers", [0, 1])
def test_a_size_that_is_not_the_images_is_one_sentence(tmp_path, workers):
    wrong = [entry | {"height": 24, "width": 16} for entry in entries(tmp_path, 2)]
    with pytest.raises(UserError, match=r"0.png has 24 x 16 pixels .* say 16 x 24"):
        next(iter(build_test_loader(wrong, mapper=mapper(), num_workers=workers)))


@pytest.mark.parametrize("crowd", [False, True])
def test_images_without_objects_have_empty_masks(tmp_path, crowd):
    (entry,) = entries(tmp_path, 1)
    entry["annotations"] = [entry["annotations"][0] | {"iscrowd": 1}] if crowd else []
    objects = mapper(True, masks=True)(entry)["instances"]
    assert (
        len(objects) == 0 and objects.gt_masks.tensor.shape == (0, 16, 24) and objects.gt_boxes.tensor.shape == (0, 4)
    )
    assert "gt_masks" not in mapper(True)(entry)["instances"].get_fields()


@pytest.mark.parametrize("size", [(30000, 1), (1, 30000)])
def test_very_thin_images_keep_a_pixel(tmp_path, size):
    Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "thin.png")
    for resize in (ResizeShortestEdge(64, 64), ResizeScale(0.1, 0.1, 64, 64)):
        image = mapper(augmentations=[resize])({"file_name": str(tmp_path / "thin.png")})["image"]
        assert min(image.shape) >= 1 and max(image.shape) <= 64 and (image == 9).all()


def test_the_entries_of_a_dataset_stay_as_they_are(tmp_path):
    (entry,) = entries(tmp_path, 1)
    before = json.dumps(entry)
    mapper(True)(entry)
    assert json.dumps(entry) == before


AUGMENTATIONS = (T.RandomFlip(), T.ResizeScale(0.5, 2.0, 12, 12), T.FixedSizeCrop((12, 12)))


def train_loader(folder, workers=0, **options):
    """Of six readable images and a broken one."""
    return build_train_loader(
        entries(folder, 7, broken=[4]), mapper=mapper(True, augmentations=AUGMENTATIONS), total_batch_size=4,
        num_workers=workers, **options,
    )  # fmt: skip


def taken(batches, count: int) -> list:
    """Names, pixels and boxes of the next batches."""
    return [
        [(entry["file_name"], entry["image"].tolist(), entry["instances"].gt_boxes.tensor.tolist()) for entry in batch]
        for batch in itertools.islice(batches, count)
    ]


@pytest.mark.parametrize("grouped", [False, True])
def test_batches_are_a_function_of_seed_and_number(tmp_path, grouped):
    """Order, substitutes of broken images and augmentations, with any number of workers, from any batch on."""
    make = partial(train_loader, tmp_path, aspect_ratio_grouping=grouped)
    straight = taken(make().batches(0, seed=3), 9)
    assert taken(make(workers=2).batches(5, seed=3), 4) == straight[5:]
    assert taken(make().batches(8, seed=3), 1) == straight[8:]
    assert taken(make().batches(0, seed=4), 9) != straight
    crops = {str(crop) for batch in straight for crop in batch}
    assert len(crops) > 30  # of 36: another augmentation each time, and small images have few


def test_reading_leaves_the_global_generators_alone(tmp_path):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    taken(train_loader(tmp_path).batches(0, seed=3), 2)
    assert state() == before


def test_a_sampler_keeps_its_statistics(tmp_path):
    """Shuffled epochs; an image three times in each where a repeat factor says so."""
    data = entries(tmp_path, 8)
    default = build_train_loader(data, mapper=mapper(True), total_batch_size=4, aspect_ratio_grouping=False)
    names = [name for batch in taken(default.batches(0, seed=3), 4) for name, *_ in batch]
    assert sorted(names[:8]) == sorted(names[8:]) == sorted(entry["file_name"] for entry in data)
    assert names[:8] != names[8:]
    often = RepeatFactorTrainingSampler(torch.tensor([3.0] + [1.0] * 5), seed=1)
    loader = build_train_loader(
        data[:6], mapper=mapper(True), total_batch_size=4, sampler=often, aspect_ratio_grouping=False
    )
    names = [name for batch in taken(loader.batches(0, seed=3), 4) for name, *_ in batch]
    assert names.count(data[0]["file_name"]) == 6 and all(names.count(e["file_name"]) == 2 for e in data[1:6])


def test_wide_images_share_batches(tmp_path):
    data = [entry | {"height": 16, "width": 24 if n % 3 else 16} for n, entry in enumerate(entries(tmp_path, 6))]
    loader = build_train_loader(data, mapper=lambda entry: entry | {"image": 0}, total_batch_size=2)
    widths = [[entry["width"] for entry in batch] for batch in itertools.islice(loader.batches(0, seed=0), 30)]
    assert all(len(set(batch)) == 1 for batch in widths) and len({batch[0] for batch in widths}) == 2


@pytest.mark.parametrize("train", [True, False])
def test_a_killed_worker_is_one_sentence(tmp_path, train):
    data = entries(tmp_path)

    def deadly(entry):
        if entry["image_id"] == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return entry | {"image": 0}

    loader = build_train_loader(data, mapper=deadly, total_batch_size=2, num_workers=1) if train else None
    loader = loader or build_test_loader(data, mapper=deadly, num_workers=1)
    with pytest.raises(UserError, match=r"was killed by SIGKILL at image .*7\.png"):
        for _ in zip(range(20), loader, strict=False):
            pass


def test_a_batch_that_processes_cannot_share_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="total_batch_size: 0 images do not divide by 1 processes"):
        build_train_loader(entries(tmp_path, 2), mapper=mapper(True), total_batch_size=0)
