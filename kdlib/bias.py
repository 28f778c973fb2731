"""Bias of a classifier between two groups of images: its size, its noise floor, and its growth from teacher to student.

Any classifier's predictions will do:

>>> import numpy as np
>>> from kdlib import bias
>>> label = np.repeat([0, 1], 100)                # 200 images of two classes,
>>> group = np.tile([0, 1], 100)                  # half of each class in either group; −1 would mean unknown
>>> missed = (label == 1) & (group == 1) & (np.arange(200) % 5 == 0)
>>> prediction = np.where(missed, 0, label)       # 10 of class 1's 50 images in group 1 are missed
>>> bias.class_disparity(label, prediction, group).round(3)
array([ 0. , -0.2])
>>> round(bias.mean_absolute_disparity(label, prediction, group), 3)
0.1
>>> floor = bias.noise_floor(bias.mean_absolute_disparity, label, prediction, group)
>>> floor.mean < 0.04, floor.p_value < 0.01       # what a classifier that ignores the group would show
(True, True)
>>> interval = bias.bootstrap(bias.class_disparity, label, prediction, group)
>>> print(interval.low[1] < -0.2 < interval.high[1] < 0)
True

Below, class k of K has n_kg images in group g and recall R_k(g) = P(predicted k | class k, group g). Differences are
group 1 minus group 0. Metrics depend on the predictions only through the counts C[group, class, predicted], so each is
written once, as a function of such tables with any leading axes; `noise_floor` and `bootstrap` draw tables instead of
images.
"""

import functools
import inspect
import operator
from collections import namedtuple

import numpy as np

CHUNK = 2**21  # table entries drawn at a time (16 MiB); fixed, since it decides the order of the draws
TOLERANCE = 1e-9  # replicates this close to the observed value tie with it
TINY = np.finfo(float).tiny  # any weight at all

NoiseFloor = namedtuple("NoiseFloor", "mean low high p_value value n")
Interval = namedtuple("Interval", "value low high n")

_NOTES = """

    `y_true` and `y_pred` hold class indices, `group` 0 or 1 (or booleans), or −1 where unknown: such images are left
    out. All are one-dimensional arrays, tensors or lists of one length. `num_classes` is by default one more than the
    largest index. A rate over fewer than `min_count` images, as in a small cell (class, group), is NaN. Means pass over
    NaN classes, and are NaN where none is left, as with one group only. ValueError for lengths that differ, no images,
    entries that are NaN or fractional, and indices out of range.
    """


# ---- from arrays to tables of counts


def _array(values):
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def _vector(values, name):
    values = _array(values)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"{name} must be one-dimensional, with one entry for each image; its shape is {values.shape}")
    return values


def _integers(values, name):
    values = _vector(values, name)
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all() or (values.astype(np.int64) != values).any():
        raise ValueError(f"{name} must hold whole numbers; it has NaN, infinite, fractional or non-numeric entries")
    return values.astype(np.int64)


def _labels(attribute, num_classes, **labels):
    """Class indices, checked, of the images that `attribute` describes; and the number of classes."""
    labels = {name: _integers(values, name) for name, values in labels.items()}
    limit = max(0, *map(np.max, labels.values())) + 1 if num_classes is None else operator.index(num_classes)
    for name, values in labels.items():
        if len(values) != len(attribute):
            raise ValueError(f"{name} has {len(values)} entries, the group or share {len(attribute)}: lengths differ")
        if values.min() < 0 or values.max() >= limit:
            raise ValueError(f"{name} must be in 0 … {limit - 1}; it reaches from {values.min()} to {values.max()}")
    return list(labels.values()), int(limit)


def _images(group, num_classes, most=1, **labels):
    """Labels and groups, checked, and the number of classes."""
    group = _integers(group, "group")
    if group.min() < -1 or group.max() > most:
        found = np.unique(group)[:5].tolist()
        raise ValueError(f"group must be 0, 1, or −1 where unknown, not {found} (more: class_disparity_range)")
    labels, num_classes = _labels(group, num_classes, **labels)
    return labels, group, num_classes


def _count(shape, group, *indices):
    """How often each (group, *indices) occurs, as an array of that shape; unknown groups are left out."""
    flat = np.ravel_multi_index([index[group >= 0] for index in (group, *indices)], shape)
    return np.bincount(flat, minlength=np.prod(shape)).reshape(shape)


