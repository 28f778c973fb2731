"""All figures of one model. A new metric is one function and one entry in METRICS."""

import inspect

import numpy as np

from kdlib.bias.compare import signed_root
from kdlib.bias.criteria import (
    bias_amplification,
    bias_amplification_mals,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_ratio,
    equalized_odds_difference,
)  # fmt: skip
from kdlib.bias.intervals import flipped_pairs, wilson, worst_of
from kdlib.bias.metrics import (
    accuracy_gap,
    covariance_of,
    macro_recall_gap,
    max_disparity,
    mean_absolute_disparity,
    mean_disparity,
    mean_square_disparity,
    root_mean_square_disparity,
    weighted_disparity,
    worst_cell_accuracy,
    worst_group_accuracy,
    worst_group_recall,
)  # fmt: skip
from kdlib.bias.paired import units_of
from kdlib.bias.scores import auc_gap, calibration_gap, group_auc, group_brier, group_overconfidence
from kdlib.bias.tables import Images, cells, check_index, plain, rate
from kdlib.bias.uncertainty import floor_of, table_replicates

METRICS = {  # name in `summary`: metric(y_true, y_pred, group, **options) -> number
    "u": mean_square_disparity, "rms": root_mean_square_disparity, "max": max_disparity,
    "mean_disparity": mean_disparity, "weighted_disparity": weighted_disparity, "worst_cell": worst_cell_accuracy,
    "equalized_odds": equalized_odds_difference, "demographic_parity": demographic_parity_difference,
    "bias_amp": bias_amplification, "bias_amp_mals": bias_amplification_mals, "accuracy_gap": accuracy_gap,
    "macro_recall_gap": macro_recall_gap, "worst_group_accuracy": worst_group_accuracy,
    "worst_group_recall": worst_group_recall, "demographic_parity_ratio": demographic_parity_ratio,
    "equal_opportunity_ratio": equal_opportunity_ratio,
}  # fmt: skip
GROUP_SCORES = {"auc": group_auc, "brier": group_brier, "overconfidence": group_overconfidence}  # with `probability`


def summary(y_true, y_pred, group, *, pair=None, probability=None, num_classes=None, min_count=1, n=2000, seed=0):
    """The main figures of one model: MAD beside its noise floor, accuracy beside both.

    Parameters
    ----------
    y_true, y_pred, group : arrays (N,)
        As in `class_disparity`. Groups are numbered from 0 in ascending order of what occurs.
    pair : array (N,), optional
        Which original each image shows. Where images of one class and id are in several groups, the floor is that of exchange
        within pairs, and U that of pairs: see `noise_floor`.
    probability : array (N, K), optional
        Probabilities, for calibration, Brier score and AUC by group.
    num_classes, min_count : int
        As in `class_disparity`.
    n, seed : int
        Permutations for the floor.

    Returns
    -------
    dict of numbers
        `accuracy` and `degenerate` use every image; all else leaves out the `unknown` images without a group.

        - `mad` with `mad_floor`, its range `_low` to `_high`, and `mad_p_value`. `paired` tells whether the floor is that of
          pairs, and `pairs` their number; where it is, `flip_rate` with `flip_rate_low` and `flip_rate_high`.
        - What METRICS lists. `sqrt_u` is sign(U)·√|U|. `equalized_odds` is the mean over classes and `equalized_odds_max` the
          largest; `demographic_parity_excess` is `demographic_parity` minus that of the labels.
        - `worst_group_accuracy` with its interval `_low`, `_high`, and `worst_group_gap`, the accuracy of all minus it.
        - `classes_counted` is the number of classes behind `mad`, `classes_counted_u` behind `u`.
        - A `degenerate` model predicts fewer than half of the classes present, is no more accurate than always naming the
          commonest class, or has a macro-recall less than a fifth of the way from chance to 1: it looks fair and is useless.
        - With `probability`: `auc_group_0`, `brier_group_0`, `overconfidence_group_0`, …, `auc_gap` and `calibration_gap`.

        With more than two groups, what needs a signed difference (`u`, its root, `mean_disparity`, the gaps) is NaN.

    Raises
    ------
    ValueError
        As in `class_disparity`.
    """
    check_index(y_true=y_true, group=group, pair=pair, probability=probability)
    images = Images(group, num_classes, y_true=y_true, y_pred=y_pred)
    table = images.table()
    right, count = cells(table)
    options = {"min_count": min_count}
    units = units_of(images.labels[0], images.group, pair)
    mad = plain(mean_absolute_disparity.of_tables(table, **options))
    replicates = table_replicates(mean_absolute_disparity, images, table, n, seed, options, permute=True, units=units)
    floor = floor_of(mad, replicates, mean_absolute_disparity.tail)
    figures = {name: _figure(metric, images, table, units, options) for name, metric in METRICS.items()}
    odds = equalized_odds_difference.of_tables(table, per_class=True, **options)
    of_labels = np.zeros_like(table)
    np.einsum("gkk->gk", of_labels)[...] = count
    labels_parity = plain(demographic_parity_difference.of_tables(of_labels, **options))
    accuracy, worst = rate(right.sum(-1), count.sum(-1)), worst_of(right.sum(-1), count.sum(-1))
    hits = images.labels[0] == images.labels[1]
    return {
        "mad": floor.value,
        "mad_floor": floor.mean,
        "mad_floor_low": floor.low,
        "mad_floor_high": floor.high,
        "mad_p_value": floor.p_value,
        **figures,
        "sqrt_u": float(signed_root(figures["u"])),
        "equalized_odds_max": float(np.fmax.reduce(odds)),
        "demographic_parity_labels": labels_parity,
        "demographic_parity_excess": figures["demographic_parity"] - labels_parity,
        "classes_counted": int(((count >= min_count).sum(0) >= 2).sum()),
        "classes_counted_u": int((count >= max(min_count, 2)).all(0).sum()) if images.groups == 2 else 0,
        "accuracy": float(hits.mean()),
        **{f"accuracy_group_{number}": float(share) for number, share in enumerate(accuracy)},
        "worst_group_accuracy_low": worst.low,
        "worst_group_accuracy_high": worst.high,
        "worst_group_gap": worst.gap,
        "unknown": int((images.group < 0).sum()),
        "degenerate": _degenerate(images, hits),
        **_pairs(images, units),
        **({} if probability is None else _scores(y_true, probability, images)),
    }


