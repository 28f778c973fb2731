"""Bias of a study's models from their stored predictions, on the test split.

A *kind* of model is a list of runs that differ in their seed; kinds are {method or any name: runs}. Classes are those of
`data.bias_classes`."""

import numpy as np
import pandas as pd

from kdlib import bias, runs
from kdlib.bias.stats import interval
from kdlib.bias.tables import extent
from kdlib.names import method_name
from kdlib.report.tables import disparities, plus_minus, population, tested
from kdlib.runs.table import pairs_of


def spread(kinds, metric=bias.mean_absolute_disparity, **options) -> pd.DataFrame:
    """Return how much a metric would change with other seeds, and with other test images.

    Parameters
    ----------
    kinds : dict
    metric : function of `kdlib.bias`
    **options
        Of `bias.sources_of_spread`.

    Returns
    -------
    DataFrame
        A row per kind: the mean over seeds, with a 95 % interval and a standard deviation for either source.
    """
    rows = []
    for name, settings in kinds.items():
        labels, predictions, group, classes = population(settings)
        result = bias.sources_of_spread(metric, labels, predictions, group, num_classes=classes, **options)
        several = result.seeds > 1
        rows.append(
            {
                "model": method_name(name),
                "seeds": result.seeds,
                "mean": f"{result.value:.3f}",
                "95 % over seeds": f"{result.seeds_low:.3f} to {result.seeds_high:.3f}" if several else "one seed",
                "95 % over images": f"{result.images_low:.3f} to {result.images_high:.3f}",
                "std over seeds": f"{result.seeds_std:.3f}" if several else "",
                "std over images": f"{result.images_std:.3f}",
            }
        )
    return pd.DataFrame(rows)


def class_tests(teachers, kinds, classes, level=0.05) -> pd.DataFrame:
    """Return the classes whose disparity differs from the teachers' by more than other seeds would change it.

    Parameters
    ----------
    teachers : list of runs
    kinds : dict
    classes : sequence of str
    level : float
        False discovery rate over the classes (paired t-tests, adjusted after Benjamini and Hochberg).

    Returns
    -------
    DataFrame
        A row per kind, with the largest change of all.
    """
    labels, teacher_predictions, group, count = population(teachers)
    rows = []
    for name, settings in kinds.items():
        predictions = population(settings)[1]
        result = bias.class_tests(labels, teacher_predictions, predictions, group, num_classes=count)
        significant = np.flatnonzero(result["p_adjusted"] < level)
        changes = [f"{classes[k]} ({result['change'][k]:+.2f})" for k in significant]
        largest = np.argmax(np.nan_to_num(np.abs(result["change"]), nan=-1.0))
        half = result["high"][largest] - result["change"][largest]
        rows.append(
            {
                "model": method_name(name),
                "classes tested": int((~np.isnan(result["p_value"])).sum()),
                f"p < {level:g}".replace("0.", "."): int((result["p_value"] < level).sum()),
                "after adjustment": ", ".join(changes) or "none",
                "largest change": f"{classes[largest]}: {plus_minus(result['change'][largest], half, 2, '+')}",
            }
        )
    return pd.DataFrame(rows)


def exemplars(teachers, kinds, groups) -> pd.DataFrame:
    """Return the share of test images on which most students decide otherwise than most teachers, by group.

    References
    ----------
    Hooker et al. (2019), What do compressed deep neural networks forget?
    """
    labels, teacher_predictions, group, _ = population(teachers)
    pair = pairs_of(runs.as_run(teachers[0]).load_data().test)
    rows = []
    for name, settings in kinds.items():
        result = bias.exemplars(labels, teacher_predictions, population(settings)[1], group, pair=pair)
        p_value = result["difference_p_value"]
        rows.append(
            {
                "model": method_name(name),
                "share": f"{result['share']:.3f}",
                "within a population": f"{result['share_within']:.3f}",
                **{f"share, {label}": f"{result[f'share_group_{g}']:.3f}" for g, label in enumerate(groups)},
                "p (groups alike)": "" if np.isnan(p_value) else f"{p_value:.2g}",
                "teachers right": f"{result['accuracy_teacher']:.2f}",
                "students right": f"{result['accuracy_student']:.2f}",
            }
        )
    return pd.DataFrame(rows)


def calibration(settings, *, bins=10, n=200):
    """Return the calibration of a kind by group.

    Parameters
    ----------
    settings : list of runs
    bins : int
        Of equal mass, shared by the groups.
    n : int
        Permutations for the floor.

    Returns
    -------
    Calibration
        Of all runs' test images together.
    array (runs,)
        The gap: expected calibration error (ECE) of group 1 minus that of group 0; of more groups, largest minus smallest.
    (low, high)
        The gap's floor: its 95 % range when the groups are permuted, mean over runs.
    """
    every = [tested(run) for run in settings]
    labels, probabilities, group = (
        np.concatenate([getattr(one, field) for one in every]) for field in ("labels", "probabilities", "group")
    )
    metric = bias.calibration_gap if group.max() < 2 else _ece_range
    floors = [bias.noise_floor(metric, one.labels, one.probabilities, one.group, n=n, bins=bins) for one in every]
    ends = np.mean([[floor.low, floor.high] for floor in floors], axis=0)
    gaps = np.array([floor.value for floor in floors])
    return bias.calibration(labels, probabilities, group, bins=bins), gaps, ends


def _ece_range(labels, probabilities, group, *, bins):
    return float(extent(bias.calibration(labels, probabilities, group, bins=bins).ece, axis=0))


def leakage(kinds, **options) -> pd.DataFrame:
    """Return what the logits tell of the group that the decision does not need: a row per run, of `bias.leakage`.

    Where classes are merged, the attacker reads the logarithms of their probabilities. options: of `bias.leakage`."""
    rows = []
    for name, settings in kinds.items():
        for run in settings:
            one = tested(run)
            logits = runs.predictions(run)["test_logits"].astype(np.float64)
            merged = logits.shape[1] != one.probabilities.shape[1]
            scores = np.log(one.probabilities.clip(min=1e-12)) if merged else logits
            result = bias.leakage(one.labels, scores, one.group, together=one.together, **options)
            rows.append({"kind": name, "seed": runs.as_run(run).seed} | result)
    return pd.DataFrame(rows)


def leakage_in_words(rows) -> pd.DataFrame:
    """Return `leakage` for a page: a row per kind, means over seeds."""
    shown = []
    for name, group in rows.groupby("kind", sort=False):
        shown.append(
            {
                "model": method_name(name),
                "n": len(group),
                "above the floor": plus_minus(*interval(group["above_floor"]), sign="+"),
                "attacker": plus_minus(*interval(group["attacker"])),
                "floor": f"{group['floor'].mean():.3f}",
                "from labels as accurate": f"{group['attacker_labels'].mean():.3f}",
                "leakage": plus_minus(*interval(group["leakage"]), sign="+"),
                "chance": f"{group['chance'].mean():.3f}",
            }
        )
    return pd.DataFrame(shown)


def inherited(teachers, students):
    """Return teachers' and students' disparities by class, both (runs, K). A single teacher stands beside all students."""
    of_teachers, of_students = disparities(teachers), disparities(students)
    if len(of_teachers) == 1:
        of_teachers = np.broadcast_to(of_teachers, of_students.shape)
    return of_teachers, of_students
