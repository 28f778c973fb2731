"""Disparities of recall: metrics of one model that depend on each cell (class, group) only through its images and those right.

Class k of K has n_kg images in group g and recall R_k(g) = P(predicted k | class k, group g). Signed figures compare two
groups, 1 minus 0. Unsigned ones take any number: where the attribute has more than two values, the largest minus the
smallest rate over the groups stands in place of |group 1 − group 0|. It grows with the number of groups, so read it beside
its noise floor.

A metric is a function of tables of counts with any leading axes: `metric.of_tables(table)`; those of recall alone are also one
of images right and images, `metric.of_cells(right, count)`. Resampling draws such counts instead of images."""

import functools
import inspect
from typing import Any

import numpy as np

from kdlib.bias.paired import PairCounts, covariance, units_of
from kdlib.bias.tables import (
    TINY,
    Images,
    cells,
    check_index,
    count_cells,
    extent,
    gap,
    mean_of,
    plain,
    rate,
)

WRONG_RIGHT = np.array([False, True])  # which of the two values of a reduced table is right

_SECTIONS = """

    Parameters
    ----------
    y_true, y_pred : arrays (N,)
        Class indices: arrays, tensors, lists or pandas Series with one index.
    group : array (N,)
        {groups}; −1 where unknown: such images are left out. Other codes are numbered in ascending order.
    num_classes : int, optional
        By default one more than the largest index.
    min_count : int
        A rate over fewer images than this is NaN.{more}

    Returns
    -------
    float or array
        Means pass over NaN classes; NaN where none is left, as with one group only.

    Raises
    ------
    ValueError
        For lengths or pandas indexes that differ, no images, entries that are no whole numbers, indices out of range.
"""
_PAIR = """
    pair : array (N,), optional
        Which original each image shows. Images of one class and id in two groups are a pair: see `kdlib.bias.paired`."""
_PER_CLASS = """
    per_class : bool
        Return all K values."""


def table_metric(tail="greater", groups=None):
    """Make metric(y_true, y_pred, group, *, num_classes=None, ...) of a function of tables, kept as `.of_tables`.

    `tail` tells which values are the more biased: "greater", "less", or "two-sided" for signed figures. `groups` is 2 where
    the figure compares two groups and no more.
    """

    def decorate(of_tables):
        options = list(inspect.signature(of_tables).parameters.values())[1:]
        paired = any(option.name == "covariance" for option in options)

        def metric(y_true, y_pred, group, *, num_classes=None, **options):
            check_index(y_true=y_true, y_pred=y_pred, group=group, pair=options.get("pair"))
            images = Images(group, num_classes, groups, y_true=y_true, y_pred=y_pred)
            if paired:
                units = units_of(images.labels[0], images.group, options.pop("pair", None))
                options["covariance"] = covariance_of(images, units)
            return plain(images.by_class(of_tables(images.table(), **options)))

        arrays = list(inspect.signature(metric).parameters.values())[:-1]
        described: Any = functools.update_wrapper(metric, of_tables)
        pair = inspect.Parameter("pair", inspect.Parameter.KEYWORD_ONLY, default=None)
        described.__signature__ = inspect.Signature(arrays + [pair if o.name == "covariance" else o for o in options])
        names = {option.name for option in options}
        more = (_PAIR if paired else "") + (_PER_CLASS if "per_class" in names else "")
        text, *references = of_tables.__doc__.rstrip().split("\n\n    References\n")
        sections = _SECTIONS.format(groups="0 or 1" if groups else "0, 1, …", more=more)
        described.__doc__ = text.rstrip() + sections + "".join(f"\n    References\n{part}\n" for part in references)
        described.of_tables, described.tail, described.groups, described.paired = of_tables, tail, groups, paired
        return described

    return decorate


def recall_metric(tail="greater", groups=None):
    """Make a metric of a function of images right and images per (group, class), kept as `.of_cells`: see `table_metric`."""

    def decorate(of_cells):
        def on_cells(table, **options):
            return of_cells(*cells(table), **options)

        right, _, *options = inspect.signature(of_cells).parameters.values()
        of_tables: Any = functools.update_wrapper(on_cells, of_cells)
        of_tables.__signature__ = inspect.Signature([right.replace(name="table"), *options])
        metric = table_metric(tail, groups)(of_tables)
        metric.of_cells = of_cells
        return metric

    return decorate


