"""Bias figures that read a model's probabilities: calibration, Brier score, AUC and coverage by group."""

from collections import namedtuple

import numpy as np

from kdlib.bias.tables import as_array, check_group, check_index, check_labels, mean_of, plain, rate, unmasked

Calibration = namedtuple("Calibration", "confidence accuracy count ece")
Coverage = namedtuple("Coverage", "coverage threshold group_coverage group_accuracy")


def as_scores(values, name, images):
    """Return finite scores (images, classes) as float64; raise ValueError otherwise."""
    values = unmasked(as_array(values), name)
    if values.ndim != 2 or values.shape[1] < 1:
        raise ValueError(f"{name} must be (images, classes); their shape is {values.shape}")
    if len(values) != images:
        raise ValueError(f"{name} have {len(values)} rows, y_true {images} entries: lengths differ")
    if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite numbers; they have NaN, infinite or non-numeric entries")
    return values.astype(np.float64)


def _probabilities(y_prob, images):
    """Return probabilities (images, classes); raise ValueError for rows that do not sum to 1."""
    y_prob = as_scores(y_prob, "y_prob", images)
    if y_prob.min() < 0 or np.abs(y_prob.sum(1) - 1).max() > 1e-3:
        raise ValueError(
            f"y_prob must be probabilities, rows of numbers from 0 that sum to 1; the least is {y_prob.min():g} and rows sum "
            f"to {y_prob.sum(1).min():g} … {y_prob.sum(1).max():g} (take the softmax of logits)"
        )
    return y_prob


def _known(y_true, y_prob, group, groups=None, numbered=False):
    """Return checked labels, probabilities and groups of the images of known group, and the number of groups."""
    check_index(y_true=y_true, y_prob=y_prob, group=group)
    group, groups = check_group(group, groups, numbered)
    (y_true,), _ = check_labels(group, as_array(y_prob).shape[-1], y_true=y_true)
    y_prob, known = _probabilities(y_prob, len(y_true)), group >= 0
    return y_true[known], y_prob[known], group[known], groups


