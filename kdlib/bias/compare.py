"""A student beside its teacher: does it inherit, or inflate, the teacher's bias? For one pair of models, and for populations of
models that differ only in their seed."""

import itertools
import math

import numpy as np

from kdlib.bias.metrics import accuracy_gap, class_disparity, class_disparity_range, mean_square
from kdlib.bias.stats import benjamini_hochberg, student_interval, t_test, welch
from kdlib.bias.tables import (
    as_array,
    check_images,
    count_cells,
    extent,
    gap,
    mean_of,
    rate,
    table_of,
)  # fmt: skip
from kdlib.bias.uncertainty import TOLERANCE, collect, noise_floor, quantiles, resampled_tables

BLOCK = 2**22  # entries (image, class) counted at a time


def compression_errors(teacher, student):
    """CEV, SDE and the number of classes masked, from two confusion matrices of the same images: see `compare`."""
    confusion = np.stack([teacher, student])
    right, labelled = np.diagonal(confusion, axis1=1, axis2=2), teacher.sum(1)
    errors = np.stack([confusion.sum(1) - right, labelled - right], axis=1)[..., labelled > 0]
    before, after = errors  # false positives and false negatives; the rates' denominators cancel in relative changes
    change = np.where(after == before, 0.0, 100 * rate(after - before, before))
    counted = ~np.isnan(change).any(0)
    x, y = change[:, counted]
    cev, sde = mean_of((x - mean_of(x)) ** 2 + (y - mean_of(y)) ** 2), mean_of(np.abs(x - y)) / np.sqrt(2)
    return cev, sde, (~counted).sum()


