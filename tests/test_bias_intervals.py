"""Score intervals of kdlib.bias: published examples, slow loops, coverage in small cells; the interval of U."""

import math

import numpy as np
import pytest
from bias_examples import STUDENT, G, Y, close, simulate_pairs
from scipy import stats

from kdlib import bias
from kdlib.bias import intervals


def cell_arrays(counts):
    """Labels, predictions, groups of one class with (right, images) in group 0 and group 1."""
    right = np.concatenate([np.arange(images) < hits for hits, images in counts])
    return np.zeros(len(right), int), np.where(right, 0, 1), np.repeat([0, 1], [images for _, images in counts])


def one_class(counts, **options):
    found = bias.class_disparity_interval(*cell_arrays(counts), **options)
    return found.value[0], found.low[0], found.high[0]


def test_wilson_equals_scipy():
    for right, images in ((0, 7), (3, 7), (7, 7), (56, 70)):
        expected = stats.binomtest(right, images).proportion_ci(0.9, "wilson")
        close(bias.wilson(right, images, 0.9), expected, 1e-9)
    assert np.isnan(bias.wilson(0, 0)).all()


def test_newcombes_published_intervals():
    """Newcombe (1998), table II, method 10."""
    close(one_class([(48, 80), (56, 70)]), [0.2, 0.0524, 0.3339], 5e-5)
    close(one_class([(3, 10), (9, 10)]), [0.6, 0.1705, 0.8090], 5e-5)


def test_interval_of_pairs_equals_a_slow_loop():
    rng = np.random.default_rng(0)
    y, p, g, pair = simulate_pairs(rng, classes=3, pairs=25, recall=0.7, disparity=0.2)
    keep = rng.random(len(y)) < 0.9  # some without a partner
    y, p, g, pair = (values[keep] for values in (y, p, g, pair))
    found = bias.class_disparity_interval(y, p, g, pair=pair, level=0.9)
    for k in range(3):
        hits = [{i: bool(p[j] == k) for j, i in enumerate(pair) if y[j] == k and g[j] == a} for a in (0, 1)]
        limits = [stats.binomtest(sum(h.values()), len(h)).proportion_ci(0.9, "wilson") for h in hits]
        recall = [np.mean(list(h.values())) for h in hits]
        both = [(hits[0][i], hits[1][i]) for i in hits[0] if i in hits[1]]
        a, b, c, d = (both.count(kind) for kind in ((True, True), (False, True), (True, False), (False, False)))
        product = a * d - b * c
        product = max(product - len(both) / 2, 0) if product > 0 else product
        phi = (
            product
            / math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
            * len(both)
            / math.sqrt(len(hits[0]) * len(hits[1]))
        )
        below, above = [recall[i] - limits[i].low for i in (0, 1)], [limits[i].high - recall[i] for i in (0, 1)]
        d_k = recall[1] - recall[0]
        low = d_k - math.sqrt(below[1] ** 2 - 2 * phi * below[1] * above[0] + above[0] ** 2)
        high = d_k + math.sqrt(above[1] ** 2 - 2 * phi * above[1] * below[0] + below[0] ** 2)
        close([found.value[k], found.low[k], found.high[k]], [d_k, low, high], 1e-9)
    apart = bias.class_disparity_interval(y, p, g, level=0.9)
    assert (found.high - found.low < apart.high - apart.low).all()


def test_intervals_stay_within_bounds_and_are_nan_in_small_cells():
    for counts in ([(5, 5), (5, 5)], [(0, 4), (4, 4)], [(1, 1), (0, 80)]):
        value, low, high = one_class(counts)
        assert -1 <= low < value + 1e-12
        assert value - 1e-12 < high <= 1
    close(one_class([(3, 4), (5, 7)], min_count=5), [np.nan] * 3)
    with pytest.raises(ValueError, match="level must be between"):
        one_class([(3, 4), (5, 7)], level=95)


@pytest.mark.parametrize(
    ("sizes", "recalls"),
    [
        ((30, 30), (0.95, 0.95)),
        ((30, 30), (0.95, 0.75)),
        ((4, 80), (0.9, 0.8)),
        ((80, 4), (0.7, 0.7)),
        ((5, 5), (0.7, 0.7)),
    ],
)
def test_coverage_in_small_cells(sizes, recalls):
    """Exact: the chance of all outcomes whose interval holds the true difference."""
    covered = 0.0
    weights = [stats.binom.pmf(np.arange(n + 1), n, recall) for n, recall in zip(sizes, recalls, strict=True)]
    for right_0, right_1 in np.ndindex(sizes[0] + 1, sizes[1] + 1):
        chance = weights[0][right_0] * weights[1][right_1]
        if chance > 1e-5:
            _, low, high = one_class([(right_0, sizes[0]), (right_1, sizes[1])])
            covered += chance * (low <= recalls[1] - recalls[0] + 1e-12 <= high + 2e-12)
    assert covered >= 0.93


# ---- U


