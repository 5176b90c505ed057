"""sahi on a BGR export: the detections of the detector itself, whole and in slices."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cropfield
from cropfield.config import add_cropfield_config

pytest.importorskip("sahi")
OURS = Path(cropfield.__file__).parents[1]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a BGR export of a random tiny detector, and the RGB detector."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    sys.path.insert(0, str(OURS / "tools"))
    import export_bgr

    folder = tmp_path_factory.mktemp("bgr")
    cfg = get_cfg()
    add_cropfield_config(cfg)
    cfg.merge_from_file(str(OURS / "configs" / "mask_rcnn_cropfield_tiny.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.013])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    torch.save({"model": model.state_dict()}, folder / "model.pth")
    export_bgr.export(cfg, folder / "model.pth", folder / "bgr")
    return folder / "bgr", model


def sahis(folder: Path):
    from sahi import AutoDetectionModel

    return AutoDetectionModel.from_pretrained(
        model_type="detectron2",
        model_path=str(folder / "model.pth"),
        config_path=str(folder / "config.yaml"),
        confidence_threshold=0.0,
        device="cpu",
    )


def test_it_finds_what_the_detector_finds(exported):
    from sahi.predict import get_prediction, get_sliced_prediction

    folder, model = exported
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    pixels = torch.as_tensor(image.transpose(2, 0, 1).copy())
    with torch.no_grad():
        (ours,) = model([{"image": pixels, "height": 128, "width": 128}])
    wrapped = sahis(folder)
    found = get_prediction(image, wrapped).object_prediction_list
    assert len(found) > 50  # it leaves out empty masks
    theirs = np.array([prediction.score.value for prediction in found])
    apart = np.abs(theirs[:, None] - ours["instances"].scores.numpy()).min(1)
    assert apart.max() < 1e-6
    large = np.tile(image, (2, 2, 1))
    assert get_sliced_prediction(large, wrapped, slice_height=128, slice_width=128, verbose=0).object_prediction_list
