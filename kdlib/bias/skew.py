"""Bias amplification as the CIFAR-10S literature has it."""

import numpy as np

from kdlib.bias.tables import as_array

__all__ = ["skew_amplification"]


def skew_amplification(y_pred, group, *, num_classes=None) -> float:
    """Mean over classes c of max_g n_gc / Σ_g n_gc − 1/G, n_gc being the images of group g that are predicted as c (Wang et
    al., CVPR 2020): how far predictions side with one group where every group shows the same images. 0 for a classifier
    blind to the group, up to 1 − 1/G; a class that is never predicted does not count.

    y_pred, group: integer arrays (N,); group −1 (unknown) is left out. It reads no labels, so it says something only of a
    test split whose groups hold the same images, as CIFAR-10S's do. Raises ValueError for lengths that differ, groups of
    different sizes, and fewer than two groups."""
    y_pred, group = (as_array(values) for values in (y_pred, group))
    if y_pred.shape != group.shape or y_pred.ndim != 1:
        raise ValueError(f"y_pred and group must be (N,) and alike, got {y_pred.shape} and {group.shape}")
    y_pred, group = y_pred[group >= 0], group[group >= 0]
    sizes = np.bincount(group)
    if len(sizes) < 2 or len(set(sizes)) > 1:
        raise ValueError(f"every group must show the same images; groups hold {sizes.tolist()}")
    counts = np.zeros((num_classes or y_pred.max() + 1, len(sizes)))
    np.add.at(counts, (y_pred, group), 1)
    predicted = counts[counts.any(axis=1)]
    return float((predicted.max(axis=1) / predicted.sum(axis=1)).mean() - 1 / len(sizes))
