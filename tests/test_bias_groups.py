"""Figures by group in kdlib.bias: ratios, AUC, Brier score, coverage, confusion, intersections; and how groups may be coded."""

import inspect
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from bias_examples import SHARE, STUDENT, TABLE_METRICS, TEACHER, G, Y, checked, close, images, simulate
from fairlearn import metrics as fairlearn_metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score

from kdlib import bias


def scored(seed=0, classes=3, count=240, groups=2):
    """Labels, probabilities (rounded, so that some tie) and groups; some groups unknown."""
    rng = np.random.default_rng(seed)
    y, g = rng.integers(0, classes, count), rng.integers(-1, groups, count)
    prob = rng.dirichlet(np.ones(classes), count) + np.eye(classes)[y] * rng.random((count, 1))
    prob = (prob / prob.sum(1, keepdims=True)).round(1) + 0.01
    return y, prob / prob.sum(1, keepdims=True), g


@settings(checked, max_examples=5)
@given(images(unknown=False, classes=(2, 2), complete=True, groups=3))
def test_ratios_of_two_classes_equal_fairlearn(data):
    y, p, g, _ = data
    shares = [[(p[g == a] == k).mean() for a in np.unique(g)] for k in (0, 1)]
    expected = [min(s) / max(s) if max(s) else np.nan for s in shares]
    found = bias.demographic_parity_ratio(y, p, g, num_classes=2, per_class=True)
    close(found, expected, 1e-9)
    if max(shares[1]):
        close(found[1], fairlearn_metrics.demographic_parity_ratio(y, p, sensitive_features=g), 1e-9)
    recall = fairlearn_metrics.MetricFrame(
        metrics=fairlearn_metrics.true_positive_rate, y_true=y, y_pred=p, sensitive_features=g
    )
    if recall.group_max() > 0:
        close(bias.equal_opportunity_ratio(y, p, g, per_class=True)[1], recall.ratio(), 1e-9)


def test_area_under_the_curve_equals_sklearn_and_a_slow_loop():
    y, prob, g = scored()
    found = bias.group_auc(y, prob, g)
    for a in (0, 1):
        rows = g == a
        close(found[a], roc_auc_score(y[rows], prob[rows], multi_class="ovr", average="macro"), 1e-9)
        pairs = [
            np.mean([(i > j) + (i == j) / 2 for i in prob[rows & (y == k), k] for j in prob[rows & (y != k), k]])
            for k in range(3)
        ]
        close(found[a], np.mean(pairs), 1e-9)
    close(bias.auc_gap(y, prob, g), found[1] - found[0])
    alone = np.where(g == 1, 0, y)  # group 1 holds class 0 only: no others to tell it from
    assert np.isnan(bias.group_auc(alone, prob, g)[1])


def test_brier_score_and_overconfidence():
    y, prob, g = scored(1)
    for a in (0, 1):
        rows = g == a
        slow = [sum((prob[i, k] - (y[i] == k)) ** 2 for k in range(3)) for i in np.flatnonzero(rows)]
        close(bias.group_brier(y, prob, g)[a], np.mean(slow), 1e-9)
        surplus = [prob[i].max() - (prob[i].argmax() == y[i]) for i in np.flatnonzero(rows)]
        close(bias.group_overconfidence(y, prob, g)[a], np.mean(surplus), 1e-9)
    binary, score = (y == 0).astype(int), prob[:, 0]
    two = bias.group_brier(binary, np.stack([1 - score, score], 1), np.where(g < 0, 0, 0))
    close(two[0], 2 * brier_score_loss(binary, score), 1e-9)
    assert np.isnan(two[1])


def test_accuracy_at_coverage_equals_a_slow_loop():
    y, prob, g = scored(2)
    found = bias.accuracy_coverage(y, prob, g, coverage=[0.1, 0.5, 1])
    known = [i for i in range(len(y)) if g[i] >= 0]
    confidence = prob.max(1)
    for c, share in enumerate((0.1, 0.5, 1)):
        ranked = sorted((confidence[i] for i in known), reverse=True)
        threshold = ranked[int(np.ceil(share * len(known))) - 1]
        for a in (0, 1):
            members = [i for i in known if g[i] == a]
            decided = [i for i in members if confidence[i] >= threshold]
            close(found.group_coverage[a, c], len(decided) / len(members))
            close(found.group_accuracy[a, c], np.mean([prob[i].argmax() == y[i] for i in decided]))
    close(found.group_coverage[:, -1], [1, 1])
    with pytest.raises(ValueError, match="coverage must hold shares"):
        bias.accuracy_coverage(y, prob, g, coverage=[0])


