"""AdamW as in ViTDet, and a `train` that fits the machine it is read on."""

from functools import partial

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from pretrain.engine.devices import bf16_pays, default_device

train = model_zoo.get_config("common/train.py").train
train.device = default_device()
train.amp.enabled = train.device == "cuda"
train.ddp.fp16_compression = True
train.seed = -1  # negative: another one each time
train.init_partial = False  # True: a backbone that init_checkpoint does not fill whole keeps the rest as it is

# What follows is read by this repository's tool; Detectron2's takes the schedule as it stands, in float16.
train.amp.dtype = "bfloat16" if bf16_pays() else "float16"
# The recipe's batch; another dataloader.train.total_batch_size changes the schedule, see cropfield.schedule.BatchRule.
train.reference_batch_size = 64
train.lr_rule = "sqrt"
train.images_per_gpu = 0  # images a pass; gradients of several passes add up to the batch. 0: all in one
train.compile = False  # torch.compile, for the backbone's blocks
train.ema = dict(enabled=False, decay=0.999)  # evaluates and keeps the average of the weights
train.best_metric = "bbox/AP"  # of the evaluations every eval_period, whose best weights are kept as model_best.pth
train.early_stopping = dict(patience=0)  # evaluations without a new best; 0: never stop early
train.wandb = dict(enabled=False, project="cropfield", name=None)

optimizer = model_zoo.get_config("common/optim.py").AdamW
# App. B.2 does not say whether it keeps ViTDet's layer-wise decay of the learning rate; this does. 1.0 is without.
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
# As in pretraining, LayerScale is not decayed either: in 50 epochs it would be gone.
optimizer.params.overrides = dict(pos_embed=dict(weight_decay=0.0), gamma=dict(weight_decay=0.0))


def step_schedule(max_iter, milestones, warmup):
    """x 0.1 at each milestone, linear warm-up; all in iterations."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=milestones, num_updates=max_iter),
        warmup_length=warmup / max_iter,
        warmup_factor=0.001,
    )
