"""Pictures of a run for TensorBoard and its like."""

import itertools

from detectron2.engine import HookBase
from detectron2.utils import comm

from lab.figures.training_pictures import attention_overview, field_overview, masks_overview
from pretrain.data.images import BrokenImage
from pretrain.engine.monitors import due


class PeriodicPictures(HookBase):
    """Puts the field, the masks of the step's batch, and attention on the same few images, into the storage.

    Args:
        period: steps between pictures; 0 turns them off.
        num_images: images that attention and features are drawn for, the first readable ones of the run's own source.
    """

    def __init__(self, period: int = 1000, num_images: int = 3):
        self.period, self.num_images = period, num_images
        self.images = None

    def after_step(self) -> None:
        if not due(self.trainer.iter + 1, self.period) or not comm.is_main_process():
            return
        if self.images is None:
            self.images = self.read_images()
        trunk = self.trainer.model.backbone
        pictures = {
            "field": field_overview(trunk),
            "masks": masks_overview(self.trainer.batch, trunk.patch_size),
            "attention": attention_overview(trunk, self.images),
        }
        for name, picture in pictures.items():
            if picture is not None:
                self.trainer.storage.put_image(f"pictures/{name}", picture.transpose(2, 0, 1))

    def read_images(self) -> list:
        source = self.trainer.loader.source

        def readable():
            for index in range(len(source)):
                try:
                    yield source.load(index)
                except BrokenImage:  # the loader counts those
                    continue

        return list(itertools.islice(readable(), self.num_images))
