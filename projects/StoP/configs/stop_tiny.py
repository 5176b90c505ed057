"""StoP at the tiny size: `ijepa_tiny.py` with stochastic positions of the masked tokens.

python tools/pretrain_net.py --config-file projects/StoP/configs/stop_tiny.py dataloader.train.source.root=DIR
"""

from .ijepa_tiny import model, train

model.predictor.noise_std = 0.25
train.output_dir = "outputs/stop_tiny"
