"""A LazyConfig project of its own: Detectron2's RetinaNet on CropField's backbone.

    cropfield-train --config-file retinanet.py train.init_checkpoint=backbone.safetensors train.output_dir=out \\
        dataset.train_json=T.json dataset.train_images=T/ dataset.val_json=V.json dataset.val_images=V/

Detectron2's own lazyconfig_train_net.py takes it too, with the .pth export. The model is Detectron2's, the backbone and
the data are CropField's; whatever stands here can be yours.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import LastLevelP6P7

import cropfield
from cropfield.backbone import pyramid_scales
from cropfield.datasets import num_classes

_ours = cropfield.get_config("COCO/faster_rcnn_cropfield_vits_12ep.py")  # boxes only, 12 epochs of COCO
dataloader, dataset, lr_multiplier, optimizer, train = (
    _ours[name] for name in ("dataloader", "dataset", "lr_multiplier", "optimizer", "train")
)

model = model_zoo.get_config("common/models/retinanet.py").model
model.backbone = L(cropfield.CropFieldFeaturePyramid)(
    net=L(cropfield.CropFieldViT)(
        patch_size=16,
        embed_dim=384,
        depth=12,
        num_heads=6,
        field_size=50,
        drop_path_rate=0.1,
        out_feature="last_feat",
        frozen="${train.freeze_backbone}",
    ),
    in_feature="${.net.out_feature}",
    out_channels=256,
    scale_factors=L(pyramid_scales)(patch_size="${model.backbone.net.patch_size}", strides=[8, 16, 32]),  # p3, p4, p5
    top_block=L(LastLevelP6P7)(in_channels=256, out_channels=256, in_feature="p5"),
    norm="LN",
    square_pad="${dataloader.image_size}",
)
model.num_classes = L(num_classes)(json_file="${dataset.train_json}", otherwise=80)
model.input_format = "RGB"  # as pretraining has it; the zoo's RetinaNet is for BGR
model.pixel_mean, model.pixel_std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

optimizer.lr = 1e-4
train.output_dir = "outputs/retinanet"
