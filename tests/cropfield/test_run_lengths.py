import numpy as np
import pytest
from pycocotools import mask as pycocotools

from cropfield.run_lengths import DamagedRuns, box_of_runs, decompress


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(5, 7, 0.5), (30, 20, 0.1), (1, 1, 0), (1, 1, 1), (17, 3, 0.9), (300, 400, 0.01), (9, 9, 0)]
    block = np.zeros((900, 700), bool)  # long runs take several characters, and their differences are negative
    block[100:800, 50:640] = True
    return [rng.random((h, w)) < share for h, w, share in shapes] + [block]


def test_runs_and_boxes_are_pycocotools_own():
    encoded = [pycocotools.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks()]
    runs, counts = decompress([entry["counts"].decode() for entry in encoded])
    for mask, own, entry in zip(masks(), np.split(runs, np.cumsum(counts)[:-1]), encoded, strict=True):
        assert np.array_equal(np.repeat(np.arange(len(own)) % 2, own), mask.T.ravel())
        assert box_of_runs(own, mask.shape[0]) == tuple(pycocotools.toBbox(entry))


@pytest.mark.parametrize("damaged", ["", "é", "~1", "\x01", "ooooooooo1", "1o", "o"])
def test_damaged_text_is_named_by_its_place(damaged):
    with pytest.raises(DamagedRuns) as error:
        decompress(["11", damaged, "1o1"])
    assert error.value.place == 1
