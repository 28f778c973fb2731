"""kdlib.bias against figures worked out by hand, explicit loops, other libraries, and simulation."""

import doctest
import inspect
import itertools
import json
import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn import metrics as fairlearn_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, recall_score

from kdlib import bias

TABLE_METRICS = [metric for metric in vars(bias).values() if hasattr(metric, "of_tables")]
SCALARS = [metric for metric in TABLE_METRICS if metric is not bias.class_disparity]
WITH_MIN_COUNT = [metric for metric in TABLE_METRICS if "min_count" in inspect.signature(metric).parameters]
checked = settings(deadline=None, max_examples=40, derandomize=True)

# 16 images of 3 classes, small enough for pencil and paper
Y = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2])
G = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0])
STUDENT = np.array([0, 0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2, 2, 2, 0, 2])
TEACHER = np.array([0, 0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 0, 2])
SHARE = np.array([1, 1, 0.75, 0.5, 0, 0.25, 1, 0.5, 0, 0, 0.25, 0, 1, 1, 0.5, 0])


def identifier(metric):
    return metric.__name__


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def simulate(rng, classes=5, per_cell=40, recall=0.7, disparity=0.0, groups=2):
    """Labels, predictions and groups, with `per_cell` images in each cell; wrong predictions are spread evenly."""
    y = np.repeat(np.arange(classes), groups * per_cell)
    g = np.tile(np.arange(groups), classes * per_cell)
    right = rng.random(len(y)) < recall + disparity * (g - 0.5)
    return y, np.where(right, y, (y + rng.integers(1, classes, len(y))) % classes), g


def any_callable(metric):
    """The same metric, as a function of which the module knows nothing."""

    def call(*arrays, **options):
        return metric(*arrays, **options)

    call.tail = metric.tail
    return call


@st.composite
def images(draw, unknown=True, classes=(1, 4), complete=False):
    """(y_true, y_pred, group, num_classes); `complete` gives every cell (class, group) at least two images."""
    k = draw(st.integers(*classes))
    entry = st.tuples(st.integers(0, k - 1), st.integers(0, k - 1), st.integers(-1 if unknown else 0, 1))
    rows = draw(st.lists(entry, min_size=1, max_size=40))
    if complete:
        rows += [(y, draw(st.integers(0, k - 1)), g) for y in range(k) for g in (0, 1) for _ in range(2)]
    y, p, g = np.array(rows).T
    return y, p, g, k


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
    # classes 0 and 1 have two images or more in both groups: 1/16 − (3/16)/3 − (1/4)/1 = −1/4, twice
    close(bias.mean_square_disparity(Y, STUDENT, G), -0.25)


def test_worked_example_of_other_criteria():
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


def test_worked_example_of_teacher_and_student():
    figures = bias.compare(Y, TEACHER, STUDENT, G, n=50)
    expected = {
        "mad_teacher": 0.277778, "mad_student": 0.277778, "inflation": 0, "cev": 4444.444444, "sde": 47.140452,
        "churn": 0.0625, "churn_group_0": 0.142857, "churn_group_1": 0,
        "negative_flips": 0.0625, "negative_flips_group_0": 0.142857, "negative_flips_group_1": 0,
        "classes_counted": 3, "classes_masked": 0, "unknown": 0,
    }  # fmt: skip
    close([figures[name] for name in expected], list(expected.values()))
    teacher, student = np.array([-0.25, -0.25, -1 / 3]), np.array([0.25, -0.25, -1 / 3])
    close(figures["correlation"], np.corrcoef(teacher, student)[0, 1])
    close(figures["slope"], np.polyfit(teacher, student, 1)[0])


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
        bias.bias_amplification: mean(amplification),
        bias.bias_amplification_mals: mean(mals),
    }


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


def test_range_over_many_groups():
    y, p, g = simulate(np.random.default_rng(0), classes=3, per_cell=5, groups=4)
    recalls = [[(p == c)[(y == c) & (g == a)].mean() for a in range(4)] for c in range(3)]
    close(bias.class_disparity_range(y, p, g), np.ptp(recalls, axis=1))
    only = (y != 0) | (g == 2)  # class 0 in one group only
    close(bias.class_disparity_range(y[only], p[only], g[only]), [np.nan, *np.ptp(recalls, axis=1)[1:]])
    assert bias.noise_floor(bias.class_disparity_range, y, p, g, n=20).mean.shape == (3,)


# ---- other libraries


@settings(checked, max_examples=12)
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


@settings(checked, max_examples=12)
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
    for metric in set(TABLE_METRICS) - {bias.demographic_parity_difference, bias.earlier_study_disparity}:
        if metric is bias.worst_cell_accuracy:
            assert metric(y, y, g) == 1
        elif metric is bias.bias_amplification_mals:
            assert metric(y, y, g) == 0 or np.isnan(metric(y, y, g))  # balanced classes have no pair
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


