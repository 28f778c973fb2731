"""Pairs in kdlib.bias: by hand, against enumeration of every exchange, by simulation, and where pairs are incomplete."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from bias_examples import any_callable, close, identifier, simulate, simulate_pairs

from kdlib import bias
from kdlib.bias import paired, uncertainty

# one class; eight originals in both groups: three right in both, three in group 1 alone, one in group 0 alone, one in none
RIGHT_0, RIGHT_1 = np.array([1, 1, 1, 0, 0, 0, 1, 0]), np.array([1, 1, 1, 1, 1, 1, 0, 0])


def arrays(*right):
    """Labels, predictions, groups and pair ids of originals of class 0, right where 1."""
    right = np.array(right)
    groups, originals = right.shape
    ids = np.tile(np.arange(originals), groups)
    return np.zeros(right.size, int), 1 - right.ravel(), np.repeat(np.arange(groups), originals), ids


def test_u_of_pairs_by_hand():
    y, p, g, pair = arrays(RIGHT_0, RIGHT_1)
    d, discordant = 2 / 8, 4 / 8
    expected = d**2 - (discordant - d**2) / 7  # 0, where d² doubled instead of squared would give −.00893
    close(bias.mean_square_disparity(y, p, g, pair=pair), expected, 1e-12)
    apart = d**2 - (4 / 8 * 4 / 8 + 6 / 8 * 2 / 8) / 7
    close(bias.mean_square_disparity(y, p, g), apart, 1e-12)
    y, p, g, pair = arrays(RIGHT_0, np.ones(8, int))  # .5 apart, discordant .5
    close(bias.mean_square_disparity(y, p, g, pair=pair), 0.25 - (0.5 - 0.25) / 7, 1e-12)


def test_u_is_unbiased_whatever_the_correlation_and_whoever_lacks_a_partner():
    """Exact: the mean over all outcomes of two pairs, an image of group 0 alone and two of group 1, equals δ²."""
    joint = {(1, 1): 0.5, (1, 0): 0.1, (0, 1): 0.3, (0, 0): 0.1}  # recalls .6 and .8, correlated
    total = 0.0
    for one, two in itertools.product(joint, repeat=2):
        for lone in itertools.product((0, 1), repeat=3):
            right = [*one, *two, *lone]
            chance = joint[one] * joint[two]
            for recall, hit in zip((0.6, 0.8, 0.8), lone, strict=True):
                chance *= recall if hit else 1 - recall
            value = bias.mean_square_disparity(
                [0] * 7, 1 - np.array(right), [0, 1, 0, 1, 0, 1, 1], pair=[5, 5, 6, 6, 7, 8, -1], num_classes=2
            )
            total += chance * value
    close(total, 0.2**2, 1e-12)


def test_a_model_blind_to_the_group_has_no_bias_at_all():
    rng = np.random.default_rng(0)
    y, p, g, pair = simulate_pairs(rng, classes=4, pairs=11, correlation=1.0)
    assert (p[:44] == y[:44]).tolist() == (p[44:] == y[44:]).tolist()
    p[44:] = p[:44]
    order = rng.permutation(88)
    y, p, g, pair = (values[order] for values in (y, p, g, pair))
    figures = bias.summary(y, p, g, pair=pair, n=50)
    zero = ("mad", "mad_floor", "mad_floor_low", "mad_floor_high", "u", "sqrt_u", "flip_rate", "flip_rate_low")
    assert [figures[name] for name in zero] == [0] * 8
    assert (figures["mad_p_value"], figures["paired"], figures["pairs"]) == (1, True, 44)
    compared = bias.compare(y, p, p, g, pair=pair, n=50)
    assert [compared[name] for name in ("sqrt_u_inflation", "inflation_low", "inflation", "churn")] == [0] * 4
    assert compared["sqrt_u_inflation_p_value"] == compared["inflation_p_value"] == 1
    weaker = bias.compare(y, p, np.where(pair % 3 == 0, (y + 1) % 4, p), g, pair=pair, n=50)  # as blind
    names = [f"sqrt_u_inflation{end}" for end in ("", "_low", "_high")] + ["inflation_low", "inflation_high"]
    assert [weaker[name] for name in names] == [0] * 5
    assert weaker["churn"] > 0.3
    for metric in (bias.mean_absolute_disparity, any_callable(bias.max_disparity)):
        assert bias.noise_floor(metric, y, p, g, pair=pair, n=20)[:5] == (0, 0, 0, 1, 0)
    low, high = bias.mean_square_disparity_interval(y, p, g, pair=pair)[1:]
    assert low < 0 < high


def exchanges(g, pair):
    """Every assignment of groups in which the groups of a pair change places."""
    blocks = [np.flatnonzero(pair == number) for number in np.unique(pair)]
    for orders in itertools.product(*(itertools.permutations(g[block]) for block in blocks)):
        drawn = g.copy()
        for block, order in zip(blocks, orders, strict=True):
            drawn[block] = order
        yield drawn


@pytest.mark.parametrize("metric", [bias.mean_absolute_disparity, bias.mean_disparity, bias.mean_square_disparity])
@pytest.mark.parametrize("slow", [False, True], ids=["tables", "images"])
def test_floor_of_pairs_equals_enumeration_of_all_exchanges(metric, slow):
    y, p, g, pair = arrays(RIGHT_0, RIGHT_1)
    y, g = np.where(pair < 4, 0, 1), g
    p = np.where(p == 0, y, 1 - y)
    more = {"pair": pair} if metric is bias.mean_square_disparity else {}
    values = np.array([metric(y, p, drawn, **more) for drawn in exchanges(g, pair)])
    assert len(values) == 2**8
    value = metric(y, p, g, **more)
    upper, lower = (values >= value - 1e-9).mean(), (values <= value + 1e-9).mean()
    if slow and more:
        return  # a metric that takes pairs itself is not hidden from them
    floor = bias.noise_floor(any_callable(metric) if slow else metric, y, p, g, pair=pair, n=800 if slow else 20000)
    close(floor.value, value, 1e-12)
    expected = upper if metric.tail == "greater" else min(1, 2 * min(upper, lower))
    close([floor.mean, floor.p_value], [values.mean(), expected], 0.045 if slow else 0.012)


@pytest.mark.parametrize("slow", [False, True], ids=["tables", "images"])
def test_floor_of_three_groups_equals_enumeration(slow):
    """Two originals in three groups, one in two of them, and two images without a partner, which change places."""
    g = np.array([0, 1, 2, 0, 1, 2, 0, 2, 0, 1])
    pair = np.array([3, 3, 3, 4, 4, 4, 5, 5, 6, 7])
    p = np.array([0, 0, 1, 1, 0, 0, 0, 1, 1, 0])
    y, block = np.zeros(10, int), np.array([3, 3, 3, 4, 4, 4, 5, 5, 6, 6])
    metric = bias.mean_absolute_disparity
    values = np.array([metric(y, p, drawn) for drawn in exchanges(g, block)])
    assert len(values) == 6 * 6 * 2 * 2
    floor = bias.noise_floor(any_callable(metric) if slow else metric, y, p, g, pair=pair, n=800 if slow else 20000)
    p_value = (values >= metric(y, p, g) - 1e-9).mean()
    close([floor.mean, floor.p_value], [values.mean(), p_value], 0.045 if slow else 0.012)


PAIRED_METRICS = (
    bias.class_disparity, bias.mean_absolute_disparity, bias.mean_square_disparity, bias.equalized_odds_difference,
    bias.bias_amplification_mals,
)  # fmt: skip


@pytest.mark.parametrize("permute", [True, False], ids=["permuted", "bootstrap"])
@pytest.mark.parametrize("metric", PAIRED_METRICS, ids=identifier)
def test_tables_of_pairs_resample_like_images(metric, permute):
    """Some originals lack a partner, some images a group; groups 0, 1 (and 2 where the metric takes it)."""
    rng = np.random.default_rng(3)
    y, p, g, pair = simulate_pairs(rng, classes=3, pairs=14, recall=0.6, disparity=0.2, correlation=0.7)
    if metric.groups is None:
        more = simulate_pairs(rng, classes=3, pairs=14, recall=0.6)
        y, p, g, pair = (
            np.append(a, b) for a, b in zip((y, p, g, pair), (more[0], more[1], more[2] * 2, more[3]), strict=True)
        )
    keep = rng.random(len(y)) < 0.85
    y, p, g, pair = (values[keep] for values in (y, p, g, pair))
    g = np.where(rng.random(len(g)) < 0.05, -1, g)
    takes_pair = metric if metric is bias.mean_square_disparity else None

    def slow_metric(*data, pair=None, **options):
        return takes_pair(*data, pair=pair, **options)

    slow_metric = slow_metric if takes_pair else any_callable(metric)
    fast, slow = (
        uncertainty.replicates_of(f, y, p, g, n, 1, {}, permute=permute, pair=pair)
        for f, n in ((metric, 1500), (slow_metric, 250))
    )
    error = np.sqrt(fast.var(0) / len(fast) + slow.var(0) / len(slow)) + 1e-12
    assert (np.abs(fast.mean(0) - slow.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(slow.std(0), fast.std(0), rtol=0.2, atol=1e-9)


def test_resampled_pairs_keep_the_sizes_of_cells():
    """Originals in groups 0 and 1, 0 and 2, or all three are drawn apart."""
    g, pair = np.array([0, 1, 0, 1, 0, 2, 0, 1, 2, 0, 1, 2]), np.array([1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5])
    y, right = np.zeros(12, int), np.arange(12) % 2
    pairs = paired.PairCounts(y, right, g, paired.units_of(y, g, pair), (3, 1, 2))
    drawn = pairs.tables(pairs.resampled(50, np.random.default_rng(0)))
    assert pairs.number == 5
    assert (drawn.sum(-1)[..., 0] == [5, 4, 3]).all()
    images, ids = paired.resampled_pairs(y, g, paired.units_of(y, g, pair), np.random.default_rng(0))
    assert np.bincount(g[images]).tolist() == [5, 4, 3]
    assert len(np.unique(ids)) == 5


def same(figures, others):
    """Whether two dicts of numbers are equal, NaN included."""
    return json.dumps(figures) == json.dumps(others)


def test_images_without_a_partner_are_treated_as_unpaired():
    y, p, g = simulate(np.random.default_rng(5), classes=3, per_cell=20)
    ids = np.arange(len(y))
    for pair in (ids, np.full(len(y), -1), np.where(g == 0, 7, 8), np.full(len(y), np.nan)):
        assert same(bias.summary(y, p, g, pair=pair, n=50), bias.summary(y, p, g, n=50))
        assert same(bias.compare(y, y, p, g, pair=pair, n=50), bias.compare(y, y, p, g, n=50))
    assert not bias.is_paired(ids, g)
    names = [f"original {number // 2}" for number in ids]  # each shown in group 0 and in group 1
    assert bias.is_paired(names, g)
    assert same(bias.summary(y, p, g, pair=names, n=50), bias.summary(y, p, g, pair=ids // 2, n=50))
    assert not bias.is_paired(names, np.where(g == 0, -1, 0))
    assert bias.summary(y, p, g, pair=pd.Series(names), n=5)["pairs"] == 60
    other_class = np.where(g == 0, y, (y + 1) % 3)  # originals whose two images differ in class are no pairs
    assert bias.summary(other_class, p, g, pair=ids // 2, n=5)["pairs"] == 0


def test_an_original_with_several_images_of_a_group_makes_several_pairs():
    y, g = np.zeros(7, int), np.array([0, 0, 0, 1, 1, 0, 1])
    pair = np.array([4, 4, 4, 4, 4, 9, 9])
    figures = bias.summary(y, [0, 0, 1, 0, 1, 0, 0], g, pair=pair, n=20, num_classes=2)
    assert figures["pairs"] == 3


def test_wrong_pairs_are_refused():
    y, p, g, pair = arrays(RIGHT_0, RIGHT_1)
    for call in (bias.summary, bias.flip_rate):
        with pytest.raises(ValueError, match="pair has 15 entries"):
            call(*((y, p, g) if call is bias.summary else (p, g)), pair=pair[1:])


# ---- flips


def test_flip_rate_by_hand():
    y, p, g, pair = arrays(RIGHT_0, RIGHT_1)
    rate = bias.flip_rate(p, g, pair)
    assert rate == 4 / 8
    assert rate.pairs == 8
    close([rate.low, rate.high], [0.21521, 0.78479], 1e-4)  # Wilson (1927): (n·p + z²/2 ± …)/(n + z²) at p = 1/2
    swapped = bias.flip_rate(p[::-1], 1 - g[::-1], pair[::-1])
    assert (swapped, swapped.low) == (rate, rate.low)
    y = np.where(pair < 3, 0, 1)
    by_class = bias.flip_rate(p, g, pair, y_true=y, num_classes=3).by_class
    close(by_class.value, [0, 4 / 5, np.nan])
    assert by_class.low[0] == 0
    assert bias.summary(y, p, g, pair=pair, n=5)["flip_rate"] == 4 / 8
    assert "flip_rate" not in bias.summary(y, p, g, n=5)
    assert math.isnan(bias.flip_rate(p, g, np.arange(16)))
    three = bias.flip_rate([0, 0, 1, 0, 0, 0], [0, 1, 2, 0, 1, 2], [1, 1, 1, 2, 2, 2])
    assert (three, three.pairs) == (0.5, 2)


# ---- a student beside its teacher


def test_comparison_resamples_pairs():
    rng = np.random.default_rng(6)
    y, teacher, g, pair = simulate_pairs(rng, classes=4, pairs=40, disparity=0.1)
    student = np.where((g == 1) & (rng.random(len(y)) < 0.15), (y + 1) % 4, teacher)

    def inflation(y, both, g, pair):
        def root(p):
            return bias.signed_root(bias.mean_square_disparity(y, p, g, pair=pair))

        return root(both % 4) - root(both // 4)

    figures = bias.compare(y, teacher, student, g, pair=pair, n=1000)
    expected = bias.bootstrap(inflation, y, 4 * teacher + student, g, pair=pair, n=40)
    close(figures["sqrt_u_inflation"], expected.value, 1e-9)
    close(figures["sqrt_u_student"], bias.signed_root(bias.mean_square_disparity(y, student, g, pair=pair)), 1e-12)
    apart = bias.compare(y, teacher, student, g, n=500)
    width, unpaired = (f["sqrt_u_inflation_high"] - f["sqrt_u_inflation_low"] for f in (figures, apart))
    assert width != unpaired
    assert figures["inflation"] == apart["inflation"]
    mad = bias.bootstrap(
        lambda y, both, g: bias.mean_absolute_disparity(y, both % 4, g) - bias.mean_absolute_disparity(y, both // 4, g),
        y, 4 * teacher + student, g, pair=pair, n=300,
    )  # fmt: skip
    close([figures["inflation_low"], figures["inflation_high"]], [mad.low, mad.high], 0.02)


def test_the_figures_of_root_u_come_first():
    y, p, g = simulate(np.random.default_rng(7), classes=3, per_cell=10)
    names = list(bias.compare(y, y, p, g, n=5))
    assert names.index("sqrt_u_inflation") < names.index("inflation")
    assert names[:3] == ["sqrt_u_teacher", "sqrt_u_student", "sqrt_u_inflation"]


# ---- simulation (in full, 1,000 data sets each: see the log)


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.8])
def test_pairs_keep_their_level_and_coverage_at_any_correlation(correlation):
    rng, rejected, covered, covered_u, u = np.random.default_rng(9), [], [], [], []
    for _ in range(120):
        y, p, g, pair = simulate_pairs(rng, classes=5, pairs=[31, 37, 40, 43, 48], recall=0.8, correlation=correlation)
        floor = bias.noise_floor(bias.mean_absolute_disparity, y, p, g, pair=pair, n=99, seed=rng)
        rejected.append(floor.p_value <= 0.05)
        low, high = bias.class_disparity_interval(y, p, g, pair=pair)[1:]
        covered.append((low <= 0) & (high >= 0))
        interval = bias.mean_square_disparity_interval(y, p, g, pair=pair)
        covered_u.append(interval.low <= 0 <= interval.high)
        u.append(interval.value)
    assert 0.005 < np.mean(rejected) < 0.1  # standard error .018
    assert 0.93 < np.mean(covered) < 0.99
    assert np.mean(covered_u) > 0.93
    assert abs(np.mean(u)) < 3.5 * np.std(u) / np.sqrt(120)


def test_exchange_within_pairs_finds_what_permutation_of_images_misses():
    rng, exchanged, permuted = np.random.default_rng(10), [], []
    for _ in range(60):
        y, p, g, pair = simulate_pairs(rng, classes=5, pairs=60, disparity=0.05, correlation=0.8)
        for found, more in ((exchanged, {"pair": pair}), (permuted, {})):
            floor = bias.noise_floor(bias.mean_absolute_disparity, y, p, g, n=99, seed=rng, **more)
            found.append(floor.p_value <= 0.05)
    assert np.mean(exchanged) > 0.3 + np.mean(permuted)
