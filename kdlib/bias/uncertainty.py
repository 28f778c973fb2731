"""How sure a bias figure is: its noise floor under permuted groups, its bootstrap interval, its spread over images and seeds.

Where a metric is a function of tables of counts, `noise_floor` and `bootstrap` draw tables instead of images, from the same
distribution; every other metric is called once for each draw. Draws come in chunks, so memory does not grow with n."""

import functools
from collections import namedtuple

import numpy as np

from kdlib.bias.stats import student_interval
from kdlib.bias.tables import as_array, as_vector, check_group, check_labels, mean_of, plain, table_of

CHUNK = 2**21  # table entries drawn at a time (16 MiB); fixed, since it decides the order of the draws
TOLERANCE = 1e-9  # replicates this close to the observed value tie with it

NoiseFloor = namedtuple("NoiseFloor", "mean low high p_value value n")
Interval = namedtuple("Interval", "value low high n")
Spread = namedtuple("Spread", "value seeds_std seeds_low seeds_high images_std images_low images_high seeds n")


# ---- draws


def permuted_tables(table, size, rng):
    """Tables with the group permuted within each class: a group's row is multivariate hypergeometric given the others'."""
    drawn = np.zeros((size, *table.shape), np.int64)
    for k, row in enumerate(table.sum(0)):
        seen = np.flatnonzero(row)
        if not seen.size:
            continue
        last, counts = len(table) - 1, table[:, k].sum(-1)
        ones = rng.multivariate_hypergeometric(row[seen], counts[last], size=size, method="marginals")
        drawn[:, last, k, seen], left = ones, row[seen] - ones
        for g in range(last - 1, 0, -1):
            ones = _hypergeometric(left, counts[g], rng)
            drawn[:, g, k, seen], left = ones, left - ones
        drawn[:, 0, k, seen] = left
    return drawn


def _hypergeometric(left, n, rng):
    """n images drawn without replacement from each row of `left` (size, M), which counts M kinds."""
    drawn, missing = np.zeros_like(left), np.full(len(left), n)
    for kind in range(left.shape[1]):
        others = left[:, kind + 1 :].sum(1)
        drawn[:, kind] = rng.hypergeometric(left[:, kind], others, missing)
        missing = missing - drawn[:, kind]
    return drawn


def resampled_tables(table, size, rng):
    """Tables of images drawn with replacement within each (group, class): every row is multinomial."""
    drawn = np.zeros((size, *table.shape), np.int64)
    for g, k in np.ndindex(table.shape[:2]):
        seen = np.flatnonzero(table[g, k])
        if seen.size:
            count = table[g, k, seen]
            drawn[:, g, k, seen] = rng.multinomial(count.sum(), count / count.sum(), size=size)
    return drawn


def permuted_images(y_true, attribute, rng):
    """Every image, and the one whose attribute it gets: permuted within classes, unknown ones staying in place."""
    known, images = np.flatnonzero(attribute >= 0), np.arange(len(y_true))
    source = images.copy()
    source[known[np.argsort(y_true[known], kind="stable")]] = known[np.lexsort((rng.random(known.size), y_true[known]))]
    return images, source


def resampled_images(y_true, attribute, rng):
    """Images drawn with replacement within each (class, group), or each class if the attribute is fractional; twice."""
    group = np.where(np.isnan(attribute), -1, attribute)
    group = group if (group == np.floor(group)).all() else np.zeros(len(group))
    order, first, size = _strata(y_true, group)
    images = order[first + (rng.random(len(size)) * size).astype(int)]
    return images, images


def _strata(y_true, group):
    """(order, first, size): the images sorted by (class, group); for each, where its stratum begins and how large it is."""
    _, stratum, sizes = np.unique(y_true * (group.max() + 2) + group, return_inverse=True, return_counts=True)
    return np.argsort(stratum, kind="stable"), np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)