@checked
@given(images(groups=3))
def test_confusion_by_group_equals_sklearn(data):
    y, p, g, k = data
    found = bias.group_confusion(y, p, g, num_classes=k)
    for a in range(len(found)):
        rows = g == a
        expected = confusion_matrix(y[rows], p[rows], labels=range(k)) if rows.any() else np.zeros((k, k))
        assert found[a].tolist() == expected.tolist()


def test_summary_with_probabilities():
    y, prob, g = scored(3)
    figures = bias.summary(y, prob.argmax(1), g, probability=prob, n=5)
    close([figures["auc_group_0"], figures["auc_group_1"]], bias.group_auc(y, prob, g))
    close([figures["brier_group_0"], figures["brier_group_1"]], bias.group_brier(y, prob, g))
    close(figures["overconfidence_group_1"], bias.group_overconfidence(y, prob, g)[1])
    close(
        [figures["auc_gap"], figures["calibration_gap"]], [bias.auc_gap(y, prob, g), bias.calibration_gap(y, prob, g)]
    )


# ---- metrics are a list


def test_a_metric_is_one_function_and_one_entry(monkeypatch):
    def share_of_class_zero(y_true, y_pred, group, *, num_classes=None):
        return float(np.mean(y_pred == 0))

    monkeypatch.setitem(bias.METRICS, "zeros", share_of_class_zero)
    close(bias.summary(Y, STUDENT, G, n=5)["zeros"], 6 / 16)
    recalls = bias.class_recall(Y, STUDENT, G).mean(1)
    assert (
        bias.worst_group_recall(Y, STUDENT, G)
        == recalls.min()
        == bias.summary(Y, STUDENT, G, n=5)["worst_group_recall"]
    )


# ---- intersections


@checked
@given(
    st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from("abc")), min_size=1, max_size=40), st.integers(1, 6)
)
def test_intersections_equal_a_slow_loop(rows, min_count):
    rows = [(0, "a"), *rows]  # −1 and 1 alone are refused
    one, other = (np.array(values) for values in zip(*rows, strict=True))
    crossed = bias.intersection({"one": one, "other": other}, min_count=min_count)
    names = [f"one={a}, other={b}" if a >= 0 else None for a, b in rows]
    counts = {name: names.count(name) for name in names if name}
    assert crossed.pooled == {name: count for name, count in counts.items() if count < min_count}
    for name, group in zip(names, crossed.group, strict=True):
        if name is None:
            assert group == -1
        else:
            assert crossed.names[group] == (name if counts[name] >= min_count else "other")
    assert (
        crossed.counts.tolist() == np.bincount(crossed.group[crossed.group >= 0], minlength=len(crossed.names)).tolist()
    )


def test_intersections_are_groups():
    y, p, g = simulate(np.random.default_rng(4), per_cell=40, groups=2)
    age = np.random.default_rng(5).choice(["old", "young", None], len(y))
    crossed = bias.intersection({"gender": g, "age": age})
    figures = bias.summary(y, p, crossed.group, n=20)
    assert len(crossed.names) == 4
    assert figures["unknown"] == sum(value is None for value in age)
    close(figures["worst_group_accuracy"], min((p == y)[crossed.group == a].mean() for a in range(4)))
    with pytest.raises(ValueError, match="one length"):
        bias.intersection({"gender": g, "age": age[1:]})


# ---- how groups and classes may be coded


@pytest.mark.parametrize("codes", [(1, 2), (0, 5), (3, 7000)])
def test_groups_are_numbered_by_what_occurs(codes):
    coded = np.where(G == 1, *codes[::-1])
    assert bias.summary(Y, STUDENT, coded, n=20) == bias.summary(Y, STUDENT, G, n=20)
    assert bias.compare(Y, TEACHER, STUDENT, coded, n=20) == bias.compare(Y, TEACHER, STUDENT, G, n=20)
    for metric in TABLE_METRICS:
        close(metric(Y, STUDENT, coded), metric(Y, STUDENT, G), 0)
    close(bias.class_disparity_interval(Y, STUDENT, coded).low, bias.class_disparity_interval(Y, STUDENT, G).low, 0)
    three = np.where(Y == 2, 9, coded)
    assert "accuracy_group_3" not in bias.summary(Y, STUDENT, three, n=5)


