"""Detectron2's own tools/train_net.py, unchanged, on our yaml files: it trains and evaluates."""

import os
import subprocess
import sys
from pathlib import Path

import detectron2
import pytest
import torch

import cropfield
from cropfield import CropFieldViT
from pretrain.models.weights import write_backbone

STOCK = Path(detectron2.__file__).parents[1] / "tools" / "train_net.py"
CONFIG = Path(cropfield.__file__).parents[1] / "configs" / "retinanet_cropfield_vits.yaml"

# Both runs in one process, because starting one takes longer than they do.
TWICE = """
import runpy, sys
arguments = sys.argv[1:]
for mode in ([], ["--eval-only"]):
    sys.argv = ["train_net", *mode, *arguments]
    runpy.run_module("tools.train_net", run_name="__main__")
    arguments = [a.replace("backbone.pth", "model_final.pth") for a in arguments]
"""


@pytest.mark.skipif(not STOCK.is_file(), reason="this Detectron2 comes without its tools")
def test_it_trains_and_evaluates(small_coco, tmp_path):
    net = CropFieldViT(embed_dim=32, depth=1, num_heads=2, field_size=(4, 4))
    write_backbone(tmp_path / "backbone.pth", net.state_dict(), {})
    options = (
        f"OUTPUT_DIR {tmp_path} MODEL.WEIGHTS {tmp_path}/backbone.pth MODEL.DEVICE cpu DATASETS.TRAIN ('own_train',) "
        "DATASETS.TEST ('own_val',) MODEL.CROPFIELD.EMBED_DIM 32 MODEL.CROPFIELD.DEPTH 1 MODEL.CROPFIELD.NUM_HEADS 2 "
        "MODEL.CROPFIELD.FIELD_SIZE [4,4] MODEL.CROPFIELD.SQUARE_PAD 0 MODEL.RETINANET.NUM_CLASSES 2 "
        "MODEL.RETINANET.SCORE_THRESH_TEST 0.0 INPUT.MIN_SIZE_TRAIN (96,) INPUT.MIN_SIZE_TEST 96 SOLVER.BASE_LR 0.0 "
        "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0"
    )
    command = [sys.executable, "-W", "ignore", "-c", TWICE, "--config-file", str(CONFIG), *options.split()]
    data = {f"CROPFIELD_{split}_JSON": f"{small_coco}/labels.json" for split in ("TRAIN", "VAL")}
    data |= {f"CROPFIELD_{split}_IMAGES": str(small_coco) for split in ("TRAIN", "VAL")}
    here = os.environ | data | {"DETECTRON2_ENV_MODULE": "cropfield.environment"}
    done = subprocess.run(command, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    trained = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    for name, value in net.state_dict().items():  # the learning rate is zero
        assert torch.equal(trained[f"backbone.net.{name}"], value)
    figures = [line.split(": ", 2)[2] for line in done.stdout.splitlines() if "copypaste: " in line]
    assert len(figures) == 6 and figures[:3] == figures[3:]  # task, names, numbers: after training, and --eval-only
