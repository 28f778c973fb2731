"""What a table of predictions shows, in figures: all of them from `kdlib.bias`."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib import bias

LEVEL = 0.05


@dataclass(frozen=True)
class Findings:
    """The figures of `bias.summary` (of the teacher too) and of `bias.compare`, and tables by class and group."""

    figures: dict
    teacher: dict
    comparison: dict
    by_class: pd.DataFrame
    by_group: pd.DataFrame
    alone: pd.DataFrame  # each attribute, where several are crossed
    excluded: float  # a root-mean-square disparity above this is, at 95 %; infinite where none is
    sqrt_u: list  # limits (low, high) of √U, of the student and of the teacher; empty with more than two groups


def measure(found) -> Findings:
    """Return what `found`, an `audit.Predictions`, shows."""
    y_true, group, pair = found.y_true, found.group, found.pair
    figures = bias.summary(y_true, found.student, group, pair=pair, probability=found.probability)
    teacher = comparison = {}
    if found.teacher is not None:
        teacher = bias.summary(y_true, found.teacher, group, pair=pair)
        comparison = bias.compare(y_true, found.teacher, found.student, group, pair=pair)
    models = [found.student, found.teacher][: 1 + bool(teacher)] if len(found.groups) == 2 else []
    limits = [bias.mean_square_disparity_interval(y_true, model, group, pair=pair)[1:] for model in models]
    return Findings(
        figures, teacher, comparison, _by_class(found), _by_group(found, figures), _alone(found), _excluded(found),
        [tuple(map(bias.signed_root, pair)) for pair in limits],
    )  # fmt: skip


def _by_class(found):
    """A row for each class that has images of known group: images and recall by group, disparity, its chance, its p-value.

    With two groups the disparity is signed, second minus first, with a score interval; else it is the range of the recalls."""
    options, two = {"num_classes": len(found.classes)}, len(found.groups) == 2
    arrays = found.y_true, found.student, found.group
    count = bias.cell_counts(found.y_true, found.group, **options)
    recall = bias.class_recall(*arrays, **options)
    metric = bias.class_disparity if two else bias.class_disparity_range
    draws = min(20_000, max(10_000, 100 * len(found.classes)))  # the smallest p, adjusted, must be well below the level
    wrong = (found.y_true + 1) % len(
        found.classes
    )  # recall asks only whether it is wrong, and fewer kinds are drawn faster
    reduced = np.where(found.student == found.y_true, found.y_true, wrong)
    floor = bias.noise_floor(metric, found.y_true, reduced, found.group, pair=found.pair, n=draws, **options)
    columns = {"name": found.classes}
    columns |= {f"images_{g}": count[g] for g in range(len(found.groups))}
    columns |= {f"recall_{g}": recall[g] for g in range(len(found.groups))}
    columns |= {"value": floor.value, "floor_low": floor.low, "floor_high": floor.high}
    columns |= {"p_value": floor.p_value, "p_adjusted": bias.holm(floor.p_value)}
    for prefix, predicted in (("", found.student), ("teacher_", found.teacher)):
        if predicted is None:
            continue
        if two:
            interval = bias.class_disparity_interval(found.y_true, predicted, found.group, pair=found.pair, **options)
            columns |= {f"{prefix}value": interval.value, f"{prefix}low": interval.low, f"{prefix}high": interval.high}
        else:
            columns[f"{prefix}value"] = metric(found.y_true, predicted, found.group, **options)
    table = pd.DataFrame(columns)
    return table[count.sum(0) > 0].reset_index(drop=True)


def _by_group(found, figures):
    """A row for each group: images, accuracy with Wilson's interval, macro-recall, and what probabilities tell."""
    rows = []
    for number, name in enumerate(found.groups):
        here = found.group == number
        row = {"name": name, "images": here.sum()}
        for prefix, predicted in (("", found.student), ("teacher_", found.teacher)):
            if predicted is not None:
                hits = (predicted == found.y_true)[here]
                low, high = bias.wilson(hits.sum(), hits.size)
                row |= {f"{prefix}accuracy": hits.mean(), f"{prefix}low": low, f"{prefix}high": high}
        recall = bias.class_recall(found.y_true[here], found.student[here], np.zeros(here.sum(), int))[0]
        row["macro_recall"] = np.nanmean(recall)
        row |= {name: figures.get(f"{name}_group_{number}", np.nan) for name in ("auc", "brier", "overconfidence")}
        rows.append(row)
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _alone(found):
    rows = []
    for name, group in found.alone.items():
        figures = bias.summary(found.y_true, found.student, group, pair=found.pair)
        rows.append({"name": name, "groups": len(set(group) - {-1})} | figures)
    return pd.DataFrame(rows)


def _excluded(found):
    """The root-mean-square disparity that none exceeds, at 95 %, between any two groups: see `mean_square_disparity_interval`.

    Limits are those of U, of two groups each, adjusted for the number of pairs of groups. A U below 0, which no model has,
    counts as 0: else luck would exclude more than the images can."""
    pairs = list(itertools.combinations(range(len(found.groups)), 2))
    limits = []
    for one, other in pairs:
        rows = np.isin(found.group, (one, other))
        pair = None if found.pair is None else found.pair[rows]
        u = bias.mean_square_disparity_interval(
            found.y_true[rows], found.student[rows], (found.group[rows] == other).astype(int), pair=pair,
            level=1 - LEVEL / len(pairs),
        )  # fmt: skip
        limits.append(np.inf if np.isnan(u.high) else np.sqrt(u.high - min(u.value, 0)))
    return float(max(limits))
