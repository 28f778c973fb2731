"""Calibration by group and leakage in kdlib.bias: by hand, against scikit-learn, and where they must find nothing."""

import math

import numpy as np
import pytest
import torch
from bias_examples import STUDENT, G, Y, checked, close, images
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.dummy import DummyClassifier
from sklearn.naive_bayes import GaussianNB

from kdlib import bias
from kdlib.bias import attack


def probabilities(rng, count, classes=4, sharpness=2.0):
    return softmax(sharpness * rng.normal(size=(count, classes)))


def softmax(logits):
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def drawn(rng, prob):
    """Labels as likely as these probabilities say: a calibrated model's."""
    return (rng.random((len(prob), 1)) > prob.cumsum(1)).sum(1).clip(max=prob.shape[1] - 1)


# ---- calibration


def test_calibration_by_hand():
    prob = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]])
    y, g = np.array([0, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 1, 1, 1])
    # confidences .9 .8 .7 .6 .6 .9; the median, .75, parts them: {.7, .6, .6} and {.9, .8, .9}
    found = bias.calibration(y, prob, g, bins=2)
    close(found.confidence, [[0.7, 0.85], [0.6, 0.9]])
    close(found.accuracy, [[1, 0.5], [0.5, 0]])
    close(found.count, [[1, 2], [2, 1]])
    ece = [(1 * 0.3 + 2 * 0.35) / 3, (2 * 0.1 + 1 * 0.9) / 3]
    close(found.ece, ece)
    close(bias.calibration_gap(y, prob, g, bins=2), ece[1] - ece[0])
    close(bias.calibration_gap(y, prob, 1 - g, bins=2), ece[0] - ece[1])
    close(bias.calibration(y, prob, np.array([0, 0, 0, 1, -1, -1]), bins=1).confidence, [[0.8], [0.6]])


@checked
@given(images(groups=3), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_calibration_equals_an_explicit_loop(data, bins, seed):
    y, _, g, k = data
    prob = np.random.default_rng(seed).dirichlet(np.ones(k), len(y)).round(1) + 1e-3  # many ties
    prob /= prob.sum(1, keepdims=True)
    found = bias.calibration(y, prob, g, bins=bins)
    known = np.flatnonzero(g >= 0)
    if not known.size:
        assert np.isnan(found.ece).all()
        assert found.count.sum() == 0
        return
    confidence = prob.max(1)
    edges = [np.quantile(confidence[known], i / bins) for i in range(1, bins)]
    for group in range(len(found.ece)):
        error = total = 0
        for number in range(bins):
            inside = [i for i in known if g[i] == group and sum(confidence[i] >= edge for edge in edges) == number]
            assert found.count[group, number] == len(inside)
            if inside:
                right, sure = np.mean([prob[i].argmax() == y[i] for i in inside]), np.mean(confidence[inside])
                close([found.accuracy[group, number], found.confidence[group, number]], [right, sure], 1e-9)
                error, total = error + len(inside) * abs(right - sure), total + len(inside)
        close(found.ece[group], error / total if total else math.nan, 1e-9)


def test_calibration_equals_sklearn():
    rng = np.random.default_rng(0)
    prob = rng.uniform(0.5, 1, 400)
    right = (rng.random(400) < prob).astype(int)
    found = bias.calibration(1 - right, np.stack([prob, 1 - prob], 1), np.zeros(400), bins=8)
    accuracy, confidence = calibration_curve(right, prob, n_bins=8, strategy="quantile")
    close(found.accuracy[0], accuracy)
    close(found.confidence[0], confidence)
    assert found.count[0].tolist() == [50] * 8


def test_a_calibrated_model_has_no_gap_beyond_its_floor_and_an_overconfident_group_is_found():
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(60):
        prob = probabilities(rng, 300)
        y, g = drawn(rng, prob), rng.integers(0, 2, 300)
        p_values.append(bias.noise_floor(bias.calibration_gap, y, prob, g, n=39, seed=rng).p_value)
    assert np.mean(np.array(p_values) <= 0.1) < 0.22  # .1 on average, with a standard error of .04
    logits = np.log(prob)
    sharp = softmax(np.where(g[:, None] == 1, 3 * logits, logits))
    floor = bias.noise_floor(bias.calibration_gap, y, sharp, g, n=199)
    assert floor.value > 0.1
    assert floor.p_value < 0.02
    interval = bias.bootstrap(bias.calibration_gap, y, sharp, g, n=200)
    assert 0 < interval.low < interval.value < interval.high


def test_calibration_where_a_group_is_missing():
    prob = probabilities(np.random.default_rng(2), 16, classes=3)
    assert math.isnan(bias.calibration_gap(Y, prob, np.zeros(16)))
    assert math.isnan(bias.calibration_gap(Y, prob, -np.ones(16)))
    close(bias.calibration_gap(torch.tensor(Y), torch.tensor(prob), list(G)), bias.calibration_gap(Y, prob, G))


LOGITS = np.eye(3)[STUDENT] * 2.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"y_prob": LOGITS}, "y_prob must be probabilities"),
        ({"y_prob": np.eye(3)[STUDENT] * 1.5 - 0.25}, "y_prob must be probabilities"),
        ({"y_prob": LOGITS[1:]}, "y_prob have 15 rows, y_true 16 entries"),
        ({"y_prob": np.where(LOGITS > 1, np.nan, 0)}, "y_prob must be finite"),
        ({"y_prob": STUDENT}, "y_prob must be .images, classes.|y_true must be in"),
        ({"y_true": Y[1:]}, "15 entries"),
        ({"y_true": Y + 1}, "y_true must be in 0 … 2"),
        ({"group": np.where(Y == 2, 2, G)}, "group must have at most 2"),
        ({"bins": 0}, "bins must be at least 1"),
    ],
)
def test_wrong_probabilities_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        bias.calibration_gap(**({"y_true": Y, "y_prob": np.eye(3)[STUDENT], "group": G} | wrong))


