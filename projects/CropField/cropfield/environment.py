"""Setup for tools that cannot be changed, such as Detectron2's own `tools/train_net.py`.

    DETECTRON2_ENV_MODULE=cropfield.environment python -m tools.train_net --config-file faster_rcnn.yaml

Detectron2 imports the module named by this variable when it is imported itself, and calls its `setup_environment`. Your
own module can call this one. CROPFIELD_TRAIN_JSON and CROPFIELD_TRAIN_IMAGES, a COCO file and its image folder, are
registered as the dataset "own_train"; CROPFIELD_VAL_JSON and CROPFIELD_VAL_IMAGES as "own_val".
"""

import os

from detectron2.config.defaults import _C
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from cropfield.config import add_cropfield_config
from cropfield.datasets import dataset_name


def setup_environment() -> None:
    """Add MODEL.CROPFIELD to the defaults of every `get_cfg()`, register the builders, and register the datasets.

    Raises UserError if a dataset cannot be trained on.
    """
    if "CROPFIELD" not in _C.MODEL:
        add_cropfield_config(_C)
    for split in ("train", "val"):
        json_file = os.environ.get(f"CROPFIELD_{split.upper()}_JSON")
        if json_file:
            name = dataset_name(json_file, os.environ.get(f"CROPFIELD_{split.upper()}_IMAGES", ""), "")
            known = MetadataCatalog.get(name)
            register_coco_instances(f"own_{split}", {}, known.json_file, known.image_root)
