"""kdlib.bias: metrics against figures worked out by hand, explicit loops, other libraries, and their invariants."""

import doctest
import inspect
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from bias_examples import (
    MANY_GROUPS,
    SCALARS,
    SHARE,
    STUDENT,
    TABLE_METRICS,
    TEACHER,
    WITH_MIN_COUNT,
    G,
    Y,
    any_callable,
    checked,
    close,
    identifier,
    images,
    simulate,
)
from fairlearn import metrics as fairlearn_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from kdlib import bias

# ---- the worked example


def test_worked_example_of_disparity():
    close(bias.class_disparity(Y, STUDENT, G), [0.25, -0.25, -1 / 3])
    close(bias.class_disparity(Y, TEACHER, G), [-0.25, -0.25, -1 / 3])
    close(bias.mean_disparity(Y, STUDENT, G), -0.111111)
    close(bias.mean_absolute_disparity(Y, STUDENT, G), 0.277778)
    close(bias.mean_absolute_disparity(Y, TEACHER, G), 0.277778)
    close(bias.root_mean_square_disparity(Y, STUDENT, G), 0.280542)
    close(bias.max_disparity(Y, STUDENT, G), 1 / 3)
    close(bias.weighted_disparity(Y, STUDENT, G), 0.268293)
    close(bias.earlier_study_disparity(Y, STUDENT, G), 0.277778)
    close(bias.class_disparity_range(Y, STUDENT, G), [0.25, 0.25, 1 / 3])
    close(bias.class_recall(Y, STUDENT, G), [[0.5, 0.75, 1], [0.75, 0.5, 2 / 3]])
    assert bias.cell_counts(Y, G).tolist() == [[2, 4, 1], [4, 2, 3]]
    # classes 0 and 1 have two images or more in both groups: 1/16 − (3/16)/3 − (1/4)/1 = −1/4, twice
    close(bias.mean_square_disparity(Y, STUDENT, G), -0.25)


def test_worked_example_of_other_criteria():
    figures = bias.summary(Y, STUDENT, G, n=10)
    close([figures["accuracy"], figures["accuracy_group_0"], figures["accuracy_group_1"]], [0.6875, 0.714286, 0.666667])
    close(bias.summary(Y, TEACHER, G, n=10)["accuracy"], 0.75)
    close([figures["equalized_odds"], figures["equalized_odds_max"]], [0.327778, 0.4])
    close(figures["demographic_parity_excess"], 0.275132 - bias.demographic_parity_difference(Y, Y, G))
    close(bias.class_recall(Y, STUDENT, G).mean(1), [0.75, 0.638889])
    close(bias.worst_cell_accuracy(Y, STUDENT, G), 0.5)
    close(bias.accuracy_gap(Y, STUDENT, G), 0.666667 - 0.714286)
    close(bias.macro_recall_gap(Y, STUDENT, G), 0.638889 - 0.75)
    close(bias.equalized_odds_difference(Y, STUDENT, G, per_class=True), [0.4, 0.25, 1 / 3])
    close(bias.equalized_odds_difference(Y, STUDENT, G), 0.327778)
    close(bias.demographic_parity_difference(Y, STUDENT, G, per_class=True), [0.412698, 0.206349, 0.206349])
    close(bias.demographic_parity_difference(Y, STUDENT, G), 0.275132)
    close(bias.bias_amplification(Y, STUDENT, G), -0.047619)
    close(bias.bias_amplification_mals(Y, STUDENT, G), -0.083333)
    close(bias.bias_amplification(Y, Y, G), 0)
    close(bias.bias_amplification_mals(Y, Y, G), 0)


def test_worked_example_of_false_positive_rates():
    """With every prediction that is right taken away, TPR is 0 in both groups and only the FPR is left."""
    wrong = np.where(STUDENT == Y, 3, STUDENT)
    difference = bias.equalized_odds_difference(Y, wrong, G, num_classes=4, per_class=True)
    close(difference, [0.4, 0.142857, 1 / 3, np.nan])


def test_worked_example_of_a_useless_model():
    constant = np.zeros_like(Y)
    close(bias.mean_absolute_disparity(Y, constant, G), 0)
    close(bias.bias_amplification(Y, constant, G), -0.116402)
    figures = bias.summary(Y, constant, G, n=10)
    close(figures["accuracy"], 0.375)
    assert figures["degenerate"]


def test_worked_example_of_shares():
    close(bias.fractional_disparity(Y, STUDENT, SHARE), [0.285714, 0.067227, 0.133333])


def test_module_example():
    assert doctest.testmod(bias).failed == 0
    assert doctest.testmod(bias).attempted > 5


# ---- explicit loops


