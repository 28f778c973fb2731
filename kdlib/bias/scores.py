"""Bias figures that read a model's probabilities or logits, not its decisions alone: calibration by group, and leakage."""

from collections import namedtuple

import numpy as np

from kdlib.bias.tables import as_array, check_group, check_images, check_labels, plain, rate
from kdlib.bias.uncertainty import permuted_images, quantiles

Calibration = namedtuple("Calibration", "confidence accuracy count ece")
_LEAKAGE = [
    "attacker",
    "attacker_labels",
    "leakage",
    "floor",
    "floor_low",
    "floor_high",
    "p_value",
    "chance",
    "accuracy",
]


def _scores(values, name, images):
    values = as_array(values)
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"{name} must be (images, classes); their shape is {values.shape}")
    if len(values) != images:
        raise ValueError(f"{name} have {len(values)} rows, y_true {images} entries: lengths differ")
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers; they have NaN, infinite or non-numeric entries")
    return values.astype(np.float64)


def _probabilities(y_prob, images):
    y_prob = _scores(y_prob, "y_prob", images)
    if y_prob.min() < 0 or np.abs(y_prob.sum(1) - 1).max() > 1e-3:
        raise ValueError(
            f"y_prob must be probabilities, rows of numbers from 0 that sum to 1; the least is {y_prob.min():g} and rows sum "
            f"to {y_prob.sum(1).min():g} … {y_prob.sum(1).max():g} (take the softmax of logits)"
        )
    return y_prob


