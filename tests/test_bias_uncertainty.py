"""Noise floors and intervals of kdlib.bias against enumeration, explicit resampling of images, and simulation."""

import itertools
import tracemalloc

import numpy as np
import pytest
from bias_examples import (
    MANY_GROUPS,
    STUDENT,
    TABLE_METRICS,
    TEACHER,
    G,
    Y,
    any_callable,
    close,
    identifier,
    simulate,
)
from scipy import stats

from kdlib import bias
from kdlib.bias import uncertainty

# ---- noise floor


def test_null_tables_are_hypergeometric():
    table = np.array([[[3, 2, 0]], [[1, 1, 1]]])  # one class: 4, 3 and 1 predicted 0, 1 and 2; three images in group 1
    drawn = uncertainty.permuted_tables(table, 20000, np.random.default_rng(0))
    assert (drawn.sum(1) == table.sum(0)).all()
    assert (drawn.sum(-1) == table.sum(-1)).all()
    rows, counts = np.unique(drawn[:, 1, 0], axis=0, return_counts=True)
    expected = stats.multivariate_hypergeom.pmf(rows, m=[4, 3, 1], n=3) * 20000
    close(expected.sum(), 20000)  # every possible row was seen
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_null_tables_of_three_groups_keep_their_margins_and_are_hypergeometric():
    table = np.array([[[2, 1, 0]], [[1, 1, 1]], [[1, 0, 1]]])
    drawn = uncertainty.permuted_tables(table, 20000, np.random.default_rng(0))
    assert (drawn.sum(1) == table.sum(0)).all()
    assert (drawn.sum(-1) == table.sum(-1)).all()
    for g in range(3):
        rows, counts = np.unique(drawn[:, g, 0], axis=0, return_counts=True)
        expected = stats.multivariate_hypergeom.pmf(rows, m=[4, 2, 2], n=table[g].sum()) * 20000
        close(expected.sum(), 20000)
        assert stats.chisquare(counts, expected).pvalue > 0.001


def test_signed_disparity_is_zero_on_average_under_the_null():
    y, p, g = simulate(np.random.default_rng(20), per_cell=30, disparity=0.2)
    floor = bias.noise_floor(bias.class_disparity, y, p, g, n=4000)
    error = (floor.high - floor.low) / 4 / np.sqrt(4000)
    assert (np.abs(floor.mean) < 4 * error).all()
    close(floor.low, -floor.high, 2.01 / 30)  # but for a pair of images


@pytest.mark.parametrize("metric", [bias.mean_absolute_disparity, bias.mean_disparity, bias.worst_cell_accuracy])
def test_noise_floor_equals_enumeration_of_all_permutations(metric):
    blocks = [set(itertools.permutations(block)) for block in np.split(G, [6, 12])]
    values = np.array([metric(Y, STUDENT, np.concatenate(groups)) for groups in itertools.product(*blocks)])
    assert len(values) == 15 * 15 * 4
    value = metric(Y, STUDENT, G)
    upper, lower = (values >= value - 1e-9).mean(), (values <= value + 1e-9).mean()
    p_value = {"greater": upper, "less": lower, "two-sided": min(1, 2 * min(upper, lower))}[metric.tail]
    floor = bias.noise_floor(metric, Y, STUDENT, G, n=20000)
    close([floor.mean, floor.p_value], [values.mean(), p_value], 0.01)
    close([floor.low, floor.high], np.quantile(values, [0.025, 0.975]), 0.01)


