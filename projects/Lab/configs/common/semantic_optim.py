"""AdamW and a polynomial decay (App. B.3); `train` as for detectors.

The paper gives the values that lr and weight decay are swept over, a final lr of 0.1 x lr, and no more. Segmenter's
power of 0.9, no warm-up and no layer-wise decay are taken from there; that norms, biases, LayerScale, positions and the
class token are not decayed is ours, as in pretraining.
"""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from cropfield.schedule import PolynomialToFloor

from .....configs.common.detection_optim import train

train.reference_batch_size = 16
train.best_metric = "sem_seg/mIoU"

optimizer = model_zoo.get_config("common/optim.py").AdamW
not_decayed = ("bias", "gamma", "pos_embed", "cls_token")
optimizer.params.overrides = {name: dict(weight_decay=0.0) for name in not_decayed}

lr_multiplier = L(PolynomialToFloor)(power=0.9, floor=0.1)
