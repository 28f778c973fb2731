"""Figures of bias by class, by group and by run, in the look of `plots`. Each returns a matplotlib Figure."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from kdlib.bias import benjamini_hochberg
from kdlib.bias.compare import line
from kdlib.bias.stats import interval, t_test
from kdlib.names import method_name
from kdlib.report.figures import DIVERGING, MANY, caption, class_axis, colour_of, disparity_label, figure
from kdlib.report.tables import plus_minus

GROUP_COLOURS = ("#56B4E9", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#000000")
GROUP_MARKERS = ("o", "s", "^", "D", "v", "P")


def heat_map(disparities, classes, *, note, level=0.05):
    """Class × model: disparities maps a model's name to (seeds, K). Colour: the mean over seeds; a dot, where disparities
    have a sign: it differs from 0 over seeds (t-test, Benjamini and Hochberg over all cells). Classes that no model has
    a disparity in are left out."""
    every = np.concatenate(list(disparities.values()))
    signed = (every < 0).any()
    means = np.array([_mean(values) for values in disparities.values()])
    p_values = np.array([t_test(values) for values in disparities.values()])
    adjusted = benjamini_hochberg(p_values.ravel()).reshape(p_values.shape)
    there = ~np.isnan(means).all(axis=0)
    means, adjusted = means[:, there], adjusted[:, there]
    classes = [name for name, kept in zip(classes, there, strict=True) if kept]
    drawing, axis = figure(width=3.4 + 0.45 * min(len(classes), MANY), height=1.9 + 0.24 * len(means))
    most = np.nanmax(np.abs(means)) or 1
    image = axis.imshow(means, vmin=-most, vmax=most, cmap=DIVERGING, aspect="auto")
    axis.grid(False)
    axis.set_yticks(range(len(means)), [method_name(name) for name in disparities], fontsize=8)
    class_axis(axis, classes)
    if len(classes) <= MANY:
        for (row, column), value in np.ndenumerate(means):
            if not np.isnan(value):
                ink = "white" if abs(value) > 0.6 * most else "#222222"
                sure = "•" if signed and adjusted[row, column] < level else ""
                axis.text(column, row, f"{value:.2f}{sure}", ha="center", va="center", fontsize=7, color=ink)
    drawing.colorbar(image, ax=axis, label=disparity_label(every))
    dots = f" •: differs from 0 over seeds, t-test, adjusted for all cells, p < {level:g}."
    return caption(drawing, note + (dots if signed else ""))


def recall_by_group(recalls, classes, groups, *, note):
    """Recall of each group in each class, a panel per model: recalls maps a name to (seeds, G, K)."""
    there = ~np.isnan(np.concatenate(list(recalls.values()))).all(axis=(0, 1))
    classes = [name for name, kept in zip(classes, there, strict=True) if kept]
    columns = min(3, len(recalls))
    rows = -(-len(recalls) // columns)
    height = min(0.9 + 0.2 * len(classes), 7.5)
    drawing, axes = figure(rows, columns, width=9, height=height, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(recalls) :]:
        axis.set_visible(False)
    position = np.arange(len(classes))
    for axis, (name, values) in zip(axes.flat, recalls.items(), strict=False):
        values = values[:, :, there]
        means = _mean(values)
        axis.hlines(position, np.fmin.reduce(means), np.fmax.reduce(means), color="#999999", linewidth=1, zorder=2)
        for group, label in enumerate(groups):
            half = _half(values[:, group])
            style = {"color": GROUP_COLOURS[group % 6], "fmt": GROUP_MARKERS[group % 6]}
            axis.errorbar(
                means[group], position, xerr=half, markersize=4, elinewidth=0.7, label=label, zorder=3, **style
            )
        axis.set_title(method_name(name), fontsize=9)
        if len(classes) <= MANY:
            axis.set_yticks(position, classes, fontsize=8)
        else:
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlim(-0.02, 1.02)
    for axis in axes[-1]:
        axis.set_xlabel("recall on test")
    for axis in axes[:, 0]:
        axis.set_ylabel("class" if len(classes) <= MANY else "number of the class")
    drawing.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(groups), frameon=False
    )
    return caption(drawing, note)


def inheritance(pairs, classes, *, note):
    """Students' disparity by class against their teachers', a panel per method: pairs maps a name to (teachers (seeds, K),
    students (seeds, K)). Points: means over seeds; the line has the mean slope of the seeds."""
    columns = min(2 if len(pairs) == 4 else 3, len(pairs))
    rows = -(-len(pairs) // columns)
    drawing, axes = figure(rows, columns, width=3 * columns + 0.5, height=3.2, sharex=True, sharey=True, squeeze=False)
    every = np.concatenate([part.ravel() for pair in pairs.values() for part in pair])
    most = 1.1 * np.nanmax(np.abs(every))
    low = -most if np.nanmin(every) < 0 else -0.02
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    for axis, (name, (teachers, students)) in zip(axes.flat, pairs.items(), strict=False):
        colour = colour_of(name)
        x, y = _mean(teachers), _mean(students)
        correlation, slope = np.array([line(*seed) for seed in zip(teachers, students, strict=True)]).T
        axis.plot([low, most], [low, most], color="#999999", linewidth=0.8, linestyle=":", label="as the teacher")
        ends = np.array([np.nanmin(x), np.nanmax(x)])
        middle, level = (np.nanmean(np.where(np.isnan(x + y), np.nan, of)) for of in (x, y))
        axis.plot(ends, level + slope.mean() * (ends - middle), color=colour, linewidth=1)
        axis.errorbar(
            x, y, yerr=_half(students), xerr=_half(teachers), fmt="o", color=colour, markersize=4, elinewidth=0.5
        )
        if len(classes) <= MANY:
            for k in np.flatnonzero(~np.isnan(x + y)):
                axis.annotate(classes[k], (x[k], y[k]), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axis.axhline(0, color="#222222", linewidth=0.5)
        axis.axvline(0, color="#222222", linewidth=0.5)
        about = f"slope {plus_minus(*interval(slope), 2)}, r {plus_minus(*interval(correlation), 2)}"
        axis.set_title(f"{method_name(name)}\n{about}", fontsize=8)
        axis.set(xlim=(low, most), ylim=(low, most))
    for axis in axes[-1]:
        axis.set_xlabel("teacher's disparity")
    for axis in axes[:, 0]:
        axis.set_ylabel("student's disparity")
    return caption(drawing, note)


def reliability(calibrations, groups, *, note):
    """Accuracy against confidence by group, a panel per model: calibrations maps a name to (Calibration, gaps of ECE by run,
    (low, high) of the gap's floor), as of `findings.calibration`."""
    columns = min(3, len(calibrations))
    rows = -(-len(calibrations) // columns)
    drawing, axes = figure(rows, columns, width=3 * columns + 0.5, height=3.1, sharex=True, sharey=True, squeeze=False)
    lowest = min(np.nanmin([found.confidence, found.accuracy]) for found, *_ in calibrations.values())
    for axis in axes.flat[len(calibrations) :]:
        axis.set_visible(False)
    for axis, (name, (found, gaps, (low, high))) in zip(axes.flat, calibrations.items(), strict=False):
        axis.plot([lowest, 1], [lowest, 1], color="#999999", linewidth=0.8, linestyle=":")
        for group, label in enumerate(groups):
            style = {"color": GROUP_COLOURS[group % 6], "marker": GROUP_MARKERS[group % 6]}
            axis.plot(found.confidence[group], found.accuracy[group], markersize=4, linewidth=1, label=label, **style)
        about = f"gap of ECE {plus_minus(*interval(gaps), 3, '+')}\n(floor {low:+.3f} to {high:+.3f})"
        axis.set_title(f"{method_name(name)}\n{about}", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("confidence (probability)")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy on test")
    drawing.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(groups), frameon=False
    )
    return caption(drawing, note)


def leakage(rows, *, note):
    """How well an attacker finds the group: rows is the table of `findings.leakage`, a row per run."""
    kinds = list(dict.fromkeys(rows["kind"]))
    drawing, axis = figure(width=7.5, height=1.3 + 0.34 * len(kinds))
    for number, kind in enumerate(kinds):
        part, colour = rows[rows["kind"] == kind], colour_of(kind)
        low, high = part["floor_low"].mean(), part["floor_high"].mean()
        label = {"label": "logits, group permuted within classes"} if not number else {}
        axis.barh(number, high - low, left=low, height=0.7, color="#bbbbbb", alpha=0.6, linewidth=0, **label)
        label = {"label": "labels with as many mistakes"} if not number else {}
        axis.plot(part["attacker_labels"], [number] * len(part), "|", color="#222222", markersize=11, **label)
        label = {"label": "logits"} if not number else {}
        axis.plot(part["attacker"], [number] * len(part), "o", color=colour, markersize=5, alpha=0.8, **label)
    axis.axvline(rows["chance"].mean(), color="#222222", linewidth=0.8, linestyle=":", label="the commonest group")
    axis.set_yticks(range(len(kinds)), [method_name(kind) for kind in kinds], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("attacker's accuracy at naming the group")
    axis.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return caption(drawing, note)


def _mean(values):
    """Mean over seeds, passing over NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    total = np.nansum(values, axis=0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _half(values):
    """Half-widths of Student's intervals of the mean over seeds, (seeds, K) -> (K,); NaN where a seed lacks the figure."""
    return np.array([interval(column)[1] for column in values.T])
