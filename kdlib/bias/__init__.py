"""Bias of a classifier between two groups of images: its size, its noise floor, and its growth from teacher to student.

Any classifier's predictions will do:

>>> import numpy as np
>>> from kdlib import bias
>>> label = np.repeat([0, 1], 100)                # 200 images of two classes,
>>> group = np.tile([0, 1], 100)                  # half of each class in either group; −1 would mean unknown
>>> missed = (label == 1) & (group == 1) & (np.arange(200) % 5 == 0)
>>> prediction = np.where(missed, 0, label)       # 10 of class 1's 50 images in group 1 are missed
>>> bias.class_disparity(label, prediction, group).round(3)
array([ 0. , -0.2])
>>> round(bias.mean_absolute_disparity(label, prediction, group), 3)
0.1
>>> floor = bias.noise_floor(bias.mean_absolute_disparity, label, prediction, group)
>>> floor.mean < 0.04, floor.p_value < 0.01       # what a classifier that ignores the group would show
(True, True)
>>> interval = bias.bootstrap(bias.class_disparity, label, prediction, group)
>>> print(interval.low[1] < -0.2 < interval.high[1] < 0)
True

The figures of one model are in `bias_metrics` and, where they need probabilities or logits, `bias_scores`; floors and
intervals in `bias_uncertainty`; a student beside its teacher in `bias_compare`. All are names of this module too.
"""

from collections import namedtuple

import numpy as np

from kdlib.bias.compare import class_tests, compare, exemplars, signed_root
from kdlib.bias.metrics import (
    accuracy_gap,
    bias_amplification,
    bias_amplification_mals,
    cell_counts,
    class_disparity,
    class_disparity_range,
    class_recall,
    demographic_parity_difference,
    earlier_study_disparity,
    equalized_odds_difference,
    fractional_disparity,
    macro_recall_gap,
    max_disparity,
    mean_absolute_disparity,
    mean_disparity,
    mean_square_disparity,
    root_mean_square_disparity,
    weighted_disparity,
    worst_cell_accuracy,
)  # fmt: skip
from kdlib.bias.scores import calibration, calibration_gap, leakage
from kdlib.bias.stats import benjamini_hochberg, holm, paired_difference, student_interval, t_test
from kdlib.bias.tables import cells, check_images, rate, table_of
from kdlib.bias.uncertainty import Interval, NoiseFloor, Spread, bootstrap, noise_floor, sources_of_spread

__all__ = [
    "Interval",
    "NoiseFloor",
    "Predictions",
    "Spread",
    "accuracy_gap",
    "benjamini_hochberg",
    "bias_amplification",
    "bias_amplification_mals",
    "bootstrap",
    "calibration",
    "calibration_gap",
    "cell_counts",
    "class_disparity",
    "class_disparity_range",
    "class_recall",
    "class_tests",
    "compare",
    "demographic_parity_difference",
    "earlier_study_disparity",
    "equalized_odds_difference",
    "exemplars",
    "fractional_disparity",
    "holm",
    "leakage",
    "macro_recall_gap",
    "max_disparity",
    "mean_absolute_disparity",
    "mean_disparity",
    "mean_square_disparity",
    "noise_floor",
    "paired_difference",
    "read_csv",
    "root_mean_square_disparity",
    "sources_of_spread",
    "student_interval",
    "summary",
    "t_test",
    "weighted_disparity",
    "worst_cell_accuracy",
]  # fmt: skip

Predictions = namedtuple("Predictions", "y_true y_pred group classes groups")