def calibration(y_true, y_prob, group, *, bins=10):
    """Confidence against accuracy, by group, and the expected calibration error (ECE).

    Parameters
    ----------
    y_true : array (N,)
        Class indices.
    y_prob : array (N, K)
        Probabilities.
    group : array (N,)
        0, 1, …, or −1 where unknown: such images are left out.
    bins : int
        The same for every group; they hold equally many images of all groups together (ties of confidence stay in one bin).

    Returns
    -------
    Calibration
        The tuple (confidence, accuracy, count, ece). The first three are (G, bins): in each group, the mean probability of the
        predicted class, the share predicted right (both NaN in an empty cell) and the images. ece (G,) is Σ_b n_b/n ·
        |accuracy_b − confidence_b|, NaN for a group without images; biased upward where images are few.

    Raises
    ------
    ValueError
        For lengths that differ, NaN, rows that do not sum to 1, indices out of range, fewer than one bin.

    References
    ----------
    Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian binning.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1; it is {bins}")
    y_true, y_prob, group, groups = _known(y_true, y_prob, group)
    if not group.size:
        empty = np.full((groups, bins), np.nan)
        return Calibration(empty, empty, np.zeros((groups, bins), int), empty[:, 0])
    confidence, right = y_prob.max(1), y_prob.argmax(1) == y_true
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
    check_index(y_true=y_true, y_prob=y_prob, group=group)
    group, _ = check_group(group, 2)
    ece = calibration(y_true, y_prob, group, bins=bins).ece
    return plain(ece[1] - ece[0])


def group_brier(y_true, y_prob, group):
    """Return the Brier score of each group: the mean of Σ_k (p_k − 1[y = k])², from 0 to 2. Shape (G,); arguments as
    `calibration`.

    References
    ----------
    Brier (1950), Verification of forecasts expressed in terms of probability.
    """
    y_true, y_prob, group, groups = _known(y_true, y_prob, group)
    picked = y_prob[np.arange(len(y_true)), y_true]
    return _group_mean((y_prob**2).sum(1) - 2 * picked + 1, group, groups)


def group_overconfidence(y_true, y_prob, group):
    """Return mean confidence − accuracy of each group, signed: above 0 it is surer than it is right. Shape (G,).

    Unlike the ECE it is not biased upward in small groups. Arguments as in `calibration`.

    References
    ----------
    Murphy (1973), A new vector partition of the probability score: reliability in the large.
    """
    y_true, y_prob, group, groups = _known(y_true, y_prob, group)
    return _group_mean(y_prob.max(1) - (y_prob.argmax(1) == y_true), group, groups)


def _group_mean(values, group, groups):
    """Return the mean of each group, NaN without images."""
    return rate(np.bincount(group, values, groups), np.bincount(group, minlength=groups))


def group_auc(y_true, y_prob, group):
    """Return the area under the ROC curve of each group: (G,), the mean over classes, one against the rest.

    AUC_k(g) = P(p_k of an image of class k > p_k of another image), both of group g, ties counting half. A class without
    images, or without others, in a group does not count there. Arguments as in `calibration`.

    References
    ----------
    Hand and Till (2001), A simple generalisation of the area under the ROC curve for multiple class problems.
    """
    y_true, y_prob, group, groups = _known(y_true, y_prob, group)
    areas = np.full((groups, y_prob.shape[1]), np.nan)
    for g in range(groups):
        labels, scores = y_true[group == g], y_prob[group == g]
        for k in np.unique(labels):
            of_class, others = scores[labels == k, k], np.sort(scores[labels != k, k])
            if others.size:
                below = np.searchsorted(others, of_class, "left") + np.searchsorted(others, of_class, "right")
                areas[g, k] = below.mean() / 2 / others.size
    return mean_of(areas)


def auc_gap(y_true, y_prob, group):
    """Return `group_auc` of group 1 minus that of group 0; ValueError for more than two groups."""
    check_index(y_true=y_true, y_prob=y_prob, group=group)
    group, _ = check_group(group, 2)
    areas = group_auc(y_true, y_prob, group)
    return plain(areas[1] - areas[0])


calibration_gap.tail = auc_gap.tail = "two-sided"  # type: ignore[attr-defined]


def accuracy_coverage(y_true, y_prob, group, *, coverage=None):
    """Accuracy by group when the least confident images are left undecided, with one threshold for all groups.

    Parameters
    ----------
    y_true, y_prob, group
        As in `calibration`.
    coverage : array (C,), optional
        Shares of all images that are decided; by default .1, .2, … 1. Ties of confidence are decided together.

    Returns
    -------
    Coverage
        The tuple (coverage (C,), threshold (C,), group_coverage (G, C), group_accuracy (G, C)): the share of a group's images
        whose confidence reaches the threshold, and the share of those that are right, NaN without any.

    References
    ----------
    Jones et al. (2021), Selective classification can magnify disparities across groups.
    """
    coverage = np.arange(1, 11) / 10 if coverage is None else np.asarray(coverage, dtype=float)
    if coverage.ndim != 1 or not ((coverage > 0) & (coverage <= 1)).all():
        raise ValueError(f"coverage must hold shares above 0, up to 1; it is {coverage}")
    y_true, y_prob, group, groups = _known(y_true, y_prob, group)
    if not group.size:
        empty = np.full((groups, len(coverage)), np.nan)
        return Coverage(coverage, empty[0], empty, empty)
    confidence, right = y_prob.max(1), y_prob.argmax(1) == y_true
    wanted = np.ceil(coverage * len(confidence) - 1e-9).astype(int)
    threshold = np.sort(confidence)[::-1][wanted - 1]
    decided = confidence[:, None] >= threshold
    count, hits = (
        np.array([(rows[group == g]).sum(0) for g in range(groups)]) for rows in (decided, decided & right[:, None])
    )
    return Coverage(coverage, threshold, rate(count, np.bincount(group, minlength=groups)[:, None]), rate(hits, count))
