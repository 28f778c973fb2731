"""A student beside its teacher in kdlib.bias: the worked example, loops, resampling, and populations of seeds."""

import itertools
import math

import numpy as np
import pytest
import torch
from bias_examples import (
    STUDENT,
    TEACHER,
    G,
    Y,
    checked,
    close,
    images,
    simulate,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdlib import bias
from kdlib.bias import populations

# ---- a pair of models


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

    expected = bias.bootstrap(inflation, y, 4 * teacher + student, g, n=600)
    figures = bias.compare(y, teacher, student, g, n=4000)
    close(figures["inflation"], expected.value, 1e-9)
    close([figures["inflation_low"], figures["inflation_high"]], [expected.low, expected.high], 0.015)
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
    for _ in range(80):
        y, teacher, g = simulate(rng, per_cell=50, recall=0.7, disparity=0.2)
        _, student, _ = simulate(rng, per_cell=50, recall=0.7, disparity=0.2)
        figures = bias.compare(y, teacher, student, g, n=200, seed=rng)
        rejected.append([figures["inflation_p_value"] < 0.05, figures["sqrt_u_inflation_p_value"] < 0.05])
    assert (np.mean(rejected, axis=0) < 0.12).all()


def test_comparison_leaves_out_unknown_groups():
    keep = np.arange(16) % 5 != 0
    g = np.where(keep, G, -1)
    figures = bias.compare(Y, TEACHER, STUDENT, g, n=20)
    known = bias.compare(Y[keep], TEACHER[keep], STUDENT[keep], G[keep], n=20)
    assert figures.pop("unknown") == 4
    assert known.pop("unknown") == 0
    assert figures == known


def test_comparison_on_an_attribute_with_many_values():
    rng = np.random.default_rng(30)
    y, teacher, g = simulate(rng, classes=4, per_cell=30, groups=3, recall=0.6)
    student = np.where(rng.random(len(y)) < 0.9, teacher, (y + 1) % 4)
    g[:9] = -1
    figures = bias.compare(y, teacher, student, g, n=500)
    mads = [bias.mean_absolute_disparity(y, p, g) for p in (teacher, student)]
    close([figures["mad_teacher"], figures["mad_student"], figures["inflation"]], [*mads, mads[1] - mads[0]])
    assert figures["inflation_low"] < figures["inflation"] < figures["inflation_high"]
    close([figures[f"churn_group_{a}"] for a in range(3)], [(teacher != student)[g == a].mean() for a in range(3)])
    assert (figures["classes_counted"], figures["unknown"]) == (4, 9)
    for name in ("sqrt_u_teacher", "sqrt_u_inflation", "sqrt_u_inflation_p_value", "correlation", "slope"):
        assert math.isnan(figures[name])

    def inflation(y, pair, g):
        return bias.mean_absolute_disparity(y, pair % 4, g) - bias.mean_absolute_disparity(y, pair // 4, g)

    expected = bias.bootstrap(inflation, y, 4 * teacher + student, g, n=250)
    close([figures["inflation_low"], figures["inflation_high"]], [expected.low, expected.high], 0.025)
    same = bias.compare(y, teacher, teacher, g, n=20)
    assert [same[name] for name in ("inflation", "inflation_low", "inflation_high", "churn", "cev", "sde")] == [0] * 6


# ---- populations of seeds


def most_frequent(column):
    counts = {value: column.count(value) for value in column}
    return {value for value, count in counts.items() if count == max(counts.values())}


@checked
@given(images(classes=(2, 4)), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_exemplars_equal_an_explicit_loop(data, teachers, students, seed):
    y, p, g, k = data
    rng = np.random.default_rng(seed)
    one, other = (
        np.where(rng.random((s, len(y))) < 0.5, p, rng.integers(0, k, (s, len(y)))) for s in (teachers, students)
    )
    found = bias.exemplars(y, one, other, g, n=10)
    mask = [not most_frequent(one[:, i].tolist()) & most_frequent(other[:, i].tolist()) for i in range(len(y))]
    assert found["mask"].tolist() == mask
    mask, known = np.array(mask), g >= 0
    shares = [mask[chosen].mean() if chosen.any() else math.nan for chosen in (known, g == 0, g == 1)]
    close([found["share"], found["share_group_0"], found["share_group_1"]], shares)
    close(found["difference"], shares[2] - shares[1])
    right = [(models == y)[:, mask & known] for models in (one, other)]
    expected = [part.mean() if part.size else math.nan for part in right]
    close([found["accuracy_teacher"], found["accuracy_student"]], expected)
    assert found["unknown"] == (~known).sum()


def test_populations_that_agree_have_no_exemplars():
    found = bias.exemplars(Y, [STUDENT] * 3, [STUDENT] * 2, G, n=20)
    assert not found["mask"].any()
    assert (found["share"], found["share_within"], found["difference"], found["difference_p_value"]) == (0, 0, 0, 1)


def test_exemplars_of_pairs_are_exchanged_within_pairs():
    y, g, pair = np.tile([0, 1, 2], 40), np.repeat([0, 1], 60), np.tile(np.arange(60), 2)
    students = np.where(pair % 4 == 0, (y + 1) % 3, y)[None]
    found = bias.exemplars(y, [y], students, g, pair=pair, n=50)
    assert (found["share"], found["difference"], found["difference_p_value"]) == (0.25, 0, 1)
    assert (found["difference_low"], found["difference_high"]) == (0, 0), "both pictures of a pair change, or none"
    alone = bias.exemplars(y, [y], students, g, n=50)
    assert alone["difference_low"] < 0 < alone["difference_high"]


def test_exemplars_in_one_group_are_found_and_seeds_alone_show_in_the_floor():
    rng = np.random.default_rng(31)
    y, g = np.tile([0, 1, 2], 200), np.repeat([0, 1], 300)
    changed = (g == 1) & (rng.random(600) < 0.2)
    teachers = np.where(rng.random((5, 600)) < 0.1, (y + 1) % 3, y)
    students = np.where(changed, (y + 2) % 3, np.where(rng.random((5, 600)) < 0.1, (y + 1) % 3, y))
    found = bias.exemplars(y, teachers, students, g, n=999)
    assert found["share_group_1"] > 0.15 > 0.05 > found["share_group_0"]
    assert found["difference"] > found["difference_high"]
    assert found["difference_p_value"] <= 0.002
    assert found["share"] > 2 * found["share_within"] > 0
    assert found["accuracy_student"] < 0.2 < 0.8 < found["accuracy_teacher"]
    swapped = bias.exemplars(y, teachers, students, 1 - g, n=999)
    close(swapped["difference"], -found["difference"])
    halves = [
        bias.exemplars(y, models[list(half)], models[[i for i in range(5) if i not in half]], g, n=1)["share"]
        for models in (teachers, students)
        for half in itertools.combinations(range(5), 2)
    ]
    close(found["share_within"], np.mean(halves))
    assert math.isnan(bias.exemplars(y, teachers[0], students[0], g, n=1)["share_within"])
    fair = bias.exemplars(y, teachers, students, rng.permutation(g), n=999)
    assert fair["difference_low"] <= fair["difference"] <= fair["difference_high"]


def test_exemplars_are_counted_in_blocks(monkeypatch):
    rng = np.random.default_rng(32)
    y, g = rng.integers(0, 5, 60), rng.integers(0, 2, 60)
    models = rng.integers(0, 5, (6, 60))
    whole = bias.exemplars(y, models[:3], models[3:], g, n=10)
    monkeypatch.setattr(populations, "BLOCK", 35)
    parts = bias.exemplars(y, models[:3], models[3:], g, n=10)
    assert whole["mask"].tolist() == parts["mask"].tolist()
    assert whole["mask"].any()
    many = bias.exemplars(y, models[:3], models[3:], g % 2 + (y == 0), n=10)
    assert math.isnan(many["difference"])
    assert not math.isnan(many["share_group_2"])


def test_class_tests_are_the_paired_t_tests_of_scipy():
    rng = np.random.default_rng(33)
    y, _, g = simulate(rng, per_cell=30)
    teachers, students = (np.array([simulate(rng, per_cell=30, disparity=d)[1] for _ in range(4)]) for d in (0, 0.3))
    found = bias.class_tests(y, teachers, students, g)
    one, other = (np.array([bias.class_disparity(y, p, g) for p in models]) for models in (teachers, students))
    expected = stats.ttest_rel(other, one)
    close(found["p_value"], expected.pvalue)
    close([found["low"], found["high"]], expected.confidence_interval(0.95))
    close(found["change"], (other - one).mean(0))
    close(found["p_adjusted"], stats.false_discovery_control(expected.pvalue))
    against = stats.ttest_1samp(other - one[:1], 0)
    single = bias.class_tests(y, teachers[0], students, g)
    close(single["p_value"], against.pvalue)
    uneven = bias.class_tests(y, teachers[:3], students, g)
    welch = stats.ttest_ind(other, one[:3], equal_var=False)
    close([uneven["p_value"], uneven["low"]], [welch.pvalue, welch.confidence_interval(0.95).low])
    close(found["change"], uneven["student"] - found["teacher"])


def test_class_tests_where_nothing_can_be_said():
    alone = bias.class_tests(Y, TEACHER, STUDENT, G)
    close(alone["change"], [0.5, 0, 0])
    for name in ("low", "high", "p_value", "p_adjusted"):
        assert np.isnan(alone[name]).all()
    same = bias.class_tests(Y, [TEACHER] * 3, [STUDENT] * 3, G)
    assert np.isnan(same["p_value"]).all(), "no spread over seeds is no certainty"
    small = bias.class_tests(Y, [TEACHER, STUDENT], [STUDENT, TEACHER], G, min_count=2)
    assert np.isnan(small["change"][2])
    assert np.isnan(bias.class_tests(Y, [TEACHER], [STUDENT, TEACHER], G, num_classes=5)["change"][3:]).all()
    assert np.isnan(bias.class_tests(Y, [TEACHER] * 3, [STUDENT] * 1, G)["p_value"]).all()


def test_false_discoveries_of_models_without_any_difference_are_rare():
    """Every class is without difference, so any discovery is false: Benjamini and Hochberg keep such studies to 5 %."""
    rng = np.random.default_rng(34)
    discoveries, raw = [], []
    for _ in range(80):
        y, _, g = simulate(rng, classes=8, per_cell=20)
        models = np.array([simulate(rng, classes=8, per_cell=20)[1] for _ in range(8)])
        found = bias.class_tests(y, models[:4], models[4:], g)
        discoveries.append((found["p_adjusted"] < 0.05).any())
        raw.append((found["p_value"] < 0.05).any())
    assert np.mean(discoveries) < 0.1
    assert np.mean(raw) > 0.2


@checked
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_benjamini_and_hochberg_equal_scipy_and_pass_over_nan(p_values):
    p_values = np.array(p_values, dtype=float)
    tested = ~np.isnan(p_values)
    adjusted = bias.benjamini_hochberg(p_values)
    assert (np.isnan(adjusted) == ~tested).all()
    if tested.any():
        close(adjusted[tested], stats.false_discovery_control(p_values[tested]), 1e-12)


POPULATION = {"y_true": Y, "teacher_preds": [TEACHER, STUDENT], "student_preds": [STUDENT, TEACHER], "group": G}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher_preds": [TEACHER[1:]]}, r"teacher_preds\[0\] has 15 entries"),
        ({"student_preds": [STUDENT, STUDENT - 1]}, r"student_preds\[1\] must be in 0"),
        ({"student_preds": [STUDENT + 0.5]}, r"student_preds\[0\] must hold whole numbers"),
        ({"student_preds": np.zeros((0, 16))}, r"student_preds must be \(models, images\)"),
        ({"student_preds": np.zeros((2, 2, 16))}, r"student_preds must be \(models, images\)"),
        ({"y_true": Y[1:]}, "15 entries"),
        ({"group": G - 2}, "group must have"),
    ],
)
def test_wrong_populations_are_refused(wrong, message):
    for function in (bias.exemplars, bias.class_tests):
        with pytest.raises(ValueError, match=message):
            function(**(POPULATION | wrong))


def test_class_tests_of_an_attribute_with_many_values():
    rng = np.random.default_rng(35)
    y, _, g = simulate(rng, classes=3, per_cell=20, groups=3, recall=0.6)
    models = np.array([simulate(rng, classes=3, per_cell=20, groups=3, recall=0.6)[1] for _ in range(6)])
    found = bias.class_tests(y, models[:3], models[3:], g)
    ranges = np.array([bias.class_disparity_range(y, p, g) for p in models])
    close(found["p_value"], stats.ttest_rel(ranges[3:], ranges[:3]).pvalue)


def test_populations_may_be_tensors():
    tensors = {name: torch.tensor(np.array(values)) for name, values in POPULATION.items()}
    close(bias.class_tests(**tensors)["change"], bias.class_tests(**POPULATION)["change"])
    assert bias.exemplars(**tensors)["mask"].tolist() == bias.exemplars(**POPULATION)["mask"].tolist()


def test_classes_that_do_not_vary_have_no_p_value():
    """Three like teachers against two like students: a difference without any spread is no test."""
    y, g = np.tile([0, 1], 20), np.repeat([0, 1], 20)
    student = np.where((y == 1) & (g == 1), 0, y)
    found = bias.class_tests(y, np.stack([y] * 3), np.stack([student] * 2), g)
    assert found["change"].tolist() == [0, -1]
    assert np.isnan(found["p_value"]).all()
