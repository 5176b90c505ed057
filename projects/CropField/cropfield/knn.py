"""Weighted k-nearest-neighbour classification of a backbone's features, without training."""

import torch.nn.functional as F
from torch import Tensor


def knn_accuracy(
    train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Fraction of val features that a vote of their k nearest train features classifies correctly (DINO's protocol).

    A neighbour's vote has weight exp(cosine / temperature): Wu et al. (2018), Sec. 3.4, with DINO's k and temperature.

    Args:
        train, val: (n, D), (m, D); normalised here.
        train_labels, val_labels: (n,), (m,) int64, 0 to classes - 1.
        k: neighbours; all if there are fewer.
    """
    train, val = F.normalize(train.float(), dim=-1), F.normalize(val.float(), dim=-1)
    num_classes = int(max(train_labels.max(), val_labels.max())) + 1
    correct = 0
    chunk = max(1, 2**28 // len(train))  # a GiB of cosines
    for features, labels in zip(val.split(chunk), val_labels.split(chunk), strict=True):
        cosines, nearest = (features @ train.T).topk(min(k, len(train)))
        votes = features.new_zeros(len(features), num_classes)
        votes.scatter_add_(1, train_labels[nearest], ((cosines - cosines[:, :1]) / temperature).exp())
        correct += (votes.argmax(1) == labels).sum().item()
    return correct / len(val_labels)
