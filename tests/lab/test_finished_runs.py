import os
from functools import reduce

import cv2
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from lab.finished_runs import rebuild_pretraining
from pretrain.engine.lazy_config import load_config
from pretrain.engine.run import pretrain
from pretrain.errors import UserError

SMALL = [
    "model.backbone.embed_dim=24",
    "model.backbone.depth=2",
    "model.num_prototypes=32",
    "model.head_hidden_dim=16",
    "model.bottleneck_dim=8",
    "dataloader.train.batch_size=4",
    "dataloader.train.num_workers=0",
    "train.max_iter=1",
    "train.amp.enabled=False",
    "train.device=cpu",
    "train.seed=5",
]


@pytest.fixture
def run_folder(tmp_path):
    """One step of a very small pretraining; its learning rate is 0, as that of every first step of a warm-up."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(6):
        picture = np.random.default_rng(index).integers(0, 255, (100, 110, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f"{index}.png"), picture)
    config = "configs/pretrain/cropfield_tiny.py"
    cfg = load_config(config, [*SMALL, f"dataloader.train.source.root={images}", f"train.output_dir={tmp_path}/run"])
    pretrain(cfg)
    return tmp_path / "run"


def test_the_untrained_backbone_and_the_first_batch_are_the_runs_own(run_folder):
    pretraining = rebuild_pretraining(run_folder)
    trained = pretraining.trained.state_dict()
    for name, value in pretraining.untrained.state_dict().items():
        torch.testing.assert_close(value, trained[name], atol=1e-6, rtol=1e-5)
    assert pretraining.untrained.pos_embed.std() > 0.01
    assert pretraining.steps == 1
    assert len(pretraining.images) == 4 and pretraining.images[0].shape == (100, 110, 3)
    crops = pretraining.crops_of(1)
    assert [kind for kind, *_ in crops] == ["global"] * 2 + ["local"] * 4
    np.testing.assert_array_equal(crops[1][1], pretraining.batch["global_crops"][4 + 1].numpy())
    np.testing.assert_array_equal(crops[5][3], pretraining.batch["local_boxes"][3 * 4 + 1].numpy())


def test_images_may_have_moved(run_folder):
    images = run_folder.parent / "images"
    moved = images.rename(run_folder.parent / "moved")
    with pytest.raises(UserError, match="does not exist"):
        rebuild_pretraining(run_folder)
    assert rebuild_pretraining(run_folder, moved).steps == 1


def test_a_config_of_another_run_is_refused(run_folder):
    cfg = OmegaConf.load(run_folder / "config.yaml")
    cfg.model.backbone.depth = 3
    OmegaConf.save(cfg, run_folder / "config.yaml")
    with pytest.raises(UserError, match="does not belong to the config"):
        rebuild_pretraining(run_folder)
    (run_folder / "config.yaml").write_text("a: !!python/object/apply:os.getcwd []")
    with pytest.raises(UserError, match="cannot be read as the config"):
        rebuild_pretraining(run_folder)


def test_without_a_checkpoint_there_is_nothing(tmp_path):
    assert rebuild_pretraining(tmp_path) is None


HOSTILE = {
    "model": {"_target_": "os.system", "command": "touch PWNED"},
    "model.backbone": {"_target_": "pretrain.files.write_text", "path": "PWNED", "text": "x"},
    "model.backbone.depth": 10**8,
    "model.backbone.embed_dim": 65_536,
    "model.backbone.field_size": 100_000,
    "model.num_prototypes": 10**8,
    "model.temperature_warmup": 10**400,
    "model.init": "/dev/zero",
    "dataloader.train.batch_size": 10**9,
    "dataloader.train.seed": -1,
    "dataloader.train.crops.global_size": 10**6,
    "dataloader.train.crops.num_local": 10**9,
    "dataloader.train.masks": 3,
    "dataloader.train.source": {"_target_": "pretrain.data.images.open_source", "root": "PIPE.txt"},
    "train": None,
}


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_config_is_refused_before_anything_is_built(run_folder, key, monkeypatch):
    monkeypatch.chdir(run_folder)
    os.mkfifo("PIPE.txt")
    cfg = yaml.safe_load((run_folder / "config.yaml").read_text())
    *path, last = key.split(".")
    reduce(dict.__getitem__, path, cfg)[last] = HOSTILE[key]
    (run_folder / "config.yaml").write_text(yaml.safe_dump(cfg))
    with pytest.raises(UserError, match=r"config\.yaml|last\.pth|PIPE"):
        rebuild_pretraining(run_folder)
    assert not (run_folder / "PWNED").exists()


def test_a_source_writes_no_index(run_folder):
    cfg = yaml.safe_load((run_folder / "config.yaml").read_text())
    cfg["dataloader"]["train"]["source"]["index"] = str(run_folder / "PWNED.npz")
    (run_folder / "config.yaml").write_text(yaml.safe_dump(cfg))
    os.utime(run_folder.parent / "images", (0, 0))  # else it would be too young to be kept
    assert rebuild_pretraining(run_folder).steps == 1
    assert not (run_folder / "PWNED.npz").exists()
