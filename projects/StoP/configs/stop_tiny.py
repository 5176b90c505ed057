"""StoP at the tiny size: `ijepa_tiny.py` with stochastic positions of the masked tokens.

tools/pretrain_net.py --config-file projects/StoP/configs/stop_tiny.py dataloader.train.source.root=DIR
"""

from .ijepa_tiny import dataloader, lr_multiplier, model, optimizer, train, weight_decay

model.predictor.noise_std = 0.25
train.output_dir = "outputs/stop_tiny"