def test_class_numbers_far_apart_cost_nothing():
    far = np.array([5, 48_662, 10**9])
    began = time.perf_counter()
    assert bias.summary(far[Y], far[STUDENT], G, n=20) == bias.summary(Y, STUDENT, G, n=20)
    assert bias.compare(far[Y], far[TEACHER], far[STUDENT], G, n=20) == bias.compare(Y, TEACHER, STUDENT, G, n=20)
    assert time.perf_counter() - began < 2
    near = np.array([5, 7, 48_662])
    found, expected = bias.class_disparity(near[Y], near[STUDENT], G), bias.class_disparity(Y, STUDENT, G)
    assert found.shape == (48_663,)
    close(found[near], expected, 0)
    assert np.isnan(found).sum() == 48_660
    close(bias.noise_floor(bias.class_disparity, near[Y], near[STUDENT], G, n=20).value[near], expected, 0)
    assert bias.cell_counts(near[Y], G)[:, near].tolist() == bias.cell_counts(Y, G).tolist()
    with pytest.raises(ValueError, match="number them from 0"):
        bias.class_disparity(far[Y], far[STUDENT], G)


def test_a_summary_of_many_images_is_quick_and_small():
    """A tenth of what was measured in full: 10⁶ images take .3 s for 10 classes and 2 s for 1,000, in .3 GiB."""
    rng = np.random.default_rng(6)
    for classes, limit in ((10, 2), (1000, 8)):
        y, g = rng.integers(0, classes, 10**5), rng.integers(0, 2, 10**5)
        p = np.where(rng.random(10**5) < 0.7, y, rng.integers(0, classes, 10**5))
        began = time.perf_counter()
        figures = bias.summary(y, p, g, n=500)
        assert time.perf_counter() - began < limit
        assert figures["mad_floor_low"] < figures["mad"] < figures["mad_floor_high"] + 0.01
    tracemalloc.start()
    bias.summary(y, p, g, n=20)
    assert tracemalloc.get_traced_memory()[1] < 500e6
    tracemalloc.stop()


def test_large_tables_are_drawn_as_right_and_wrong(monkeypatch):
    y, p, g = simulate(np.random.default_rng(7), classes=6, per_cell=30)
    full = bias.noise_floor(bias.mean_absolute_disparity, y, p, g, n=4000)
    monkeypatch.setattr("kdlib.bias.uncertainty.FULL", 0)
    reduced = bias.noise_floor(bias.mean_absolute_disparity, y, p, g, n=4000)
    assert reduced != full
    close([reduced.mean, reduced.low, reduced.high], [full.mean, full.low, full.high], 0.004)


def test_amplification_needs_labels_that_depend_on_the_group():
    y, g = np.repeat([0, 1], 4), np.tile([0, 1], 4)
    assert np.isnan(bias.bias_amplification(y, g, g)), "a balanced split has no bias to amplify"
    assert bias.bias_amplification(np.append(y, 0), np.append(g, 0), np.append(g, 0)) != 0


def test_skew_amplification_checks_classes_and_sources():
    group, source = np.repeat([0, 1], 3), np.tile([7, 8, 9], 2)
    assert bias.skew_amplification([0, 1, 2, 0, 1, 2], group, source=source) == 0
    assert bias.skew_amplification([0, 1, 2, 0, 1, 2], group + 4) == 0
    assert bias.skew_amplification(10**9 * group, group) == 0.5
    with pytest.raises(ValueError, match="their sources differ"):
        bias.skew_amplification([0, 1, 2, 0, 1, 2], group, source=[7, 8, 9, 7, 8, 8])
    for wrong in ([0, 1, -1, 0, 1, 2], [0, 1, -2, 0, 1, 2]):
        with pytest.raises(ValueError, match="from 0 up"):
            bias.skew_amplification(wrong, group)


# ---- arrays of other kinds


