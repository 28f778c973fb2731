"""How sure a bias figure is: its noise floor under permuted groups, and its bootstrap interval.

Where a metric is a function of tables of counts, `noise_floor` and `bootstrap` draw tables instead of images, from the same
distribution; every other metric is called once for each draw. Draws come in chunks, so memory does not grow with n. Where
images are paired (`pair=`), groups are exchanged within pairs, and pairs are resampled: see `kdlib.bias.paired`."""

import functools
import inspect
from collections import namedtuple
from typing import Any

import numpy as np

from kdlib.bias.intervals import mean_square_disparity_interval
from kdlib.bias.metrics import WRONG_RIGHT, covariance_of_counts, mean_square_disparity
from kdlib.bias.paired import PairCounts, exchange_strata, resampled_pairs, units_of
from kdlib.bias.tables import Images, as_array, as_vector, cells, check_index, check_labels, mean_of, plain

CHUNK = 2**21  # table entries drawn at a time (16 MiB); fixed, since it decides the order of the draws
FULL = (
    2**16
)  # larger tables are reduced to right and wrong where that is enough; smaller ones keep the draws published with
TOLERANCE = 1e-9  # replicates this close to the observed value tie with it

NoiseFloor = namedtuple("NoiseFloor", "mean low high p_value value n")
Interval = namedtuple("Interval", "value low high n")


# ---- draws


def permuted_tables(table, size, rng):
    """Return tables with the group permuted within each class: multivariate hypergeometric, group after group."""
    drawn = np.zeros((size, *table.shape), np.int64)
    for k, row in enumerate(table.sum(0)):
        occurring = np.flatnonzero(row)
        if not occurring.size:
            continue
        last, counts = len(table) - 1, table[:, k].sum(-1)
        ones = rng.multivariate_hypergeometric(row[occurring], counts[last], size=size, method="marginals")
        drawn[:, last, k, occurring], left = ones, row[occurring] - ones
        for g in range(last - 1, 0, -1):
            ones = _hypergeometric(left, counts[g], rng)
            drawn[:, g, k, occurring], left = ones, left - ones
        drawn[:, 0, k, occurring] = left
    return drawn


def _hypergeometric(left, n, rng):
    """Return n images drawn without replacement from each row of `left` (size, M), which counts M kinds."""
    drawn, missing = np.zeros_like(left), np.full(len(left), n)
    for kind in range(left.shape[1]):
        others = left[:, kind + 1 :].sum(1)
        drawn[:, kind] = rng.hypergeometric(left[:, kind], others, missing)
        missing = missing - drawn[:, kind]
    return drawn


def resampled_tables(table, size, rng):
    """Return tables of images drawn with replacement within each (group, class): every row is multinomial."""
    drawn = np.zeros((size, *table.shape), np.int64)
    for g, k in np.ndindex(table.shape[:2]):
        occurring = np.flatnonzero(table[g, k])
        if occurring.size:
            count = table[g, k, occurring]
            drawn[:, g, k, occurring] = rng.multinomial(count.sum(), count / count.sum(), size=size)
    return drawn


def paired_tables(pairs, size, rng, permute, right=WRONG_RIGHT):
    """Return replicates (of all images, of pairs, of pairs right in both groups): (size, G, K, M) twice, and (size, K)."""
    alone = (permuted_tables if permute else resampled_tables)(pairs.alone, size, rng)
    if permute:
        paired, both = pairs.exchanged(size, rng), pairs.both(pairs.counts, right)
    else:
        drawn = pairs.resampled(size, rng)
        paired, both = pairs.tables(drawn), pairs.both(drawn, right)
    return alone + paired, paired, both


def permuted_images(y_true, attribute, rng, units=None):
    """Return every image, and the one whose attribute it gets: permuted within classes or pairs, unknown ones in place."""
    known, images = np.flatnonzero(attribute >= 0), np.arange(len(y_true))
    stratum = (y_true if units is None else exchange_strata(y_true, units))[known]
    source = images.copy()
    source[known[np.argsort(stratum, kind="stable")]] = known[np.lexsort((rng.random(known.size), stratum))]
    return images, source


def resampled_images(y_true, attribute, rng):
    """Return images drawn with replacement within each (class, group), or class if the attribute is fractional; twice."""
    group = np.where(np.isnan(attribute), -1, attribute)
    group = group if (group == np.floor(group)).all() else np.zeros(len(group))
    order, first, size = strata(y_true, group)
    images = order[first + (rng.random(len(size)) * size).astype(int)]
    return images, images