def _table(y_true, y_pred, group, num_classes):
    labels, group, num_classes = _images(group, num_classes, y_true=y_true, y_pred=y_pred)
    return _count((2, num_classes, num_classes), group, *labels)


# ---- arithmetic in which NaN means undefined


def _rate(part, whole, min_count=1):
    if not min_count > 0:
        raise ValueError(f"min_count must be at least 1, since a rate needs an image; it is {min_count}")
    return np.where(whole >= min_count, part / np.where(whole >= min_count, whole, 1), np.nan)


def _mean(values, weights=1.0, axis=-1):
    """Weighted mean over an axis, passing over NaN; NaN where there is nothing else."""
    weights = np.where(np.isnan(values), 0, weights)
    return _rate(np.nansum(weights * values, axis=axis), weights.sum(axis), TINY)


def _cells(table):
    """Images predicted right, and images, per (group, class)."""
    return np.diagonal(table, axis1=-2, axis2=-1), table.sum(-1)


def _gap(part, whole, min_count=1):
    """Group 1's rate minus group 0's, per class: shape (..., K)."""
    rate = _rate(part, whole, min_count)
    return rate[..., 1, :] - rate[..., 0, :]


def _mean_square(right, count, min_count=1):
    recall = _rate(right, count, min_count)
    noise = _rate(recall * (1 - recall), count - 1)  # s²/n, as s² = R(1 − R)·n/(n − 1); NaN for a single image
    return _mean(_gap(right, count, min_count) ** 2 - noise.sum(-2))


def _signed_root(square):
    return np.sign(square) * np.sqrt(np.abs(square))


def _plain(result):
    return float(result) if np.ndim(result) == 0 else result


def _metric(tail="greater"):
    """Make metric(y_true, y_pred, group, *, num_classes=None, ...) of a function of tables, kept as `.of_tables`.

    `tail` tells which values are the more biased: "greater", "less", or "two-sided" for signed figures.
    """

    def decorate(of_tables):
        def metric(y_true, y_pred, group, *, num_classes=None, **options):
            return _plain(of_tables(_table(y_true, y_pred, group, num_classes), **options))

        arrays, options = (list(inspect.signature(f).parameters.values()) for f in (metric, of_tables))
        functools.update_wrapper(metric, of_tables).__signature__ = inspect.Signature(arrays[:-1] + options[1:])
        metric.__doc__ = of_tables.__doc__.rstrip() + _NOTES
        metric.of_tables, metric.tail = of_tables, tail
        return metric

    return decorate


# ---- disparity of recall


@_metric("two-sided")
def class_disparity(table, *, min_count=1):
    """d_k = R_k(1) − R_k(0): shape (K,), in [−1, 1]. The gap in equal opportunity (Hardt, Price and Srebro 2016)."""
    return _gap(*_cells(table), min_count)


@_metric("two-sided")
def mean_disparity(table, *, min_count=1):
    """Signed mean of d_k over the classes that count; biases of opposite sign cancel in it."""
    return _mean(_gap(*_cells(table), min_count))


@_metric()
def mean_absolute_disparity(table, *, min_count=1):
    """MAD: mean of |d_k| over the classes that count. Above 0 for a fair classifier too: see its `noise_floor`."""
    return _mean(np.abs(_gap(*_cells(table), min_count)))


@_metric()
def mean_square_disparity(table, *, min_count=1):
    """U = mean over classes of d_k² − s²_k1/n_k1 − s²_k0/n_k0: the unbiased estimate of the mean squared disparity.

    It is 0 on average for a fair classifier, so it may be negative. s² is the variance (ddof 1) of being right within a
    cell, which takes two images: `min_count` is 2 at the least.
    """
    return _mean_square(*_cells(table), min_count)


@_metric()
def root_mean_square_disparity(table, *, min_count=1):
    """√ of the mean of d_k² over the classes that count; above 0 for a fair classifier too."""
    return np.sqrt(_mean(_gap(*_cells(table), min_count) ** 2))


@_metric()
def max_disparity(table, *, min_count=1):
    """Largest |d_k| among the classes that count."""
    return np.fmax.reduce(np.abs(_gap(*_cells(table), min_count)), axis=-1)