def slow_limits(d, noise, noise_added, z):
    """The θ that solve |U − θ| = q·√(a + bθ), by bisection."""
    classes = len(d)
    square = [x**2 - v for x, v in zip(d, noise, strict=True)]
    u = sum(square) / classes
    weights = [max(s, 0) + v / 2 for s, v in zip(square, noise_added, strict=True)]
    weights = [w / sum(weights) for w in weights]

    def variance(theta):
        theta = max(theta, 0)
        per_class = [2 * v**2 + 4 * theta * classes * w * v for v, w in zip(noise_added, weights, strict=True)]
        return sum(per_class) / classes**2

    third = [8 * v**3 + 24 * max(u, 0) * classes * w * v**2 for v, w in zip(noise_added, weights, strict=True)]
    skew = sum(third) / classes**3 / variance(u) ** 1.5
    shift = skew * (z**2 - 1) / 6

    def solve(start, end, excess):
        for _ in range(100):
            middle = (start + end) / 2
            start, end = (middle, end) if excess(middle) > 0 else (start, middle)
        return middle

    upper_q = max(z - shift, 0.8 * z)
    low = solve(-5, u, lambda t: u - t - (z + shift) * math.sqrt(variance(t)))
    high = solve(u, 5, lambda t: upper_q * math.sqrt(variance(t)) - (t - u))
    return u, low, high


def test_us_interval_equals_a_slow_solution():
    rng = np.random.default_rng(1)
    for _ in range(20):
        sizes = rng.integers(4, 40, (2, 3))
        right = rng.binomial(sizes, rng.uniform(0.2, 1, (2, 3)))
        rows = [(k, k if i < right[a, k] else 3, a) for a in (0, 1) for k in range(3) for i in range(sizes[a, k])]
        y, p, g = np.array(rows).T
        recall, added = right / sizes, (right + 1) / (sizes + 2)
        noise, noise_added = ((share * (1 - share) / (sizes - 1)).sum(0) for share in (recall, added))
        expected = slow_limits(recall[1] - recall[0], noise, noise_added, stats.norm.ppf(0.95))
        close(bias.mean_square_disparity_interval(y, p, g, level=0.9), expected, 1e-6)
    assert bias.bootstrap(bias.mean_square_disparity, y, p, g, n=7)[:3] == bias.mean_square_disparity_interval(y, p, g)


def test_us_interval_of_pairs_equals_a_slow_solution():
    y, p, g, pair = simulate_pairs(np.random.default_rng(2), classes=3, pairs=12, recall=0.6, disparity=0.3)
    hits = (p == y).reshape(2, 3, 12).astype(float)
    difference = hits[1] - hits[0]
    noise = difference.var(1, ddof=1) / 12
    added = []
    for k in range(3):  # half an image in each of the four outcomes
        only = [((difference[k] == sign).sum() + 0.5) / 14 for sign in (1, -1)]
        added.append((sum(only) - (only[0] - only[1]) ** 2) / 11)
    expected = slow_limits(difference.mean(1), noise, added, stats.norm.ppf(0.975))
    close(bias.mean_square_disparity_interval(y, p, g, pair=pair), expected, 1e-6)


@pytest.mark.parametrize(
    ("recalls", "sizes"),
    [
        ((0.9, 0.5, 0.7), (8, 40)),
        ((0.8, 0.4, 0.8), (8, 60)),
        ((0.95, 0.65, 0.9), (8, 100)),
        ((0.7, 0.7, 0.7), (40, 40)),
    ],
)
def test_us_interval_covers_where_one_biased_class_has_small_cells(recalls, sizes):
    one, other, rest = recalls
    rng, covered, classes = np.random.default_rng(3), [], 5
    count = np.full((2, classes), sizes[1])
    count[:, 0] = sizes[0]
    truth = np.full((2, classes), rest)
    truth[:, 0] = one, other
    theta = ((truth[1] - truth[0]) ** 2).mean()
    for _ in range(600):
        right = rng.binomial(count, truth)
        square = np.square(np.diff(right / count, axis=0)[0])
        noise, added = ((p * (1 - p) / (count - 1)).sum(0) for p in (right / count, (right + 1) / (count + 2)))
        value = float((square - noise).mean())
        low, high = intervals._limits_of_u(value, square - noise, added, 1.959964)
        covered.append(low <= theta <= high)
    assert np.mean(covered) >= 0.93


def test_us_interval_where_nothing_is_known():
    assert np.isnan(bias.mean_square_disparity_interval(Y, STUDENT, np.zeros(16))).all()
    value, low, high = bias.mean_square_disparity_interval(Y, STUDENT, G)
    assert low < value < high


# ---- the worst group


def test_worst_group_by_hand():
    y, p, g = cell_arrays([(6, 10), (9, 10)])
    found = bias.worst_group_interval(y, p, g)
    close([found.value, found.gap, found.group], [0.6, 0.15, 0])
    close(found.low, stats.binomtest(6, 10).proportion_ci(0.95, "wilson").low)
    close(found.high, stats.binomtest(6, 10).proportion_ci(0.975, "wilson").high)
    assert bias.worst_group_accuracy(y, p, g) == 0.6
    assert math.isnan(bias.worst_group_interval(y, p, -np.ones(20)).value)


def test_the_interval_of_the_worst_group_covers():
    rng = np.random.default_rng(4)
    for recalls in ((0.8, 0.8), (0.8, 0.75, 0.9), (0.9, 0.6)):
        covered = []
        for _ in range(1000):
            right = rng.binomial(40, recalls)
            found = intervals.worst_of(right, np.full(len(recalls), 40))
            covered.append(found.low <= min(recalls) <= found.high)
        assert np.mean(covered) > 0.935
