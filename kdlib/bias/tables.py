"""What every bias figure stands on: checked arrays, tables of counts, and arithmetic in which NaN means undefined.

A table counts images by [..., group, class, predicted]; leading axes are replicates. Differences are group 1 minus group 0."""

import operator

import numpy as np

TINY = np.finfo(float).tiny  # any weight at all
MOST_GROUPS = 1000  # a number beyond is no group's


def as_array(values):
    """A numpy array of an array, tensor or list."""
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def as_vector(values, name):
    """A one-dimensional array with at least one entry; ValueError otherwise."""
    values = as_array(values)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} must be one-dimensional, with one entry for each image; its shape is {values.shape}")
    return values


def as_integers(values, name):
    """A vector of int64; ValueError for entries that are no whole numbers."""
    values = as_vector(values, name)
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all() or (values.astype(np.int64) != values).any():
        raise ValueError(f"{name} must hold whole numbers; it has NaN, infinite, fractional or non-numeric entries")
    return values.astype(np.int64)


def check_labels(attribute, num_classes, **labels):
    """Class indices, checked, of the images that `attribute` describes; and the number of classes."""
    labels = {name: as_integers(values, name) for name, values in labels.items()}
    limit = max(0, *map(np.max, labels.values())) + 1 if num_classes is None else operator.index(num_classes)
    for name, values in labels.items():
        if len(values) != len(attribute):
            raise ValueError(f"{name} has {len(values)} entries, the group or share {len(attribute)}: lengths differ")
        if values.min() < 0 or values.max() >= limit:
            raise ValueError(f"{name} must be in 0 … {limit - 1}; it reaches from {values.min()} to {values.max()}")
    return list(labels.values()), int(limit)


def check_group(group, groups=None):
    """Groups, checked, and how many there are: `groups`, or at least two."""
    group = as_integers(group, "group")
    if group.min() < -1 or group.max() >= (groups or MOST_GROUPS):
        found = ", ".join(map(str, np.unique(group)[:5]))
        if groups == 2:
            raise ValueError(
                f"group must be 0, 1, or −1 where unknown, not {found} "
                "(signed figures compare two groups; class_disparity_range takes more)"
            )
        raise ValueError(f"group must be 0, 1, … {MOST_GROUPS - 1}, or −1 where unknown, not {found}")
    return group, groups or max(2, int(group.max()) + 1)


def check_images(group, num_classes, groups=None, **labels):
    """Labels and groups, checked, and the numbers of classes and groups."""
    group, groups = check_group(group, groups)
    labels, num_classes = check_labels(group, num_classes, **labels)
    return labels, group, num_classes, groups


def count_cells(shape, group, *indices):
    """How often each (group, *indices) occurs, as an array of that shape; unknown groups are left out."""
    flat = np.ravel_multi_index([index[group >= 0] for index in (group, *indices)], shape)
    return np.bincount(flat, minlength=np.prod(shape)).reshape(shape)


def table_of(y_true, y_pred, group, num_classes=None, groups=None):
    """The table of these images: (G, K, K). `groups=2` refuses more groups than two."""
    labels, group, num_classes, groups = check_images(group, num_classes, groups, y_true=y_true, y_pred=y_pred)
    return count_cells((groups, num_classes, num_classes), group, *labels)


def rate(part, whole, min_count=1):
    """part / whole; NaN where whole is less than `min_count`. ValueError unless that is above 0."""
    if not min_count > 0:
        raise ValueError(f"min_count must be at least 1, since a rate needs an image; it is {min_count}")
    return np.where(whole >= min_count, part / np.where(whole >= min_count, whole, 1), np.nan)


def mean_of(values, weights=1.0, axis=-1):
    """Weighted mean over an axis, passing over NaN; NaN where there is nothing else."""
    weights = np.where(np.isnan(values), 0, weights)
    return rate(np.nansum(weights * values, axis=axis), weights.sum(axis), TINY)


def cells(table):
    """Images predicted right, and images, per (group, class)."""
    return np.diagonal(table, axis1=-2, axis2=-1), table.sum(-1)


def gap(part, whole, min_count=1):
    """Group 1's rate minus group 0's, per class: shape (..., K)."""
    both = rate(part, whole, min_count)
    return both[..., 1, :] - both[..., 0, :]


def extent(values, axis=-2):
    """Largest minus smallest over the groups, passing over NaN; NaN where fewer than two are left."""
    between = np.fmax.reduce(values, axis=axis) - np.fmin.reduce(values, axis=axis)
    return np.where((~np.isnan(values)).sum(axis) >= 2, between, np.nan)


def plain(result):
    """A float where the result has no axes."""
    return float(result) if np.ndim(result) == 0 else result
