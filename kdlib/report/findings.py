"""Bias figures of a study from the stored predictions of its runs, on the test split. A *kind* of model is a list of runs that
differ in their seed; kinds are {name: runs}. Classes are those of `data.bias_classes`."""

import numpy as np
import pandas as pd

from kdlib import bias, runs
from kdlib.bias.stats import interval
from kdlib.bias.tables import extent
from kdlib.names import method_name
from kdlib.report.tables import disparities, plus_minus, population, tested


def spread(kinds, metric=bias.mean_absolute_disparity, **options) -> pd.DataFrame:
    """A row per kind: the metric's mean over seeds, and what other seeds and other pictures would change, apart."""
    rows = []
    for name, settings in kinds.items():
        labels, predictions, group, classes = population(settings)
        found = bias.sources_of_spread(metric, labels, predictions, group, num_classes=classes, **options)
        rows.append(
            {
                "model": method_name(name),
                "seeds": found.seeds,
                "mean": f"{found.value:.3f}",
                "95 % over seeds": f"{found.seeds_low:.3f} to {found.seeds_high:.3f}"
                if found.seeds > 1
                else "one seed",
                "95 % over pictures": f"{found.images_low:.3f} to {found.images_high:.3f}",
                "std over seeds": f"{found.seeds_std:.3f}" if found.seeds > 1 else "",
                "std over pictures": f"{found.images_std:.3f}",
            }
        )
    return pd.DataFrame(rows)


def class_tests(teachers, kinds, classes, level=0.05) -> pd.DataFrame:
    """A row per kind: the classes whose disparity differs from the teachers' beyond what other seeds would change, by paired
    t-tests with Benjamini and Hochberg's adjustment over the classes; and the largest change of all."""
    labels, teacher_predictions, group, count = population(teachers)
    rows = []
    for name, settings in kinds.items():
        predictions = population(settings)[1]
        found = bias.class_tests(labels, teacher_predictions, predictions, group, num_classes=count)
        shown = np.flatnonzero(found["p_adjusted"] < level)
        changes = [f"{classes[k]} ({found['change'][k]:+.2f})" for k in shown]
        largest = np.argmax(np.nan_to_num(np.abs(found["change"]), nan=-1.0))
        half = found["high"][largest] - found["change"][largest]
        rows.append(
            {
                "model": method_name(name),
                "classes tested": int((~np.isnan(found["p_value"])).sum()),
                f"p < {level:g}".replace("0.", "."): int((found["p_value"] < level).sum()),
                "after adjustment": ", ".join(changes) or "none",
                "largest change": f"{classes[largest]}: {plus_minus(found['change'][largest], half, 2, '+')}",
            }
        )
    return pd.DataFrame(rows)


def exemplars(teachers, kinds, groups) -> pd.DataFrame:
    """A row per kind: the share of test pictures on which most students decide otherwise than most teachers, by group."""
    labels, teacher_predictions, group, _ = population(teachers)
    rows = []
    for name, settings in kinds.items():
        found = bias.exemplars(labels, teacher_predictions, population(settings)[1], group)
        p_value = found["difference_p_value"]
        rows.append(
            {
                "model": method_name(name),
                "share": f"{found['share']:.3f}",
                "within a population": f"{found['share_within']:.3f}",
                **{f"share, {label}": f"{found[f'share_group_{g}']:.3f}" for g, label in enumerate(groups)},
                "p (groups alike)": "" if np.isnan(p_value) else f"{p_value:.2g}",
                "teachers right": f"{found['accuracy_teacher']:.2f}",
                "students right": f"{found['accuracy_student']:.2f}",
            }
        )
    return pd.DataFrame(rows)


def calibration(settings, *, bins=10, n=200):
    """(Calibration of all runs' test pictures together, ECE gap of each run, floor): the gap is ECE of group 1 minus that of
    group 0 (with more groups, largest minus smallest), floor its mean 2.5 % and 97.5 % quantiles under permutation."""
    every = [tested(run) for run in settings]
    labels, probabilities, group = (
        np.concatenate([getattr(one, field) for one in every]) for field in ("labels", "probabilities", "group")
    )
    metric = bias.calibration_gap if group.max() < 2 else _ece_range
    floors = [bias.noise_floor(metric, one.labels, one.probabilities, one.group, n=n, bins=bins) for one in every]
    ends = np.mean([[floor.low, floor.high] for floor in floors], axis=0)
    return bias.calibration(labels, probabilities, group, bins=bins), np.array([f.value for f in floors]), ends


def _ece_range(labels, probabilities, group, *, bins):
    return float(extent(bias.calibration(labels, probabilities, group, bins=bins).ece, axis=0))


def leakage(kinds, **options) -> pd.DataFrame:
    """A row per run: its kind, and the figures of `bias.leakage` from its logits; where classes are merged, from the
    logarithms of their probabilities."""
    rows = []
    for name, settings in kinds.items():
        for run in settings:
            one = tested(run)
            logits = runs.predictions(run)["test_logits"].astype(np.float64)
            merged = logits.shape[1] != one.probabilities.shape[1]
            scores = np.log(one.probabilities.clip(min=1e-12)) if merged else logits
            found = bias.leakage(one.labels, scores, one.group, together=one.together, **options)
            rows.append({"kind": name, "seed": runs.as_run(run).seed} | found)
    return pd.DataFrame(rows)


def leakage_in_words(rows) -> pd.DataFrame:
    """`leakage` for a page: a row per kind, means over seeds."""
    shown = []
    for name, group in rows.groupby("kind", sort=False):
        shown.append(
            {
                "model": method_name(name),
                "n": len(group),
                "attacker": plus_minus(*interval(group["attacker"])),
                "from labels as accurate": f"{group['attacker_labels'].mean():.3f}",
                "leakage": plus_minus(*interval(group["leakage"]), sign="+"),
                "permuted": f"{group['floor'].mean():.3f}",
                "chance": f"{group['chance'].mean():.3f}",
            }
        )
    return pd.DataFrame(shown)


def inherited(teachers, students):
    """(teachers', students') disparities by class, both (runs, K), run by run: one teacher stands beside all its students."""
    one, other = disparities(teachers), disparities(students)
    return np.broadcast_to(one, other.shape) if len(one) == 1 else one, other
