"""Criteria that read the wrong predictions too: equalized odds, demographic parity, their ratios, bias amplification; and the
disparity of an attribute that comes in shares."""

import numpy as np

from kdlib.bias.metrics import table_metric
from kdlib.bias.tables import (
    TINY,
    as_vector,
    cells,
    check_index,
    check_labels,
    check_reach,
    extent,
    gap,
    mean_of,
    rate,
    ratio,
)


@table_metric()
def equalized_odds_difference(table, *, min_count=1, per_class=False):
    """Mean over classes, one against the rest, of max(|ΔTPR|, |ΔFPR|) between groups.

    A class counts if two groups have `min_count` images of it, and two of the others.

    References
    ----------
    Hardt, Price and Srebro (2016), Equality of opportunity in supervised learning.
    """
    right, count = cells(table)
    true_positive = extent(rate(right, count, min_count))
    others = count.sum(-1, keepdims=True) - count
    false_positive = extent(rate(table.sum(-2) - right, others, min_count))
    difference = np.maximum(true_positive, false_positive)
    return difference if per_class else mean_of(difference)


def _selection(table, min_count):
    """Return P(predicted k | group), and which classes are labelled or predicted anywhere."""
    labelled, predicted = table.sum(-1), table.sum(-2)
    return rate(predicted, labelled.sum(-1, keepdims=True), min_count), (labelled + predicted).any(-2)


@table_metric()
def demographic_parity_difference(table, *, min_count=1, per_class=False):
    """Mean over classes of |P(predicted k | group 1) − P(predicted k | group 0)|.

    A perfect classifier has that of the labels, demographic_parity_difference(y_true, y_true, group): show both.
    Classes that are neither labelled nor predicted anywhere do not count.
    """
    selected, occurs = _selection(table, min_count)
    difference = np.where(occurs, extent(selected), np.nan)
    return difference if per_class else mean_of(difference)


@table_metric("less")
def demographic_parity_ratio(table, *, min_count=1, per_class=False):
    """Smallest over classes of min_g P(predicted k | g) / max_g P(predicted k | g): the 80 % rule asks for at least .8.

    NaN for a class that is never predicted. Where base rates differ, a perfect classifier may break the rule.

    References
    ----------
    Feldman et al. (2015), Certifying and removing disparate impact.
    """
    shares = ratio(_selection(table, min_count)[0])
    return shares if per_class else np.fmin.reduce(shares, axis=-1)


@table_metric("less")
def equal_opportunity_ratio(table, *, min_count=1, per_class=False):
    """Smallest over classes of min_g R_k(g) / max_g R_k(g); NaN for a class with recall 0 in every group.

    References
    ----------
    Hardt, Price and Srebro (2016), Equality of opportunity in supervised learning.
    """
    shares = ratio(rate(*cells(table), min_count))
    return shares if per_class else np.fmin.reduce(shares, axis=-1)


@table_metric()
def bias_amplification(table, *, min_count=1):
    """BiasAmp, attribute → task: do predictions follow the group more than labels do?

    Mean over pairs (group a, class t) of Δ where P(a, t) > P(a)·P(t) among the labels, and of −Δ elsewhere, where Δ =
    P(predicted t | a) − P(labelled t | a). Classes that are neither labelled nor predicted anywhere do not count. NaN where the
    labels do not depend on the group at all, as in a balanced test split: there is no bias to amplify, and the mean would
    be 0 for any predictions.

    References
    ----------
    Wang and Russakovsky (2021), Directional bias amplification.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    in_group, in_class = labelled.sum(-1, keepdims=True), labelled.sum(-2, keepdims=True)
    change = rate(predicted - labelled, in_group, min_count)
    together, apart = labelled * in_group.sum(-2, keepdims=True), in_group * in_class
    by_class = mean_of(np.where(together > apart, change, -change), axis=-2)
    counts = (labelled + predicted).any(-2) & ((~np.isnan(change)).sum(-2) >= 2)
    return np.where((together != apart).any((-2, -1)), mean_of(np.where(counts, by_class, np.nan)), np.nan)


@table_metric()
def bias_amplification_mals(table, *, min_count=1):
    """BiasAmp of Zhao et al.: does the group that dominates a class's labels dominate its predictions even more?

    Mean of b̃ − b over the pairs (group a, class t) with b > 1/|A|, where b is a's share of the images labelled t, b̃
    its share of those predicted t, and |A| the number of groups (with two, b > 1/2). A class that is never predicted has
    no b̃ and does not count; NaN where no pair is left.

    References
    ----------
    Zhao et al. (2017), Men also like shopping: reducing gender bias amplification using corpus-level constraints.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    before, after = (rate(count, count.sum(-2, keepdims=True), min_count) for count in (labelled, predicted))
    groups = labelled.any(-1).sum(-1)[..., None, None]
    terms = np.where((before * groups > 1 + 1e-12) & (groups >= 2), after - before, np.nan)
    return mean_of(terms.reshape(*terms.shape[:-2], -1))


def fractional_disparity(y_true, y_pred, share, *, num_classes=None):
    """Disparity per class where an image belongs to group 1 by a share w in [0, 1], not wholly: shape (K,).

    d_k = Σ c·w / Σ w − Σ c·(1 − w) / Σ (1 − w) over the images of class k, with c = 1 where predicted k: that is Cov(c,
    w) / (w̄(1 − w̄)), and `class_disparity` if every w is 0 or 1. NaN where a class has w̄ = 0 or 1. Images whose share
    is NaN (unknown) are left out. ValueError for shares outside [0, 1] and for labels as in `class_disparity`.
    """
    check_index(y_true=y_true, y_pred=y_pred, share=share)
    share = np.ma.filled(as_vector(share, "share").astype(np.float64), np.nan)
    if ((share < 0) | (share > 1)).any():
        raise ValueError(f"share must be in [0, 1], or NaN where unknown; it has {share[(share < 0) | (share > 1)][0]}")
    (y_true, y_pred), num_classes = check_labels(share, num_classes, y_true=y_true, y_pred=y_pred)
    check_reach(num_classes)
    right, weights = y_true == y_pred, np.nan_to_num(np.stack([1 - share, share]))
    part, whole = (np.array([np.bincount(y_true, w, num_classes) for w in ws]) for ws in (weights * right, weights))
    return gap(part, whole, TINY)


fractional_disparity.tail = "two-sided"  # type: ignore[attr-defined]
