"""The pieces of docs/extend.md do what the page says."""

import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage

from pretrain.data import masks
from pretrain.data.batches import CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.models.vit import VisionTransformer

PAGE = Path(__file__).parents[2] / "docs/extend.md"


@pytest.fixture
def pieces(monkeypatch):
    monkeypatch.setattr(masks, "MASKS", masks.MASKS.copy())
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, PAGE, "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as file:
        for i in range(4):
            file.writestr(f"{i}.png", cv2.imencode(".png", rng.integers(0, 256, (64, 80, 3), np.uint8))[1].tobytes())
        file.writestr("notes.txt", "no image")
    return tmp_path / "photos.zip"


def test_source_mask_and_method_make_a_step(pieces, archive):
    source = pieces.ZipFileOfImages(archive)
    assert len(source) == 4 and source.load(1).shape == (64, 80, 3)
    crops = MultiCrop(global_size=32, local_size=16, num_local=0, photometric=None)
    stripes = masks.CropMasks((4, 4), position_mask="stripes")
    batch = next(CropLoader(source, crops, stripes, batch_size=4).batches())
    torch.manual_seed(0)
    backbone = VisionTransformer(patch_size=8, embed_dim=16, depth=1, num_heads=2, field_size=4)
    method = pieces.SimSiam(backbone)
    losses = method(batch, 0)
    losses["loss_similarity"].backward()
    assert -1 <= losses["loss_similarity"].item() <= 1
    groups = method.clip_groups()
    assert sum(map(len, groups.values())) == len(list(method.parameters()))
    assert all(parameter.grad is not None for parameter in groups["predictor"])


def test_stripes_are_columns_of_an_exact_count(pieces):
    for count in (0, 1, 5, 9, 12):
        mask = pieces.stripe_mask((3, 4), count, np.random.default_rng(count))
        assert mask.sum() == count and (mask.sum(0) % 3 > 0).sum() <= 1


def test_the_hook_logs_and_the_evaluator_counts(pieces):
    hook = pieces.FieldNorm(period=2)
    backbone = SimpleNamespace(pos_embed=torch.full((1, 4, 1), 2.0))
    with EventStorage() as storage:
        hook.trainer = SimpleNamespace(iter=1, model=SimpleNamespace(backbone=backbone), storage=storage)
        hook.after_step()
        assert storage.latest()["field_norm"] == (4.0, 0)
    counts = pieces.Counts("any")
    counts.reset()
    assert counts.evaluate() == {"counts": {"per_image": 0}}
    counts.process([{}], [{"instances": SimpleNamespace(scores=torch.tensor([0.9, 0.2, 0.6]))}])
    assert counts.evaluate() == {"counts": {"per_image": 2}}