def _figure(metric, images, table, units, options):
    """Return a metric's value, NaN where it compares two groups and there are more."""
    if (getattr(metric, "groups", None) or images.groups) < images.groups:
        return np.nan
    if not hasattr(metric, "of_tables"):
        known = inspect.signature(metric).parameters
        options = options | {"num_classes": images.num_classes, "pair": units}
        options = {name: value for name, value in options.items() if name in known}
        return plain(metric(*images.labels, images.group, **options))
    if metric.paired:
        options = options | {"covariance": covariance_of(images, units)}
    return plain(metric.of_tables(table, **options))


def _degenerate(images, hits):
    """Whether a model is useless, though it may look fair: see `summary`."""
    y_true, y_pred = images.labels
    sizes = np.bincount(y_true, minlength=images.num_classes)
    present = np.flatnonzero(sizes)
    recall = np.mean(np.bincount(y_true, hits, images.num_classes)[present] / sizes[present])
    chance = 1 / len(present)
    useless = hits.sum() <= sizes.max() or recall - chance < 0.2 * (1 - chance)
    predicted = np.bincount(y_pred, minlength=images.num_classes)
    return bool(2 * (predicted[present] > 0).sum() < len(present) or useless)


def _pairs(images, units):
    """Return whether images are paired, how many pairs there are, and the flip rate where they are."""
    if units is None:
        return {"paired": False, "pairs": 0}
    flips, _ = flipped_pairs(units, images.labels[1], images.labels[0])
    low, high = wilson(flips.sum(), len(flips))
    result = {"paired": True, "pairs": len(flips), "flip_rate": float(flips.mean())}
    return result | {"flip_rate_low": float(low), "flip_rate_high": float(high)}


def _scores(y_true, probability, images):
    """Return the figures that need probabilities."""
    result = {}
    for name, score in GROUP_SCORES.items():
        by_group = score(y_true, probability, images.group)
        result |= {f"{name}_group_{number}": float(value) for number, value in enumerate(by_group)}
    for name, gap in (("auc_gap", auc_gap), ("calibration_gap", calibration_gap)):
        result[name] = gap(y_true, probability, images.group) if images.groups == 2 else np.nan
    return result