def collect(draw, n, seed, entries=CHUNK):
    """draw(size, generator) for n replicates, at most CHUNK table entries at a time: shape (n, ...)."""
    if n < 1:
        raise ValueError(f"n, the number of replicates, must be at least 1; it is {n}")
    rng, step = np.random.default_rng(seed), max(1, CHUNK // entries)
    return np.concatenate([draw(min(step, n - done), rng) for done in range(0, n, step)])


def replicates_of(metric, y_true, y_pred, group, n, seed, options, draw_tables, draw_images):
    """The metric at n draws: of tables, if it is a function of those, otherwise of images, with one call for each."""
    if hasattr(metric, "of_tables"):
        options = dict(options)
        table = table_of(y_true, y_pred, group, options.pop("num_classes", None), metric.groups)
        at_tables = functools.partial(metric.of_tables, **options)
        return collect(lambda size, rng: at_tables(draw_tables(table, size, rng)), n, seed, table.size)
    y_pred, group = as_array(y_pred), as_vector(group, "group")
    (y_true,), _ = check_labels(group, None, y_true=y_true)

    def draw(_, rng):
        images, source = draw_images(y_true, group, rng)
        return np.asarray(metric(y_true[images], y_pred[images], group[source], **options), dtype=float)[None]

    return collect(draw, n, seed)


def quantiles(replicates, levels=(0.025, 0.975)):
    """Quantiles along the first axis, passing over NaN; NaN where there is nothing else."""
    columns = replicates.reshape(len(replicates), -1)
    counted = ~np.isnan(columns).all(0)
    bounds = np.full((len(levels), columns.shape[1]), np.nan)
    bounds[:, counted] = np.nanquantile(columns[:, counted], levels, axis=0)
    return [plain(bound.reshape(replicates.shape[1:])) for bound in bounds]


# ---- one model


def noise_floor(metric, y_true, y_pred, group, *, n=2000, seed=0, **kw):
    """What the metric shows when predictions ignore the group: the tuple (mean, low, high, p_value, value, n).

    The group is permuted within each class n times: the exact null of predictions that, given the class, do not depend
    on it. `mean`, `low`, `high` (2.5 % and 97.5 %) describe the permuted values, `value` is the observed one. p_value =
    (1 + #{permuted ≥ observed}) / (1 + n), never 0 (Phipson and Smyth 2010); with ≤ for worst_cell_accuracy; and for
    signed figures (class_disparity, mean_disparity, the gaps, fractional_disparity) twice the smaller of both, at most
    1. The fields are vectors where the metric is one. NaN is passed over, unless the observed value is NaN.

    `metric` is a function of this module, or any metric(y_true, y_pred, group, **kw) that is larger with more bias;
    `kw` goes to it. What counts predictions in groups draws tables from the exact distribution, in about 0.1 s; all
    else is called n times. Unknown groups stay in place. For fractional_disparity, pass the share as `group`; for
    calibration_gap, the probabilities as `y_pred`.
    """
    value = metric(y_true, y_pred, group, **kw)
    replicates = replicates_of(metric, y_true, y_pred, group, n, seed, kw, permuted_tables, permuted_images)
    greater = 1 + (replicates >= np.subtract(value, TOLERANCE)).sum(0)
    less = 1 + (replicates <= np.add(value, TOLERANCE)).sum(0)
    extreme = {"greater": greater, "less": less, "two-sided": 2 * np.minimum(greater, less)}
    p_value = np.minimum(1, extreme[getattr(metric, "tail", "greater")] / (1 + (~np.isnan(replicates)).sum(0)))
    p_value = plain(np.where(np.isnan(value), np.nan, p_value))
    return NoiseFloor(plain(mean_of(replicates, axis=0)), *quantiles(replicates), p_value, value, n)


def bootstrap(metric, y_true, y_pred, group, *, n=2000, seed=0, **kw):
    """The metric's 95 % bootstrap interval: the tuple (value, low, high, n), of vectors where the metric is one.

    Images are drawn with replacement within each (class, group), so cells keep their sizes. `low` and `high` are the
    2.5 % and 97.5 % quantiles of the replicates after their mean is moved onto the value: those of |d| and d² lie too
    high, as they carry the noise twice. (An interval may then pass a metric's bounds a little.) MAD is biased upward
    and this is an interval for the biased figure: read it against its `noise_floor`, or bootstrap the signed
    class_disparity and the unbiased mean_square_disparity.

    Replicates of U carry the noise twice in their spread as well, √3 times too much for a fair classifier. Its interval
    holds those values θ of the mean squared disparity from which the observed U is no farther than 95 % of the replicates
    are from their mean, in units of the replicates' standard deviation and of that which U has at θ, given by its cells.

    Cells with few images, or with all right or all wrong, vary too little when resampled. `metric` and `kw` are as in
    `noise_floor`; shares are drawn within each class.
    """
    value = metric(y_true, y_pred, group, **kw)
    replicates = replicates_of(metric, y_true, y_pred, group, n, seed, kw, resampled_tables, resampled_images)
    away = replicates - mean_of(replicates, axis=0)
    if hasattr(metric, "variance"):
        table = table_of(y_true, y_pred, group, kw.pop("num_classes", None), metric.groups)
        return Interval(value, *_from_variance(value, away, *metric.variance(table, **kw)), n)
    return Interval(value, *quantiles(away + value), n)


def _from_variance(value, away, at_zero, slope):
    """The θ between which |value − θ| / √(at_zero + slope·θ) is at most the 95 % quantile of the replicates' |away|."""
    spread = away.std()
    if not spread > TOLERANCE:  # nothing varies, or the value is NaN
        return value, value

    def solve(quantile):
        below = value - quantile * np.sqrt(at_zero)
        if below <= 0:  # θ = 0 is fair: below it the variance is that of a fair classifier
            return float(below)
        middle = value + quantile**2 * slope / 2
        return float(middle - np.sign(quantile) * np.sqrt(middle**2 - value**2 + quantile**2 * at_zero))

    farthest = np.quantile(np.abs(away) / spread, 0.95)
    return solve(farthest), solve(-farthest)


# ---- several models that differ in their seed


def sources_of_spread(metric, y_true, predictions, group, *, n=2000, seed=0, **kw):
    """A metric's mean over models that differ only in their seed, and its two sources of spread, which do not add to one:

    training, the images staying as they are: `seeds_std` is the standard deviation between the models, `seeds_low` and
    `seeds_high` Student's 95 % interval of their mean (NaN for one model);
    images, the models staying as they are: `images_std` is the standard deviation of the models' mean when images are
    drawn with replacement within each (class, group), the same for every model; `images_low` and `images_high` its 95 %
    interval, centred as in `bootstrap`.

    predictions: (S, N) class indices of S models. Returns the tuple Spread, with `value`, the number of models `seeds` and of
    draws `n`; its fields are vectors where the metric is one. Unknown groups are left out. ValueError as in the metric.
    """
    predictions = as_array(predictions)
    if predictions.ndim != 2 or not len(predictions):
        raise ValueError(f"predictions must be (models, images); their shape is {predictions.shape}")
    if kw.get("num_classes") is None and predictions.size and as_array(y_true).size:  # one number for all models
        kw = kw | {"num_classes": int(max(as_array(y_true).max(), predictions.max())) + 1}
    values = np.array([metric(y_true, predicted, group, **kw) for predicted in predictions])
    group, groups = check_group(group, getattr(metric, "groups", None))
    known = group >= 0
    y_true, predictions = (as_array(labels).astype(np.int64)[..., known] for labels in (y_true, predictions))
    group = group[known]
    fields = values.std(axis=0, ddof=1) if len(values) > 1 else values[0] * np.nan, *student_interval(values)
    if not known.any():
        return Spread(plain(values.mean(0)), *map(plain, (*fields, *[values[0] * np.nan] * 3)), len(values), n)
    classes = kw.get("num_classes") or int(max(y_true.max(), predictions.max())) + 1
    options = {name: value for name, value in kw.items() if name != "num_classes"}
    order, first, size = _strata(y_true, group)

    def draw(count, rng):
        images = order[first + (rng.random((count, len(size))) * size).astype(int)]
        if not hasattr(metric, "of_tables"):
            every = [[metric(y_true[i], predicted[i], group[i], **kw) for predicted in predictions] for i in images]
            return np.mean(every, axis=1)
        shape = count, groups, classes, classes
        cell = np.ravel_multi_index((np.arange(count)[:, None], group[order], y_true[order], 0), shape)
        flat = ((cell + predicted[images]).ravel() for predicted in predictions)  # cells keep their images' places
        tables = (np.bincount(places, minlength=np.prod(shape)).reshape(shape) for places in flat)
        return np.mean([metric.of_tables(table, **options) for table in tables], axis=0)

    entries = max(len(y_true), groups * classes**2) if hasattr(metric, "of_tables") else CHUNK
    drawn = collect(draw, n, seed, entries)
    images = drawn.std(axis=0, ddof=1), *quantiles(drawn - mean_of(drawn, axis=0) + values.mean(0))
    return Spread(plain(values.mean(0)), *map(plain, (*fields, *images)), len(values), n)