def loop_figures(y, p, g, k, min_count):
    """Every table metric by its definition, one image at a time."""
    rows = [row for row in zip(y.tolist(), p.tolist(), g.tolist(), strict=True) if row[2] >= 0]
    groups = [[row for row in rows if row[2] == a] for a in (0, 1)]
    cells = [[[row for row in group if row[0] == c] for c in range(k)] for group in groups]

    def share(flags, least=min_count):
        return sum(flags) / len(flags) if len(flags) >= least else math.nan

    def mean(values):
        return share([value for value in values if not math.isnan(value)], least=1)

    recalls = [[share([row[1] == c for row in cells[a][c]]) for c in range(k)] for a in (0, 1)]
    accuracies = [share([row[0] == row[1] for row in group]) for group in groups]
    parity_ratios = [low_over_high([share([row[1] == c for row in group]) for group in groups]) for c in range(k)]
    d = [recalls[1][c] - recalls[0][c] for c in range(k)]
    squares, weighted, weights, earlier, odds, parity, amplification, mals = ([] for _ in range(8))
    for c in range(k):
        sizes = [len(cells[a][c]) for a in (0, 1)]
        if not math.isnan(d[c]):
            weights.append(1 / (1 / sizes[0] + 1 / sizes[1]))
            weighted.append(weights[-1] * abs(d[c]))
        if min(sizes) >= max(min_count, 2):
            hits = [[float(row[1] == c) for row in cells[a][c]] for a in (0, 1)]
            squares.append(d[c] ** 2 - sum(np.var(cell, ddof=1) / len(cell) for cell in hits))
        zeroed = [recalls[a][c] if sizes[a] else 0 for a in (0, 1)]
        earlier.append(abs(zeroed[1] - zeroed[0]) or math.nan)
        false = [share([row[1] == c for row in group if row[0] != c]) for group in groups]
        gaps = abs(d[c]), abs(false[1] - false[0])
        odds.append(math.nan if any(map(math.isnan, gaps)) else max(gaps))
        predicted = [share([row[1] == c for row in group]) for group in groups]
        labelled = [share([row[0] == c for row in group]) for group in groups]
        if any(c in row[:2] for row in rows):
            parity.append(abs(predicted[1] - predicted[0]))
        for a in (0, 1):
            if parity and not math.isnan(parity[-1]) and any(c in row[:2] for row in rows):
                together = sizes[a] * len(rows) > sum(sizes) * len(groups[a])
                amplification.append((predicted[a] - labelled[a]) * (1 if together else -1))
            before = share([row[2] == a for row in rows if row[0] == c])
            after = share([row[2] == a for row in rows if row[1] == c])
            if before > 0.5 and all(groups):
                mals.append(after - before)
    return {
        bias.class_disparity: d,
        bias.class_disparity_range: [abs(value) for value in d],
        bias.mean_disparity: mean(d),
        bias.mean_absolute_disparity: mean([abs(value) for value in d]),
        bias.mean_square_disparity: mean(squares),
        bias.root_mean_square_disparity: math.sqrt(mean([value**2 for value in d])),
        bias.max_disparity: max((abs(value) for value in d if not math.isnan(value)), default=math.nan),
        bias.weighted_disparity: sum(weighted) / sum(weights) if weights else math.nan,
        bias.earlier_study_disparity: mean(earlier),
        bias.equalized_odds_difference: mean(odds),
        bias.demographic_parity_difference: mean(parity),
        bias.worst_cell_accuracy: min((r for row in recalls for r in row if not math.isnan(r)), default=math.nan),
        bias.accuracy_gap: accuracies[1] - accuracies[0],
        bias.macro_recall_gap: mean(recalls[1]) - mean(recalls[0]),
        bias.bias_amplification: mean(amplification) if depends(rows, k, groups) else math.nan,
        bias.bias_amplification_mals: mean(mals),
        bias.worst_group_accuracy: least(accuracies),
        bias.worst_group_recall: least(map(mean, recalls)),
        bias.demographic_parity_ratio: least(parity_ratios),
        bias.equal_opportunity_ratio: least([low_over_high([row[c] for row in recalls]) for c in range(k)]),
    }


def least(values):
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def low_over_high(values):
    """Smallest over largest, NaN with fewer than two, or where all are 0."""
    known = [value for value in values if not math.isnan(value)]
    return min(known) / max(known) if len(known) > 1 and max(known) else math.nan


def depends(rows, classes, groups):
    """Whether the labels' shares of classes differ between the groups."""
    counts = [[sum(row[0] == c for row in group) for c in range(classes)] for group in groups]
    return any(
        count[c] * len(rows) != sum(count) * sum(other[c] for other in counts)
        for count in counts
        for c in range(classes)
    )


@checked
@given(images(), st.integers(1, 3))
def test_metrics_equal_explicit_loops(data, min_count):
    y, p, g, k = data
    for metric, expected in loop_figures(y, p, g, k, min_count).items():
        if metric in WITH_MIN_COUNT:
            close(metric(y, p, g, num_classes=k, min_count=min_count), expected, 1e-9)
        elif min_count == 1:
            close(metric(y, p, g, num_classes=k), expected, 1e-9)