def strata(y_true, group):
    """Return the images sorted by (class, group); for each, where its stratum begins, and how large it is."""
    _, stratum, sizes = np.unique(y_true * (group.max() + 2) + group, return_inverse=True, return_counts=True)
    return np.argsort(stratum, kind="stable"), np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)


def collect(draw, n, seed, entries=CHUNK):
    """Return draw(size, generator) for n replicates, at most CHUNK table entries at a time: shape (n, ...)."""
    if n < 1:
        raise ValueError(f"n, the number of replicates, must be at least 1; it is {n}")
    rng, step = np.random.default_rng(seed), max(1, CHUNK // entries)
    return np.concatenate([draw(min(step, n - done), rng) for done in range(0, n, step)])


def table_replicates(metric, images, table, n, seed, options, *, permute, units=None):
    """Return the metric (n, ...) of `n` tables drawn like that of `images`, of which those with the same unit are a pair."""
    y_true, y_pred = images.labels
    of_cells = getattr(metric, "of_cells", None)
    if units is None:
        if of_cells and table.size > FULL:
            right, count = cells(table)
            table, evaluate = np.stack([count - right, right], axis=-1), _at_right(of_cells, options)
        else:
            evaluate = functools.partial(metric.of_tables, **options)
        draw = permuted_tables if permute else resampled_tables
        return collect(lambda size, rng: evaluate(draw(table, size, rng)), n, seed, table.size)
    values, kinds = (y_true == y_pred).astype(int), 2
    if not of_cells:
        values, kinds = y_pred, images.num_classes
    pairs = PairCounts(y_true, values, images.group, units, (images.groups, images.num_classes, kinds))
    right = WRONG_RIGHT if of_cells else np.eye(images.num_classes, dtype=bool)
    evaluate = _at_right(of_cells, options) if of_cells else functools.partial(metric.of_tables, **options)

    def draw_pairs(size, rng):
        tables, paired, both = paired_tables(pairs, size, rng, permute, right)
        if not metric.paired:
            return evaluate(tables)
        return evaluate(tables, covariance=covariance_of_counts(paired, both, tables - paired))

    return collect(draw_pairs, n, seed, 3 * pairs.alone.size)


def _at_right(of_cells, options):
    """Return the metric as a function of tables (..., G, K, 2) of images wrong and right."""
    return lambda table, **more: of_cells(table[..., 1], table.sum(-1), **options, **more)


def replicates_of(metric, y_true, y_pred, group, n, seed, options, *, permute, pair=None):
    """Return the metric at n draws: of tables, if it is a function of those, otherwise of images, with one call for each."""
    if hasattr(metric, "of_tables"):
        options = dict(options)
        images = Images(group, options.pop("num_classes", None), metric.groups, y_true=y_true, y_pred=y_pred)
        units = units_of(images.labels[0], images.group, pair)
        drawn = table_replicates(metric, images, images.table(), n, seed, options, permute=permute, units=units)
        return images.by_class(drawn) if drawn.ndim > 1 else drawn
    y_pred, group = as_array(y_pred), as_vector(group, "group")
    (y_true,), _ = check_labels(group, None, y_true=y_true)
    units = units_of(y_true, group, pair)
    takes_pair = units is not None and _takes_pair(metric)

    def draw(_, rng):
        ids = pair
        if permute:
            images, source = permuted_images(y_true, group, rng, units)
        elif units is None:
            images, source = resampled_images(y_true, group, rng)
        else:
            images, ids = resampled_pairs(y_true, group, units, rng)
            source = images
        more = {"pair": ids} if takes_pair else {}
        return np.asarray(metric(y_true[images], y_pred[images], group[source], **options, **more), dtype=float)[None]

    return collect(draw, n, seed)


def _takes_pair(metric):
    """Whether the metric itself has a parameter `pair`."""
    return "pair" in inspect.signature(metric).parameters


def quantiles(replicates, levels=(0.025, 0.975)) -> tuple[Any, Any]:
    """Return two quantiles along the first axis, passing over NaN; NaN where there is nothing else."""
    columns = replicates.reshape(len(replicates), -1)
    counted = ~np.isnan(columns).all(0)
    bounds = np.full((len(levels), columns.shape[1]), np.nan)
    bounds[:, counted] = np.nanquantile(columns[:, counted], levels, axis=0)
    low, high = (plain(bound.reshape(replicates.shape[1:])) for bound in bounds)
    return low, high


# ---- one model


def floor_of(value, replicates, tail):
    """Return the NoiseFloor of an observed value and its replicates under the null."""
    n = len(replicates)
    greater = 1 + (replicates >= np.subtract(value, TOLERANCE)).sum(0)
    less = 1 + (replicates <= np.add(value, TOLERANCE)).sum(0)
    extreme = {"greater": greater, "less": less, "two-sided": 2 * np.minimum(greater, less)}
    p_value = np.minimum(1, extreme[tail] / (1 + (~np.isnan(replicates)).sum(0)))
    p_value = plain(np.where(np.isnan(value), np.nan, p_value))
    return NoiseFloor(plain(mean_of(replicates, axis=0)), *quantiles(replicates), p_value, value, n)


def noise_floor(metric, y_true, y_pred, group, *, pair=None, n=2000, seed=0, **kw):
    """What the metric shows when predictions ignore the group.

    The group is permuted n times within each class: the exact null of predictions that, given the class, do not depend on it.
    Where images are paired it is exchanged within each pair, since the images of a pair are not independent: the exact null of
    predictions whose errors fall on both groups alike. The floor of a model blind to the group is then exactly 0, and p is 1.

    Parameters
    ----------
    metric : callable
        A function of this module, or any metric(y_true, y_pred, group, **kw) that is larger with more bias. Functions of tables
        of counts take about 0.1 s; all others are called n times.
    y_true, y_pred, group : arrays (N,)
        As the metric takes them. Unknown groups stay in place. For fractional_disparity, pass the share as `group`; for
        calibration_gap, the probabilities as `y_pred`.
    pair : array (N,), optional
        Which original each image shows: images of one class and id in several groups are a pair; with more than two groups the
        groups are permuted within it. Images without a partner are permuted among themselves within their class.
    n : int
        Permutations.
    seed : int
    **kw
        Options of the metric.

    Returns
    -------
    NoiseFloor
        The tuple (mean, low, high, p_value, value, n), of vectors where the metric is one: mean, 2.5 % and 97.5 % of the
        permuted values; `value` is the observed one. p_value = (1 + #{permuted ≥ observed}) / (1 + n), never 0; with ≤ for
        figures that are smaller with more bias; and for signed figures twice the smaller of both, at most 1. NaN is passed
        over, unless the observed value is NaN.

    References
    ----------
    Phipson and Smyth (2010), Permutation p-values should never be zero.
    """
    check_index(y_true=y_true, y_pred=y_pred, group=group, pair=pair)
    more = {"pair": pair} if pair is not None and _takes_pair(metric) else {}
    value = metric(y_true, y_pred, group, **kw, **more)
    replicates = replicates_of(metric, y_true, y_pred, group, n, seed, kw, permute=True, pair=pair)
    return floor_of(value, replicates, getattr(metric, "tail", "greater"))


def bootstrap(metric, y_true, y_pred, group, *, pair=None, n=2000, seed=0, **kw):
    """The metric's 95 % bootstrap interval.

    Images are drawn with replacement within each (class, group), so cells keep their sizes; where images are paired, pairs are
    drawn within each class. `low` and `high` are the 2.5 % and 97.5 % quantiles of the replicates after their mean is moved
    onto the value: those of |d| and d² lie too high, as they carry the noise twice. (An interval may then pass a metric's
    bounds a little.) MAD is biased upward and this is an interval for the biased figure: read it against its `noise_floor`.

    Cells with few images, or with all right or all wrong, vary too little when resampled: for d_k prefer
    `class_disparity_interval`. For mean_square_disparity this is `mean_square_disparity_interval`, without any draws.

    Parameters
    ----------
    metric, y_true, y_pred, group, pair, n, seed, **kw
        As in `noise_floor`; shares are drawn within each class.

    Returns
    -------
    Interval
        The tuple (value, low, high, n), of vectors where the metric is one.
    """
    check_index(y_true=y_true, y_pred=y_pred, group=group, pair=pair)
    if metric is mean_square_disparity:
        collect(lambda size, rng: np.zeros(size), n, seed)  # refuses the same n
        return Interval(*mean_square_disparity_interval(y_true, y_pred, group, pair=pair, **kw), n)
    more = {"pair": pair} if pair is not None and _takes_pair(metric) else {}
    value = metric(y_true, y_pred, group, **kw, **more)
    replicates = replicates_of(metric, y_true, y_pred, group, n, seed, kw, permute=False, pair=pair)
    return Interval(value, *quantiles(replicates - mean_of(replicates, axis=0) + value), n)
