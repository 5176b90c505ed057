"""Base of all pretraining configs: settings of the training loop. Methods override them."""

from detectron2.config import LazyCall as L
from detectron2.utils.events import JSONWriter, TensorboardXWriter

from pretrain.engine.devices import bf16_pays, default_device
from pretrain.engine.monitors import Monitor
from pretrain.engine.writers import ConsoleWriter

train = dict(
    output_dir="outputs/pretrain",
    epochs=100,
    max_iter=None,  # None: epochs * (images // batch size)
    base_lr=1e-3,  # at a batch size of 1024
    freeze_prototypes=0.0,  # fraction of training with frozen prototypes
    head_warmup=0.0,  # fraction of training with a frozen backbone, for runs with model.init
    clip_grad=0.0,  # largest gradient norm of each sub-module; 0: no clipping
    accumulate=1,  # passes in which each process computes its part of the batch
    compile=False,  # torch.compile of the blocks and, on a GPU, the prototype losses
    seed=0,
    device=default_device(),
    amp=dict(enabled=bf16_pays()),  # bfloat16 autocast; losses stay in float32
    log_period=20,
    checkpointer=dict(period=1000, keep_period=0),  # keep_period: steps between permanent checkpoints; 0: none
    monitor=L(Monitor)(period=20, patience=0.1),
    pictures=L("lab.figures.periodic_pictures.PeriodicPictures")(period=1000),
    knn=L("lab.probes.online_knn.OnlineKnn")(  # off until both are given: folders whose sub-folders are the classes
        train="",
        val="",
        period=1000,
        image_size=224,
        num_workers="${dataloader.train.num_workers}",
    ),
    detection_probe=L("cropfield.online_probe.OnlineDetectionProbe")(  # off until all four are given
        train_json="",  # a COCO-format file, the folder of its images, and the same for validation
        train_images="",
        val_json="",
        val_images="",
        output_dir="${train.output_dir}",
        period=1000,
        image_size=256,
        train_limit=300,
        val_limit=100,
        metric="object_knn",  # selects best_detection.pth
        patience=0,  # end the run after this many probes without a better value; 0: never
    ),
    hooks=[
        "${train.monitor}",
        "${train.pictures}",
        "${train.knn}",
        "${train.detection_probe}",
    ],  # Detectron2 hooks that monitor a run; add yours
    wandb=dict(enabled=False, project="cropfield", name=None),
    writers=[
        L(ConsoleWriter)(max_iter="${train.max_iter}"),
        L(JSONWriter)(json_file="${train.output_dir}/metrics.json"),
        L(TensorboardXWriter)(log_dir="${train.output_dir}"),
    ],
)
