"""A detector's config is tried before any work."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from cropfield.forms import Detection
from cropfield.trial import try_detector
from pretrain.engine.lazy_config import load_config
from pretrain.errors import UserError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "COCO" / "mask_rcnn_cropfield_tiny.py"
CACHE, FROZEN = "dataloader.feature_cache.folder=D", "train.freeze_backbone=True"
SMALL = (
    "train.device=cpu", "model.backbone.net.embed_dim=32", "model.backbone.net.depth=1",
    "model.backbone.net.num_heads=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "1.png")
    thing = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    thing["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]
    image = {"id": 1, "file_name": "1.png", "width": 50, "height": 40}
    coco = {"images": [image], "annotations": [thing], "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labels.json").write_text(json.dumps(coco))
    parts = [(part, what) for part in ("train", "val") for what in ("json", "images")]
    return [f"dataset.{p}_{what}={folder / 'labels.json' if what == 'json' else folder}" for p, what in parts]


def tried(dataset, *overrides):
    return try_detector(load_config(CONFIG, [*dataset, *SMALL, *overrides], Detection))


def test_a_good_config_gives_its_model_back(dataset):
    model = tried(dataset)
    assert all(p.grad is None for p in model.parameters()) and next(model.parameters()).device == torch.device("cpu")


@pytest.mark.parametrize(
    "override, words",
    [
        ("model=null", "^model is null; give keys with values"),
        ("model.backbone=text", "^model.backbone is 'text'; give keys with values: optimizer.params"),
        ("dataloader.evaluator=null", "^dataloader.evaluator is null; give keys with values"),
        ("lr_multiplier=null", "^lr_multiplier is null; give keys with values"),
        ("train.device=xyz", "^train.device: 'xyz' cannot be used here"),
        ("optimizer.lr=-1", "^optimizer.lr is -1; give a number above 0"),
        ("optimizer.lr=0", "^optimizer.lr is 0; give a number above 0"),
        ("lr_multiplier.scheduler.values=[0.0,0.0,0.0]", "^lr_multiplier: gives 0 throughout"),
        ("train.amp.dtype=int8", "^train.amp.dtype is 'int8'; give 'bfloat16' or 'float16'"),
        ("train.max_itr=5", "no key train.max_itr; did you mean train.max_iter"),
        ("lr_multiplier.warmup_factor=-1", "^lr_multiplier: gives -"),
        ("model.backbone.net.patch_size=7", "^model"),
        ("model.roi_heads.box_pooler.output_size=0", r"^model\.roi_heads"),
        ("model.proposal_generator.anchor_generator.strides=[8,8]", r"^model\.proposal_generator"),
        ("dataloader.train.mapper.augmentations.1.min_scale=-1", "min_scale is -1; give a number above"),
        ("dataloader.test.mapper.augmentations.0.short_edge_length=-1", r"^dataloader.test.*short_edge_length is -1"),
        (CACHE, "^dataloader.feature_cache needs a frozen backbone; set train.freeze_backbone=True"),
        (f"{CACHE} {FROZEN} model.vis_period=9", "^dataloader.feature_cache leaves no images"),
        (f"{CACHE} {FROZEN} model.backbone.square_pad=0", "^dataloader.feature_cache needs maps of one"),
        (f"dataloader.feature_cache.folder={__file__} {FROZEN}", "test_trial.py is not a folder that can be written"),
        ("dataloader.feature_cache=D", "^dataloader.feature_cache"),
        ("dataloader.feature_cache.dtype=int8", "dtype is 'int8'; give 'bfloat16' or 'float32'"),
        ("dataloader.feature_cache.augmentations=-1", "augmentations is -1; give a whole number of at least 0"),
        ("dataloader.evaluator.max_dets_per_image=[1,10,100]", r"^dataloader.evaluator.max_dets_per_image is \[1, "),
        ("dataloader.evaluator.max_dets_per_image=5", "max_dets_per_image is 5; give a whole number of at least 10"),
        ("dataloader.evaluator.max_dets_per_image=99.5", "max_dets_per_image is 99.5"),
        ("dataloader.evaluator.tasks=[box]", "^dataloader.evaluator: .*unknown task: box"),
        ("dataloader.evaluator.tasks=[keypoints]", "^dataloader.evaluator: .*keypoints"),
        ("dataloader.evaluator.output_dir=[a]", r"^dataloader.evaluator.output_dir is \['a'\]"),
    ],
)  # fmt: skip
def test_what_would_end_the_run_later_is_told_with_its_part(dataset, override, words):
    with pytest.raises(UserError, match=words) as refused:
        tried(dataset, *override.split())
    assert "\n" not in str(refused.value)


HOTCOCO = pytest.param(
    "_target_=cropfield.evaluation.HotCOCOEvaluator",
    marks=pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed"),
)


@pytest.mark.parametrize("override", ["output_dir=null", "max_dets_per_image=300", "tasks=null", HOTCOCO])
def test_other_ways_to_measure_are_taken(dataset, override, capsys):
    tried(dataset, f"dataloader.evaluator.{override}")
    assert not capsys.readouterr().out


def test_a_dataset_registered_in_python_leaves_nothing_behind(dataset, tmp_path):
    """Detectron2's evaluator writes its annotations into a file as soon as it is made."""
    name, folder = f"own-{tmp_path.name}", dataset[1].partition("=")[2]
    box = {"bbox": [5, 5, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    entry = {"file_name": f"{folder}/1.png", "height": 40, "width": 50, "image_id": 1}
    DatasetCatalog.register(name, lambda: [entry | {"annotations": [box]}])
    MetadataCatalog.get(name).set(thing_classes=["thing"])
    given = [f"dataloader.{part}={name}" for part in ("test.dataset.names", "evaluator.dataset_name")]
    tried(dataset, *given, f"train.output_dir={tmp_path}/out", "dataloader.evaluator.tasks=[bbox]")
    assert not (tmp_path / "out").exists()


def test_masks_cannot_be_measured_of_a_detector_of_boxes(dataset):
    with pytest.raises(UserError, match="^dataloader.evaluator: fails"):
        tried(dataset, "model.roi_heads.mask_in_features=null")