@_metric()
def weighted_disparity(table, *, min_count=1):
    """Mean of |d_k| with weights h_k = 1 / (1/n_k1 + 1/n_k0): classes with few images in either group weigh little."""
    right, count = _cells(table)
    return _mean(np.abs(_gap(right, count, min_count)), _rate(count.prod(-2), count.sum(-2)))


@_metric()
def earlier_study_disparity(table):
    """Mean of |d_k| over the classes with d_k ≠ 0, an empty cell counting as recall 0. For comparison only.

    Both rules inflate it: a class that one group lacks adds its recall, and classes without disparity are dropped. NaN
    where every d_k is 0.
    """
    right, count = _cells(table)
    disparity = np.abs(_gap(right, np.maximum(count, 1)))
    return _mean(np.where(disparity > 0, disparity, np.nan))


def class_disparity_range(y_true, y_pred, group, *, num_classes=None, min_count=1):
    """Largest minus smallest recall over groups 0, 1, 2, …, per class: shape (K,), unsigned; with two groups |d_k|.

    Groups with fewer than `min_count` images of a class are passed over; NaN where fewer than two remain. The range
    grows with the number of groups: read it beside its `noise_floor`. All else is as in `class_disparity`.
    """
    labels, group, num_classes = _images(group, num_classes, most=np.inf, y_true=y_true, y_pred=y_pred)
    recall = _rate(*_cells(_count((max(group.max(), 0) + 1, num_classes, num_classes), group, *labels)), min_count)
    spread = np.fmax.reduce(recall) - np.fmin.reduce(recall)
    return np.where((~np.isnan(recall)).sum(0) >= 2, spread, np.nan)


def fractional_disparity(y_true, y_pred, share, *, num_classes=None):
    """Disparity per class where an image belongs to group 1 by a share w in [0, 1], not wholly: shape (K,).

    d_k = Σ c·w / Σ w − Σ c·(1 − w) / Σ (1 − w) over the images of class k, with c = 1 where predicted k: that is Cov(c,
    w) / (w̄(1 − w̄)), and `class_disparity` if every w is 0 or 1. NaN where a class has w̄ = 0 or 1. Images whose share
    is NaN (unknown) are left out. ValueError for shares outside [0, 1] and for labels as in `class_disparity`.
    """
    share = _vector(share, "share").astype(np.float64)
    if ((share < 0) | (share > 1)).any():
        raise ValueError(f"share must be in [0, 1], or NaN where unknown; it has {share[(share < 0) | (share > 1)][0]}")
    (y_true, y_pred), num_classes = _labels(share, num_classes, y_true=y_true, y_pred=y_pred)
    right, weights = y_true == y_pred, np.nan_to_num(np.stack([1 - share, share]))
    part, whole = (np.array([np.bincount(y_true, w, num_classes) for w in ws]) for ws in (weights * right, weights))
    return _gap(part, whole, TINY)


fractional_disparity.tail = "two-sided"


# ---- other criteria


@_metric()
def equalized_odds_difference(table, *, min_count=1, per_class=False):
    """Mean over classes, one against the rest, of max(|ΔTPR|, |ΔFPR|) between groups (Hardt, Price and Srebro 2016).

    `per_class=True` gives all K. A class counts if each group has `min_count` images of it and of the others.
    """
    right, count = _cells(table)
    true_positive = _gap(right, count, min_count)
    false_positive = _gap(table.sum(-2) - right, count.sum(-1, keepdims=True) - count, min_count)
    difference = np.maximum(np.abs(true_positive), np.abs(false_positive))
    return difference if per_class else _mean(difference)


