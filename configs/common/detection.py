"""Base of all detection configs: a COCO-format dataset in four keys, large-scale jitter, AdamW as in ViTDet.

Each of the four may be a list, [a.json,b.json], or a pattern: joined into one dataset, with classes matched by name.
Without these keys the dataset is COCO 2017, where DETECTRON2_DATASETS points to. Large-scale jitter is ViTDet's, to
1024 x 1024 pixels: scaled by 0.1 to 2, then cropped or padded. `train` fits the machine it is read on.
"""

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter
from fvcore.common.param_scheduler import MultiStepParamScheduler

from cropfield.datasets import dataset_name, evaluation_tasks, has_masks
from cropfield.loading import build_test_loader, build_train_loader
from cropfield.mapper import ImageMapper, ResizeScale, ResizeShortestEdge
from cropfield.schedule import layer_decay
from pretrain.data.reading import MAX_PIXELS
from pretrain.engine.devices import bf16_pays, default_device

dataset = dict(train_json="", train_images="", val_json="", val_images="", max_pixels=MAX_PIXELS, value_range=None)

# Bands of an image are the backbone's; other than RGB need model.pixel_mean and pixel_std, a number for each.
# dataset.value_range: of files of more than 8 bits, what becomes 0 and 255, such as [0, 4095].
bands = "${oc.select:model.backbone.net.in_chans,3}"

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = L(dataset_name)(
    json_file="${dataset.train_json}",
    images="${dataset.train_images}",
    otherwise="coco_2017_train",
    max_pixels="${dataset.max_pixels}",
    channels=bands,
    value_range="${dataset.value_range}",
)
dataloader.test.dataset.names = L(dataset_name)(
    json_file="${dataset.val_json}",
    images="${dataset.val_images}",
    otherwise="coco_2017_val",
    max_pixels="${dataset.max_pixels}",
    channels=bands,
    value_range="${dataset.value_range}",
)
# Images are read as in pretraining; broken ones are skipped, counted and listed, up to dataloader.train.max_broken.
dataloader.train._target_, dataloader.test._target_ = build_train_loader, build_test_loader
dataloader.train.mapper._target_ = dataloader.test.mapper._target_ = ImageMapper
dataloader.train.mapper.max_pixels = dataloader.test.mapper.max_pixels = "${dataset.max_pixels}"
dataloader.train.mapper.channels = dataloader.test.mapper.channels = bands
dataloader.train.mapper.value_range = dataloader.test.mapper.value_range = "${dataset.value_range}"
dataloader.train.mapper.image_format = "RGB"
# Works for polygons and run lengths; cropping changes boxes. Without masks in the dataset, only boxes are trained.
dataloader.train.mapper.instance_mask_format = "bitmask"
dataloader.train.mapper.use_instance_mask = L(has_masks)(json_file="${dataset.train_json}")
dataloader.train.mapper.recompute_boxes = L(has_masks)(json_file="${dataset.train_json}")
dataloader.evaluator.tasks = L(evaluation_tasks)(train_json="${dataset.train_json}", val_json="${dataset.val_json}")
dataloader.evaluator.use_fast_impl = False
dataloader.evaluator.allow_cached_coco = False
# Also save detections in COCO format, which the report draws.
dataloader.evaluator.output_dir = "${train.output_dir}/inference"

# Image size for training, evaluation and model.backbone.square_pad.
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
train.amp.enabled = train.device == "cuda"  # Detectron2's own tool has autocast on a GPU only
train.ddp.fp16_compression = True
train.seed = -1  # negative: a random seed for each run
train.freeze_backbone = False  # True: train only what follows the backbone
train.init_partial = False  # True: weights missing in init_checkpoint keep their initial values

# The following keys are read by this repository's tool; Detectron2's uses the schedule unchanged, in float16.
train.amp.dtype = "bfloat16" if bf16_pays() else "float16"
train.amp.cpu = bf16_pays()  # on a CPU: train in bfloat16 autocast; evaluation is in float32
# Batch size of the recipe; another total_batch_size adapts the schedule, see cropfield.schedule.BatchRule.
train.reference_batch_size = 64
train.lr_rule = "sqrt"
# Caches a frozen backbone's features of the training images in a folder ("": off). With 0
# augmentations images are as in evaluation; with K, K random views of each by dataloader.train.mapper.augmentations.
dataloader.feature_cache = dict(folder="", augmentations=0, dtype="bfloat16")
train.images_per_gpu = 0  # images in a pass; gradients are accumulated over the batch. 0: one pass
train.compile = False  # torch.compile of the backbone's blocks
train.ema = dict(enabled=False, decay=0.999)  # average the weights; evaluate and save the average
train.best_metric = "bbox/AP"  # selects model_best.pth among the evaluations every eval_period
train.validation_loss = False  # True: evaluations also log validation losses, validation/...
train.early_stopping = dict(patience=0)  # evaluations without a new best; 0: off
train.wandb = dict(enabled=False, project="cropfield", name=None)
train.writers = [
    L(CommonMetricPrinter)(max_iter="${train.max_iter}"),
    L(JSONWriter)(json_file="${train.output_dir}/metrics.json"),
    L(TensorboardXWriter)(log_dir="${train.output_dir}"),
]

optimizer = model_zoo.get_config("common/optim.py").AdamW
# App. B.2 does not mention ViTDet's layer-wise learning rate decay; it is kept here. 1.0 turns it off.
optimizer.params.lr_factor_func = L(layer_decay)(depth="${model.backbone.net.depth}", rate=0.7)
# As in pretraining, LayerScale has no weight decay: it would vanish in 50 epochs.
optimizer.params.overrides = dict(pos_embed=dict(weight_decay=0.0), gamma=dict(weight_decay=0.0))


def step_schedule(max_iter, milestones, warmup):
    """Linear warm-up, then x 0.1 at each milestone; all in iterations."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones, num_updates=max_iter),
        warmup_length=warmup / max_iter,
        warmup_factor=0.001,
    )


# Epochs of COCO's 118,000 images in batches of 64 -> iterations and milestones (App. B.2 gives those for 12 epochs).
SCHEDULES = {12: (22128, (19667, 21306)), 50: (92200, (81946, 88775))}


def schedule(epochs):
    """Returns train.max_iter and lr_multiplier."""
    iterations, milestones = SCHEDULES[epochs]
    return iterations, step_schedule(iterations, [*milestones], warmup=250)