def test_pandas_rows_that_are_not_aligned_are_refused():
    y, p, g = (pd.Series(values) for values in (Y, STUDENT, G))
    shuffled = g.sample(frac=1, random_state=0)
    for call in (
        lambda group: bias.summary(y, p, group, n=5),
        lambda group: bias.compare(y, p, p, group, n=5),
        lambda group: bias.class_disparity(y, p, group),
        lambda group: bias.noise_floor(bias.mean_disparity, Y, p, group, n=5),
        lambda group: bias.bootstrap(bias.mean_square_disparity, y, STUDENT, group, n=5),
        lambda group: bias.class_disparity_interval(y, p, group),
        lambda group: bias.flip_rate(p, group, Y),
        lambda group: bias.is_paired(p, group),
        lambda group: bias.fractional_disparity(y, p, group),
        lambda group: bias.exemplars(y, [TEACHER], [STUDENT], group, n=5),
        lambda group: bias.sources_of_spread(bias.mean_disparity, y, [STUDENT], group, n=5),
        lambda group: bias.cell_counts(y, group),
        lambda group: bias.calibration_gap(y, np.eye(3)[STUDENT], group),
    ):
        call(g)
        with pytest.raises(ValueError, match="different pandas indexes"):
            call(shuffled)
    order = shuffled.index
    assert bias.summary(y[order], p[order], shuffled, n=5) == bias.summary(Y[order], STUDENT[order], G[order], n=5)


def test_a_shuffled_group_is_no_small_bias():
    y, g = np.tile([0, 1], 50), np.repeat([0, 1], 50)
    p = np.where((g == 1) & (np.arange(100) % 5 == 0), 1 - y, y)
    close(bias.mean_absolute_disparity(y, p, g), 0.2)
    group = pd.Series(g).sample(frac=1, random_state=0)
    with pytest.raises(ValueError, match="different pandas indexes"):
        bias.mean_absolute_disparity(pd.Series(y), p, group)
    close(bias.mean_absolute_disparity(pd.Series(y)[group.index], p[group.index], group), 0.2)


ALIGNED = {
    "y_true": Y, "y_pred": STUDENT, "group": G, "pair": np.arange(16) // 2, "source": np.arange(16) // 2, "share": SHARE,
    "together": np.arange(16) // 2, "logits": np.eye(3)[STUDENT], "y_prob": np.eye(3)[STUDENT],
    "probability": np.eye(3)[STUDENT], "teacher_pred": TEACHER, "student_pred": STUDENT,
    "teacher_preds": [TEACHER, TEACHER], "student_preds": [STUDENT, STUDENT], "predictions": [STUDENT, STUDENT],
}  # fmt: skip
ARRAYS = {
    name: [key for key in inspect.signature(getattr(bias, name)).parameters if key in ALIGNED]
    for name in bias.__all__
    if inspect.isfunction(getattr(bias, name))
}


@pytest.mark.parametrize("name", [name for name, arrays in ARRAYS.items() if len(arrays) > 1])
def test_every_function_refuses_each_array_in_another_order(name):
    function = getattr(bias, name)
    options = {"n": 3, "repeats": 1, "folds": 2, "metric": bias.mean_absolute_disparity}
    options = {key: value for key, value in options.items() if key in inspect.signature(function).parameters}
    arrays = {key: pd.DataFrame(ALIGNED[key]).squeeze() for key in ARRAYS[name]}
    if name == "skew_amplification":
        arrays |= {"group": pd.Series(np.repeat([0, 1], 8)), "source": pd.Series(np.tile(np.arange(8), 2))}
    function(**arrays, **options)
    for key, values in arrays.items():
        axis = int(len(values) != len(Y))
        for other in (values.sample(frac=1, random_state=0, axis=axis), values.set_axis(np.arange(16) + 1, axis=axis)):
            with pytest.raises(ValueError, match="different pandas indexes"):
                function(**arrays | {key: other}, **options)
    for key in {"teacher_preds", "student_preds"} & set(arrays):  # of one model
        with pytest.raises(ValueError, match="different pandas indexes"):
            function(**arrays | {key: pd.Series(STUDENT).sample(frac=1, random_state=0)}, **options)
    for key in {"teacher_preds", "student_preds", "predictions"} & set(arrays):
        shuffled = [pd.Series(STUDENT), pd.Series(STUDENT).sample(frac=1, random_state=0)]
        with pytest.raises(ValueError, match="different pandas indexes"):
            function(**arrays | {key: shuffled}, **options)