# ---- leakage


def leaking(rng, count=600, classes=4, told=0.0, skew=0.5):
    """Labels, logits that hold the group with strength `told`, and a group; class 0 and 1 are of group 1 by `skew`."""
    y = rng.integers(0, classes, count)
    g = (rng.random(count) < np.where(y < 2, skew, 1 - skew)).astype(int)
    logits = rng.normal(size=(count, classes)) + 3 * np.eye(classes)[y]
    logits[:, 0] += told * g
    return y, logits, g


def test_leakage_finds_a_group_in_the_logits_and_none_where_there_is_none():
    rng = np.random.default_rng(3)
    y, logits, g = leaking(rng, told=4.0)
    found = bias.leakage(y, logits, g, n=19, repeats=2)
    assert found["leakage"] > 0.15
    assert found["p_value"] == 1 / 20
    assert next(iter(found)) == "above_floor"
    close(found["above_floor"], found["attacker"] - found["floor"])
    assert found["attacker"] > found["floor_high"]
    close(found["leakage"], found["attacker"] - found["attacker_labels"])
    close(found["accuracy"], np.mean(logits.argmax(1) == y))
    close(found["chance"], max(g.mean(), 1 - g.mean()))
    clean = bias.leakage(*leaking(rng), n=19, repeats=2)
    assert abs(clean["above_floor"]) < 0.05
    assert clean["p_value"] > 0.05
    assert abs(clean["attacker"] - 0.5) < 0.08
    assert abs(clean["attacker_labels"] - 0.5) < 0.08


def test_what_the_classes_tell_of_the_group_is_no_leakage():
    """Nine in ten of a class's images share a group: labels tell it, and more so the fewer of them are wrong."""
    rng = np.random.default_rng(4)
    y, logits, g = leaking(rng, skew=0.9)
    found = bias.leakage(y, logits, g, n=2)
    accuracy = found["accuracy"]
    close(found["attacker_labels"], accuracy * 0.9 + (1 - accuracy) * (0.9 / 3 + 0.1 * 2 / 3), 0.04)
    assert found["attacker_labels"] > 0.75
    assert abs(found["leakage"]) < 0.06
    perfect = bias.leakage(y, 9.0 * np.eye(4)[y], g, n=3)
    close(perfect["attacker"], perfect["attacker_labels"], 1e-9)
    assert perfect["attacker_labels"] > found["attacker_labels"]


def test_labels_are_degraded_to_the_accuracy_and_to_every_other_class():
    rng = np.random.default_rng(5)
    y = np.repeat([0, 1, 2], 200)
    degraded = attack.degraded_labels(y, 0.7, 3, rng)
    assert (degraded == y).mean() == 0.7
    wrong = degraded != y
    counts = np.bincount(3 * y[wrong] + degraded[wrong], minlength=9).reshape(3, 3)
    assert (counts.diagonal() == 0).all()
    assert counts[~np.eye(3, dtype=bool)].min() > 15
    assert attack.degraded_labels(y, 1.0, 3, rng).tolist() == y.tolist()


def test_an_attacker_that_learns_nothing_is_as_good_as_chance_on_balanced_groups():
    """Folds that were not stratified would punish it: what is rare in training is common among the images left out."""
    rng = np.random.default_rng(6)
    y, g = np.repeat(np.arange(4), 40), np.tile([0, 1], 80)
    accuracies = [bias.leakage(y, rng.normal(size=(160, 4)), g, n=1, repeats=1, seed=s)["attacker"] for s in range(12)]
    assert abs(np.mean(accuracies) - 0.5) < 0.03


