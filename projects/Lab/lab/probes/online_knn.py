"""Online k-NN: accuracy of the teacher's features on a labelled folder during a run."""

import logging

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from cropfield.knn import knn_accuracy
from lab.probes.features import extract_features
from lab.probes.labelled import LabelledImages, labelled_folder
from pretrain.engine.loop import due
from pretrain.engine.writers import is_logged
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.ranges import BatchSize, Count, Pixels, Positive, Whole, Workers

logger = logging.getLogger(__name__)


class OnlineKnn(HookBase):
    """Log `knn/top1` of the teacher's backbone, in percent. The value before the first step is the baseline.

    Features are extracted in parallel by all processes. An evaluation is one forward pass over both folders.

    Args:
        train, val: folders whose sub-folders are the classes; `val` is classified by `train`. Without both the hook is
            off.
        period: steps between evaluations, the first before training; 0 turns it off.
        image_size: side in pixels of the square input.
        k, temperature: see `knn_accuracy`.
        batch_size, num_workers: images in a forward pass, and worker processes that read them.

    Raises:
        UserError: a folder cannot be used.
    """

    def __init__(
        self,
        train: str,
        val: str,
        period: Whole = 1000,
        image_size: Pixels = 224,
        k: Count = 20,
        temperature: Positive = 0.07,
        batch_size: BatchSize = 64,
        num_workers: Workers = 0,
    ):
        if bool(train) != bool(val):
            raise UserError("train.knn needs two labelled folders: give both train.knn.train and train.knn.val")
        self.period = period if train else 0
        if self.period:
            self.train = labelled_folder(train)
            self.val = labelled_folder(val, self.train.classes)
        self.vote = dict(k=k, temperature=temperature)
        self.reading = dict(image_size=image_size, batch_size=batch_size, num_workers=num_workers)

    def before_train(self) -> None:
        patch, size = self.trainer.model.backbone.patch_size, self.reading["image_size"]
        if self.period and size % patch:
            raise UserError(f"train.knn.image_size: {size} is not a multiple of the patch, {patch}")
        if self.period and getattr(self.trainer.model.backbone, "in_chans", 3) != 3:
            raise UserError(
                "train.knn reads RGB, and the backbone takes other bands: leave out train.knn.train and val"
            )
        done = self.trainer.iter
        if self.period and done == 0:
            self.evaluate("at the start")
        elif due(done, self.period) and not comm.all_gather(is_logged(self.trainer.folder, "knn/top1", done))[0]:
            self.evaluate(f"after {done:,} steps")  # the run was interrupted between checkpoint and evaluation

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if due(done, self.period):
            self.evaluate(f"after {done:,} steps")

    def evaluate(self, when: str) -> None:
        top1 = self.accuracy(self.trainer.model.backbone)
        self.trainer.storage.put_scalar("knn/top1", top1, smoothing_hint=False)
        logger.info(f"k-NN {when}: {top1:.1f}% of {len(self.val):,} images right")

    def accuracy(self, backbone: VisionTransformer) -> float:
        """k-NN accuracy on `val`, in percent."""
        with torch.autocast(self.trainer.device.type, torch.bfloat16, enabled=self.trainer.amp):
            features = [self.extract(backbone, folder) for folder in (self.train, self.val)]
        return 100 * knn_accuracy(*features[0], *features[1], **self.vote)

    def extract(self, backbone: VisionTransformer, folder: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and labels of the whole folder, on every rank."""
        share = range(comm.get_rank(), len(folder), comm.get_world_size())
        parts = comm.all_gather(extract_features(backbone, folder, share, **self.reading))
        features, labels = zip(*parts, strict=True)
        if not sum(map(len, labels)):
            raise UserError(f"train.knn: none of the images in {folder.source.root} can be read; copy them again")
        return torch.cat(features), torch.cat(labels)
