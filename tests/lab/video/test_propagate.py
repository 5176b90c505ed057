"""Labels follow the patches that look alike, within their reach."""

import weakref

import pytest
import torch
import torch.nn.functional as F

from lab.video.propagate import Propagation, to_labels, to_mask


def features(height: int, width: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(height, width, dim, generator=generator), dim=-1)


def plain(target, sources, labels, radius, top_k, temperature):
    """The whole matrix of similarities at once: exp, the neighbourhood, the k largest, shares."""
    (height, width, dim), count = target.shape, len(sources)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    near = (places[:, None] - places).abs().amax(-1) <= radius  # (hw, hw)
    weights = (target.reshape(-1, dim) @ sources.reshape(-1, dim).T / temperature).exp() * near.repeat(1, count)
    kept = weights >= weights.topk(top_k).values[:, -1:]
    weights = weights * kept
    shares = weights / weights.sum(1, keepdim=True)
    return (shares @ labels.reshape(-1, labels.shape[-1])).view(height, width, -1)


@pytest.mark.parametrize("radius", [1, 2, 20])
@pytest.mark.parametrize("top_k", [1, 5])
def test_it_is_the_whole_matrix_written_out(radius, top_k):
    target, sources = features(5, 7), torch.stack([features(5, 7, seed=s) for s in (1, 2, 3)])
    labels = torch.rand(3, 5, 7, 4, generator=torch.Generator().manual_seed(4))
    found = Propagation(radius=radius, top_k=top_k).carry(target, sources, labels)
    assert torch.allclose(found, plain(target, sources, labels, radius, top_k, 0.1), atol=1e-6)


def shifted(frame: torch.Tensor, columns: int) -> torch.Tensor:
    return frame.roll(columns, dims=1)


def test_labels_move_with_what_they_are_on():
    first, labels = features(6, 20, 64), torch.zeros(6, 20, 2)
    labels[2:4, 3:5, 1] = 1
    labels[..., 0] = 1 - labels[..., 1]
    frames = [shifted(first, 2 * t) for t in range(5)]
    for t, found in enumerate(Propagation(radius=3, top_k=1).run(frames, labels), 1):
        inside = slice(2 * t + 3, None)  # what has come in from the left was seen at the right before, out of reach
        assert torch.equal(found[:, inside], shifted(labels, 2 * t)[:, inside])


def test_what_moves_farther_than_the_radius_is_lost():
    first, labels = features(6, 20, 64), torch.zeros(6, 20, 1)
    labels[2:4, 3:5] = 1
    (found,) = Propagation(radius=3, top_k=1).run([first, shifted(first, 4)], labels)
    assert not torch.equal(found[:, 7:9], labels[:, 3:5])
    (found,) = Propagation(radius=4, top_k=1).run([first, shifted(first, 4)], labels)
    assert torch.equal(found[:, 7:9], labels[:, 3:5])


def test_the_first_frame_is_never_forgotten():
    """What was hidden for longer than the context looks back is known again."""
    first, labels = features(4, 6, 64), torch.zeros(4, 6, 1)
    labels[1:3, 1:3] = 1
    hidden = features(4, 6, 64, seed=1)
    found = list(Propagation(context=1, top_k=1).run([first, hidden, hidden, hidden, first], labels))
    assert torch.equal(found[-1], labels)


def test_without_context_only_the_first_frame_is_known():
    frames, labels = [features(4, 4, seed=s) for s in range(4)], torch.rand(4, 4, 3)
    last = list(Propagation(context=0).run(frames, labels))[-1]
    assert torch.equal(last, Propagation().carry(frames[-1], frames[0][None], labels[None]))


def test_a_long_video_keeps_no_more_frames_than_a_short_one():
    alive: list[weakref.ref] = []

    def stream(length):
        for seed in range(length):
            frame = features(3, 3, seed=seed)
            alive.append(weakref.ref(frame))
            yield frame
            del frame

    counts = []
    for _ in Propagation(context=4).run(stream(40), torch.rand(3, 3, 2)):
        counts.append(sum(reference() is not None for reference in alive))
    assert max(counts) == counts[10] == counts[-1] <= 4 + 2  # the context, the first and the present frame


def test_a_patch_shows_the_object_at_its_centre():
    mask = torch.zeros(8, 12, dtype=torch.uint8)
    mask[5:, 5:] = 2
    labels = to_labels(mask, (2, 3), 3)
    assert labels.shape == (2, 3, 3) and torch.equal(labels.sum(-1), torch.ones(2, 3))
    assert labels.argmax(-1).tolist() == [[0, 0, 0], [0, 2, 2]]


def test_weak_labels_are_stretched_before_they_are_compared():
    labels = torch.zeros(2, 3, 3)
    labels[..., 0] = 0.8
    labels[0, 0] = torch.tensor([0.7, 0.3, 0])  # object 1, never above one half, but at its strongest here
    mask = to_mask(labels, (8, 12), (16, 24))
    assert mask.dtype == torch.uint8 and mask.shape == (16, 24)
    assert mask[0, 0] == 1 and mask[-1, -1] == 0 and not (mask == 2).any()


def test_labels_of_a_still_picture_come_back():
    mask = torch.zeros(32, 48, dtype=torch.uint8)
    mask[8:24, 16:40] = 1
    found = to_mask(to_labels(mask, (8, 12), 2), (32, 48), (32, 48))
    assert (found == mask).float().mean() > 0.95