def summary(y_true, y_pred, group, *, num_classes=None, min_count=1, n=2000, seed=0):
    """The main figures of one model as a flat dict of numbers: MAD beside its noise floor, accuracy beside both.

    `accuracy` and `degenerate` use every image; all else leaves out the `unknown` images without a group. A
    `degenerate` model predicts fewer than half of the classes present, is no more accurate than always naming the
    commonest class, or has a macro-recall less than a fifth of the way from chance to 1: it looks fair and is useless.
    `classes_counted` is the number of classes behind `mad`, `classes_counted_u` behind `u`; `sqrt_u` is sign(U)·√|U|.
    `equalized_odds` is the mean over classes and `equalized_odds_max` the largest; `demographic_parity_excess` is
    `demographic_parity` minus that of the labels. With more than two groups, what needs a signed difference (`u`, its root,
    `mean_disparity`, the gaps) is NaN. Arguments and errors are those of class_disparity.
    """
    labels = {"y_true": y_true, "y_pred": y_pred}
    (y_true, y_pred), group, num_classes, groups = check_images(group, num_classes, **labels)
    options = {"num_classes": num_classes, "min_count": min_count}
    floor = noise_floor(mean_absolute_disparity, y_true, y_pred, group, n=n, seed=seed, **options)
    metrics = {
        "u": mean_square_disparity, "rms": root_mean_square_disparity, "max": max_disparity,
        "mean_disparity": mean_disparity, "weighted_disparity": weighted_disparity, "worst_cell": worst_cell_accuracy,
        "equalized_odds": equalized_odds_difference, "demographic_parity": demographic_parity_difference,
        "bias_amp": bias_amplification, "bias_amp_mals": bias_amplification_mals,
        "accuracy_gap": accuracy_gap, "macro_recall_gap": macro_recall_gap,
    }  # fmt: skip
    figures = {
        name: np.nan if (metric.groups or groups) < groups else metric(y_true, y_pred, group, **options)
        for name, metric in metrics.items()
    }
    odds = equalized_odds_difference(y_true, y_pred, group, per_class=True, **options)
    labels_parity = demographic_parity_difference(y_true, y_true, group, **options)
    right, count = cells(table_of(y_true, y_pred, group, num_classes))
    accuracy = rate(right.sum(-1), count.sum(-1))
    present, sizes = np.unique(y_true, return_counts=True)
    hits = y_true == y_pred
    recall, chance = np.mean([hits[y_true == label].mean() for label in present]), 1 / len(present)
    useless = hits.sum() <= sizes.max() or recall - chance < 0.2 * (1 - chance)
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
        "classes_counted_u": int((count >= max(min_count, 2)).all(0).sum()) if groups == 2 else 0,
        "accuracy": float(hits.mean()),
        **{f"accuracy_group_{number}": float(share) for number, share in enumerate(accuracy)},
        "unknown": int((group < 0).sum()),
        "degenerate": bool(2 * np.isin(present, y_pred).sum() < len(present) or useless),
    }


def read_csv(path, *, label="label", prediction="prediction", group="group"):
    """Anybody's predictions from a CSV file with these three columns and a line for each image: the tuple Predictions of
    y_true, y_pred, group (int64, as the functions here take them) and the names of `classes` and `groups` by number.

    Whole numbers, 1.0 among them, stay as they are; other values are names, without the blanks around them, numbered in
    alphabetical order; so are groups, whatever they are. An empty group, or −1, is unknown. ValueError for a file without
    these columns or without lines, and for a line without label or prediction.
    """
    import pandas as pd  # the rest needs numpy alone

    table = pd.read_csv(path, dtype=str, keep_default_na=False)  # a class may be called NA
    table.columns = table.columns.str.strip()
    missing = [name for name in (label, prediction, group) if name not in table]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} has no line below its header")
    table = table[[label, prediction, group]].apply(lambda column: column.map(_text))
    for name in (label, prediction):
        if (table[name] == "").any():
            raise ValueError(f"{path}: no {name} in line {(table[name] == '').argmax() + 2}")
    known = ~table[group].isin(("", "-1"))
    classes, (y_true, y_pred) = _numbered([table[label], table[prediction]])
    groups = tuple(sorted(set(table[group][known]), key=lambda name: (int(name) if name.isdecimal() else -1, name)))
    numbers = np.full(len(table), -1)
    numbers[known] = table[group][known].map(groups.index)
    return Predictions(y_true, y_pred, numbers, classes, groups)


def _text(value):
    """A value of a CSV file without blanks around it; a whole number, as 1.0 or -1.0, as 1 or -1."""
    value = value.strip()
    whole, _, rest = value.partition(".")
    return whole if rest and not rest.strip("0") and whole.removeprefix("-").isdecimal() else value


def _numbered(columns):
    """Names by number, and the columns as numbers."""
    values = sorted(set().union(*columns))
    if all(value.isdecimal() for value in values):  # numbers already
        count = max(map(int, values), default=-1) + 1
        return tuple(map(str, range(count))), [column.astype(int).to_numpy() for column in columns]
    number = {value: i for i, value in enumerate(values)}
    return tuple(values), [column.map(number).to_numpy() for column in columns]
