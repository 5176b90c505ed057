"""Image sources, crops with their boxes, photometric augmentation, masks, batches."""

from pretrain.errors import UserError

# ImageNet statistics in RGB on the 0..255 scale, with which backbones of RGB are trained.
IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)


def pixel_statistics(
    channels: int, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation for images of `channels` bands, ImageNet's where RGB has none of its own. Raises UserError."""
    mean = IMAGE_MEAN if mean is None and channels == 3 else mean
    std = IMAGE_STD if std is None and channels == 3 else std
    for name, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != channels:
            given = "none is given" if values is None else f"{len(values)} are given"
            raise UserError(
                f"images of {channels} bands need {channels} numbers as model.image_{name} in pretraining and "
                f"model.pixel_{name} in detection, and {given}; "
                "tools/pretrain_net.py --statistics prints those of your images"
            )
    return tuple(mean), tuple(std)


def pixel_statistics_of(method) -> tuple[list[float], list[float]]:
    """Mean and deviation that a method normalises with; ImageNet's of a guest that does not show its own."""
    mean, std = getattr(method, "image_mean", None), getattr(method, "image_std", None)
    if mean is None or std is None:
        return list(IMAGE_MEAN), list(IMAGE_STD)
    return mean.flatten().tolist(), std.flatten().tolist()
