"""Losses of validation images, and objects beyond the limits of an evaluation."""

import json
import logging

import pytest
import torch
from detectron2.utils.events import get_event_storage
from omegaconf import OmegaConf
from torch import nn

from cropfield.validation import mean_losses, warn_of_limits


class Model(nn.Module):
    """Its losses are those of the batch's numbers, and a draw."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Dropout(0.9)

    def forward(self, batch):
        assert self.training
        get_event_storage().put_scalar("own", 1.0)
        numbers = torch.tensor(batch, dtype=torch.float32)
        return {"loss_a": self.backbone(numbers).mean(), "loss_b": torch.rand(())}


def test_means_are_of_images_and_change_nothing():
    model, loader = Model().eval(), [[1, 2], [6]]
    state = torch.get_rng_state()
    found = mean_losses(model, loader)
    assert found["loss_a"] == pytest.approx(3.0)  # dropout is off
    assert found == mean_losses(model, loader) and found["total_loss"] == found["loss_a"] + found["loss_b"]
    assert torch.equal(state, torch.get_rng_state()) and not model.training


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_loss_of_any_value_is_told(loss):
    model = Model()
    model.forward = lambda batch: {"loss_a": torch.tensor(1.0), "loss_b": torch.tensor(loss)}
    found = mean_losses(model, [[1]])
    assert found == pytest.approx({"loss_a": 1.0, "loss_b": loss, "total_loss": 1.0 + loss}, nan_ok=True)


def test_averages_of_batch_norm_are_of_training_images_alone():
    model = Model().train()
    model.norm = nn.BatchNorm1d(1)
    model.forward = lambda batch: {"loss_a": model.norm(torch.tensor(batch)[:, None].float()).mean()}
    mean_losses(model, [[5, 7]])
    assert model.norm.running_mean == 0 and model.norm.training and model.training


@pytest.mark.parametrize(("count", "limit", "told"), [(101, None, True), (100, None, False), (101, 200, False)])
def test_more_objects_than_detections(tmp_path, caplog, count, limit, told):
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "area": 25}
    annotations = [{**box, "id": n + 1, "iscrowd": int(n == count)} for n in range(count + 1)]
    image = {"id": 1, "file_name": "a.png", "width": 10, "height": 10}
    content = {"images": [image], "categories": [{"id": 1, "name": "a"}], "annotations": annotations}
    (tmp_path / "val.json").write_text(json.dumps(content))
    heads = {"box_predictor": {} if limit is None else {"test_topk_per_image": limit}}
    evaluator = {} if limit is None else {"max_dets_per_image": [1, 10, limit]}
    parts = {"dataset": {"val_json": str(tmp_path / "val.json")}, "model": {"roi_heads": heads}}
    with caplog.at_level(logging.WARNING):
        warn_of_limits(OmegaConf.create(parts | {"dataloader": {"evaluator": {"dataset_name": "x"} | evaluator}}))
    assert ("an image has" in caplog.text) == told