@pytest.mark.parametrize("metric", TABLE_METRICS, ids=identifier)
def test_one_group_only_or_none(metric):
    for group in (np.ones(16), np.zeros(16), -np.ones(16)):
        value = metric(Y, STUDENT, group)
        defined = group[0] >= 0 and metric in (bias.worst_cell_accuracy, bias.earlier_study_disparity)
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
    ({"group": G + 1}, "group must be 0, 1, or −1"),
    ({"group": G - 2}, "group must be 0, 1, or −1"),
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
    assert "`num_classes` is by default" in bias.equalized_odds_difference.__doc__


# ---- noise floor


def test_null_tables_are_hypergeometric():
    table = np.array([[[3, 2, 0]], [[1, 1, 1]]])  # one class: 4, 3 and 1 predicted 0, 1 and 2; three images in group 1
    drawn = bias._permuted_tables(table, 20000, np.random.default_rng(0))
    assert (drawn.sum(1) == table.sum(0)).all()
    assert (drawn.sum(-1) == table.sum(-1)).all()
    rows, counts = np.unique(drawn[:, 1, 0], axis=0, return_counts=True)
    expected = stats.multivariate_hypergeom.pmf(rows, m=[4, 3, 1], n=3) * 20000
    close(expected.sum(), 20000)  # every possible row was seen
    assert stats.chisquare(counts, expected).pvalue > 0.001


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
    tables = bias._permuted_tables, bias._resampled_tables
    pictures = bias._permuted_images, bias._resampled_images
    draws = tables[resample], pictures[resample]
    fast, slow = (
        bias._replicates(f, y, p, g, n, 1, dict(options or {}), *draws)
        for f, n in ((metric, 2000), (any_callable(metric), 400))
    )
    assert fast.shape[1:] == slow.shape[1:]
    error = np.sqrt(fast.var(0) / len(fast) + slow.var(0) / len(slow)) + 1e-12
    assert (np.abs(fast.mean(0) - slow.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(slow.std(0), fast.std(0), rtol=0.2, atol=1e-9)


@pytest.mark.parametrize("resample", [0, 1], ids=["permuted", "bootstrap"])
@pytest.mark.parametrize("metric", TABLE_METRICS, ids=identifier)
def test_tables_resample_like_images(metric, resample):
    rng = np.random.default_rng(3)
    y, p, g = simulate(rng, classes=3, per_cell=12, disparity=0.2)
    keep = (rng.random(len(y)) < 0.8) | (g == 0)
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
    for _ in range(250):
        y, p, g = simulate(rng, per_cell=30)
        keep = (rng.random(len(y)) < 0.6) | (g == 0) | (y > 2)  # a mix of classes that differs between the groups
        for metric, found in p_values.items():
            found.append(bias.noise_floor(metric, y[keep], p[keep], g[keep], n=199, seed=rng).p_value)
    *continuous, discrete = p_values.values()
    for found in continuous:
        assert stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.12 < np.mean(np.array(discrete) <= 0.2) < 0.26  # ties count on both sides, so it errs on the safe side


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
    for _ in range(250):
        y, p, g = simulate(rng, per_cell=60, disparity=0.2)
        interval = bias.bootstrap(bias.class_disparity, y, p, g, n=300, seed=rng)
        covered.append((interval.low <= 0.2) & (interval.high >= 0.2))
    assert 0.92 < np.mean(covered) < 0.97


def test_u_is_unbiased_and_its_intervals_cover_the_truth():
    rng = np.random.default_rng(10)
    for disparity in (0, 0.3):
        u, mad, covered = [], [], []
        for _ in range(200):
            y, p, g = simulate(rng, disparity=disparity)
            interval = bias.bootstrap(bias.mean_square_disparity, y, p, g, n=200, seed=rng)
            u.append(interval.value)
            covered.append(interval.low <= disparity**2 <= interval.high)
            mad.append(bias.mean_absolute_disparity(y, p, g))
        assert abs(np.mean(u) - disparity**2) < 3.5 * np.std(u) / np.sqrt(200)
        assert np.mean(covered) > 0.92
        assert np.mean(mad) > disparity + (0.05 if disparity == 0 else 0)


def test_interval_of_an_upward_biased_figure_surrounds_it():
    y, p, g = simulate(np.random.default_rng(11), classes=20, per_cell=20)
    interval = bias.bootstrap(bias.mean_absolute_disparity, y, p, g)
    assert interval.low < interval.value < interval.high
    plain = bias._replicates(
        bias.mean_absolute_disparity, y, p, g, 2000, 0, {}, bias._resampled_tables, bias._resampled_images
    )
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

    draw = bias._permuted_tables
    sizes = []

    def spy(table, size, rng):
        sizes.append(size)
        return draw(table, size, rng)

    monkeypatch.setattr(bias, "_permuted_tables", spy)
    whole = bias.noise_floor(bias.mean_absolute_disparity, Y, STUDENT, G, n=1000)
    assert sizes == [1000]
    monkeypatch.setattr(bias, "CHUNK", 300 * 18)  # tables of 2 × 3 × 3
    parts = bias.noise_floor(bias.mean_absolute_disparity, Y, STUDENT, G, n=1000)
    assert sizes[1:] == [300, 300, 300, 100]
    close(parts.mean, whole.mean, 0.02)


# ---- one model, and a student beside its teacher


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
        "classes_counted": 3, "classes_counted_u": 2, "unknown": 3, "degenerate": 0,
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


@checked
@given(images(), st.integers(0, 2**32 - 1))
def test_teacher_equal_to_student(data, seed):
    y, p, g, _ = data
    figures = bias.compare(y, p, p, g, n=20, seed=seed)
    for name in ("inflation", "inflation_low", "inflation_high", "sqrt_u_inflation"):
        assert figures[name] == 0 or math.isnan(figures[name])
    for name in ("churn", "negative_flips", "cev", "sde"):
        assert figures[name] == 0 or (g < 0).all()
    assert figures["classes_masked"] == 0
    if not math.isnan(figures["inflation"]):
        assert figures["inflation_p_value"] == 1
    if not math.isnan(figures["correlation"]):
        close([figures["correlation"], figures["slope"]], [1, 1])


def test_teacher_equal_to_student_when_both_are_perfect():
    figures = bias.compare(Y, Y, Y, G, n=20)
    zero = ("inflation", "inflation_low", "inflation_high", "churn", "negative_flips", "cev", "sde", "classes_masked")
    assert all(figures[name] == 0 for name in zero)
    assert math.isnan(figures["correlation"])


def test_teacher_rates_of_zero_are_masked_and_counted():
    """The teacher misses nothing of classes 0 and 1; the student misses one of class 0, and calls it class 1."""
    y = np.repeat([0, 1, 2, 3], 10)
    g = np.tile([0, 1], 20)
    teacher, student = y.copy(), y.copy()
    teacher[[20, 30]] = [3, 2]
    student[[0, 20, 21, 30]] = [1, 3, 3, 2]
    figures = bias.compare(y, teacher, student, g, n=20)
    assert figures["classes_masked"] == 2  # no false negatives of 0, and no false positives of 1, to compare with
    # class 2: false positives 1 → 1, false negatives 1 → 2; class 3: 1 → 2 and 1 → 1; so (0, 100) and (100, 0) %
    close([figures["cev"], figures["sde"]], [5000, 100 / np.sqrt(2)])
    assert bias.compare(y, teacher, student, g, n=20, num_classes=6) == figures  # classes without images do not count
    perfect = bias.compare(y, y, (y + 1) % 4, g, n=20)
    assert perfect["classes_masked"] == 4
    assert math.isnan(perfect["cev"])
    assert math.isnan(perfect["sde"])


def test_comparison_resamples_both_models_together():
    rng = np.random.default_rng(13)
    y, teacher, g = simulate(rng, classes=4, per_cell=25, disparity=0.1)
    student = np.where(rng.random(len(y)) < 0.85, teacher, (y + 1) % 4)

    def inflation(y, pair, g):
        return bias.mean_absolute_disparity(y, pair % 4, g) - bias.mean_absolute_disparity(y, pair // 4, g)

    expected = bias.bootstrap(inflation, y, 4 * teacher + student, g, n=2000)
    figures = bias.compare(y, teacher, student, g, n=4000)
    close(figures["inflation"], expected.value, 1e-9)
    close([figures["inflation_low"], figures["inflation_high"]], [expected.low, expected.high], 0.008)
    apart = bias.bootstrap(bias.mean_absolute_disparity, y, student, g)
    assert figures["inflation_high"] - figures["inflation_low"] < 1.2 * (apart.high - apart.low)


def test_comparison_finds_inflation_and_not_where_there_is_none():
    rng = np.random.default_rng(14)
    y, fair, g = simulate(rng, per_cell=200, recall=0.8)
    _, biased, _ = simulate(rng, per_cell=200, recall=0.8, disparity=0.3)
    figures = bias.compare(y, fair, biased, g, n=500)
    for name in ("inflation", "sqrt_u_inflation"):
        assert 0.15 < figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]
        assert figures[f"{name}_p_value"] < 0.01
    swapped = bias.compare(y, biased, fair, g, n=500)
    close(swapped["inflation"], -figures["inflation"], 1e-12)
    rejected = []
    for _ in range(150):
        y, teacher, g = simulate(rng, per_cell=50, recall=0.7, disparity=0.2)
        _, student, _ = simulate(rng, per_cell=50, recall=0.7, disparity=0.2)
        figures = bias.compare(y, teacher, student, g, n=200, seed=rng)
        rejected.append([figures["inflation_p_value"] < 0.05, figures["sqrt_u_inflation_p_value"] < 0.05])
    assert (np.mean(rejected, axis=0) < 0.1).all()


def test_comparison_leaves_out_unknown_groups():
    keep = np.arange(16) % 5 != 0
    g = np.where(keep, G, -1)
    figures = bias.compare(Y, TEACHER, STUDENT, g, n=20)
    known = bias.compare(Y[keep], TEACHER[keep], STUDENT[keep], G[keep], n=20)
    assert figures.pop("unknown") == 4
    assert known.pop("unknown") == 0
    assert figures == known