def test_folds_hold_as_many_of_each_class_and_group():
    rng = np.random.default_rng(10)
    y, g = rng.integers(0, 4, 203), rng.integers(0, 3, 203)
    fold = attack._folds(y, g, None, 5, rng)
    counts = np.zeros((5, 4, 3), int)
    np.add.at(counts, (fold, y, g), 1)
    assert np.ptp(counts, axis=0).max() <= 1
    pairs = np.repeat(np.arange(100), 2)  # each picture in both groups
    fold = attack._folds(np.repeat(rng.integers(0, 4, 100), 2), np.tile([0, 1], 100), pairs, 5, rng)
    assert (fold[::2] == fold[1::2]).all()
    assert np.bincount(fold).tolist() == [40] * 5


def test_pictures_that_belong_together_stay_on_one_side_of_a_fold():
    """Each picture is there twice, with logits of its own that say nothing of the group: an attacker that may remember
    pictures finds the group of the other copy."""
    rng = np.random.default_rng(7)
    y = np.repeat(rng.integers(0, 3, 200), 2)
    logits, g = np.repeat(rng.normal(size=(200, 3)), 2, axis=0), np.repeat(rng.integers(0, 2, 200), 2)
    from sklearn.neighbors import KNeighborsClassifier

    options = {"n": 1, "repeats": 1, "attacker": KNeighborsClassifier(1)}
    assert bias.leakage(y, logits, g, **options)["attacker"] > 0.8
    assert bias.leakage(y, logits, g, together=np.repeat(np.arange(200), 2), **options)["attacker"] < 0.65


def test_leakage_of_many_groups_unknown_groups_and_other_attackers():
    rng = np.random.default_rng(8)
    y, logits, g = leaking(rng, count=300)
    g = rng.integers(0, 3, 300)
    logits[:, 1] += 3 * (g == 2)
    g[:20] = -1
    found = bias.leakage(y, logits, g, n=2, repeats=1)
    assert (found["images"], found["unknown"]) == (280, 20)
    assert found["leakage"] > 0.1
    known = bias.leakage(y[20:], logits[20:], g[20:], n=2, repeats=1)
    assert known | {"unknown": 20} == found
    assert bias.leakage(y, logits, g, n=1, repeats=1, attacker=GaussianNB())["attacker"] > 0.4
    constant = bias.leakage(y, logits, g, n=1, repeats=1, attacker=DummyClassifier())
    close(constant["attacker"], constant["chance"])
    close(constant["leakage"], 0)


def test_leakage_undefined_or_refused():
    y, logits, g = leaking(np.random.default_rng(9), count=60)
    alone = bias.leakage(y, logits, np.ones(60), n=2)
    assert all(math.isnan(alone[name]) for name in ("attacker", "attacker_labels", "leakage", "p_value", "floor"))
    assert (alone["images"], alone["unknown"]) == (60, 0)
    few = np.where(np.arange(60) < 3, 1, 0)
    for arguments, message in (
        ((y, logits, few), "as many images of each group"),
        ((y[1:], logits, g), "59 entries"),
        ((y, logits[1:], g), "logits have 59 rows"),
        ((y, np.where(logits > 0, np.nan, 0), g), "logits must be finite"),
        ((y + 4, logits, g), "y_true must be in 0 … 3"),
    ):
        with pytest.raises(ValueError, match=message):
            bias.leakage(*arguments)
    for options, message in (({"n": 0}, "at least 1"), ({"folds": 1}, "2 folds"), ({"together": y[1:]}, "together")):
        with pytest.raises(ValueError, match=message):
            bias.leakage(y, logits, g, **options)
    same = [bias.leakage(y, logits, g, n=3, seed=s) for s in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_leakage_of_pairs_exchanges_the_group_within_pairs():
    """Each original in both groups with one and the same logits: an attacker cannot tell, and neither can the floor."""
    rng = np.random.default_rng(11)
    y, logits, _ = leaking(rng, count=60)
    both, groups, ids = np.tile(logits, (2, 1)), np.repeat([0, 1], 60), np.tile(np.arange(60), 2)
    paired = bias.leakage(np.tile(y, 2), both, groups, together=ids, n=3, repeats=1)
    assert abs(paired["above_floor"]) < 0.02
    told = both + 2.0 * groups[:, None]
    assert bias.leakage(np.tile(y, 2), told, groups, together=ids, n=3, repeats=1)["above_floor"] > 0.2
