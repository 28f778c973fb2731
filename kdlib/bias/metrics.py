"""Bias metrics of one model. All but the fractional one depend on the predictions only through a table of counts, so each is
written once, as a function of tables with any leading axes (`metric.of_tables`).

Class k of K has n_kg images in group g and recall R_k(g) = P(predicted k | class k, group g). Signed figures compare two
groups, 1 minus 0. Unsigned ones take any number: where the attribute has more than two values, the largest minus the
smallest rate over the groups stands in place of |group 1 − group 0|. It grows with the number of groups, so read it beside
its noise floor."""

import functools
import inspect

import numpy as np

from kdlib.bias.tables import (
    TINY,
    as_vector,
    cells,
    check_images,
    check_labels,
    count_cells,
    extent,
    gap,
    mean_of,
    plain,
    rate,
    table_of,
)  # fmt: skip

_NOTES = """

    `y_true` and `y_pred` hold class indices, `group` {groups} (or booleans), or −1 where unknown: such images are left
    out. All are one-dimensional arrays, tensors or lists of one length. `num_classes` is by default one more than the
    largest index. A rate over fewer than `min_count` images, as in a small cell (class, group), is NaN. Means pass over
    NaN classes, and are NaN where none is left, as with one group only. ValueError for lengths that differ, no images,
    entries that are NaN or fractional, and indices out of range.
    """


def _metric(tail="greater", groups=None):
    """Make metric(y_true, y_pred, group, *, num_classes=None, ...) of a function of tables, kept as `.of_tables`.

    `tail` tells which values are the more biased: "greater", "less", or "two-sided" for signed figures. `groups` is 2 where
    the figure compares two groups and no more.
    """

    def decorate(of_tables):
        def metric(y_true, y_pred, group, *, num_classes=None, **options):
            return plain(of_tables(table_of(y_true, y_pred, group, num_classes, groups), **options))

        arrays, options = (list(inspect.signature(f).parameters.values()) for f in (metric, of_tables))
        functools.update_wrapper(metric, of_tables).__signature__ = inspect.Signature(arrays[:-1] + options[1:])
        metric.__doc__ = of_tables.__doc__.rstrip() + _NOTES.format(groups="0 or 1" if groups else "0, 1, …")
        metric.of_tables, metric.tail, metric.groups = of_tables, tail, groups
        return metric

    return decorate


# ---- disparity of recall


@_metric("two-sided", groups=2)
def class_disparity(table, *, min_count=1):
    """d_k = R_k(1) − R_k(0): shape (K,), in [−1, 1]. The gap in equal opportunity (Hardt, Price and Srebro 2016)."""
    return gap(*cells(table), min_count)


@_metric()
def class_disparity_range(table, *, min_count=1):
    """Largest minus smallest recall over the groups, per class: shape (K,), unsigned; with two groups |d_k|."""
    return extent(rate(*cells(table), min_count))


@_metric("two-sided", groups=2)
def mean_disparity(table, *, min_count=1):
    """Signed mean of d_k over the classes that count; biases of opposite sign cancel in it."""
    return mean_of(gap(*cells(table), min_count))


@_metric()
def mean_absolute_disparity(table, *, min_count=1):
    """MAD: mean of |d_k| over the classes that count. Above 0 for a fair classifier too: see its `noise_floor`."""
    return mean_of(extent(rate(*cells(table), min_count)))


def mean_square(right, count, min_count=1):
    """U, and the variance s²_k1/n_k1 + s²_k0/n_k0 of each d_k, from images right and images (..., 2, K)."""
    recall = rate(right, count, min_count)
    noise = rate(recall * (1 - recall), count - 1)  # s²/n, as s² = R(1 − R)·n/(n − 1); NaN for a single image
    noise = noise.sum(-2)
    return mean_of(gap(right, count, min_count) ** 2 - noise), noise


@_metric(groups=2)
def mean_square_disparity(table, *, min_count=1):
    """U = mean over classes of d_k² − s²_k1/n_k1 − s²_k0/n_k0: the unbiased estimate of the mean squared disparity.

    It is 0 on average for a fair classifier, so it may be negative. s² is the variance (ddof 1) of being right within a
    cell, which takes two images: `min_count` is 2 at the least.
    """
    return mean_square(*cells(table), min_count)[0]


