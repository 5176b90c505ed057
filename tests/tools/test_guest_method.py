"""A method that this repository does not know, from a module and a config of its own, through tools/pretrain_net.py."""

import shutil

import cv2
import numpy as np
import pytest
import torch

METHOD = '''
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.data import IMAGE_MEAN, IMAGE_STD


class SimSiam(nn.Module):
    """Two views, a predictor, a stopped gradient (Chen and He, 2021)."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, dim = backbone, backbone.embed_dim
        for name, values in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.predictor = nn.Sequential(nn.Linear(dim, 16), nn.GELU(), nn.Linear(16, dim))

    def forward(self, batch, step):
        pixels = (batch["global_crops"] - self.image_mean) / self.image_std
        features, _ = self.backbone(pixels, batch["global_boxes"])
        targets = features.detach().roll(len(features) // 2, 0)
        return {"loss_similarity": -F.cosine_similarity(self.predictor(features), targets).mean()}

    def after_step(self, step):
        pass

    def clip_groups(self):
        return {name: list(module.parameters()) for name, module in self.named_children()}

    def compile_parts(self):
        pass

    def diagnose(self, batch):
        return {}
'''
CONFIG = """
from detectron2.config import LazyCall as L, LazyConfig
from guest_simsiam import SimSiam

base = LazyConfig.load("{config}")
dataloader, lr_multiplier, optimizer, train, weight_decay = (
    base[key] for key in ("dataloader", "lr_multiplier", "optimizer", "train", "weight_decay")
)
model = L(SimSiam)(backbone=base.model.backbone)
model.backbone.update(embed_dim=32, depth=2, num_heads=2)
dataloader.train.update(batch_size=4, num_workers=0)
dataloader.train.crops.num_local = 0
train.amp.enabled = False
"""


@pytest.fixture
def guest(tmp_path, monkeypatch, request):
    """The config's path; its module can be imported."""
    (tmp_path / "guest_simsiam.py").write_text(METHOD)
    config = request.config.rootpath / "configs" / "pretrain" / "cropfield_tiny.py"
    (tmp_path / "simsiam.py").write_text(CONFIG.format(config=config))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    return tmp_path / "simsiam.py"


def test_it_trains_resumes_to_the_same_bits_and_exports(guest, run_tool):
    folder = guest.parent

    def train(name: str, *options: str) -> dict:
        settings = (f"dataloader.train.source.root={folder}/images", f"train.output_dir={folder}/{name}")
        settings += ("lr_multiplier.warmup=0", "train.checkpointer.keep_period=2", "train.max_iter=4")
        run_tool("pretrain_net", "--config-file", guest, *options, *settings)
        return torch.load(folder / name / "last.pth", weights_only=True)

    whole, half = train("whole"), folder / "whole" / "step_0000002.pth"
    assert whole["iteration"] == 4 and whole["metadata"]["method"] == "SimSiam"
    (folder / "resumed").mkdir()
    shutil.copy(half, folder / "resumed" / "last.pth")
    resumed, before = train("resumed", "--resume"), torch.load(half, weights_only=True)
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    assert not torch.equal(whole["model"]["predictor.0.weight"], before["model"]["predictor.0.weight"])
    run_tool("export_backbone", folder / "whole" / "last.pth", "-o", folder / "backbone.pth")
    exported = torch.load(folder / "backbone.pth", weights_only=True)["model"]
    assert torch.equal(exported["backbone.net.norm.bias"], whole["model"]["backbone.norm.bias"])
