"""Linear segmentation, CropField ViT-S/16, 160k iterations of ADE20K (App. B.3; the paper reports 44.8 mIoU)."""

from .semantic_linear_cropfield_vitb_160k import dataloader, dataset, lr_multiplier, model, optimizer, train

model.backbone.net.embed_dim = 384
model.backbone.net.num_heads = 6