def test_masked_entries_are_unknown_and_objects_are_counted():
    masked = np.ma.masked_array(G, mask=Y == 2)
    assert bias.summary(Y, STUDENT, masked, n=5) == bias.summary(Y, STUDENT, np.where(Y == 2, -1, G), n=5)
    assert bias.summary(Y, STUDENT, np.ma.masked_array(G == 1, mask=Y == 2), n=5)["unknown"] == 4
    with pytest.raises(ValueError, match="4 are masked"):
        bias.summary(np.ma.masked_array(Y, mask=Y == 2), STUDENT, G, n=5)
    with pytest.raises(ValueError, match="masked"):
        bias.group_brier(Y, np.ma.masked_equal(np.eye(3)[STUDENT], 0), G)
    for kind in ("Int64", "boolean", "int64[pyarrow]"):  # pandas' nullable numbers
        nullable = pd.Series(G == 1 if kind == "boolean" else G, dtype=kind).where(Y != 2)
        assert bias.summary(Y, STUDENT, nullable, n=5) == bias.summary(Y, STUDENT, masked, n=5)
        assert bias.intersection({"a": nullable}).group.tolist() == np.where(Y == 2, -1, 0).tolist()
    pair = np.where(np.arange(16) < 12, (np.arange(16) // 2).astype(str), "")
    assert bias.flip_rate(STUDENT, np.tile([0, 1], 8), pair).pairs == 6, "pictures without an id are no pair"
    for kind in (list(G), (G == 1).tolist()):
        objects = np.array(kind, dtype=object)
        assert bias.summary(Y.astype(object), STUDENT, objects, n=5) == bias.summary(Y, STUDENT, G, n=5)
    with pytest.raises(ValueError, match="whole numbers"):
        bias.summary(Y, STUDENT, np.array(["a", "b"] * 8, dtype=object), n=5)


def test_minus_one_and_one_are_not_taken_for_two_groups():
    for call in (bias.summary, bias.class_disparity):
        with pytest.raises(ValueError, match="write 0 and 1"):
            call(Y, STUDENT, np.where(G == 1, 1, -1))
    for values in (np.where(G == 1, 1, -1), np.where(G == 1, "1", "-1"), np.ma.masked_array(2 * G - 1, mask=Y == 2)):
        with pytest.raises(ValueError, match="a holds −1 and 1 alone"):
            bias.intersection({"a": values, "b": Y}, min_count=1)
    only_1 = np.ma.masked_array(G, mask=G == 0)
    assert np.isnan(bias.mean_absolute_disparity(Y, STUDENT, only_1)), "masked entries are no −1"
    words = np.array([*"01", "NULL", "n/a", "", "-1"])
    assert bias.intersection({"a": words}, min_count=1).group.tolist() == [0, 1, -1, -1, -1, -1]


def test_classes_that_do_not_occur_take_no_room():
    y, p = (np.append(values * 48662, values) for values in (Y, STUDENT))
    for number in (None, 10**8):
        close(bias.mean_absolute_disparity(Y * 48662, STUDENT * 48662, G, num_classes=number), 5 / 18)
    assert bias.bias_amplification(y, p, np.append(G, G)) == bias.bias_amplification(
        y, p, np.append(G, G), num_classes=10**5
    )
    close(bias.class_disparity(Y * 500, STUDENT * 500, G, num_classes=1001)[::500], [0.25, -0.25, -1 / 3])
    for call in (
        lambda: bias.fractional_disparity(Y * 10**9, STUDENT * 10**9, SHARE),
        lambda: bias.class_disparity(Y * 10**9, STUDENT * 10**9, G),
    ):
        with pytest.raises(ValueError, match="number them from 0"):
            call()
    with pytest.raises(ValueError, match="30000 classes in 2 groups take 14 GB"):
        bias.equalized_odds_difference(np.arange(30000), np.arange(30000), np.tile([0, 1], 15000))


# ---- the package


def test_the_package_loads_neither_torch_nor_pandas_nor_scipys_statistics():
    code = (
        "import sys, types, kdlib.bias as bias, kdlib.bias.compare\n"
        "from kdlib.bias import compare\n"
        "assert callable(bias.compare) and compare is bias.compare and callable(bias.summary)\n"
        "heavy = {'torch', 'pandas', 'scipy.stats', 'sklearn', 'fairlearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(callable(getattr(bias, name)) or name == "METRICS" for name in bias.__all__)
