"""What the engine asks of a method. `SelfDistillation` is one; others live in projects of their own."""

from typing import Protocol

from torch import Tensor, nn

from pretrain.models.vit import VisionTransformer


class Method(Protocol):
    """An `nn.Module` that fulfils this can be trained, resumed, watched and exported by `tools/pretrain_net.py`.

    A config names it as `model`; what else it needs are arguments there. `batch` is what the config's loader makes, see
    `pretrain.data.batches.CropLoader`: pixels are uint8, to be normalised with `pretrain.data.IMAGE_MEAN` and
    `IMAGE_STD`, or with `image_mean` and `image_std` of its own, buffers that hooks then read.

    Names with a meaning: a module called "prototypes" keeps its values for `train.freeze_prototypes`, and one called
    "backbone" for `train.head_warmup`, which needs an argument `init`.
    """

    @property
    def backbone(self) -> VisionTransformer:
        """A submodule: what is exported, and what hooks look at. For a teacher and its student, the teacher's."""
        ...

    def __call__(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Losses, weighted, to be summed, by names that begin with "loss_". step: from 0."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimizer's step: a moving average, a centre."""
        ...

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every trained parameter once, in named groups whose gradients are clipped each on its own."""
        ...

    def compile_parts(self) -> None:
        """Have torch compile what takes the time; called once, if at all, on the device of the training."""
        ...

    def diagnose(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars by name that tell whether learning happens; must change nothing. May be empty."""
        ...
