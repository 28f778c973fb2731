"""Populations of models that differ only in their seed: where students differ from teachers beyond chance."""

import itertools
import math

import numpy as np

from kdlib.bias.metrics import accuracy_gap, class_disparity, class_disparity_range
from kdlib.bias.stats import benjamini_hochberg, student_interval, t_test, welch
from kdlib.bias.tables import Images, check_index, mean_of, model_rows, rate
from kdlib.bias.uncertainty import noise_floor

BLOCK = 2**22  # entries (image, class) counted at a time


def _populations(y_true, teacher_preds, student_preds, group, num_classes=None):
    """Return the checked Images, and teachers (T, N) and students (S, N)."""
    given = {"teacher_preds": teacher_preds, "student_preds": student_preds}
    teachers, students = (model_rows(name, [rows] if np.ndim(rows) == 1 else rows) for name, rows in given.items())
    images = Images(group, num_classes, y_true=y_true, **teachers, **students)
    models = np.stack(images.labels[1:])
    return images, models[: len(teachers)], models[len(teachers) :]


def _modal(predictions, num_classes):
    """Return (N, K) bool: the classes that most of the models (S, N) predict; several where they tie."""
    counts = np.zeros((predictions.shape[1], num_classes), np.int16)
    for row in predictions:
        counts[np.arange(len(row)), row] += 1
    return counts == counts.max(1, keepdims=True)


def _differ(one, other, num_classes):
    """Return (N,) bool: images that most of one population's models predict otherwise than most of the other's."""
    step = max(1, BLOCK // num_classes)
    blocks = (slice(start, start + step) for start in range(0, one.shape[1], step))
    return np.concatenate(
        [~(_modal(one[:, block], num_classes) & _modal(other[:, block], num_classes)).any(1) for block in blocks]
    )


def exemplars(y_true, teacher_preds, student_preds, group, *, pair=None, n=2000, seed=0):
    """Compression-identified exemplars: images whose most frequent prediction differs between teachers and students.

    Where predictions tie, none of the tied ones may be shared.

    Parameters
    ----------
    y_true, group : arrays (N,)
        As in `class_disparity`.
    teacher_preds, student_preds : arrays (models, N)
        Class indices, of any numbers of models.
    pair : array (N,), optional
    n, seed : int
        Permutations; with `pair`, as in `noise_floor`.

    Returns
    -------
    dict
        `mask` (N,): which images they are. Among images of known group: `share`, with `share_group_0`, …; `share_within`, the
        same between two halves of one population, mean of both populations and the ways to halve them: what other seeds bring
        about, or more, since halves vary more than wholes. The populations' mean accuracy on the exemplars and on the other
        images: `accuracy_teacher`, `accuracy_student`, `accuracy_teacher_others`, `accuracy_student_others`. `difference`, the
        share in group 1 minus that in group 0, with the range `difference_low` to `difference_high` and the two-sided
        `difference_p_value` that it has under permuted groups; NaN with more than two groups. `unknown` counts images left out.

    Raises
    ------
    ValueError
        As in `class_disparity`.

    References
    ----------
    Hooker et al. (2019), What do compressed deep neural networks forget? Hooker et al. (2020), Characterising bias in
    compressed models.
    """
    check_index(y_true=y_true, group=group, pair=pair)
    images, teachers, students = _populations(y_true, teacher_preds, student_preds, group)
    y_true, group, groups, num_classes = images.labels[0], images.group, images.groups, images.num_classes
    mask, known = _differ(teachers, students, num_classes), group >= 0
    result = {"share": rate(mask[known].sum(), known.sum())}
    result |= {f"share_group_{g}": rate(mask[group == g].sum(), (group == g).sum()) for g in range(groups)}
    halves = [_within(population[:, known], num_classes, seed) for population in (teachers, students)]
    result["share_within"] = mean_of(np.array(halves))
    for name, population in (("teacher", teachers), ("student", students)):
        for suffix, chosen in (("", mask & known), ("_others", ~mask & known)):
            right = (population == y_true)[:, chosen]
            result[f"accuracy_{name}{suffix}"] = rate(right.sum(), right.size)
    difference = [np.nan] * 4
    if groups == 2:  # as the gap in accuracy of a model that has every image right but the exemplars
        marked, options = np.where(mask, num_classes, y_true), {"num_classes": num_classes + 1, "n": n, "seed": seed}
        floor = noise_floor(accuracy_gap, y_true, marked, group, pair=pair, **options)
        difference = 0.0 - floor.value, 0.0 - floor.high, 0.0 - floor.low, floor.p_value
    names = "difference", "difference_low", "difference_high", "difference_p_value"
    result |= dict(zip(names, difference, strict=True))
    return {name: float(value) for name, value in result.items()} | {"unknown": int((~known).sum()), "mask": mask}


def _within(population, num_classes, seed, most=200):
    """Return the share of images on which the halves of one population differ, mean over ways to part it (at most `most`)."""
    models, half = len(population), len(population) // 2
    if not half or not population.size:
        return np.nan
    if math.comb(models, half) <= most:
        ways = itertools.combinations(range(models), half)
    else:
        rng = np.random.default_rng(seed)
        ways = (rng.choice(models, half, replace=False) for _ in range(most))
    parts = (np.isin(np.arange(models), way) for way in ways)
    differ = [_differ(population[part], population[~part], num_classes) for part in parts]
    return rate(np.sum(differ), np.size(differ))


def class_tests(y_true, teacher_preds, student_preds, group, *, num_classes=None, min_count=1):
    """Per class, do students differ from teachers in disparity beyond what another seed would change?

    Where there are as many teachers as students they are paired, in the order given; one teacher is taken as it is for all
    students; otherwise Welch's test. The images are the same throughout: for other images see `sources_of_spread`.

    Parameters
    ----------
    y_true, group, num_classes, min_count
        As in `class_disparity`. With more than two groups class_disparity_range stands in place of d_k.
    teacher_preds, student_preds : arrays (models, N)
        Class indices.

    Returns
    -------
    dict of arrays (K,)
        `teacher` and `student`, means over seeds of d_k; `change`, their difference, with Student's 95 % interval `low`, `high`
        and the two-sided `p_value`; `p_adjusted` is Benjamini and Hochberg's over the classes. NaN where a cell is too small,
        for fewer than two students, and p where nothing varies.

    Raises
    ------
    ValueError
        As in `class_disparity`.
    """
    images, *populations = _populations(y_true, teacher_preds, student_preds, group, num_classes)
    y_true, group, groups = images.labels[0], images.group, images.groups
    disparity = class_disparity if groups == 2 else class_disparity_range
    options = {"num_classes": images.num_classes, "min_count": min_count}
    teachers, students = (
        np.array([disparity(y_true, row, group, **options) for row in population]) for population in populations
    )
    change = students.mean(0) - teachers.mean(0)
    if len(teachers) in (1, len(students)):
        low, high = student_interval(students - teachers)
        p_value = t_test(students - teachers)
    else:
        low, high, p_value = welch(students, teachers)
    result = {"teacher": teachers.mean(0), "student": students.mean(0), "change": change, "low": low, "high": high}
    result |= {"p_value": p_value, "p_adjusted": benjamini_hochberg(p_value)}
    return {name: images.by_class(values) for name, values in result.items()}