def test_every_metric_has_a_loop():
    assert set(loop_figures(Y, STUDENT, G, 3, 1)) == set(TABLE_METRICS)


@checked
@given(images(), st.integers(0, 2**32 - 1))
def test_fractional_disparity_equals_covariance_form(data, seed):
    y, p, _, k = data
    share = np.random.default_rng(seed).choice([0, 0.25, 0.5, 1, np.nan], len(y))
    result = bias.fractional_disparity(y, p, share, num_classes=k)
    for c in range(k):
        chosen = (y == c) & ~np.isnan(share)
        w, hit = share[chosen], (p == y)[chosen]
        if not chosen.any() or w.mean() in (0, 1):
            assert np.isnan(result[c])
        else:
            close(result[c], np.cov(hit, w, ddof=0)[0, 1] / (w.mean() * (1 - w.mean())), 1e-9)


@checked
@given(images(unknown=False))
def test_fractional_disparity_of_whole_shares(data):
    y, p, g, k = data
    close(bias.fractional_disparity(y, p, g, num_classes=k), bias.class_disparity(y, p, g, num_classes=k), 1e-12)


def loop_figures_of_many_groups(y, p, g, k, groups):
    """The figures that take any number of groups, by their definition."""
    rows = [row for row in zip(y.tolist(), p.tolist(), g.tolist(), strict=True) if row[2] >= 0]
    members = [[row for row in rows if row[2] == a] for a in range(groups)]

    def share(flags):
        return sum(flags) / len(flags) if flags else math.nan

    def mean(values):
        return share([value for value in values if not math.isnan(value)])

    def between(values):
        known = [value for value in values if not math.isnan(value)]
        return max(known) - min(known) if len(known) > 1 else math.nan

    there, recalls = sum(map(bool, members)), []
    by_group = [[share([row[1] == c for row in group if row[0] == c]) for c in range(k)] for group in members]
    spread, weights, odds, parity, amplification, mals = [], [], [], [], [], []
    for c in range(k):
        cells = [[row[1] == c for row in group if row[0] == c] for group in members]
        recalls += [share(cell) for cell in cells if cell]
        spread.append(between(map(share, cells)))
        weights.append(1 / sum(1 / len(cell) for cell in cells if cell) if any(cells) else 0)
        odds.append((spread[-1], between([share([row[1] == c for row in group if row[0] != c]) for group in members])))
        labelled, predicted = ([share([row[i] == c for row in group]) for group in members] for i in (0, 1))
        if any(c in row[:2] for row in rows):
            parity.append(between(predicted))
            terms = []
            for a in range(groups):
                together = len(cells[a]) * len(rows) > sum(map(len, cells)) * len(members[a])
                terms.append((predicted[a] - labelled[a]) * (1 if together else -1))
            amplification.append(mean(terms) if there > 1 else math.nan)
        for a in range(groups):
            before = share([row[2] == a for row in rows if row[0] == c])
            after = share([row[2] == a for row in rows if row[1] == c])
            if there > 1 and before > 1 / there + 1e-12:
                mals.append(after - before)
    known = [i for i in range(k) if not math.isnan(spread[i])]
    weighted = sum(weights[i] * spread[i] for i in known) / sum(weights[i] for i in known) if known else math.nan
    return {
        bias.class_disparity_range: spread,
        bias.mean_absolute_disparity: mean(spread),
        bias.root_mean_square_disparity: math.sqrt(mean([value**2 for value in spread])),
        bias.max_disparity: max((spread[i] for i in known), default=math.nan),
        bias.weighted_disparity: weighted,
        bias.equalized_odds_difference: mean(
            [max(pair) if pair == pair and not any(map(math.isnan, pair)) else math.nan for pair in odds]
        ),
        bias.demographic_parity_difference: mean(parity),
        bias.worst_cell_accuracy: min(recalls, default=math.nan),
        bias.bias_amplification: mean(amplification) if depends(rows, k, members) else math.nan,
        bias.bias_amplification_mals: mean(mals),
        bias.worst_group_accuracy: least([share([row[0] == row[1] for row in group]) for group in members]),
        bias.worst_group_recall: least([mean(row) for row in by_group]),
        bias.demographic_parity_ratio: least(
            [low_over_high([share([row[1] == c for row in group]) for group in members]) for c in range(k)]
        ),
        bias.equal_opportunity_ratio: least([low_over_high([row[c] for row in by_group]) for c in range(k)]),
    }


@checked
@given(images(groups=4))
def test_metrics_of_many_groups_equal_explicit_loops(data):
    y, p, g, k = data
    expected = loop_figures_of_many_groups(y, p, g, k, max(2, g.max() + 1))
    assert set(expected) == set(MANY_GROUPS)
    for metric, value in expected.items():
        close(metric(y, p, g, num_classes=k), value, 1e-9)