def _variance_of_u(table, *, min_count=1):
    """(a, b): U's variance is a + b·θ where the mean squared disparity is θ.

    For d_k normal with mean δ_k and variance v_k, Var d_k² = 2v_k² + 4δ_k²·v_k. θ is the mean of δ_k², so b is 4/K times the
    mean of v_k weighted by δ_k², each estimated by d_k² − v_k where that is above 0: bias in rare cells is less sure.
    """
    right, count = cells(table)
    noise = mean_square(right, count, min_count)[1]
    counted = max((~np.isnan(noise)).sum(), 1)
    biased = (gap(right, count, min_count) ** 2 - noise).clip(min=0)
    weighted = mean_of(biased * noise) / mean_of(biased) if mean_of(biased) > 0 else mean_of(noise)
    return 2 * mean_of(noise**2) / counted, 4 * weighted / counted


mean_square_disparity.variance = _variance_of_u  # for its interval, see `bootstrap`


@_metric()
def root_mean_square_disparity(table, *, min_count=1):
    """√ of the mean of d_k² over the classes that count; above 0 for a fair classifier too."""
    return np.sqrt(mean_of(extent(rate(*cells(table), min_count)) ** 2))


@_metric()
def max_disparity(table, *, min_count=1):
    """Largest |d_k| among the classes that count."""
    return np.fmax.reduce(extent(rate(*cells(table), min_count)), axis=-1)


@_metric()
def weighted_disparity(table, *, min_count=1):
    """Mean of |d_k| with weights h_k = 1 / Σ_g 1/n_kg: classes with few images in a group weigh little."""
    right, count = cells(table)
    inverse = np.where(count >= min_count, rate(1, count, TINY), 0).sum(-2)
    return mean_of(extent(rate(right, count, min_count)), rate(1, inverse, TINY))


@_metric(groups=2)
def earlier_study_disparity(table):
    """Mean of |d_k| over the classes with d_k ≠ 0, an empty cell counting as recall 0. For comparison only.

    Both rules inflate it: a class that one group lacks adds its recall, and classes without disparity are dropped. NaN
    where every d_k is 0.
    """
    right, count = cells(table)
    disparity = np.abs(gap(right, np.maximum(count, 1)))
    return mean_of(np.where(disparity > 0, disparity, np.nan))


def cell_counts(y_true, group, *, num_classes=None):
    """Images n_kg per group and class: shape (G, K). What is NaN elsewhere for want of images is explained by these."""
    (y_true,), group, num_classes, groups = check_images(group, num_classes, y_true=y_true)
    return count_cells((groups, num_classes), group, y_true)


def class_recall(y_true, y_pred, group, *, num_classes=None, min_count=1):
    """R_k(g): shape (G, K), NaN where a cell has fewer than `min_count` images. All else is as in `class_disparity`."""
    return rate(*cells(table_of(y_true, y_pred, group, num_classes)), min_count)


def fractional_disparity(y_true, y_pred, share, *, num_classes=None):
    """Disparity per class where an image belongs to group 1 by a share w in [0, 1], not wholly: shape (K,).

    d_k = Σ c·w / Σ w − Σ c·(1 − w) / Σ (1 − w) over the images of class k, with c = 1 where predicted k: that is Cov(c,
    w) / (w̄(1 − w̄)), and `class_disparity` if every w is 0 or 1. NaN where a class has w̄ = 0 or 1. Images whose share
    is NaN (unknown) are left out. ValueError for shares outside [0, 1] and for labels as in `class_disparity`.
    """
    share = as_vector(share, "share").astype(np.float64)
    if ((share < 0) | (share > 1)).any():
        raise ValueError(f"share must be in [0, 1], or NaN where unknown; it has {share[(share < 0) | (share > 1)][0]}")
    (y_true, y_pred), num_classes = check_labels(share, num_classes, y_true=y_true, y_pred=y_pred)
    right, weights = y_true == y_pred, np.nan_to_num(np.stack([1 - share, share]))
    part, whole = (np.array([np.bincount(y_true, w, num_classes) for w in ws]) for ws in (weights * right, weights))
    return gap(part, whole, TINY)