def assert_same_distribution(resample, metric, arrays, options=None):
    """Tables and images resampled give the same mean, within 4 standard errors, and the same spread."""
    y, p, g = arrays
    fast, slow = (
        uncertainty.replicates_of(f, y, p, g, n, 1, dict(options or {}), permute=resample == 0)
        for f, n in ((metric, 1000), (any_callable(metric), 100))
    )
    assert fast.shape[1:] == slow.shape[1:]
    error = np.sqrt(fast.var(0) / len(fast) + slow.var(0) / len(slow)) + 1e-12
    assert (np.abs(fast.mean(0) - slow.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(slow.std(0), fast.std(0), rtol=0.4, atol=1e-9)


@pytest.mark.parametrize("resample", [0, 1], ids=["permuted", "bootstrap"])
@pytest.mark.parametrize("metric", TABLE_METRICS, ids=identifier)
def test_tables_resample_like_images(metric, resample):
    rng = np.random.default_rng(3)
    y, p, g = simulate(rng, classes=3, per_cell=12, disparity=0.2)
    keep = (rng.random(len(y)) < 0.8) | (g == 0)
    y, p, g = y[keep], p[keep], np.where(rng.random(keep.sum()) < 0.1, -1, g[keep])
    assert_same_distribution(resample, metric, (y, p, g))


@pytest.mark.parametrize("resample", [0, 1], ids=["permuted", "bootstrap"])
@pytest.mark.parametrize("metric", MANY_GROUPS, ids=identifier)
def test_tables_of_many_groups_resample_like_images(metric, resample):
    rng = np.random.default_rng(16)
    y, p, g = simulate(rng, classes=3, per_cell=12, recall=0.6, disparity=0.1, groups=4)
    keep = (rng.random(len(y)) < 0.8) | (g < 3)
    y, p, g = y[keep], p[keep], np.where(rng.random(keep.sum()) < 0.1, -1, g[keep])
    assert_same_distribution(resample, metric, (y, p, g))


@pytest.mark.parametrize("resample", [0, 1], ids=["permuted", "bootstrap"])
def test_options_reach_the_metric_when_resampled(resample):
    arrays = simulate(np.random.default_rng(4), classes=3, per_cell=10)
    options = {"per_class": True, "num_classes": 4, "min_count": 2}
    y, p, g = arrays
    floor = (bias.noise_floor, bias.bootstrap)[resample](bias.equalized_odds_difference, y, p, g, n=100, **options)
    assert floor.low.shape == (4,)
    assert np.isnan(floor.low[3])
    assert not np.isnan(floor.low[:3]).any()


def test_p_values_of_a_fair_classifier_are_uniform():
    rng = np.random.default_rng(6)
    p_values = {bias.mean_absolute_disparity: [], bias.weighted_disparity: [], bias.accuracy_gap: []}
    for _ in range(120):
        y, p, g = simulate(rng, per_cell=30)
        keep = (rng.random(len(y)) < 0.6) | (g == 0) | (y > 2)  # a mix of classes that differs between the groups
        for metric, found in p_values.items():
            found.append(bias.noise_floor(metric, y[keep], p[keep], g[keep], n=99, seed=rng).p_value)
    *continuous, discrete = p_values.values()
    for found in continuous:
        assert stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.1 < np.mean(np.array(discrete) <= 0.2) < 0.28  # ties count on both sides, so it errs on the safe side


def test_p_value_finds_a_biased_classifier_on_either_side():
    y, p, g = simulate(np.random.default_rng(7), disparity=0.3)
    for metric in (bias.mean_absolute_disparity, bias.mean_disparity, bias.worst_cell_accuracy, bias.accuracy_gap):
        assert bias.noise_floor(metric, y, p, g, n=999).p_value <= 0.002
    assert bias.noise_floor(bias.mean_disparity, y, p, 1 - g, n=999).p_value == 0.002
    assert bias.noise_floor(bias.mean_absolute_disparity, y, p, g, n=999).p_value == 0.001
    assert (bias.noise_floor(bias.class_disparity, y, p, g, n=999).p_value < 0.05).sum() >= 3


def test_floor_of_a_fair_classifier_on_cells_as_unequal_as_in_practice():
    """16 classes of 3,453 images in cells of 11 to 540: a classifier that ignores the group shows MAD .0685 ± .0138."""
    ones = [540, 176, 154, 68, 148, 52, 11, 153, 153, 26, 166, 24, 98, 141, 128, 134]
    zeros = [126, 123, 117, 56, 228, 22, 39, 48, 40, 147, 32, 35, 31, 57, 91, 89]
    sizes = np.stack([zeros, ones])
    right = np.random.default_rng(0).binomial(sizes, 0.65, size=(4000, 2, 16))
    table = np.zeros((4000, 2, 16, 16), int)
    table[..., range(16), range(16)] = right
    table[..., range(16), (np.arange(16) + 1) % 16] = sizes - right
    mad = bias.mean_absolute_disparity.of_tables(table)
    close([mad.mean(), mad.std()], [0.0685, 0.0138], 0.0005)
    close(np.quantile(mad, [0.025, 0.975]), [0.043, 0.098], 0.002)
    one = table[0]
    g, y, p = (np.repeat(index, one.ravel()) for index in np.indices(one.shape).reshape(3, -1))
    floor = bias.noise_floor(bias.mean_absolute_disparity, y, p, g)
    close([floor.mean, floor.low, floor.high], [0.0685, 0.043, 0.098], 0.006)


def test_noise_floor_of_shares():
    """Permuting shares within a class: mean 0; a share that decides the prediction is found."""
    rng = np.random.default_rng(8)
    y, share = np.repeat([0, 1], 100), rng.random(200)
    p = np.where((y == 1) & (share > 0.8), 0, y)
    share[::10] = np.nan
    floor = bias.noise_floor(bias.fractional_disparity, y, p, share, n=300)
    close(floor.mean, [0, 0], 0.02)
    assert floor.p_value[1] < 0.02
    assert floor.p_value[0] == 1
    interval = bias.bootstrap(bias.fractional_disparity, y, p, share, n=300)
    assert interval.low[1] < interval.value[1] < interval.high[1] < 0


# ---- bootstrap


def test_intervals_of_signed_disparity_cover_the_truth():
    rng = np.random.default_rng(9)
    covered = []
    for _ in range(100):
        y, p, g = simulate(rng, per_cell=60, disparity=0.2)
        interval = bias.bootstrap(bias.class_disparity, y, p, g, n=300, seed=rng)
        covered.append((interval.low <= 0.2) & (interval.high >= 0.2))
    assert 0.92 < np.mean(covered) < 0.97


@pytest.mark.parametrize("metric", [bias.mean_disparity, bias.accuracy_gap, bias.macro_recall_gap], ids=identifier)
def test_intervals_of_signed_means_cover_the_truth(metric):
    rng = np.random.default_rng(19)
    covered = []
    for _ in range(150):
        y, p, g = simulate(rng, per_cell=40, disparity=0.1)
        interval = bias.bootstrap(metric, y, p, g, n=200, seed=rng)
        covered.append(interval.low <= 0.1 <= interval.high)
    assert 0.9 < np.mean(covered) < 0.99  # the standard error of the coverage is .018


def test_u_is_unbiased_and_its_intervals_cover_the_truth():
    rng = np.random.default_rng(10)
    for disparity in (0, 0.1, 0.3):
        u, mad, covered = [], [], []
        for _ in range(200):
            y, p, g = simulate(rng, disparity=disparity)
            interval = bias.bootstrap(bias.mean_square_disparity, y, p, g, n=200, seed=rng)
            u.append(interval.value)
            covered.append(interval.low <= disparity**2 <= interval.high)
            mad.append(bias.mean_absolute_disparity(y, p, g))
        assert abs(np.mean(u) - disparity**2) < 3.5 * np.std(u) / np.sqrt(200)
        assert 0.92 < np.mean(covered) < 0.985
        if disparity < 0.3:
            assert np.mean(mad) > disparity + 0.01, "MAD is biased upward"


def test_interval_of_an_upward_biased_figure_surrounds_it():
    y, p, g = simulate(np.random.default_rng(11), classes=20, per_cell=20)
    interval = bias.bootstrap(bias.mean_absolute_disparity, y, p, g)
    assert interval.low < interval.value < interval.high
    plain = uncertainty.replicates_of(bias.mean_absolute_disparity, y, p, g, 2000, 0, {}, permute=False)
    assert np.quantile(plain, 0.025) > interval.low + 0.01
    close(interval.high - interval.low, np.ptp(np.quantile(plain, [0.025, 0.975])))


# ---- determinism, memory


def test_same_seed_same_figures():
    for metric in (bias.mean_absolute_disparity, any_callable(bias.mean_absolute_disparity)):
        for resample in (bias.noise_floor, bias.bootstrap):
            first, again, other = (resample(metric, Y, STUDENT, G, n=50, seed=seed) for seed in (1, 1, 2))
            assert first == again
            assert first != other
    first, again, other = (bias.compare(Y, TEACHER, STUDENT, G, n=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_replicates_come_in_chunks_of_bounded_memory(monkeypatch):
    y, p, g = simulate(np.random.default_rng(12), classes=100, per_cell=5)
    tracemalloc.start()
    bias.noise_floor(bias.equalized_odds_difference, y, p, g, n=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # the 300 tables themselves would take 48 MB, and their sums as much again at a time

    draw = uncertainty.permuted_tables
    sizes = []

    def spy(table, size, rng):
        sizes.append(size)
        return draw(table, size, rng)

    monkeypatch.setattr(uncertainty, "permuted_tables", spy)
    whole = bias.noise_floor(bias.mean_absolute_disparity, Y, STUDENT, G, n=1000)
    assert sizes == [1000]
    monkeypatch.setattr(uncertainty, "CHUNK", 300 * 18)  # tables of 2 × 3 × 3
    parts = bias.noise_floor(bias.mean_absolute_disparity, Y, STUDENT, G, n=1000)
    assert sizes[1:] == [300, 300, 300, 100]
    close(parts.mean, whole.mean, 0.02)


@pytest.mark.parametrize("n", [500, 5000])
@pytest.mark.parametrize("resample", [bias.noise_floor, bias.bootstrap], ids=["permuted", "bootstrap"])
def test_memory_does_not_grow_with_the_number_of_replicates(resample, n):
    y, p, g = simulate(np.random.default_rng(12), classes=50, per_cell=4)
    tracemalloc.start()
    resample(bias.mean_absolute_disparity, y, p, g, n=n)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        peak < 60e6
    )  # the tables of 5,000 replicates would take 200 MB; a chunk is 16 MiB, with its sums some times that


def test_memory_of_the_spread_does_not_grow_with_the_number_of_replicates():
    y, p, g = simulate(np.random.default_rng(12), classes=20, per_cell=50)
    peaks = []
    for n in (2500, 5000):
        tracemalloc.start()
        bias.sources_of_spread(bias.mean_absolute_disparity, y, [p, y], g, n=n)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] < 150e6  # 5,000 draws of 2,000 images would take 80 MB for each array of indices


# ---- images and seeds


def test_spread_over_images_of_one_model_is_its_bootstrap():
    y, p, g = simulate(np.random.default_rng(21), per_cell=50, disparity=0.2)
    for metric in (bias.mean_absolute_disparity, bias.class_disparity, bias.worst_cell_accuracy):
        spread = bias.sources_of_spread(metric, y, [p], g, n=4000)
        interval = bias.bootstrap(metric, y, p, g, n=4000)
        close(spread.value, interval.value, 1e-12)
        close([spread.images_low, spread.images_high], [interval.low, interval.high], 1.05 / 50)
        assert np.isnan(spread.seeds_std).all()
        assert np.isnan(spread.seeds_low).all()
        assert spread.seeds == 1


def test_spread_over_seeds_is_students_and_leaves_images_alone():
    rng = np.random.default_rng(22)
    y, _, g = simulate(rng, per_cell=50)
    models = np.array([simulate(rng, per_cell=50, disparity=d)[1] for d in (0.1, 0.2, 0.3, 0.4)])
    values = [bias.mean_absolute_disparity(y, p, g) for p in models]
    spread = bias.sources_of_spread(bias.mean_absolute_disparity, y, models, g, n=300)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    close(
        [spread.value, spread.seeds_std, spread.seeds_low, spread.seeds_high],
        [np.mean(values), np.std(values, ddof=1), low, high],
    )
    alike = bias.sources_of_spread(bias.mean_absolute_disparity, y, models[[0, 0, 0]], g, n=300)
    close([alike.seeds_std, alike.seeds_high - alike.seeds_low], [0, 0])
    assert alike.images_std > 0.01, "models without any spread over seeds still saw a sample of images only"


def test_images_are_drawn_alike_for_every_model():
    """The mean of two models varies over images as the mean over shared draws, not as that of independent ones."""
    rng = np.random.default_rng(23)
    y, p, g = simulate(rng, classes=3, per_cell=40)
    one = bias.sources_of_spread(bias.mean_disparity, y, [p], g, n=3000)
    twice = bias.sources_of_spread(bias.mean_disparity, y, [p, p], g, n=3000)
    close(twice.images_std, one.images_std, 0.1 * one.images_std)  # shared; independent draws would give 1/√2 of it
    other = simulate(rng, classes=3, per_cell=40)[1]
    apart = bias.sources_of_spread(bias.mean_disparity, y, [p, other], g, n=3000)
    close(apart.images_std, one.images_std / np.sqrt(2), 0.12 * one.images_std)


@pytest.mark.parametrize("metric", [bias.mean_absolute_disparity, bias.mean_square_disparity], ids=identifier)
def test_spread_of_a_metric_of_tables_equals_that_of_any_metric(metric):
    rng = np.random.default_rng(24)
    y, p, g = simulate(rng, classes=3, per_cell=15, disparity=0.2)
    models, g = [p, simulate(rng, classes=3, per_cell=15)[1]], np.where(rng.random(len(g)) < 0.1, -1, g)
    fast = bias.sources_of_spread(metric, y, models, g, n=2000)
    slow = bias.sources_of_spread(any_callable(metric), y, models, g, n=150)
    close(fast[:4], slow[:4], 1e-9)
    close(fast[4:7], slow[4:7], 0.3 * fast.images_std + 0.01)


def test_spread_where_nothing_is_known_or_wrong():
    nothing = bias.sources_of_spread(bias.mean_absolute_disparity, Y, [STUDENT, TEACHER], -np.ones(16), n=10)
    assert np.isnan(nothing[:7]).all()
    with pytest.raises(ValueError, match=r"predictions must be \(models, images\)"):
        bias.sources_of_spread(bias.mean_absolute_disparity, Y, STUDENT, G)
    with pytest.raises(ValueError, match="15 entries"):
        bias.sources_of_spread(bias.mean_absolute_disparity, Y, [STUDENT[1:]], G)
    with pytest.raises(ValueError, match="number of replicates"):
        bias.sources_of_spread(bias.mean_absolute_disparity, Y, [STUDENT], G, n=0)
    same = [bias.sources_of_spread(bias.max_disparity, Y, [STUDENT, TEACHER], G, n=50, seed=s) for s in (1, 1, 2)]
    assert same[0] == same[1]
    assert same[0] != same[2]


def test_a_group_absent_from_a_resample_is_nan_and_no_crash():
    """A metric given as any callable may lose a group in a resample by classes, as shares are drawn."""
    y, share = np.repeat([0, 1], 4), np.array([1, 0.5, 0.5, 0.5, 1, 1, 1, 0.5])
    interval = bias.bootstrap(bias.fractional_disparity, y, y, share, n=200)
    close(interval.value, [0, 0])
    alone = np.array([0, 0, 0, 1])  # one image of group 1
    interval = bias.bootstrap(any_callable(bias.class_disparity), np.zeros(4, int), np.array([0, 0, 1, 1]), alone, n=50)
    assert interval.low[0] < interval.value[0] < interval.high[0]


def test_models_that_name_other_classes_are_spread_over_all():
    y, g = np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.array([0, 1, 0, 1, 0, 1, 0, 1])
    other = np.array([0, 0, 1, 4, 0, 0, 1, 1])
    found = bias.sources_of_spread(bias.class_disparity, y, np.stack([y, other]), g, n=5)
    assert len(found.value) == 5