@checked
@given(images(groups=3), st.permutations(range(3)))
def test_names_of_many_groups_do_not_matter(data, names):
    y, p, g, k = data
    renamed = np.where(g >= 0, np.array(names)[g], -1)
    for metric in MANY_GROUPS:
        close(metric(y, p, renamed, num_classes=k), metric(y, p, g, num_classes=k), 1e-9)


def test_range_over_many_groups():
    y, p, g = simulate(np.random.default_rng(0), classes=3, per_cell=5, groups=4)
    recalls = [[(p == c)[(y == c) & (g == a)].mean() for a in range(4)] for c in range(3)]
    close(bias.class_disparity_range(y, p, g), np.ptp(recalls, axis=1))
    only = (y != 0) | (g == 2)  # class 0 in one group only
    close(bias.class_disparity_range(y[only], p[only], g[only]), [np.nan, *np.ptp(recalls, axis=1)[1:]])
    assert bias.noise_floor(bias.class_disparity_range, y, p, g, n=20).mean.shape == (3,)


@settings(checked, max_examples=4)
@given(images(unknown=False, classes=(2, 2), complete=True, groups=4))
def test_two_classes_of_many_groups_equal_fairlearn(data):
    y, p, g, _ = data
    odds = fairlearn_metrics.equalized_odds_difference(y, p, sensitive_features=g)
    close(bias.equalized_odds_difference(y, p, g, per_class=True), [odds, odds], 1e-9)
    parity = fairlearn_metrics.demographic_parity_difference(y, p, sensitive_features=g)
    close(bias.demographic_parity_difference(y, p, g, num_classes=2, per_class=True), [parity, parity], 1e-9)
    accuracy = fairlearn_metrics.MetricFrame(
        metrics=accuracy_score, y_true=y, y_pred=p, sensitive_features=g, control_features=y
    )
    close(bias.mean_absolute_disparity(y, p, g), accuracy.difference().mean(), 1e-9)


def test_summary_of_an_attribute_with_many_values():
    y, p, g = simulate(np.random.default_rng(1), classes=3, per_cell=20, groups=5, recall=0.6, disparity=0.05)
    g[:7] = -1
    figures = bias.summary(y, p, g, n=300)
    known = g >= 0
    recalls = [[(p == c)[(y == c) & (g == a)].mean() for a in range(5)] for c in range(3)]
    close(figures["mad"], np.ptp(recalls, axis=1).mean())
    close(figures["mad"], bias.mean_absolute_disparity(y, p, g))
    assert figures["mad_floor_low"] < figures["mad_floor"] < figures["mad_floor_high"]
    close([figures[f"accuracy_group_{a}"] for a in range(5)], [(p == y)[g == a].mean() for a in range(5)])
    assert (figures["classes_counted"], figures["unknown"]) == (3, 7)
    for name in ("u", "sqrt_u", "mean_disparity", "accuracy_gap", "macro_recall_gap"):
        assert math.isnan(figures[name])
    assert not math.isnan(
        bias.summary(y[known & (g < 2)], p[known & (g < 2)], g[known & (g < 2)], n=10)["accuracy_gap"]
    )


@pytest.mark.parametrize("metric", [m for m in TABLE_METRICS if m.groups == 2], ids=identifier)
def test_signed_figures_refuse_more_than_two_groups(metric):
    for call in (metric, lambda *arrays: bias.bootstrap(metric, *arrays, n=5)):
        with pytest.raises(ValueError, match=r"group must have at most 2 .*not 0, 1, 2.*class_disparity_range"):
            call(Y, STUDENT, np.where(Y == 2, 2, G))


# ---- other libraries


@settings(checked, max_examples=4)
@given(images(unknown=False, classes=(2, 4), complete=True))
def test_recall_equals_fairlearn_and_sklearn(data):
    y, p, g, k = data
    for c in range(k):
        frame = fairlearn_metrics.MetricFrame(
            metrics=fairlearn_metrics.true_positive_rate, y_true=y == c, y_pred=p == c, sensitive_features=g
        )
        close(bias.class_disparity(y, p, g)[c], frame.by_group[1] - frame.by_group[0], 1e-9)
    recalls = [recall_score(y[g == a], p[g == a], average=None, labels=range(k)) for a in (0, 1)]
    close(bias.class_disparity(y, p, g), recalls[1] - recalls[0], 1e-9)
    close(bias.worst_cell_accuracy(y, p, g), np.min(recalls), 1e-9)
    balanced = [balanced_accuracy_score(y[g == a], p[g == a]) for a in (0, 1)]
    close(bias.macro_recall_gap(y, p, g), balanced[1] - balanced[0], 1e-9)


@settings(checked, max_examples=4)
@given(images(unknown=False, classes=(2, 2), complete=True))
def test_two_classes_equal_fairlearn(data):
    y, p, g, _ = data
    odds = fairlearn_metrics.equalized_odds_difference(y, p, sensitive_features=g)
    close(bias.equalized_odds_difference(y, p, g, per_class=True), [odds, odds], 1e-9)
    parity = fairlearn_metrics.demographic_parity_difference(y, p, sensitive_features=g)
    close(bias.demographic_parity_difference(y, p, g, num_classes=2, per_class=True), [parity, parity], 1e-9)