fractional_disparity.tail = "two-sided"


# ---- other criteria


@_metric()
def equalized_odds_difference(table, *, min_count=1, per_class=False):
    """Mean over classes, one against the rest, of max(|ΔTPR|, |ΔFPR|) between groups (Hardt, Price and Srebro 2016).

    `per_class=True` gives all K. A class counts if two groups have `min_count` images of it, and two of the others.
    """
    right, count = cells(table)
    true_positive = extent(rate(right, count, min_count))
    others = count.sum(-1, keepdims=True) - count
    false_positive = extent(rate(table.sum(-2) - right, others, min_count))
    difference = np.maximum(true_positive, false_positive)
    return difference if per_class else mean_of(difference)


@_metric()
def demographic_parity_difference(table, *, min_count=1, per_class=False):
    """Mean over classes of |P(predicted k | group 1) − P(predicted k | group 0)|; `per_class=True` gives all K.

    A perfect classifier has that of the labels, demographic_parity_difference(y_true, y_true, group): show both.
    Classes that are neither labelled nor predicted anywhere do not count.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    difference = extent(rate(predicted, labelled.sum(-1, keepdims=True), min_count))
    difference = np.where((labelled + predicted).any(-2), difference, np.nan)
    return difference if per_class else mean_of(difference)


@_metric("less")
def worst_cell_accuracy(table, *, min_count=1):
    """Smallest R_k(g) among the cells that count (Sagawa et al. 2020). It is defined with one group only, too."""
    return np.fmin.reduce(rate(*cells(table), min_count), axis=(-2, -1))


@_metric("two-sided", groups=2)
def accuracy_gap(table, *, min_count=1):
    """Accuracy in group 1 minus that in group 0. Where the mix of classes differs, so does it without any bias."""
    right, count = (part.sum(-1, keepdims=True) for part in cells(table))
    return gap(right, count, min_count)[..., 0]


@_metric("two-sided", groups=2)
def macro_recall_gap(table, *, min_count=1):
    """Macro-recall in group 1 minus that in group 0, each over the classes that count in that group."""
    recall = mean_of(rate(*cells(table), min_count))
    return recall[..., 1] - recall[..., 0]


@_metric()
def bias_amplification(table, *, min_count=1):
    """BiasAmp, attribute → task (Wang and Russakovsky 2021): do predictions follow the group more than labels do?

    Mean over pairs (group a, class t) of Δ where P(a, t) > P(a)·P(t) among the labels, and of −Δ elsewhere, where Δ =
    P(predicted t | a) − P(labelled t | a). Classes that are neither labelled nor predicted anywhere do not count.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    in_group, in_class = labelled.sum(-1, keepdims=True), labelled.sum(-2, keepdims=True)
    change = rate(predicted - labelled, in_group, min_count)
    correlated = labelled * in_group.sum(-2, keepdims=True) > in_group * in_class
    by_class = mean_of(np.where(correlated, change, -change), axis=-2)
    counts = (labelled + predicted).any(-2) & ((~np.isnan(change)).sum(-2) >= 2)
    return mean_of(np.where(counts, by_class, np.nan))


@_metric()
def bias_amplification_mals(table, *, min_count=1):
    """BiasAmp of Zhao et al. (2017): does the group that dominates a class's labels dominate its predictions even more?

    Mean of b̃ − b over the pairs (group a, class t) with b > 1/|A|, where b is a's share of the images labelled t, b̃
    its share of those predicted t, and |A| the number of groups (with two, b > 1/2). A class that is never predicted has
    no b̃ and does not count; NaN where no pair is left.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    before, after = (rate(count, count.sum(-2, keepdims=True), min_count) for count in (labelled, predicted))
    groups = labelled.any(-1).sum(-1)[..., None, None]
    terms = np.where((before * groups > 1 + 1e-12) & (groups >= 2), after - before, np.nan)
    return mean_of(terms.reshape(*terms.shape[:-2], -1))
