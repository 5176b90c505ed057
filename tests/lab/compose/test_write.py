import contextlib
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lab.compose.dataset import Plan
from lab.compose.scene import Layout
from lab.compose.write import compose_dataset
from pretrain.errors import UserError

# pycocotools 2.0.11 with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LAYOUT = Layout(size=64, objects=(2, 5), scale=(0.3, 0.5), rotation=20, occlusion=0.4)
PLAN = Plan(train=12, val=6, unlabeled=4, layout=LAYOUT, classes=4, unseen=False, typical=0.5, seed=0)


def compose(plan, folder, overwrite=False):
    lines = []
    compose_dataset(plan, folder, overwrite, lines.append)
    return lines


def digests(folder):
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file() and p.name[0] != "."
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("composed") / "set"
    compose(PLAN, folder)
    return folder


def load(folder, split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(folder / "annotations" / f"instances_{split}.json")


@pytest.mark.parametrize("split, count", [("train", 12), ("val", 6)])
def test_annotations_agree_with_their_masks(written, split, count):
    coco = load(written, split)
    assert len(coco.imgs) == len(list((written / split).iterdir())) == count
    for image_id in coco.imgs:
        annotations = coco.imgToAnns[image_id]
        masks = np.stack([coco.annToMask(a) for a in annotations])
        assert masks.shape[1:] == (64, 64)
        assert masks.sum(0).max() <= 1  # visible pixels only
        for annotation, mask in zip(annotations, masks, strict=True):
            x, y, w, h = annotation["bbox"]
            assert annotation["area"] == mask.sum() > 0
            assert mask[y : y + h, x : x + w].sum() == mask.sum()
            assert mask[y].any() and mask[y + h - 1].any() and mask[:, x].any() and mask[:, x + w - 1].any()
            assert annotation["category_id"] in coco.cats and annotation["iscrowd"] == 0


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_truth_as_detections_has_full_precision(written, kind):
    coco = load(written, "val")
    with contextlib.redirect_stdout(io.StringIO()):
        found = coco.loadRes([a | {"score": 1.0} for a in coco.dataset["annotations"]])
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_unlabeled_images_have_no_annotations(written):
    assert len(list((written / "unlabeled").iterdir())) == 4
    assert sorted(p.name for p in (written / "annotations").iterdir()) == [
        "instances_train.json",
        "instances_val.json",
    ]


def test_same_seed_same_bytes_other_seed_other_bytes(written, tmp_path):
    compose(PLAN, tmp_path / "same")
    compose(replace(PLAN, seed=1), tmp_path / "other")
    here, other = digests(written), digests(tmp_path / "other")
    assert digests(tmp_path / "same") == here
    assert all(here[name] != other[name] for name in here)


def test_no_picture_is_in_two_splits(written):
    pictures = [digest for name, digest in digests(written).items() if name.endswith(".jpg")]
    assert len(pictures) == len(set(pictures)) == 22


def test_a_scene_does_not_depend_on_how_many_there_are(written, tmp_path):
    compose(replace(PLAN, train=2, val=1, unlabeled=0), tmp_path / "few")
    few, many = digests(tmp_path / "few"), digests(written)
    pictures = [name for name in few if name.endswith(".jpg")]
    assert len(pictures) == 3 and all(few[name] == many[name] for name in pictures)


def test_unseen_validation_shares_no_source_with_training(tmp_path):
    compose(replace(PLAN, unseen=True, train=1, val=1), tmp_path / "set")
    sources = json.loads((tmp_path / "set" / "compose.json").read_text())["sources"]
    train, val = sources["train"], sources["val"]
    assert not set(train["photographs"]) & set(val["photographs"])
    for category in train["objects"]:
        assert not set(train["objects"][category]) & set(val["objects"][category])


def test_the_same_plan_again_finds_its_work_done_and_another_is_refused(tmp_path):
    plan = replace(PLAN, train=1, val=1, unlabeled=1)
    compose(plan, tmp_path)
    before = digests(tmp_path)
    assert "already" in compose(plan, tmp_path)[-1]
    with pytest.raises(UserError, match="--overwrite"):
        compose(replace(plan, seed=1), tmp_path)
    assert digests(tmp_path) == before
    compose(replace(plan, seed=1, unlabeled=0), tmp_path, overwrite=True)
    assert not (tmp_path / "unlabeled").exists() and digests(tmp_path) != before


def test_what_others_wrote_is_spared(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "precious.jpg").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="another --output"):
            compose(PLAN, tmp_path, overwrite)
    assert (tmp_path / "train" / "precious.jpg").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        compose(PLAN, tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        compose(PLAN, tmp_path / "file" / "below")