def covariance_of(images, units):
    """Return the covariance of both groups' recalls per class, from pairs; 0 without pairs."""
    y_true, y_pred = images.labels
    if units is None or images.groups > 2:
        return 0.0
    pairs = PairCounts(y_true, (y_pred == y_true).astype(int), images.group, units, (2, images.num_classes, 2))
    return covariance_of_counts(pairs.tables(pairs.counts), pairs.both(pairs.counts, WRONG_RIGHT), pairs.alone)


def covariance_of_counts(paired, both, alone):
    """Return `covariance` from tables (..., 2, K, 2) of wrong and right: of pairs, and of images without a partner."""
    return covariance(paired[..., 1], paired[..., 0, :, :].sum(-1), both, (paired + alone).sum(-1))


# ---- disparity of recall


@recall_metric("two-sided", groups=2)
def class_disparity(right, count, *, min_count=1):
    """d_k = R_k(1) − R_k(0): shape (K,), in [−1, 1]. The gap in equal opportunity.

    References
    ----------
    Hardt, Price and Srebro (2016), Equality of opportunity in supervised learning.
    """
    return gap(right, count, min_count)


@recall_metric()
def class_disparity_range(right, count, *, min_count=1):
    """Largest minus smallest recall over the groups, per class: shape (K,), unsigned; with two groups |d_k|."""
    return extent(rate(right, count, min_count))


@recall_metric("two-sided", groups=2)
def mean_disparity(right, count, *, min_count=1):
    """Signed mean of d_k over the classes that count; biases of opposite sign cancel in it."""
    return mean_of(gap(right, count, min_count))


@recall_metric()
def mean_absolute_disparity(right, count, *, min_count=1):
    """MAD: mean of |d_k| over the classes that count. Above 0 for a fair classifier too: see its `noise_floor`.

    Where every image is shown in both groups (pairs), a classifier that is blind to the group has MAD 0.
    """
    return mean_of(extent(rate(right, count, min_count)))


def variance_of_gap(right, count, min_count=1, covariance=0.0):
    """Return the variance s²_k1/n_k1 + s²_k0/n_k0 − 2·Cov(R_k(1), R_k(0)) of each d_k; NaN for a single image in a cell."""
    if np.ndim(covariance):  # in whole numbers, so that pairs which agree leave exactly 0
        noise = rate(right * (count - right), (count - 1) * count.astype(float) ** 2)
        return np.where((count >= min_count).all(-2), noise.sum(-2) - 2 * covariance, np.nan)
    recall = rate(right, count, min_count)
    return rate(recall * (1 - recall), count - 1).sum(-2)  # s²/n, as s² = R(1 − R)·n/(n − 1)


@recall_metric(groups=2)
def mean_square_disparity(right, count, *, min_count=1, covariance=0.0):
    """U = mean over classes of d_k² − Var(d_k): the unbiased estimate of the mean squared disparity.

    It is 0 on average for a fair classifier, so it may be negative. Var(d_k) = s²_k1/n_k1 + s²_k0/n_k0, where s² is the
    variance (ddof 1) of being right within a cell, which takes two images: `min_count` is 2 at the least. For n_k pairs of
    which the shares p₁₀ and p₀₁ are right in one group alone, Var(d_k) = (p₁₀ + p₀₁ − (p₁₀ − p₀₁)²) / (n_k − 1): pairs that
    agree do not count, and a classifier blind to the group has U = 0. Images without a partner enter with their own variance.
    """
    return mean_of(gap(right, count, min_count) ** 2 - variance_of_gap(right, count, min_count, covariance))


@recall_metric()
def root_mean_square_disparity(right, count, *, min_count=1):
    """√ of the mean of d_k² over the classes that count; above 0 for a fair classifier too."""
    return np.sqrt(mean_of(extent(rate(right, count, min_count)) ** 2))