# ---- invariants


@checked
@given(images())
def test_swapping_the_groups(data):
    y, p, g, k = data
    swapped = np.where(g >= 0, 1 - g, -1)
    flipped = [bias.class_disparity, bias.mean_disparity, bias.accuracy_gap, bias.macro_recall_gap]
    for metric in TABLE_METRICS:
        sign = -1 if metric in flipped else 1
        close(metric(y, p, swapped, num_classes=k), np.multiply(sign, metric(y, p, g, num_classes=k)), 1e-9)


@checked
@given(images(), st.randoms(use_true_random=False))
def test_order_of_images_and_names_of_classes_do_not_matter(data, random):
    y, p, g, k = data
    order, names = list(range(len(y))), list(range(k))
    random.shuffle(order)
    random.shuffle(names)
    names = np.array(names)
    for metric in TABLE_METRICS:
        before, after = metric(y, p, g, num_classes=k), metric(y[order], p[order], g[order], num_classes=k)
        close(after, before, 1e-12)
        renamed = metric(names[y], names[p], g, num_classes=k)
        close(renamed[names] if np.ndim(renamed) else renamed, before, 1e-9)


@checked
@given(images(), st.integers(1, 3))
def test_classes_that_do_not_occur_change_nothing(data, more):
    y, p, g, k = data
    for metric in SCALARS:
        close(metric(y, p, g, num_classes=k + more), metric(y, p, g), 1e-12)


@checked
@given(images())
def test_duplicating_the_data_keeps_all_but_u(data):
    y, p, g, k = data
    for metric in set(TABLE_METRICS) - {bias.mean_square_disparity}:
        close(metric(*(np.tile(a, 3) for a in (y, p, g)), num_classes=k), metric(y, p, g, num_classes=k), 1e-9)


@checked
@given(images())
def test_unknown_groups_are_left_out(data):
    y, p, g, k = data
    known = g >= 0
    if known.any():
        for metric in TABLE_METRICS:
            close(metric(y, p, g, num_classes=k), metric(y[known], p[known], g[known], num_classes=k), 1e-12)


@checked
@given(images(unknown=False, classes=(2, 4), complete=True))
def test_perfect_classifier(data):
    y, _, g, k = data
    of_labels = {bias.demographic_parity_difference, bias.demographic_parity_ratio, bias.earlier_study_disparity}
    for metric in set(TABLE_METRICS) - of_labels:
        if metric is bias.worst_cell_accuracy:
            assert metric(y, y, g) == 1
        elif metric in (bias.bias_amplification, bias.bias_amplification_mals):
            assert metric(y, y, g) == 0 or np.isnan(metric(y, y, g))  # balanced classes have no bias to amplify
        elif metric in (bias.worst_group_accuracy, bias.worst_group_recall, bias.equal_opportunity_ratio):
            assert metric(y, y, g) == 1
        else:
            close(metric(y, y, g), np.zeros(np.shape(metric(y, y, g))), 0)
    labels = [np.bincount(y[g == a], minlength=k) / (g == a).sum() for a in (0, 1)]
    close(bias.demographic_parity_difference(y, y, g, per_class=True), np.abs(labels[1] - labels[0]), 1e-12)


def test_one_group_always_right_and_the_other_always_wrong():
    y, _, g = simulate(np.random.default_rng(0))
    p = np.where(g == 1, y, (y + 1) % 5)
    close(bias.class_disparity(y, p, g), np.ones(5))
    close(bias.mean_absolute_disparity(y, p, g), 1)
    close(bias.mean_square_disparity(y, p, g), 1)
    interval = bias.bootstrap(bias.class_disparity, y, p, g, n=50)
    close([interval.low, interval.high], np.ones((2, 5)))


@checked
@given(images())
def test_order_of_the_means(data):
    y, p, g, _ = data
    mad = bias.mean_absolute_disparity(y, p, g)
    if not np.isnan(mad):
        rms, largest = bias.root_mean_square_disparity(y, p, g), bias.max_disparity(y, p, g)
        assert abs(bias.mean_disparity(y, p, g)) <= mad + 1e-9
        assert mad <= rms + 1e-9
        assert rms <= largest + 1e-9
        assert largest <= 1


# ---- what is undefined, and what is refused


def test_small_cells_are_nan_and_not_zero():
    y, p, g = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 1])
    close(bias.class_disparity(y, p, g), [-0.5, np.nan])
    close(bias.class_disparity(y, p, g, min_count=2), [np.nan, np.nan])
    close(bias.mean_absolute_disparity(y, p, g), 0.5)
    close(bias.earlier_study_disparity(y, p, g), 0.75)  # the empty cell is taken for a recall of 0
    assert np.isnan(bias.mean_square_disparity(y, p, g))  # needs two images per cell
    figures = bias.summary(y, p, g, n=10)
    assert (figures["classes_counted"], figures["classes_counted_u"]) == (1, 0)


