"""Intervals without resampling that hold in small cells: of d_k, of U, of the worst group's accuracy, and of the flip rate."""

from collections import namedtuple
from statistics import NormalDist

import numpy as np

from kdlib.bias.metrics import WRONG_RIGHT, variance_of_gap
from kdlib.bias.paired import PairCounts, covariance, pair_units, units_of
from kdlib.bias.tables import TINY, Images, as_vector, cells, check_index, gap, mean_of, rate

ScoreInterval = namedtuple("ScoreInterval", "value low high")
WorstGroup = namedtuple("WorstGroup", "value low high gap group")
SHARE_OF_NOISE = 0.5  # see mean_square_disparity_interval
LEAST_QUANTILE = 0.8  # of the normal quantile, for U's upper limit


def wilson(part, whole, level=0.95):
    """Return Wilson's score interval (low, high) of the shares part / whole; NaN where `whole` is 0.

    References
    ----------
    Wilson (1927), Probable inference, the law of succession, and statistical inference.
    """
    z = normal_quantile(level)
    share, n = rate(part, whole, TINY), np.where(whole > 0, whole, 1)
    centre, spread = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (np.clip(end / (1 + z**2 / n), 0, 1) for end in (centre - spread, centre + spread))
    return low, high


def normal_quantile(level):
    """Return the z that a standard normal exceeds in size with probability 1 − level."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; it is {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def _paired_counts(images, pair):
    """Return (right in both, right (2, K), pairs (K,)) of the pairs, or None without any."""
    y_true, y_pred = images.labels
    units = units_of(y_true, images.group, pair)
    if units is None:
        return None
    pairs = PairCounts(y_true, (y_true == y_pred).astype(int), images.group, units, (2, images.num_classes, 2))
    table = pairs.tables(pairs.counts)
    return pairs.both(pairs.counts, WRONG_RIGHT), table[..., 1], table[0].sum(-1)


def class_disparity_interval(y_true, y_pred, group, *, pair=None, level=0.95, num_classes=None, min_count=1):
    """Score interval of d_k = R_k(1) − R_k(0), per class: Newcombe's hybrid of Wilson intervals, paired where pairs are given.

    With Wilson's (l_g, u_g) for each recall R_g, the limits are

        d − √((R₁ − l₁)² − 2φ(R₁ − l₁)(u₀ − R₀) + (u₀ − R₀)²)   and   d + √((u₁ − R₁)² − 2φ(u₁ − R₁)(R₀ − l₀) + (R₀ − l₀)²),

    where φ is 0 without pairs, and for pairs their correlation with Newcombe's continuity correction (method 10), without which
    coverage falls to .89 in cells of 8; with it, it is .95 to 1. Where only m
    of a class's n₁ and n₀ images are paired, φ is multiplied by m / √(n₁·n₀).

    Parameters
    ----------
    y_true, y_pred, group : arrays (N,)
        Class indices, and groups 0 and 1, −1 where unknown, as in `class_disparity`.
    pair : array (N,), optional
        Which original each image shows.
    level : float
        Coverage. At .95 it is .93 to .99 for recalls from .5 to .95 in cells of 30 and 30, of 4 and 80, and of 5 and 5, where
        percentile intervals have .7 to .8.
    num_classes, min_count : int
        As in `class_disparity`.

    Returns
    -------
    ScoreInterval
        The tuple (value, low, high) of arrays (K,), NaN where a cell is too small.

    References
    ----------
    Newcombe (1998), Interval estimation for the difference between independent proportions. Newcombe (1998), Improved
    confidence intervals for the difference between binomial proportions based on paired data.
    """
    check_index(y_true=y_true, group=group, pair=pair)
    images = Images(group, num_classes, 2, y_true=y_true, y_pred=y_pred)
    right, count = cells(images.table())
    recall = rate(right, count, min_count)
    low, high = wilson(right, count, level)
    below, above, correlation = recall - low, high - recall, 0.0
    counted = _paired_counts(images, pair)
    if counted is not None:
        both, paired_right, pairs = counted
        only_1, only_0 = paired_right[1] - both, paired_right[0] - both
        product = both * (pairs - both - only_1 - only_0) - only_1 * only_0
        product = np.where(product > 0, np.maximum(product - pairs / 2, 0), product)
        margins = np.sqrt(np.prod(paired_right * (pairs - paired_right), axis=0, dtype=float))
        share = rate(pairs, np.sqrt(count.prod(0)), TINY)
        correlation = np.nan_to_num(rate(product, margins, TINY) * share)
    lower = below[1] ** 2 - 2 * correlation * below[1] * above[0] + above[0] ** 2
    upper = above[1] ** 2 - 2 * correlation * above[1] * below[0] + below[0] ** 2
    value = recall[1] - recall[0]
    limits = value, value - np.sqrt(lower.clip(min=0)), value + np.sqrt(upper.clip(min=0))
    return ScoreInterval(*map(images.by_class, limits))


def mean_square_disparity_interval(
    y_true, y_pred, group, *, pair=None, level=0.95, num_classes=None, min_count=1
) -> ScoreInterval:
    """Interval of the mean squared disparity θ = mean δ_k², from its unbiased estimate U: see `mean_square_disparity`.

    For d_k normal with mean δ_k and variance v_k, U has variance a + b·θ with a = 2·Σ v_k² / K² and b = 4·Σ w_k·v_k / K, where
    w_k is class k's share of Σ δ_k². The limits solve |U − θ| = q·√(a + b·θ) for θ; below θ = 0 the variance is a. Since U is
    skewed by γ = (8·Σ v_k³ + 24·Σ δ_k²·v_k²) / (K³·(a + b·θ)^1.5), q is z + γ(z² − 1)/6 for the lower limit and z − γ(z² −
    1)/6, at least .8·z, for the upper one (Cornish and Fisher's first term).

    Small cells make this hold only with two precautions. v_k comes from cells with one image right and one wrong added, so that
    it is not 0 where all are right; and w_k ∝ max(d_k² − v_k, 0) + v_k/2, since a bias in a small cell is easily missed.

    Parameters
    ----------
    y_true, y_pred, group, pair, level, num_classes, min_count
        As in `class_disparity_interval`. Coverage at .95 is .94 to .99, also where the one biased class has cells of 8.

    Returns
    -------
    ScoreInterval
        The tuple (value, low, high): U and the limits. `low` may be negative; below 0 the interval holds θ = 0, a fair model.

    References
    ----------
    Cornish and Fisher (1937), Moments and cumulants in the specification of distributions.
    """
    check_index(y_true=y_true, group=group, pair=pair)
    images = Images(group, num_classes, 2, y_true=y_true, y_pred=y_pred)
    right, count = cells(images.table())
    counted = _paired_counts(images, pair)
    shared = added_shared = 0.0
    if counted is not None:
        both, paired_right, pairs = counted
        shared = covariance(paired_right, pairs, both, count)
        excess = (both + 0.5) / (pairs + 2) - np.prod((paired_right + 1) / (pairs + 2), axis=0)
        added_shared = np.nan_to_num(rate(excess * pairs**2, (pairs - 1) * count.prod(0), TINY))
    square = gap(right, count, min_count) ** 2 - variance_of_gap(right, count, min_count, shared)
    value = float(mean_of(square))
    counts = ~np.isnan(square)
    if not counts.any():
        return ScoreInterval(np.nan, np.nan, np.nan)
    added = (right + 1) / (count + 2)
    noise = (rate(added * (1 - added), count - 1).sum(-2) - 2 * added_shared)[counts].clip(min=0)
    return ScoreInterval(value, *_limits_of_u(value, square[counts], noise, normal_quantile(level)))


def _limits_of_u(value, square, noise, z):
    """Return the limits of θ: see `mean_square_disparity_interval`; square and noise (K,) are d_k² − v_k and v_k."""
    classes, weight = len(noise), square.clip(min=0) + SHARE_OF_NOISE * noise
    weight = weight / weight.sum() if weight.sum() > 0 else np.full(classes, 1 / classes)
    at_zero, slope = 2 * (noise**2).sum() / classes**2, 4 * (weight * noise).sum() / classes
    at_least = max(value, 0.0)
    variance = at_zero + slope * at_least
    if not variance > 0:
        return value, value
    third = 8 * (noise**3).sum() + 24 * (at_least * classes * weight * noise**2).sum()
    shift = third / classes**3 / variance**1.5 * (z**2 - 1) / 6

    def solve(quantile):
        below = value - quantile * np.sqrt(at_zero)
        if below <= 0:  # θ = 0 is fair: below it the variance is that of a fair classifier
            return float(below)
        middle = value + quantile**2 * slope / 2
        return float(middle - np.sign(quantile) * np.sqrt(middle**2 - value**2 + quantile**2 * at_zero))

    return solve(z + shift), solve(-max(z - shift, LEAST_QUANTILE * z))


def worst_group_interval(y_true, y_pred, group, *, level=0.95, num_classes=None):
    """Interval of the accuracy of the group that is recognised worst, and its gap to the accuracy of all.

    The limits are the smallest lower and the smallest upper limit of Wilson's intervals of every group. The upper ones have
    level 1 − (1 − level)/G, as any of G groups may seem the worst by chance: the interval is a little wide, never too narrow.

    Parameters
    ----------
    y_true, y_pred, group : arrays (N,)
        As in `class_disparity`; any number of groups.
    level : float
    num_classes : int, optional

    Returns
    -------
    WorstGroup
        The tuple (value, low, high, gap, group): `gap` is the accuracy of all images of known group minus `value`; `group` is
        the group's number, −1 where no group is known.

    References
    ----------
    Sagawa et al. (2020), Distributionally robust neural networks for group shifts; Wilson (1927), as in `wilson`.
    """
    images = Images(group, num_classes, y_true=y_true, y_pred=y_pred)
    right, count = cells(images.table())
    return worst_of(right.sum(-1), count.sum(-1), level)


def worst_of(right, count, level=0.95):
    """Return the WorstGroup of images right and images per group (G,)."""
    groups = np.flatnonzero(count)
    if not groups.size:
        return WorstGroup(np.nan, np.nan, np.nan, np.nan, -1)
    right, count = right[groups], count[groups]
    accuracy = right / count
    low, _ = wilson(right, count, level)
    _, high = wilson(right, count, 1 - (1 - level) / len(groups))
    worst = float(accuracy.min())
    return WorstGroup(
        worst,
        float(low.min()),
        float(high.min()),
        float(right.sum() / count.sum()) - worst,
        int(groups[accuracy.argmin()]),
    )


class FlipRate(float):
    """A flip rate, which is a number, with Wilson's interval `low`, `high`, the count of `pairs`, and `by_class`."""

    value = property(float)
    low: float
    high: float
    pairs: int
    by_class: ScoreInterval | None

    def __new__(cls, flipped, pairs, by_class, level):
        rate_of_all = super().__new__(cls, rate(flipped, pairs, TINY))
        rate_of_all.low, rate_of_all.high = map(float, wilson(flipped, pairs, level))
        rate_of_all.pairs, rate_of_all.by_class = int(pairs), by_class
        return rate_of_all


def flip_rate(y_pred, group, pair, *, y_true=None, num_classes=None, level=0.95):
    """Share of pairs whose predicted class changes with the group, whatever the truth.

    A model blind to the group has 0. With more than two groups a pair flips if any two of its images are predicted differently.

    Parameters
    ----------
    y_pred : array (N,)
        Predicted class indices.
    group : array (N,)
        Group of each image, −1 where unknown: such images are left out.
    pair : array (N,)
        Which original each image shows; images without a partner are left out.
    y_true : array (N,), optional
        Class indices; then `by_class` has the rate of each class, and only images of one class are a pair.
    num_classes : int, optional
    level : float

    Returns
    -------
    FlipRate
        A float, NaN without pairs, with `low` and `high` (Wilson's interval), `pairs` (their number) and `by_class`: None, or
        the tuple (value, low, high) of arrays (K,).

    Examples
    --------
    >>> rate = flip_rate([0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1], [7, 8, 9, 7, 8, 9])
    >>> round(rate, 3), rate.pairs
    (0.333, 3)
    """
    check_index(y_pred=y_pred, group=group, pair=pair)
    same_class = np.zeros(len(as_vector(y_pred, "y_pred")), int)
    images = Images(group, num_classes, y_pred=y_pred, y_true=same_class if y_true is None else y_true)
    y_pred, labels = images.labels
    units = pair_units(same_class if y_true is None else labels, images.group, pair)
    flips, classes = flipped_pairs(units, y_pred, labels)
    by_class = None
    if y_true is not None:
        pairs = np.bincount(classes, minlength=images.num_classes)
        flipped = np.bincount(classes[flips], minlength=images.num_classes)
        limits = rate(flipped, pairs), *wilson(flipped, pairs, level)
        by_class = ScoreInterval(*map(images.by_class, limits))
    return FlipRate(flips.sum(), len(flips), by_class, level)


def flipped_pairs(units, y_pred, y_true):
    """Return which pairs have images that are predicted differently, and the class of each pair."""
    paired = units >= 0
    units, y_pred = units[paired], y_pred[paired]
    number = int(units.max(initial=-1)) + 1
    least, most, classes = np.full(number, np.iinfo(int).max), np.full(number, -1), np.zeros(number, int)
    np.minimum.at(least, units, y_pred)
    np.maximum.at(most, units, y_pred)
    classes[units] = y_true[paired]
    return least != most, classes