def calibration(y_true, y_prob, group, *, bins=10):
    """Confidence against accuracy, by group: the tuple (confidence, accuracy, count, ece).

    The first three are (G, bins): in each group, the mean probability of the predicted class, the share predicted right
    (both NaN in an empty cell) and the images. The bins are the same for every group, and hold equally many images of all
    groups together (ties of confidence stay in one bin). ece (G,): the expected calibration error Σ_b n_b/n · |accuracy_b −
    confidence_b| (Naeini et al. 2015), NaN for a group without images; biased upward where images are few.

    y_true (N,) class indices; y_prob (N, K) probabilities; group (N,) 0, 1, …, or −1 where unknown: such images are left
    out. ValueError for lengths that differ, NaN, rows that do not sum to 1, indices out of range, fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1; it is {bins}")
    group, groups = check_group(group)
    (y_true,), _ = check_labels(group, as_array(y_prob).shape[-1], y_true=y_true)
    y_prob = _probabilities(y_prob, len(y_true))
    known = group >= 0
    confidence, right, group = y_prob.max(1)[known], (y_prob.argmax(1) == y_true)[known], group[known]
    if not known.any():
        empty = np.full((groups, bins), np.nan)
        return Calibration(empty, empty, np.zeros((groups, bins), int), empty[:, 0])
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    cell = group * bins + np.searchsorted(edges, confidence, side="right")
    count, total, hits = (
        np.bincount(cell, weights, groups * bins).reshape(groups, bins) for weights in (None, confidence, right)
    )
    mean, accuracy = rate(total, count), rate(hits, count)
    error = np.nansum(count * np.abs(accuracy - mean), axis=1)
    return Calibration(mean, accuracy, count, rate(error, count.sum(1)))


def calibration_gap(y_true, y_prob, group, *, bins=10):
    """ECE of group 1 minus that of group 0, with the same equal-mass bins for both; see `calibration`.

    A small group has the larger ECE by chance alone: read it beside its noise floor, `noise_floor(calibration_gap, y_true,
    y_prob, group)`. NaN where a group has no images; ValueError as in `calibration`, and for more than two groups.
    """
    group, _ = check_group(group, 2)
    ece = calibration(y_true, y_prob, group, bins=bins).ece
    return plain(ece[1] - ece[0])


calibration_gap.tail = "two-sided"


def degraded_labels(y_true, accuracy, num_classes, rng):
    """The labels with as many of them wrong as a model of this accuracy has: chosen at random, each another class at random."""
    degraded = y_true.copy()
    wrong = rng.choice(len(y_true), round((1 - accuracy) * len(y_true)), replace=False)
    degraded[wrong] = (y_true[wrong] + rng.integers(1, max(num_classes, 2), len(wrong))) % max(num_classes, 2)
    return degraded


def leakage(y_true, logits, group, *, folds=5, repeats=5, n=20, seed=0, together=None, attacker=None):
    """How much more a model's logits tell of the group than labels with as many mistakes (Wang et al. 2019): a flat dict.

    An attacker learns the group from the logits; its `attacker` is the accuracy on images left out, in `folds` parts of the
    data. `attacker_labels` is the same from labels of which as many are wrong as the model has wrong, mean over `repeats`
    draws: what the classes alone tell at that `accuracy`. `leakage` is the difference.

    `floor`, `floor_low` and `floor_high` are the attacker's mean and 95 % range when the group is permuted within each
    class, n times: logits that, given the class, hold nothing of the group. `p_value` as in `noise_floor`, so never below
    1/(1 + n). `chance` is the share of the largest group. `images` counts those of known group, `unknown` the others.

    y_true (N,) class indices; logits (N, K); group (N,) 0, 1, …, or −1 where unknown. together (N,): images with the same
    number (pictures of one person, or one picture in two colours) stay on one side of a fold. attacker: a scikit-learn
    classifier; by default a logistic regression on standardised logits. With one group only the figures are NaN; ValueError
    for lengths that differ, NaN, indices out of range, groups with fewer images than folds, and n or repeats below 1.
    """
    (y_true,), group, _, _ = check_images(group, as_array(logits).shape[-1], y_true=y_true)
    logits, known = _scores(logits, "logits", len(y_true)), group >= 0
    together = None if together is None else as_array(together)
    if together is not None and together.shape != group.shape:
        raise ValueError(
            f"together must have one entry for each of the {len(group)} images; its shape is {together.shape}"
        )
    about = {"images": int(known.sum()), "unknown": int((~known).sum())}
    y_true, group, logits = y_true[known], group[known], logits[known]
    together = together if together is None else together[known]
    sizes = np.bincount(group, minlength=2)
    if (sizes > 0).sum() < 2:
        return dict.fromkeys(_LEAKAGE, np.nan) | about
    if sizes[sizes > 0].min() < folds or folds < 2:
        raise ValueError(
            f"leakage needs 2 folds or more, and as many images of each group; got {folds}, and {sizes} images"
        )
    if min(n, repeats) < 1:
        raise ValueError(f"n and repeats must be at least 1; they are {n} and {repeats}")
    rng, accuracy = np.random.default_rng(seed), np.mean(logits.argmax(1) == y_true)

    def attacked(features, target):
        return _attack(features, target, _folds(y_true, target, together, folds, rng), attacker)

    found = attacked(logits, group)
    one_hot = np.eye(max(logits.shape[1], 2))
    labels = [attacked(one_hot[degraded_labels(y_true, accuracy, logits.shape[1], rng)], group) for _ in range(repeats)]
    floor = np.array([attacked(logits, group[permuted_images(y_true, group, rng)[1]]) for _ in range(n)])
    low, high = quantiles(floor)
    p_value = (1 + (floor >= found - 1e-9).sum()) / (1 + n)
    figures = (
        found,
        np.mean(labels),
        found - np.mean(labels),
        floor.mean(),
        low,
        high,
        p_value,
        sizes.max() / len(group),
    )
    return dict(zip(_LEAKAGE, map(float, (*figures, accuracy)), strict=True)) | about


def _folds(y_true, group, together, folds, rng):
    """(N,) the fold of each image. Folds hold as many of each class and group: a group that is rare in training is then not
    common among what is left out, which would make an attacker that knows nothing worse than chance."""
    unit = np.arange(len(y_true)) if together is None else np.unique(together, return_inverse=True)[1]
    _, first, sizes = np.unique(unit, return_index=True, return_counts=True)
    kind = np.round(2 * np.bincount(unit, group) / sizes)  # of one group, of another, or mixed
    order = np.lexsort((rng.random(len(first)), kind, y_true[first]))
    fold = np.empty(len(first), int)
    fold[order] = np.arange(len(first)) % folds
    return fold[unit]


def _attack(features, group, fold, attacker):
    """Accuracy, on the folds left out of its training, of a classifier that predicts the group from the features."""
    from sklearn.linear_model import LogisticRegression  # a second of import
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if attacker is None:
        attacker = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return np.mean(cross_val_predict(attacker, features, group, cv=PredefinedSplit(fold)) == group)