DEFINED_IN_ONE_GROUP = (
    bias.worst_cell_accuracy,
    bias.earlier_study_disparity,
    bias.worst_group_accuracy,
    bias.worst_group_recall,
)


@pytest.mark.parametrize("metric", TABLE_METRICS, ids=identifier)
def test_one_group_only_or_none(metric):
    for group in (np.ones(16), np.zeros(16), -np.ones(16)):
        value = metric(Y, STUDENT, group)
        defined = group[0] >= 0 and metric in DEFINED_IN_ONE_GROUP
        assert not np.isnan(value).all() if defined else np.isnan(value).all()
        floor, interval = (f(metric, Y, STUDENT, group, n=10) for f in (bias.noise_floor, bias.bootstrap))
        if not defined:
            assert all(np.isnan(field).all() for field in (*floor[:5], *interval[:3]))


def test_no_class_with_both_groups():
    y, g = np.repeat([0, 1], 5), np.repeat([0, 1], 5)
    for metric in (bias.class_disparity, bias.mean_absolute_disparity, bias.equalized_odds_difference):
        assert np.isnan(metric(y, y, g)).all()
    figures = bias.summary(y, y, g, n=10)
    assert figures["classes_counted"] == 0
    assert math.isnan(figures["mad"])
    assert math.isnan(figures["mad_p_value"])
    figures = bias.compare(y, y, 1 - y, g, n=10)
    names = ("inflation", "inflation_low", "inflation_p_value", "sqrt_u_inflation", "correlation", "slope")
    assert all(math.isnan(figures[name]) for name in names)
    assert figures["churn"] == 1


def test_amplification_without_an_imbalance_or_a_prediction():
    y, g = np.repeat([0, 1], 4), np.tile([0, 1], 4)
    assert np.isnan(bias.bias_amplification_mals(y, y, g))  # no group holds more than half of a class
    close(bias.bias_amplification_mals(Y, np.zeros_like(Y), G), 9 / 16 - 4 / 6)  # only class 0 is predicted


BAD_ARRAYS = [
    ({"y_true": Y[:-1]}, "15 entries"),
    ({"y_pred": STUDENT[:-1]}, "15 entries"),
    ({"y_true": [], "y_pred": [], "group": []}, "group .*one entry for each image"),
    ({"y_pred": np.eye(3)[STUDENT]}, "y_pred .*one-dimensional"),
    ({"y_true": Y - 1}, "y_true must be in 0 … 2; it reaches from -1"),
    ({"y_true": -Y - 1, "y_pred": -Y - 1}, "y_true must be in 0"),
    ({"y_pred": STUDENT + 1, "num_classes": 3}, "y_pred must be in 0 … 2; it reaches from 1 to 3"),
    ({"y_pred": np.where(Y == 2, np.nan, STUDENT)}, "y_pred must hold whole numbers"),
    ({"y_true": Y + 0.5}, "y_true must hold whole numbers"),
    ({"y_true": Y.astype(str)}, "y_true must hold whole numbers"),
    ({"group": G * 1.5}, "group must hold whole numbers"),
    ({"group": np.where(G == 1, np.nan, 0)}, "group must hold whole numbers"),
    ({"group": G - 2}, "group must have .* not -2, -1"),
    ({"group": 2 * G - 1}, "group holds −1 and 1 alone"),
]


@pytest.mark.parametrize(("wrong", "message"), BAD_ARRAYS)
def test_wrong_arrays_are_refused(wrong, message):
    arguments = {"y_true": Y, "y_pred": STUDENT, "group": G} | wrong
    for metric in TABLE_METRICS:
        with pytest.raises(ValueError, match=message):
            metric(**arguments)
    for resample in (bias.noise_floor, bias.bootstrap):
        with pytest.raises(ValueError, match=message):
            resample(bias.mean_absolute_disparity, **arguments)
    with pytest.raises(ValueError, match=message):
        bias.summary(**arguments)
    student = arguments.pop("y_pred")
    teacher = Y if "y_pred" in wrong and "y_true" not in wrong else student
    with pytest.raises(ValueError, match=message.replace("y_pred", "student_pred")):
        bias.compare(teacher_pred=teacher, student_pred=student, **arguments)


def test_wrong_settings_are_refused():
    for metric in WITH_MIN_COUNT:
        with pytest.raises(ValueError, match="min_count must be at least 1"):
            metric(Y, STUDENT, G, min_count=0)
    for resample in (bias.noise_floor, bias.bootstrap):
        with pytest.raises(ValueError, match="number of replicates"):
            resample(bias.max_disparity, Y, STUDENT, G, n=0)
    with pytest.raises(ValueError, match="min_count must be at least 1"):
        bias.compare(Y, TEACHER, STUDENT, G, min_count=0)
    with pytest.raises(TypeError, match="min_cuont"):
        bias.max_disparity(Y, STUDENT, G, min_cuont=2)