@recall_metric()
def max_disparity(right, count, *, min_count=1):
    """Largest |d_k| among the classes that count."""
    return np.fmax.reduce(extent(rate(right, count, min_count)), axis=-1)


@recall_metric()
def weighted_disparity(right, count, *, min_count=1):
    """Mean of |d_k| with weights h_k = 1 / Σ_g 1/n_kg: classes with few images in a group weigh little."""
    inverse = np.where(count >= min_count, rate(1, count, TINY), 0).sum(-2)
    return mean_of(extent(rate(right, count, min_count)), rate(1, inverse, TINY))


@recall_metric(groups=2)
def earlier_study_disparity(right, count):
    """Mean of |d_k| over the classes with d_k ≠ 0, an empty cell counting as recall 0. For comparison only.

    Both rules inflate it: a class that one group lacks adds its recall, and classes without disparity are dropped. NaN
    where every d_k is 0.
    """
    disparity = np.abs(gap(right, np.maximum(count, 1)))
    return mean_of(np.where(disparity > 0, disparity, np.nan))


@recall_metric("less")
def worst_cell_accuracy(right, count, *, min_count=1):
    """Smallest R_k(g) among the cells that count. It is defined with one group only, too.

    References
    ----------
    Sagawa et al. (2020), Distributionally robust neural networks for group shifts.
    """
    return np.fmin.reduce(rate(right, count, min_count), axis=(-2, -1))


@recall_metric("two-sided", groups=2)
def accuracy_gap(right, count, *, min_count=1):
    """Accuracy in group 1 minus that in group 0. Where the mix of classes differs, so does it without any bias."""
    return gap(right.sum(-1, keepdims=True), count.sum(-1, keepdims=True), min_count)[..., 0]


@recall_metric("two-sided", groups=2)
def macro_recall_gap(right, count, *, min_count=1):
    """Macro-recall in group 1 minus that in group 0, each over the classes that count in that group."""
    recall = mean_of(rate(right, count, min_count))
    return recall[..., 1] - recall[..., 0]


@recall_metric("less")
def worst_group_recall(right, count, *, min_count=1):
    """Smallest mean recall of a group: min_g mean_k R_k(g), each mean over the classes that count in that group."""
    return np.fmin.reduce(mean_of(rate(right, count, min_count)), axis=-1)


@recall_metric("less")
def worst_group_accuracy(right, count, *, min_count=1):
    """Smallest accuracy of a group: min_g P(ŷ = y | g). Its interval and gap to the mean: `worst_group_interval`.

    References
    ----------
    Koh et al. (2021), WILDS: a benchmark of in-the-wild distribution shifts.
    """
    return np.fmin.reduce(rate(right.sum(-1), count.sum(-1), min_count), axis=-1)


# ---- by group


def cell_counts(y_true, group, *, num_classes=None):
    """Return the images n_kg per group and class: (G, K), rows by the groups' own numbers."""
    images = Images(group, num_classes, numbered_groups=False, y_true=y_true, y_pred=y_true)
    return np.nan_to_num(images.by_class(images.table().sum(-1))).astype(np.int64)


def class_recall(y_true, y_pred, group, *, num_classes=None, min_count=1):
    """Return R_k(g): (G, K), rows by the groups' own numbers, NaN where a cell has fewer than `min_count` images.

    Arguments and errors are those of `class_disparity`.
    """
    images = Images(group, num_classes, numbered_groups=False, y_true=y_true, y_pred=y_pred)
    return images.by_class(rate(*cells(images.table()), min_count))


def group_confusion(y_true, y_pred, group, *, num_classes=None):
    """Return how often each class is predicted as each, per group: counts (G, K, K) by [group, class, predicted].

    Arguments and errors are those of `class_disparity`; rows of `group` by the groups' own numbers.
    """
    images = Images(group, num_classes, numbered_groups=False, y_true=y_true, y_pred=y_pred)
    if images.limit > 10_000:
        raise ValueError(f"confusion of {images.limit} classes takes too much memory; number them from 0")
    shape = images.groups, images.limit, images.limit
    labels = images.labels if images.classes is None else [images.classes[values] for values in images.labels]
    return count_cells(shape, images.group, *labels)