def compare(y_true, teacher_pred, student_pred, group, *, n=2000, seed=0, num_classes=None, min_count=1):
    """Does the student inherit, or inflate, its teacher's bias? A flat dict of numbers, from the images of known group.

    - `inflation` = `mad_student` − `mad_teacher`, with `inflation_low`, `inflation_high` and the two-sided bootstrap
      `inflation_p_value`; and `sqrt_u_inflation`, the same of sign(U)·√|U|. MAD's noise depends on accuracy, so two
      fair models may differ in MAD; in √U they do not. Intervals are centred percentiles of a paired bootstrap: each
      resample of the images serves both models. √U's are wide near 0, where the resamples carry the noise twice.
    - `correlation` and `slope` of the student's d_k against the teacher's, over the `classes_counted`. Noise pulls both
      towards 0; NaN where the d_k do not vary.
    - `churn`, the share of predictions that changed (Milani Fard et al. 2016), and `negative_flips`, the share that the
      teacher has right and the student wrong (Yan et al. 2021), each also with `_group_0`, `_group_1`, ….
    - `cev` and `sde` (Blakeney et al. 2021). Let x_k be the relative change of class k's false positive rate, in
      percent of the teacher's, and y_k that of its false negative rate. CEV is the mean squared distance of the points
      (x_k, y_k) from their centroid; SDE is the mean of |x_k − y_k|/√2. A rate that is 0 in both models has changed by
      0. A class with a rate of 0 in the teacher alone has no relative change: it is masked, and counted in
      `classes_masked`.
    - `unknown`, the number of images left out. Other arguments and errors are those of class_disparity.

    With more than two groups MAD is the mean of the largest minus the smallest recall, as in mean_absolute_disparity, and
    what needs a signed difference (√U, `correlation`, `slope`) is NaN.
    """
    labels = {"y_true": y_true, "teacher_pred": teacher_pred, "student_pred": student_pred}
    (y_true, teacher, student), group, num_classes, groups = check_images(group, num_classes, **labels)
    teacher_right, student_right = teacher == y_true, student == y_true
    joint = count_cells((groups, num_classes, 4), group, y_true, 2 * teacher_right + student_right)

    def cells(joint):
        """Images right (..., model, group, class), and images, from counts of (none, student, teacher, both) right."""
        return np.stack([joint[..., 2:].sum(-1), joint[..., 1::2].sum(-1)], axis=-3), joint.sum(-1)[..., None, :, :]

    def figures(joint):
        """MAD and U of both models: (..., figure, model)."""
        right, count = cells(joint)
        mad = mean_of(extent(rate(right, count, min_count)))
        square = mean_square(right, count, min_count)[0] if groups == 2 else np.full(mad.shape, np.nan)
        return np.stack([mad, square], axis=-2)

    observed = figures(joint)
    drawn = collect(lambda size, rng: figures(resampled_tables(joint, size, rng)), n, seed, joint.size)
    drawn += observed - mean_of(drawn, axis=0)
    for values in (observed, drawn):
        values[..., 1, :] = signed_root(values[..., 1, :])
    inflation, drawn = observed[:, 1] - observed[:, 0], drawn[..., 1] - drawn[..., 0]
    drawn += inflation - mean_of(drawn, axis=0)  # the root moves the centre of √U's
    as_far = (np.abs(drawn - inflation) >= np.abs(inflation) - TOLERANCE).sum(0)
    p_value = np.where(np.isnan(inflation), np.nan, (1 + as_far) / (1 + n))
    result = {"mad_teacher": observed[0, 0], "mad_student": observed[0, 1]}
    result |= {"sqrt_u_teacher": observed[1, 0], "sqrt_u_student": observed[1, 1]}
    for name, *values in zip(("inflation", "sqrt_u_inflation"), inflation, *quantiles(drawn), p_value, strict=True):
        result |= zip((name, f"{name}_low", f"{name}_high", f"{name}_p_value"), values, strict=True)
    right, count = cells(joint)
    counted = ~np.isnan(extent(rate(right, count, min_count))[0])
    gaps = gap(right, count, min_count) if groups == 2 else np.full((2, num_classes), np.nan)
    correlation, slope = line(*gaps)
    result |= {"correlation": correlation, "slope": slope}
    suffixes = {"": group >= 0} | {f"_group_{g}": group == g for g in range(groups)}
    for name, flag in (("churn", teacher != student), ("negative_flips", teacher_right & ~student_right)):
        result |= {name + suffix: rate(flag[chosen].sum(), chosen.sum()) for suffix, chosen in suffixes.items()}
    confusions = (table_of(y_true, predicted, group, num_classes).sum(0) for predicted in (teacher, student))
    result["cev"], result["sde"], masked = compression_errors(*confusions)
    whole = {"classes_counted": counted.sum(), "classes_masked": masked, "unknown": (group < 0).sum()}
    return {name: float(value) for name, value in result.items()} | {name: int(value) for name, value in whole.items()}


def signed_root(square):
    """sign(U)·√|U|."""
    return np.sign(square) * np.sqrt(np.abs(square))


def line(teacher, student):
    """(correlation, slope) of one (K,) against another, classes with NaN left out; NaN where they do not vary."""
    x, y = teacher - mean_of(teacher), student - mean_of(student)
    xx, xy, yy = (np.nansum(product) for product in (x * x, x * y, y * y))
    return rate(xy, np.sqrt(xx * yy), TOLERANCE), rate(xy, xx, TOLERANCE)


# ---- populations of models that differ in their seed


def _populations(y_true, teacher_preds, student_preds, group, num_classes=None):
    """y_true (N,), teachers (T, N), students (S, N), group (N,), checked, and the numbers of classes and groups."""
    rows = {"y_true": y_true}
    for name, predictions in (("teacher_preds", teacher_preds), ("student_preds", student_preds)):
        predictions = np.atleast_2d(as_array(predictions))
        if predictions.ndim != 2 or not len(predictions):
            raise ValueError(f"{name} must be (models, images); their shape is {predictions.shape}")
        rows |= {f"{name}[{i}]": row for i, row in enumerate(predictions)}
    labels, group, num_classes, groups = check_images(group, num_classes, **rows)
    teachers = sum(name.startswith("teacher") for name in rows)
    models = np.stack(labels[1:])
    return labels[0], models[:teachers], models[teachers:], group, num_classes, groups