@_metric()
def demographic_parity_difference(table, *, min_count=1, per_class=False):
    """Mean over classes of |P(predicted k | group 1) − P(predicted k | group 0)|; `per_class=True` gives all K.

    A perfect classifier has that of the labels, demographic_parity_difference(y_true, y_true, group): show both.
    Classes that are neither labelled nor predicted anywhere do not count.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    difference = np.abs(_gap(predicted, labelled.sum(-1, keepdims=True), min_count))
    difference = np.where((labelled + predicted).any(-2), difference, np.nan)
    return difference if per_class else _mean(difference)


@_metric("less")
def worst_cell_accuracy(table, *, min_count=1):
    """Smallest R_k(g) among the cells that count (Sagawa et al. 2020). It is defined with one group only, too."""
    return np.fmin.reduce(_rate(*_cells(table), min_count), axis=(-2, -1))


@_metric("two-sided")
def accuracy_gap(table, *, min_count=1):
    """Accuracy in group 1 minus that in group 0. Where the mix of classes differs, so does it without any bias."""
    right, count = (cells.sum(-1, keepdims=True) for cells in _cells(table))
    return _gap(right, count, min_count)[..., 0]


@_metric("two-sided")
def macro_recall_gap(table, *, min_count=1):
    """Macro-recall in group 1 minus that in group 0, each over the classes that count in that group."""
    recall = _mean(_rate(*_cells(table), min_count))
    return recall[..., 1] - recall[..., 0]


@_metric()
def bias_amplification(table, *, min_count=1):
    """BiasAmp, attribute → task (Wang and Russakovsky 2021): do predictions follow the group more than labels do?

    Mean over pairs (group a, class t) of Δ where P(a, t) > P(a)·P(t) among the labels, and of −Δ elsewhere, where Δ =
    P(predicted t | a) − P(labelled t | a). Classes that are neither labelled nor predicted anywhere do not count.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    in_group, in_class = labelled.sum(-1, keepdims=True), labelled.sum(-2, keepdims=True)
    change = _rate(predicted - labelled, in_group, min_count)
    correlated = labelled * in_group.sum(-2, keepdims=True) > in_group * in_class
    by_class = np.where(correlated, change, -change).mean(-2)
    return _mean(np.where((labelled + predicted).any(-2), by_class, np.nan))


@_metric()
def bias_amplification_mals(table, *, min_count=1):
    """BiasAmp of Zhao et al. (2017): does the group that dominates a class's labels dominate its predictions even more?

    Mean of b̃ − b over the pairs (group a, class t) with b > 1/2, where b is a's share of the images labelled t and b̃
    its share of those predicted t. A class that is never predicted has no b̃ and does not count; NaN where no pair is
    left.
    """
    labelled, predicted = table.sum(-1), table.sum(-2)
    before, after = (_rate(count, count.sum(-2, keepdims=True), min_count) for count in (labelled, predicted))
    both_groups = labelled.any(-1).all(-1)[..., None, None]
    terms = np.where((before > 0.5) & both_groups, after - before, np.nan)
    return _mean(terms.reshape(*terms.shape[:-2], -1))


# ---- noise floors and intervals


def _permuted_tables(table, size, rng):
    """Tables with the group permuted within each class: group 1's row is multivariate hypergeometric."""
    drawn = np.zeros((size, *table.shape), np.int64)
    for k, row in enumerate(table.sum(0)):
        seen = np.flatnonzero(row)
        if seen.size:
            ones = rng.multivariate_hypergeometric(row[seen], table[1, k].sum(), size=size, method="marginals")
            drawn[:, 1, k, seen] = ones
    drawn[:, 0] = table.sum(0) - drawn[:, 1]
    return drawn


def _resampled_tables(table, size, rng):
    """Tables of images drawn with replacement within each (group, class): every row is multinomial."""
    drawn = np.zeros((size, *table.shape), np.int64)
    for g, k in np.ndindex(table.shape[:2]):
        seen = np.flatnonzero(table[g, k])
        if seen.size:
            count = table[g, k, seen]
            drawn[:, g, k, seen] = rng.multinomial(count.sum(), count / count.sum(), size=size)
    return drawn


def _permuted_images(y_true, attribute, rng):
    """Every image, and the one whose attribute it gets: permuted within classes, unknown ones staying in place."""
    known, images = np.flatnonzero(attribute >= 0), np.arange(len(y_true))
    source = images.copy()
    source[known[np.argsort(y_true[known], kind="stable")]] = known[np.lexsort((rng.random(known.size), y_true[known]))]
    return images, source


def _resampled_images(y_true, attribute, rng):
    """Images drawn with replacement within each (class, group), or each class if the attribute is fractional; twice."""
    group = np.where(np.isnan(attribute), -1, attribute)
    group = group if (group == np.floor(group)).all() else np.zeros(len(group))
    _, stratum, sizes = np.unique(y_true * (group.max() + 2) + group, return_inverse=True, return_counts=True)
    first, size = np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)
    images = np.argsort(stratum, kind="stable")[first + (rng.random(len(size)) * size).astype(int)]
    return images, images


