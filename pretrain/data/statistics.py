"""Mean and deviation of a source's pixels, as overrides of both halves' configs."""

import numpy as np

from pretrain.data.decode import BrokenImage
from pretrain.data.lists import spread
from pretrain.errors import UserError
from pretrain.progress import progress

MOST = 1000  # images, evenly spread through the source


def pixel_statistics_in(source, most: int = MOST) -> tuple[np.ndarray, np.ndarray, int]:
    """Mean and standard deviation of each band over all pixels of up to `most` images -> (C,), (C,), how many images.

    Broken images are left out. Raises UserError where none can be read, or a band is constant.
    """
    count, images, sums = 0, 0, 0
    places = spread(len(source), most)
    for place in progress(places, "images", len(places)):
        try:
            pixels = source.load(place)
        except BrokenImage:
            continue
        values = pixels.reshape(-1, pixels.shape[2]).astype(np.float64)
        sums = sums + np.stack([values.sum(0), np.square(values).sum(0)])
        count, images = count + len(values), images + 1
    if not images:
        raise UserError("none of the images that were looked at can be read; repair or replace them")
    mean, squares = sums / count
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    if flat := [str(band) for band, value in enumerate(std) if value < 1e-3]:
        raise UserError(
            f"band {', '.join(flat)} (from 0) is constant in all images; check value_range, or leave it out"
        )
    return mean, std, images


def print_statistics(source) -> None:
    mean, std, images = pixel_statistics_in(source)
    mean, std = (f"[{','.join(f'{value:.4g}' for value in values)}]" for values in (mean, std))
    print(f"mean and deviation of {images:,} of {len(source):,} images, as overrides of tools/pretrain_net.py:")
    print(f"  model.image_mean={mean} model.image_std={std}")
    print("of tools/lazyconfig_train_net.py:")
    print(f"  model.pixel_mean={mean} model.pixel_std={std}")
    print("and of tools/pretrain_then_detect.py:")
    print(f"  pretrain.model.image_mean={mean} pretrain.model.image_std={std}")
    print(f"  detect.model.pixel_mean={mean} detect.model.pixel_std={std}")
