"""Any COCO-format dataset in four keys; with none of them, COCO 2017 where DETECTRON2_DATASETS points to."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from cropfield.datasets import dataset_name, evaluation_tasks, has_masks

dataset = dict(train_json="", train_images="", val_json="", val_images="")

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = L(dataset_name)(
    json_file="${dataset.train_json}", images="${dataset.train_images}", otherwise="coco_2017_train"
)
dataloader.test.dataset.names = L(dataset_name)(
    json_file="${dataset.val_json}", images="${dataset.val_images}", otherwise="coco_2017_val"
)
dataloader.train.mapper.image_format = "RGB"
# Polygons and run lengths alike; cropping changes boxes. A dataset without masks trains a detector of boxes.
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.mapper.use_instance_mask = L(has_masks)(json_file="${dataset.train_json}")
dataloader.train.mapper.recompute_boxes = L(has_masks)(json_file="${dataset.train_json}")
dataloader.evaluator.tasks = L(evaluation_tasks)(train_json="${dataset.train_json}", val_json="${dataset.val_json}")
dataloader.evaluator.use_fast_impl = False
dataloader.evaluator.allow_cached_coco = False
# Detections in COCO format beside the AP: what the report draws.
dataloader.evaluator.output_dir = "${train.output_dir}/inference"