def test_wrong_shares_are_refused():
    for share in (SHARE - 0.1, SHARE * 2, SHARE + np.inf):
        with pytest.raises(ValueError, match="share must be in"):
            bias.fractional_disparity(Y, STUDENT, share)
    with pytest.raises(ValueError, match="16 entries"):
        bias.fractional_disparity(Y, STUDENT, SHARE[1:])


def test_kinds_of_arrays():
    for convert in (
        torch.tensor,
        lambda a: torch.tensor(a, dtype=torch.float32, requires_grad=True),
        list,
        pd.Series,
        lambda a: a.astype(np.float64),
        lambda a: a.astype(np.int8),
    ):
        arrays = convert(Y), convert(STUDENT), convert(G)
        for metric in TABLE_METRICS:
            close(metric(*arrays), metric(Y, STUDENT, G), 0)
        floor = bias.noise_floor(bias.max_disparity, *arrays, n=10)
        assert floor == bias.noise_floor(bias.max_disparity, Y, STUDENT, G, n=10)
        assert bias.summary(*arrays, n=10) == bias.summary(Y, STUDENT, G, n=10)
    close(bias.class_disparity(Y, STUDENT, G == 1), bias.class_disparity(Y, STUDENT, G), 0)
    close(bias.fractional_disparity(Y, STUDENT, torch.tensor(SHARE)), bias.fractional_disparity(Y, STUDENT, SHARE), 0)
    own = any_callable(bias.max_disparity)
    for group in (torch.tensor(G), G == 1):
        assert bias.bootstrap(own, torch.tensor(Y), STUDENT, group, n=10) == bias.bootstrap(own, Y, STUDENT, G, n=10)


def test_signatures_and_help_are_those_of_the_public_metric():
    expected = "(y_true, y_pred, group, *, num_classes=None, min_count=1, per_class=False)"
    assert str(inspect.signature(bias.equalized_odds_difference)) == expected
    assert "num_classes : int, optional" in bias.equalized_odds_difference.__doc__


# ---- one model


def test_summary_gathers_the_figures():
    unknown = np.array([0, 1, 2])
    y, p, g = np.append(Y, unknown), np.append(STUDENT, unknown), np.append(G, [-1, -1, -1])
    figures = bias.summary(y, p, g, n=100, seed=3)
    floor = bias.noise_floor(bias.mean_absolute_disparity, Y, STUDENT, G, n=100, seed=3)
    expected = {
        "mad": floor.value, "mad_floor": floor.mean, "mad_floor_low": floor.low, "mad_floor_high": floor.high,
        "mad_p_value": floor.p_value, "u": -0.25, "sqrt_u": -0.5, "rms": 0.280542, "max": 1 / 3,
        "mean_disparity": -0.111111, "weighted_disparity": 0.268293, "worst_cell": 0.5, "equalized_odds": 0.327778,
        "demographic_parity": 0.275132, "demographic_parity_labels": bias.demographic_parity_difference(Y, Y, G),
        "bias_amp": -0.047619, "bias_amp_mals": -0.083333, "accuracy": 14 / 19, "accuracy_group_0": 0.714286,
        "accuracy_group_1": 0.666667, "accuracy_gap": -0.047619, "macro_recall_gap": -0.111111,
        "classes_counted": 3, "classes_counted_u": 2, "unknown": 3, "degenerate": 0, "equalized_odds_max": 0.4,
        "demographic_parity_excess": 0.275132 - bias.demographic_parity_difference(Y, Y, G),
        "worst_group_accuracy": 2 / 3, "worst_group_gap": 0.6875 - 2 / 3, "worst_group_recall": 0.638889,
        "worst_group_accuracy_low": 0.354202, "worst_group_accuracy_high": 0.895358, "paired": 0, "pairs": 0,
        "demographic_parity_ratio": 0.257143, "equal_opportunity_ratio": 2 / 3,
    }  # fmt: skip
    assert set(figures) == set(expected)
    close([figures[name] for name in expected], list(expected.values()))
    assert {type(value) for value in figures.values()} == {float, int, bool}
    assert json.loads(json.dumps(figures)) == figures


def test_degenerate_models_are_marked():
    y, _, g = simulate(np.random.default_rng(0), classes=5, per_cell=4)

    def degenerate(prediction):
        return bias.summary(y, prediction, g, n=5)["degenerate"]

    assert not degenerate(y)
    assert degenerate(np.full_like(y, 2))
    assert degenerate(np.where(y < 2, y, 0))  # right in two classes of five, which are fewer than half
    assert not degenerate(np.where(y < 3, y, 0))
    assert degenerate((y + 1) % 5)  # predicts all classes, and none right
    assert degenerate(np.where(np.arange(len(y)) % 10 < 7, (y + 1) % 5, y))  # right in three of ten, by chance in two
    assert not degenerate(np.where(np.arange(len(y)) % 10 < 6, (y + 1) % 5, y))
    assert bias.summary(y % 2, np.zeros_like(y), g, n=5)["degenerate"]  # one class of two is half, but constant