def _modal(predictions, num_classes):
    """(N, K) bool: the classes that most of the models (S, N) predict; several where they tie."""
    counts = np.zeros((predictions.shape[1], num_classes), np.int16)
    for row in predictions:
        counts[np.arange(len(row)), row] += 1
    return counts == counts.max(1, keepdims=True)


def _differ(one, other, num_classes):
    """(N,) bool: images that most of one population's models predict otherwise than most of the other's."""
    step = max(1, BLOCK // num_classes)
    blocks = (slice(start, start + step) for start in range(0, one.shape[1], step))
    return np.concatenate(
        [~(_modal(one[:, block], num_classes) & _modal(other[:, block], num_classes)).any(1) for block in blocks]
    )


def exemplars(y_true, teacher_preds, student_preds, group, *, n=2000, seed=0):
    """Compression-identified exemplars (Hooker et al. 2019, 2020): images whose most frequent prediction over a population of
    students is another than over a population of teachers. Where predictions tie, none of the tied ones may be shared.

    A flat dict of numbers and, as `mask`, which images (N,) they are. Among images of known group: `share`, with
    `share_group_0`, `share_group_1`, …; `share_within`, the same between two halves of one population, mean of both
    populations and the ways to halve them: what other seeds bring about, or more, since halves vary more than wholes. The
    populations' mean accuracy on the exemplars and on the other images: `accuracy_teacher`, `accuracy_student`,
    `accuracy_teacher_others`, `accuracy_student_others`. `difference`, the share in group 1 minus that in group 0, with the
    range `difference_low` to `difference_high` and the two-sided `difference_p_value` that it has when the group is permuted
    within each class (n times); NaN with more than two groups. `unknown` counts images left out.

    teacher_preds, student_preds: (models, N) class indices, of any numbers of models. ValueError as in class_disparity.
    """
    y_true, teachers, students, group, num_classes, groups = _populations(y_true, teacher_preds, student_preds, group)
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
        floor = noise_floor(accuracy_gap, y_true, marked, group, **options)
        difference = 0.0 - floor.value, 0.0 - floor.high, 0.0 - floor.low, floor.p_value
    names = "difference", "difference_low", "difference_high", "difference_p_value"
    result |= dict(zip(names, difference, strict=True))
    return {name: float(value) for name, value in result.items()} | {"unknown": int((~known).sum()), "mask": mask}


def _within(population, num_classes, seed, most=200):
    """Share of images on which the halves of one population differ, mean over the ways to part it (`most` random ones)."""
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
    """Per class, do students differ from teachers in disparity beyond what another seed would change? A dict of arrays (K,).

    `teacher` and `student` are the means over seeds of d_k, `change` their difference with Student's 95 % interval `low`,
    `high` and two-sided `p_value`; `p_adjusted` is Benjamini and Hochberg's over the classes. Where there are as many
    teachers as students they are paired, in the order given; one teacher is taken as it is for all students; otherwise
    Welch's test. The images are the same throughout: what other images would change is in `sources_of_spread`. NaN where a
    cell is too small, for fewer than two students, and p where nothing varies.

    teacher_preds, student_preds: (models, N) class indices. Other arguments and errors are those of class_disparity. With more
    than two groups class_disparity_range stands in place of d_k.
    """
    y_true, *populations, group, num_classes, groups = _populations(
        y_true, teacher_preds, student_preds, group, num_classes
    )
    disparity = class_disparity if groups == 2 else class_disparity_range
    options = {"num_classes": num_classes, "min_count": min_count}
    teachers, students = (
        np.array([disparity(y_true, row, group, **options) for row in population]) for population in populations
    )
    change = students.mean(0) - teachers.mean(0)
    if len(teachers) in (1, len(students)):
        low, high = student_interval(students - teachers)
        p_value = t_test(students - teachers)
    else:
        low, high, p_value = welch(students, teachers)
    return {
        "teacher": teachers.mean(0), "student": students.mean(0), "change": change, "low": low, "high": high,
        "p_value": p_value, "p_adjusted": benjamini_hochberg(p_value),
    }  # fmt: skip
