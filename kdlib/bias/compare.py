"""A student beside its teacher: does it inherit, or inflate, the teacher's bias? Populations of seeds: `populations`."""

import numpy as np

from kdlib.bias.metrics import variance_of_gap
from kdlib.bias.paired import PairCounts, covariance, units_of
from kdlib.bias.tables import Images, check_index, count_cells, extent, gap, mean_of, rate
from kdlib.bias.uncertainty import TOLERANCE, collect, quantiles, resampled_tables

TEACHER_RIGHT = np.array([False, False, True, True])  # of the outcomes: neither right, student, teacher, both
STUDENT_RIGHT = np.array([False, True, False, True])


def compression_errors(teacher, student):
    """Return CEV, SDE and the number of classes masked, from two confusion matrices of the same images: see `compare`."""
    confusion = np.stack([teacher, student])
    right, labelled = np.diagonal(confusion, axis1=1, axis2=2), teacher.sum(1)
    errors = np.stack([confusion.sum(1) - right, labelled - right], axis=1)[..., labelled > 0]
    before, after = errors  # false positives and false negatives; the rates' denominators cancel in relative changes
    change = np.where(after == before, 0.0, 100 * rate(after - before, before))
    counted = ~np.isnan(change).any(0)
    x, y = change[:, counted]
    cev, sde = mean_of((x - mean_of(x)) ** 2 + (y - mean_of(y)) ** 2), mean_of(np.abs(x - y)) / np.sqrt(2)
    return cev, sde, (~counted).sum()


def compare(y_true, teacher_pred, student_pred, group, *, pair=None, n=2000, seed=0, num_classes=None, min_count=1):
    """Does the student inherit, or inflate, its teacher's bias? All figures are of the images whose group is known.

    Read `sqrt_u_inflation` first. MAD's noise depends on accuracy, so that two fair models of different accuracy differ in MAD;
    in √U = sign(U)·√|U| they do not.

    Parameters
    ----------
    y_true, teacher_pred, student_pred, group : arrays (N,)
        Class indices, and groups as in `class_disparity`.
    pair : array (N,), optional
        Which original each image shows, as in `noise_floor`. Pairs are then resampled, and U is that of pairs.
    n, seed : int
        Bootstrap resamples.
    num_classes, min_count : int
        As in `class_disparity`.

    Returns
    -------
    dict of numbers
        - `sqrt_u_inflation` = `sqrt_u_student` − `sqrt_u_teacher`, with `_low`, `_high` and the two-sided bootstrap `_p_value`;
          and `inflation` = `mad_student` − `mad_teacher`, likewise. Intervals are centred percentiles of a paired bootstrap:
          each resample of the images serves both models. √U's are wide near 0, where the resamples carry the noise twice.
        - `correlation` and `slope` of the student's d_k against the teacher's, over the `classes_counted`. Noise pulls both
          towards 0; NaN where the d_k do not vary.
        - `churn`, the share of predictions that changed, and `negative_flips`, the share that the teacher has right and the
          student wrong, each also with `_group_0`, `_group_1`, ….
        - `cev` and `sde`. Let x_k be the relative change of class k's false positive rate, in percent of the teacher's, and y_k
          that of its false negative rate. CEV is the mean squared distance of the points (x_k, y_k) from their centroid; SDE is
          the mean of |x_k − y_k|/√2. A rate that is 0 in both models has changed by 0. A class with a rate of 0 in the teacher
          alone has no relative change: it is masked, and counted in `classes_masked`.
        - `unknown`, the number of images left out.

        With more than two groups MAD is the mean of the largest minus the smallest recall, as in mean_absolute_disparity, and
        what needs a signed difference (√U, `correlation`, `slope`) is NaN.

    Raises
    ------
    ValueError
        As in `class_disparity`.

    References
    ----------
    Milani Fard et al. (2016), Launch and iterate: reducing prediction churn. Yan et al. (2021), Positive-congruent training.
    Blakeney et al. (2021), Simon says: evaluating and mitigating bias in pruned neural networks with knowledge distillation.
    """
    labels = {"y_true": y_true, "teacher_pred": teacher_pred, "student_pred": student_pred}
    check_index(**labels, group=group, pair=pair)
    images = Images(group, num_classes, **labels)
    (y_true, teacher, student), group, groups, num_classes = (
        images.labels,
        images.group,
        images.groups,
        images.num_classes,
    )
    teacher_right, student_right = teacher == y_true, student == y_true
    outcome, shape = 2 * teacher_right + student_right, (groups, num_classes, 4)
    joint = count_cells(shape, group, y_true, outcome)
    units = units_of(y_true, group, pair)
    if units is not None:
        pairs = PairCounts(y_true, outcome, group, units, shape)
        observed, drawn = _draw_pairs(pairs, joint, groups, n, seed, min_count)
    else:
        observed, drawn = _draw_images(joint, groups, n, seed, min_count)
    result = _inflation(observed, drawn)
    right, count = _models(joint)
    counted = ~np.isnan(extent(rate(right, count, min_count))[0])
    gaps = gap(right, count, min_count) if groups == 2 else np.full((2, num_classes), np.nan)
    result["correlation"], result["slope"] = line(*gaps)
    suffixes = {"": group >= 0} | {f"_group_{g}": group == g for g in range(groups)}
    for name, flag in (("churn", teacher != student), ("negative_flips", teacher_right & ~student_right)):
        result |= {name + suffix: rate(flag[chosen].sum(), chosen.sum()) for suffix, chosen in suffixes.items()}
    known, square = group >= 0, (num_classes, num_classes)
    confusions = [count_cells(square, y_true[known], predicted[known]) for predicted in (teacher, student)]
    result["cev"], result["sde"], masked = compression_errors(*confusions)
    whole = {"classes_counted": counted.sum(), "classes_masked": masked, "unknown": (group < 0).sum()}
    return {name: float(value) for name, value in result.items()} | {name: int(value) for name, value in whole.items()}