# ---- anybody's predictions


def write_csv(folder, *lines):
    file = folder / "predictions.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_predictions_from_a_csv(tmp_path):
    lines = [f"{y},x,{p},{g}" for y, p, g in zip(Y, STUDENT, G, strict=True)]
    found = bias.read_csv(write_csv(tmp_path, "label,note,prediction,group", *lines))
    close(bias.class_disparity(*found[:3]), bias.class_disparity(Y, STUDENT, G))
    assert (found.classes, found.groups) == (("0", "1", "2"), ("0", "1"))


def test_predictions_from_a_csv_with_names_and_unknown_groups(tmp_path):
    file = write_csv(tmp_path, "group,truth,guess", "male,dog,cat", "female,cat,cat", ",dog,dog", "-1,eel,dog")
    found = bias.read_csv(file, label="truth", prediction="guess")
    assert found.classes == ("cat", "dog", "eel")
    assert found.groups == ("female", "male")
    assert [part.tolist() for part in found[:3]] == [[1, 0, 1, 2], [0, 0, 1, 1], [1, 0, -1, -1]]
    assert bias.summary(*found[:3], n=5)["unknown"] == 2
    numbers = bias.read_csv(write_csv(tmp_path, "label,prediction,group", "10,9,1", "9,9,1"))
    assert (numbers.y_true.tolist(), len(numbers.classes), numbers.group.tolist()) == ([10, 9], 11, [0, 0])
    assert numbers.groups == ("1",)


def test_predictions_from_a_csv_as_other_programs_write_it(tmp_path):
    lines = "label, prediction ,group", "0,0.0,1.0", " 1,1,0.0", "1 ,0,-1.0", "0,1.50,"
    found = bias.read_csv(write_csv(tmp_path, *lines))
    assert found.classes == ("0", "1", "1.50")
    assert [part.tolist() for part in found[:3]] == [[0, 1, 1, 0], [0, 1, 0, 2], [1, 0, -1, -1]]
    assert found.groups == ("0", "1")
    names = bias.read_csv(write_csv(tmp_path, "label,prediction,group", "NA,None,2", "None,NA,10"))
    assert (names.classes, names.groups) == (("NA", "None"), ("2", "10"))
    assert names.group.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label,prediction", "0,1"], "no column group; it has label, prediction"),
        (["label,prediction,group"], "no line below its header"),
        (["label,prediction,group", "0,1,1", "0,,1"], "no prediction in line 3"),
        (["label,prediction,group", ",0,1"], "no label in line 2"),
    ],
)
def test_a_csv_that_cannot_be_read_is_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        bias.read_csv(write_csv(tmp_path, *lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label,prediction,group", "0,1,1,", "1,0,0,"], "a comma at their end"),
        (["label,prediction,group", "0,1,1,,", "1,0,0,,"], "a comma at their end"),
        (["label,prediction,group", "cat,1,1", "dog,0,0"], "share no value"),
        (["label,prediction,group", "True,1,1", "False,0,0"], "share no value"),
        (["label,prediction,group", "Cat,cat,1", "Dog,dog,0"], "share no value"),
        (["label,prediction,group", "0,.12,1", "1,0.73,0", "1,1,0"], r"scores, as \.12"),
        (["label,prediction,group", "0,1,-1", "1,1,1"], "write 0 and 1"),
    ],
)
def test_a_csv_with_another_meaning_is_refused(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        bias.read_csv(write_csv(tmp_path, *lines))


def test_a_csv_with_row_names_missing_groups_and_far_numbers(tmp_path):
    written_by_r = bias.read_csv(write_csv(tmp_path, "label,prediction,group", "1,0,1,1", "2,1,1,0"))
    assert [part.tolist() for part in written_by_r[:3]] == [[0, 1], [1, 1], [1, 0]]
    words = ["nan", "NaN", "None", "<NA>", "NULL", "NA", ""]
    unknown = bias.read_csv(
        write_csv(tmp_path, "label,prediction,group", "0,0,m", "0,1,f", *(f"1,1,{word}" for word in words))
    )
    assert unknown.groups == ("f", "m")
    assert unknown.group.tolist() == [1, 0] + [-1] * len(words)
    far = bias.read_csv(write_csv(tmp_path, "label,prediction,group", "0,0,0", "1000000000,48662,1", "48662,0,1"))
    assert far.classes == ("0", "48662", "1000000000")
    assert [part.tolist() for part in far[:2]] == [[0, 2, 1], [0, 1, 0]]
    file = tmp_path / "latin.csv"
    file.write_bytes("label,prediction,group\nCafé,Café,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not text in UTF-8"):
        bias.read_csv(file)
