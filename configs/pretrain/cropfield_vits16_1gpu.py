"""CropField, ViT-S/16, ImageNet-1K, on one GPU: batches of 128.

    tools/pretrain_net.py --config-file configs/pretrain/cropfield_vits16_1gpu.py \
        dataloader.train.source.root=datasets/imagenet/train

The recipe of cropfield_vits16_in1k_100ep.py, adapted to a quarter of the batch size.
Length: 100 epochs * (1,281,167 // 128) = 1,000,900 steps; the same images and the same number of operations.
Learning rate: by the rule, 2e-3 * sqrt(128 / 1024) = 7.07e-4. Warm-up and weight decay are fractions of training.
Teacher and centres are averages over steps. Their momenta are set so that they average over as many *images* as with
512: 1 - momentum shrinks with the batch. A centre with 0.9 would follow the noise of 1,280 images instead of 5,120.
KoLeo seeks neighbours among the step's 128 images. With other centerings: Sinkhorn-Knopp spreads the tokens of a single
step, here 256 class tokens for 65,536 prototypes, so softmax centering is the safer one at this size.

For another batch size change it here, not on the command line: the momenta depend on it. No result of the paper's.
"""

from .cropfield_vits16_in1k_100ep import dataloader, lr_multiplier, model, optimizer, train, weight_decay

batch_size = 128
share = batch_size / dataloader.train.batch_size

dataloader.train.batch_size = batch_size
model.momentum.start_value = 1 - share * (1 - model.momentum.start_value)  # 0.998
model.centre_momentum = 1 - share * (1 - model.centre_momentum)  # 0.975
train.output_dir = "outputs/cropfield_vits16_1gpu"