def _models(joint):
    """Return images right (..., model, group, class), and images, from counts of (none, student, teacher, both) right."""
    return np.stack([joint[..., 2:].sum(-1), joint[..., 1::2].sum(-1)], axis=-3), joint.sum(-1)[..., None, :, :]


def _mad_and_u(joint, groups, min_count, shared=0.0):
    """Return MAD and U of both models: (..., figure, model); shared (..., model, class) is the covariance of paired recalls."""
    right, count = _models(joint)
    mad = mean_of(extent(rate(right, count, min_count)))
    if groups > 2:
        return np.stack([mad, np.full(mad.shape, np.nan)], axis=-2)
    square = mean_of(gap(right, count, min_count) ** 2 - variance_of_gap(right, count, min_count, shared))
    return np.stack([mad, square], axis=-2)


def _draw_images(joint, groups, n, seed, min_count):
    """Return MAD and U of both models as observed, and as resampled over images (n, figure, model)."""

    def draw(size, rng):
        return _mad_and_u(resampled_tables(joint, size, rng), groups, min_count)

    return _mad_and_u(joint, groups, min_count), collect(draw, n, seed, joint.size)


def _draw_pairs(pairs, joint, groups, n, seed, min_count):
    """Return MAD and U of both models as observed, and as resampled over pairs (n, figure, model)."""

    def figures(joint, paired, both):
        if groups > 2:
            return _mad_and_u(joint, groups, min_count)
        count = joint.sum(-1)[..., None, :, :]
        shared = covariance(_models(paired)[0], paired[..., 0, :, :].sum(-1)[..., None, :], both, count)
        return _mad_and_u(joint, groups, min_count, shared)

    def both_right(counts):
        return np.stack([pairs.both(counts, right) for right in (TEACHER_RIGHT, STUDENT_RIGHT)], axis=-2)

    def draw(size, rng):
        alone, counts = resampled_tables(pairs.alone, size, rng), pairs.resampled(size, rng)
        paired = pairs.tables(counts)
        return figures(alone + paired, paired, both_right(counts))

    observed = figures(joint, pairs.tables(pairs.counts), both_right(pairs.counts))
    return observed, collect(draw, n, seed, 3 * joint.size)


def _inflation(observed, drawn):
    """Return the figures of both models and their differences, from MAD and U (figure, model) and replicates of both."""
    drawn += observed - mean_of(drawn, axis=0)
    for values in (observed, drawn):
        values[..., 1, :] = signed_root(values[..., 1, :])
    inflation, drawn = observed[:, 1] - observed[:, 0], drawn[..., 1] - drawn[..., 0]
    drawn += inflation - mean_of(drawn, axis=0)  # the root moves the centre of √U's
    as_far = (np.abs(drawn - inflation) >= np.abs(inflation) - TOLERANCE).sum(0)
    p_value = np.where(np.isnan(inflation), np.nan, (1 + as_far) / (1 + len(drawn)))
    low, high = quantiles(drawn)
    result = {"sqrt_u_teacher": observed[1, 0], "sqrt_u_student": observed[1, 1]}
    mad = {"mad_teacher": observed[0, 0], "mad_student": observed[0, 1]}
    for figure, name, more in ((1, "sqrt_u_inflation", mad), (0, "inflation", {})):
        result |= {name: inflation[figure], f"{name}_low": low[figure], f"{name}_high": high[figure]}
        result |= {f"{name}_p_value": p_value[figure]} | more
    return result


def signed_root(square):
    """Return sign(U)·√|U|."""
    return np.sign(square) * np.sqrt(np.abs(square))


def line(teacher, student):
    """Return (correlation, slope) of one (K,) against another, classes with NaN left out; NaN where they do not vary."""
    x, y = teacher - mean_of(teacher), student - mean_of(student)
    xx, xy, yy = (np.nansum(product) for product in (x * x, x * y, y * y))
    return rate(xy, np.sqrt(xx * yy), TOLERANCE), rate(xy, xx, TOLERANCE)