def _collect(draw, n, seed, entries=CHUNK):
    """draw(size, generator) for n replicates, at most CHUNK table entries at a time: shape (n, ...)."""
    if n < 1:
        raise ValueError(f"n, the number of replicates, must be at least 1; it is {n}")
    rng, step = np.random.default_rng(seed), max(1, CHUNK // entries)
    return np.concatenate([draw(min(step, n - done), rng) for done in range(0, n, step)])


def _replicates(metric, y_true, y_pred, group, n, seed, options, draw_tables, draw_images):
    """The metric at n draws: of tables, if it is a function of those, otherwise of images, with one call for each."""
    if hasattr(metric, "of_tables"):
        table = _table(y_true, y_pred, group, options.pop("num_classes", None))
        at_tables = functools.partial(metric.of_tables, **options)
        return _collect(lambda size, rng: at_tables(draw_tables(table, size, rng)), n, seed, table.size)
    y_pred, group = _array(y_pred), _vector(group, "group")
    (y_true,), _ = _labels(group, None, y_true=y_true)

    def draw(_, rng):
        images, source = draw_images(y_true, group, rng)
        return np.asarray(metric(y_true[images], y_pred[images], group[source], **options), dtype=float)[None]

    return _collect(draw, n, seed)


def _interval(replicates):
    """2.5 % and 97.5 % quantiles along the first axis, passing over NaN; NaN where there is nothing else."""
    columns = replicates.reshape(len(replicates), -1)
    counted = ~np.isnan(columns).all(0)
    bounds = np.full((2, columns.shape[1]), np.nan)
    bounds[:, counted] = np.nanquantile(columns[:, counted], [0.025, 0.975], axis=0)
    return [_plain(bound.reshape(replicates.shape[1:])) for bound in bounds]


def noise_floor(metric, y_true, y_pred, group, *, n=2000, seed=0, **kw):
    """What the metric shows when predictions ignore the group: the tuple (mean, low, high, p_value, value, n).

    The group is permuted within each class n times: the exact null of predictions that, given the class, do not depend
    on it. `mean`, `low`, `high` (2.5 % and 97.5 %) describe the permuted values, `value` is the observed one. p_value =
    (1 + #{permuted ≥ observed}) / (1 + n), never 0 (Phipson and Smyth 2010); with ≤ for worst_cell_accuracy; and for
    signed figures (class_disparity, mean_disparity, the gaps, fractional_disparity) twice the smaller of both, at most
    1. The fields are vectors where the metric is one. NaN is passed over, unless the observed value is NaN.

    `metric` is a function of this module, or any metric(y_true, y_pred, group, **kw) that is larger with more bias;
    `kw` goes to it. What counts predictions in two groups draws tables from the exact distribution, in about 0.1 s; all
    else is called n times. Unknown groups stay in place. For fractional_disparity, pass the share as `group`.
    """
    value = metric(y_true, y_pred, group, **kw)
    replicates = _replicates(metric, y_true, y_pred, group, n, seed, kw, _permuted_tables, _permuted_images)
    greater = 1 + (replicates >= np.subtract(value, TOLERANCE)).sum(0)
    less = 1 + (replicates <= np.add(value, TOLERANCE)).sum(0)
    extreme = {"greater": greater, "less": less, "two-sided": 2 * np.minimum(greater, less)}
    p_value = np.minimum(1, extreme[getattr(metric, "tail", "greater")] / (1 + (~np.isnan(replicates)).sum(0)))
    p_value = _plain(np.where(np.isnan(value), np.nan, p_value))
    return NoiseFloor(_plain(_mean(replicates, axis=0)), *_interval(replicates), p_value, value, n)


def bootstrap(metric, y_true, y_pred, group, *, n=2000, seed=0, **kw):
    """The metric's 95 % bootstrap interval: the tuple (value, low, high, n), of vectors where the metric is one.

    Images are drawn with replacement within each (class, group), so cells keep their sizes. `low` and `high` are the
    2.5 % and 97.5 % quantiles of the replicates after their mean is moved onto the value: those of |d| and d² lie too
    high, as they carry the noise twice. (An interval may then pass a metric's bounds a little.) MAD is biased upward
    and this is an interval for the biased figure: read it against its `noise_floor`, or bootstrap the signed
    class_disparity and the unbiased mean_square_disparity. Cells with few images, or with all right or all wrong, vary
    too little when resampled. `metric` and `kw` are as in `noise_floor`; shares are drawn within each class.
    """
    value = metric(y_true, y_pred, group, **kw)
    replicates = _replicates(metric, y_true, y_pred, group, n, seed, kw, _resampled_tables, _resampled_images)
    return Interval(value, *_interval(replicates - _mean(replicates, axis=0) + value), n)


# ---- one model, and a student beside its teacher


def summary(y_true, y_pred, group, *, num_classes=None, min_count=1, n=2000, seed=0):
    """The main figures of one model as a flat dict of numbers: MAD beside its noise floor, accuracy beside both.

    `accuracy` and `degenerate` use every image; all else leaves out the `unknown` images without a group. A
    `degenerate` model predicts fewer than half of the classes present, is no more accurate than always naming the
    commonest class, or has a macro-recall less than a fifth of the way from chance to 1: it looks fair and is useless.
    `classes_counted` is the number of classes behind `mad`, `classes_counted_u` behind `u`; `sqrt_u` is sign(U)·√|U|.
    Arguments and errors are those of class_disparity.
    """
    (y_true, y_pred), group, num_classes = _images(group, num_classes, y_true=y_true, y_pred=y_pred)
    options = {"num_classes": num_classes, "min_count": min_count}
    floor = noise_floor(mean_absolute_disparity, y_true, y_pred, group, n=n, seed=seed, **options)
    metrics = {
        "u": mean_square_disparity, "rms": root_mean_square_disparity, "max": max_disparity,
        "mean_disparity": mean_disparity, "weighted_disparity": weighted_disparity, "worst_cell": worst_cell_accuracy,
        "equalized_odds": equalized_odds_difference, "demographic_parity": demographic_parity_difference,
        "bias_amp": bias_amplification, "bias_amp_mals": bias_amplification_mals,
        "accuracy_gap": accuracy_gap, "macro_recall_gap": macro_recall_gap,
    }  # fmt: skip
    figures = {name: metric(y_true, y_pred, group, **options) for name, metric in metrics.items()}
    right, count = _cells(_table(y_true, y_pred, group, num_classes))
    accuracy = _rate(right.sum(-1), count.sum(-1))
    present, sizes = np.unique(y_true, return_counts=True)
    hits = y_true == y_pred
    recall, chance = np.mean([hits[y_true == label].mean() for label in present]), 1 / len(present)
    useless = hits.sum() <= sizes.max() or recall - chance < 0.2 * (1 - chance)
    return {
        "mad": floor.value,
        "mad_floor": floor.mean,
        "mad_floor_low": floor.low,
        "mad_floor_high": floor.high,
        "mad_p_value": floor.p_value,
        **figures,
        "sqrt_u": float(_signed_root(figures["u"])),
        "demographic_parity_labels": demographic_parity_difference(y_true, y_true, group, **options),
        "classes_counted": int((count >= min_count).all(0).sum()),
        "classes_counted_u": int((count >= max(min_count, 2)).all(0).sum()),
        "accuracy": float(hits.mean()),
        "accuracy_group_0": float(accuracy[0]),
        "accuracy_group_1": float(accuracy[1]),
        "unknown": int((group < 0).sum()),
        "degenerate": bool(2 * np.isin(present, y_pred).sum() < len(present) or useless),
    }


def _compression_errors(teacher, student):
    """CEV, SDE and the number of classes masked, from two confusion matrices of the same images: see `compare`."""
    confusion = np.stack([teacher, student])
    right, labelled = np.diagonal(confusion, axis1=1, axis2=2), teacher.sum(1)
    errors = np.stack([confusion.sum(1) - right, labelled - right], axis=1)[..., labelled > 0]
    before, after = errors  # false positives and false negatives; the rates' denominators cancel in relative changes
    change = np.where(after == before, 0.0, 100 * _rate(after - before, before))
    counted = ~np.isnan(change).any(0)
    x, y = change[:, counted]
    cev, sde = _mean((x - _mean(x)) ** 2 + (y - _mean(y)) ** 2), _mean(np.abs(x - y)) / np.sqrt(2)
    return cev, sde, (~counted).sum()


def compare(y_true, teacher_pred, student_pred, group, *, n=2000, seed=0, num_classes=None, min_count=1):
    """Does the student inherit, or inflate, its teacher's bias? A flat dict of numbers, from the images of known group.

    - `inflation` = `mad_student` − `mad_teacher`, with `inflation_low`, `inflation_high` and the two-sided bootstrap
      `inflation_p_value`; and `sqrt_u_inflation`, the same of sign(U)·√|U|. MAD's noise depends on accuracy, so two
      fair models may differ in MAD; in √U they do not. Intervals are those of `bootstrap`, but paired: each resample of
      the images serves both models.
    - `correlation` and `slope` of the student's d_k against the teacher's, over the `classes_counted`. Noise pulls both
      towards 0; NaN where the d_k do not vary.
    - `churn`, the share of predictions that changed (Milani Fard et al. 2016), and `negative_flips`, the share that the
      teacher has right and the student wrong (Yan et al. 2021), each also with `_group_0` and `_group_1`.
    - `cev` and `sde` (Blakeney et al. 2021). Let x_k be the relative change of class k's false positive rate, in
      percent of the teacher's, and y_k that of its false negative rate. CEV is the mean squared distance of the points
      (x_k, y_k) from their centroid; SDE is the mean of |x_k − y_k|/√2. A rate that is 0 in both models has changed by
      0. A class with a rate of 0 in the teacher alone has no relative change: it is masked, and counted in
      `classes_masked`.
    - `unknown`, the number of images left out. Other arguments and errors are those of class_disparity.
    """
    labels = {"y_true": y_true, "teacher_pred": teacher_pred, "student_pred": student_pred}
    (y_true, teacher, student), group, num_classes = _images(group, num_classes, **labels)
    teacher_right, student_right = teacher == y_true, student == y_true
    joint = _count((2, num_classes, 4), group, y_true, 2 * teacher_right + student_right)

    def cells(joint):
        """Images right (..., model, group, class), and images, from counts of (none, student, teacher, both) right."""
        return np.stack([joint[..., 2:].sum(-1), joint[..., 1::2].sum(-1)], axis=-3), joint.sum(-1)[..., None, :, :]

    def figures(joint):
        """MAD and U of both models: (..., figure, model)."""
        right, count = cells(joint)
        mad = _mean(np.abs(_gap(right, count, min_count)))
        return np.stack([mad, _mean_square(right, count, min_count)], axis=-2)

    observed = figures(joint)
    drawn = _collect(lambda size, rng: figures(_resampled_tables(joint, size, rng)), n, seed, joint.size)
    drawn += observed - _mean(drawn, axis=0)
    for values in (observed, drawn):
        values[..., 1, :] = _signed_root(values[..., 1, :])
    inflation, drawn = observed[:, 1] - observed[:, 0], drawn[..., 1] - drawn[..., 0]
    as_far = (np.abs(drawn - inflation) >= np.abs(inflation) - TOLERANCE).sum(0)
    p_value = np.where(np.isnan(inflation), np.nan, (1 + as_far) / (1 + n))
    result = {"mad_teacher": observed[0, 0], "mad_student": observed[0, 1]}
    result |= {"sqrt_u_teacher": observed[1, 0], "sqrt_u_student": observed[1, 1]}
    for name, *values in zip(("inflation", "sqrt_u_inflation"), inflation, *_interval(drawn), p_value, strict=True):
        result |= zip((name, f"{name}_low", f"{name}_high", f"{name}_p_value"), values, strict=True)
    gaps = _gap(*cells(joint), min_count)
    x, y = gaps - _mean(gaps)[:, None]
    xx, xy, yy = (np.nansum(product) for product in (x * x, x * y, y * y))
    result |= {"correlation": _rate(xy, np.sqrt(xx * yy), TOLERANCE), "slope": _rate(xy, xx, TOLERANCE)}
    for name, flag in (("churn", teacher != student), ("negative_flips", teacher_right & ~student_right)):
        for suffix, chosen in (("", group >= 0), ("_group_0", group == 0), ("_group_1", group == 1)):
            result[name + suffix] = _rate(flag[chosen].sum(), chosen.sum())
    confusions = (_table(y_true, predicted, group, num_classes).sum(0) for predicted in (teacher, student))
    result["cev"], result["sde"], masked = _compression_errors(*confusions)
    whole = {"classes_counted": (~np.isnan(x)).sum(), "classes_masked": masked, "unknown": (group < 0).sum()}
    return {name: float(value) for name, value in result.items()} | {name: int(value) for name, value in whole.items()}
