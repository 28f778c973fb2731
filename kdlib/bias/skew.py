"""Bias amplification as the CIFAR-10S literature has it."""

import numpy as np

from kdlib.bias.tables import as_array, as_integers, check_group, check_index, occurring


def skew_amplification(y_pred, group, *, num_classes=None, source=None) -> float:
    """How far predictions side with one group where every group shows the same images.

    Mean over classes c of max_g n_gc / Σ_g n_gc − 1/G, n_gc being the images of group g that are predicted as c. 0 for a
    classifier blind to the group, up to 1 − 1/G; a class that is never predicted does not count.

    Parameters
    ----------
    y_pred, group : integer arrays (N,)
        Group −1 (unknown) is left out.
    num_classes : int, optional
    source : array (N,), optional
        Which original each image shows. Checked: every group must show the same originals equally often.

    Raises
    ------
    ValueError
        For lengths that differ, negative predictions, groups that do not show the same images, and fewer than two groups.

    References
    ----------
    Wang et al. (2020), Towards fairness in visual recognition: effective strategies for bias mitigation.
    """
    check_index(y_pred=y_pred, group=group, source=source)
    group, _ = check_group(group)
    y_pred = as_integers(y_pred, "y_pred")
    if y_pred.shape != group.shape:
        raise ValueError(f"y_pred and group must be (N,) and alike, got {y_pred.shape} and {group.shape}")
    if y_pred.min() < 0 or (num_classes is not None and y_pred.max() >= num_classes):
        raise ValueError(
            f"y_pred must be classes from 0 up, below num_classes; it reaches {y_pred.min()} to {y_pred.max()}"
        )
    known = group >= 0
    y_pred, group = y_pred[known], group[known]
    sizes = np.bincount(group)
    if len(sizes) < 2 or len(set(sizes)) > 1:
        raise ValueError(f"every group must show the same images; groups hold {sizes.tolist()}")
    if source is not None:
        source = as_array(source)
        if source.shape != known.shape:
            raise ValueError(f"source must have one entry for each of {len(known)} images; its shape is {source.shape}")
        shown = [np.sort(source[known][group == g]) for g in range(len(sizes))]
        if any(not np.array_equal(shown[0], other) for other in shown[1:]):
            raise ValueError("every group must show the same images; their sources differ")
    classes = occurring(y_pred)
    counts = np.zeros((len(classes), len(sizes)))
    np.add.at(counts, (np.searchsorted(classes, y_pred), group), 1)
    return float((counts.max(axis=1) / counts.sum(axis=1)).mean() - 1 / len(sizes))
