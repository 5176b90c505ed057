"""What every detection config starts from: a COCO-format dataset in four keys, large-scale jitter, AdamW as in ViTDet.

Each of the four may be a list, [a.json,b.json], or a pattern: one dataset, its classes matched by their names.
Without these keys the dataset is COCO 2017, where DETECTRON2_DATASETS points to. Large-scale jitter is ViTDet's, to
1024 x 1024 pixels: scaled by 0.1 to 2, then cropped or padded. `train` fits the machine it is read on.
"""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from cropfield.datasets import dataset_name, evaluation_tasks, has_masks
from cropfield.loading import build_test_loader, build_train_loader
from cropfield.mapper import ImageMapper, ResizeScale, ResizeShortestEdge
from cropfield.schedule import layer_decay
from pretrain.data.decode import MAX_PIXELS
from pretrain.engine.devices import bf16_pays, default_device

dataset = dict(train_json="", train_images="", val_json="", val_images="", max_pixels=MAX_PIXELS)

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = L(dataset_name)(
    json_file="${dataset.train_json}",
    images="${dataset.train_images}",
    otherwise="coco_2017_train",
    max_pixels="${dataset.max_pixels}",
)
dataloader.test.dataset.names = L(dataset_name)(
    json_file="${dataset.val_json}",
    images="${dataset.val_images}",
    otherwise="coco_2017_val",
    max_pixels="${dataset.max_pixels}",
)
# Images are read as in pretraining; broken ones are skipped, counted and listed, up to dataloader.train.max_broken.
dataloader.train._target_, dataloader.test._target_ = build_train_loader, build_test_loader
dataloader.train.mapper._target_ = dataloader.test.mapper._target_ = ImageMapper
dataloader.train.mapper.max_pixels = dataloader.test.mapper.max_pixels = "${dataset.max_pixels}"
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

# The one key for the size of images, in training, in tests and for model.backbone.square_pad.
dataloader.image_size = 1024
side = "${dataloader.image_size}"
dataloader.train.mapper.augmentations = [
    L(T.RandomFlip)(horizontal=True),
    L(ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=side, target_width=side),
    L(T.FixedSizeCrop)(crop_size=(side, side), pad=False),
]
dataloader.test.mapper.augmentations = [L(ResizeShortestEdge)(short_edge_length=side, max_size=side)]
dataloader.train.total_batch_size = 64

train = model_zoo.get_config("common/train.py").train
train.device = default_device()
train.amp.enabled = train.device == "cuda"
train.ddp.fp16_compression = True
train.seed = -1  # negative: another one each time
train.freeze_backbone = False  # True: only what reads the backbone is trained
train.init_partial = False  # True: a backbone that init_checkpoint does not fill whole keeps the rest as it is

# What follows is read by this repository's tool; Detectron2's takes the schedule as it stands, in float16.
train.amp.dtype = "bfloat16" if bf16_pays() else "float16"
# The recipe's batch; another dataloader.train.total_batch_size changes the schedule, see cropfield.schedule.BatchRule.
train.reference_batch_size = 64
train.lr_rule = "sqrt"
# A frozen backbone's features of the training images, computed once and kept in a folder ("": not). With 0
# augmentations an image is as in evaluation; with K there are K draws of dataloader.train.mapper.augmentations of it.
dataloader.feature_cache = dict(folder="", augmentations=0, dtype="bfloat16")
train.images_per_gpu = 0  # images a pass; gradients of several passes add up to the batch. 0: all in one
train.compile = False  # torch.compile, for the backbone's blocks
train.ema = dict(enabled=False, decay=0.999)  # evaluates and keeps the average of the weights
train.best_metric = "bbox/AP"  # of the evaluations every eval_period, whose best weights are kept as model_best.pth
train.validation_loss = False  # True: evaluations also log the losses of the validation images, validation/...
train.early_stopping = dict(patience=0)  # evaluations without a new best; 0: never stop early
train.wandb = dict(enabled=False, project="cropfield", name=None)

optimizer = model_zoo.get_config("common/optim.py").AdamW
# App. B.2 does not say whether it keeps ViTDet's layer-wise decay of the learning rate; this does. 1.0 is without.
optimizer.params.lr_factor_func = L(layer_decay)(depth="${model.backbone.net.depth}", rate=0.7)
# As in pretraining, LayerScale is not decayed either: in 50 epochs it would be gone.
optimizer.params.overrides = dict(pos_embed=dict(weight_decay=0.0), gamma=dict(weight_decay=0.0))


def step_schedule(max_iter, milestones, warmup):
    """x 0.1 at each milestone, linear warm-up; all in iterations."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones, num_updates=max_iter),
        warmup_length=warmup / max_iter,
        warmup_factor=0.001,
    )


# By epochs of COCO's 118,000 images, 64 an iteration (App. B.2 gives those of 12): iterations, and where x 0.1 comes.
SCHEDULES = {12: (22128, (19667, 21306)), 50: (92200, (81946, 88775))}


def schedule(epochs):
    """-> train.max_iter, lr_multiplier"""
    iterations, milestones = SCHEDULES[epochs]
    return iterations, step_schedule(iterations, [*milestones], warmup=250)
