"""Figures of bias by class, by group and by run. Each function returns a matplotlib Figure.

Points and bars are means over seeds, their intervals Student's, 95 %."""

import numpy as np
import pandas as pd
import seaborn as sns

from kdlib.bias import benjamini_hochberg
from kdlib.bias.compare import line
from kdlib.bias.stats import interval, student_interval, t_test
from kdlib.names import method_name
from kdlib.report import figures
from kdlib.report.figures import HALO, POINTS
from kdlib.report.tables import methods_of, plain_students, plus_minus


def tidy(values, classes, measure) -> pd.DataFrame:
    """Return {name: (seeds, K)} as a table with the columns name, class (its name), seed and `measure`, NaN left out.

    Classes keep their order, and those without any value are left out."""
    frames = {method_name(name): pd.DataFrame(rows) for name, rows in values.items()}
    rows = pd.concat(frames, names=["name", "seed"]).reset_index()
    rows = rows.melt(["name", "seed"], var_name="class", value_name=measure).dropna()
    counted = sorted(rows["class"].unique())
    names = [str(classes[number]) for number in counted]
    return rows.assign(**{"class": pd.Categorical.from_codes(rows["class"].map(counted.index), names)})


def disparity_label(values):
    """What disparities are: signed for two groups; for more, a range, which is never below zero."""
    return "recall of group 1 − recall of group 0" if (values < 0).any() else "largest − smallest recall of a group"


@figures.themed
def disparity_by_class(disparities, classes, *, note):
    """Draw the disparity of each class that has one, models side by side: disparities maps a method to (seeds, K)."""
    rows = tidy(disparities, classes, "disparity")
    drawing, axis = figures.figure(width=9, height=3.6)
    look = {"palette": figures.palette(disparities), "hue_order": map(method_name, disparities), "saturation": 1}
    bars = {"errorbar": student_interval, "err_kws": {"linewidth": 0.7, "color": "#222222"}}
    sns.barplot(rows, x="class", y="disparity", hue="name", ax=axis, **look, **bars)
    axis.axhline(0, color="#222222", linewidth=0.8)
    figures.class_axis(axis, list(rows["class"].cat.categories))
    axis.set(ylabel=disparity_label(rows["disparity"]))
    axis.legend(ncols=len(disparities), loc="lower center", bbox_to_anchor=(0.5, 1))
    return figures.caption(drawing, note)


@figures.themed
def heat_map(disparities, classes, *, note, level=0.05):
    """Draw the mean disparity over seeds, class × model.

    Parameters
    ----------
    disparities : dict
        {method or kind: (seeds, K)}. A class without any disparity has no column.
    level : float
        Of the test over seeds that sets a dot, where disparities have a sign (t-test, adjusted after Benjamini and Hochberg for
        all cells).
    """
    rows = tidy(disparities, classes, "disparity")
    names, classes = [method_name(name) for name in disparities], list(rows["class"].cat.categories)
    cells = rows.pivot_table("disparity", "name", "class", "mean", observed=False).reindex(names)
    tests = np.array([t_test(values) for values in disparities.values()])
    counted = ~np.isnan(np.concatenate(list(disparities.values()))).all(axis=0)
    adjusted = benjamini_hochberg(tests.ravel()).reshape(tests.shape)[:, counted]
    signed = (rows["disparity"] < 0).any()
    texts = cells.map(lambda value: "" if np.isnan(value) else f"{value:.2f}").to_numpy()
    texts = np.where(signed & (adjusted < level), np.char.add(texts.astype(str), "•"), texts)
    drawing, axis = figures.figure(width=3.4 + 0.45 * min(len(classes), figures.MANY), height=1.9 + 0.24 * len(names))
    most = np.nanmax(np.abs(cells.to_numpy())) or 1
    options = {"annot": texts, "fmt": "", "annot_kws": {"fontsize": 7}} if len(classes) <= figures.MANY else {}
    options |= {"vmin": -most, "vmax": most, "cmap": figures.DIVERGING}
    sns.heatmap(cells, ax=axis, cbar_kws={"label": disparity_label(rows["disparity"])}, **options)
    axis.set(ylabel="")
    if len(classes) > figures.MANY:
        figures.number_classes(axis.xaxis)
    dots = f" •: differs from 0 over seeds (t-test, p < {level:g} after adjustment for all cells)."
    return figures.caption(drawing, note + (dots if signed else ""))


@figures.themed
def recall_by_group(recalls, classes, groups, *, note):
    """Draw the recall of each group in each class, a panel per model: recalls maps a method to (seeds, G, K)."""
    height = min(0.9 + 0.2 * len(classes), 7.5)
    drawing, axes = figures.panels(len(recalls), x="recall on test", y="class", height=height)
    for axis, (name, values) in zip(axes, recalls.items(), strict=True):
        rows = tidy({group: values[:, number] for number, group in enumerate(groups)}, classes, "recall")
        means = rows.groupby(["class", "name"], observed=True)["recall"].mean().groupby("class", observed=True)
        axis.hlines(range(len(means)), means.min(), means.max(), color="#999999", linewidth=1)
        options = POINTS | {"capsize": 0, "linewidth": 0, "linestyle": "none"} | _look(groups)
        sns.pointplot(rows, x="recall", y="class", hue="name", ax=axis, **options)
        axis.get_legend().remove()
        axis.set_title(method_name(name), fontsize=9)
    if len(classes) > figures.MANY:
        figures.number_classes(axes[0].yaxis)
    axes[0].set_xlim(-0.02, 1.02)
    return _with_groups(drawing, axes[0], note)


def _look(groups):
    """How seaborn tells groups apart: each has its colour and marker."""
    colours = [*(figures.PALETTE[k] for k in (9, 3, 2, 1, 4, 8)), *sns.husl_palette(len(groups), s=0.8, l=0.45)]
    shapes = ["o", "s", "^", "D", "v", "P", *((points, 1, 0) for points in range(4, 4 + len(groups)))]
    palette = dict(zip(groups, colours, strict=False))
    return {"hue_order": list(groups), "palette": palette, "markers": shapes[: len(groups)]}


def _with_groups(drawing, axis, note):
    """The groups' legend above, the caption below."""
    handles, labels = axis.get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figures.caption(drawing, note)


@figures.themed
def inheritance(pairs, classes, *, note):
    """Draw the students' disparity by class against their teachers', a panel per method.

    Parameters
    ----------
    pairs : dict
        {method: (teachers, students)}, both (seeds, K). Points are means over seeds; the line has the mean slope of the seeds.
    """
    columns = 2 if len(pairs) == 4 else 3
    drawing, axes = figures.panels(len(pairs), x="teacher's disparity", y="student's disparity", columns=columns)
    everything = np.concatenate([values.ravel() for pair in pairs.values() for values in pair])
    high = 1.1 * np.nanmax(np.abs(everything))
    low = -high if np.nanmin(everything) < 0 else -0.02
    for axis, (name, (teachers, students)) in zip(axes, pairs.items(), strict=True):
        colour = figures.colours(pairs)[name]
        complete = ~np.isnan(teachers + students).any(axis=0)
        (x, x_half), (y, y_half) = (_means_and_halves(values[:, complete]) for values in (teachers, students))
        correlation, slope = np.array([line(*seed) for seed in zip(teachers, students, strict=True)]).T
        axis.axline((0, 0), slope=1, color="#999999", linewidth=0.8, linestyle=":")
        ends = np.array([x.min(), x.max()])
        axis.plot(ends, y.mean() + slope.mean() * (ends - x.mean()), color=colour, linewidth=1)
        axis.errorbar(x, y, y_half, x_half, fmt="o", color=colour, markersize=4, elinewidth=0.5)
        if len(classes) <= figures.MANY:
            for number, point in zip(np.flatnonzero(complete), zip(x, y, strict=True), strict=True):
                axis.annotate(classes[number], point, xytext=(4, 3), textcoords="offset points", fontsize=7)
        axis.axhline(0, color="#222222", linewidth=0.5)
        axis.axvline(0, color="#222222", linewidth=0.5)
        fit = f"slope {plus_minus(*interval(slope), 2)}, r {plus_minus(*interval(correlation), 2)}"
        axis.set_title(f"{method_name(name)}\n{fit}", fontsize=8)
        axis.set(xlim=(low, high), ylim=(low, high))
    return figures.caption(drawing, note)


def _means_and_halves(values):
    """Means and half-widths of Student's intervals over seeds: (seeds, K) -> two (K,)."""
    return values.mean(axis=0), student_interval(values)[1] - values.mean(axis=0)


@figures.themed
def inflation(table, *, note):
    """Draw the student's MAD minus its own teacher's, by network and method, of the students without debiasing.

    table: of runs. Dots and lines: one network, its interval over test images. Diamonds and bars: mean over seeds."""
    methods = [name for name in methods_of(table) if name != "scratch"]
    rows = plain_students(table, methods)
    drawing, axis = figures.figure(width=7.5, height=0.9 + 0.24 * (len(rows) + len(methods)))
    labels = []
    for name in methods:
        part, colour = rows[rows["method"] == name], figures.colours(methods)[name]
        values, low, high = part[[f"vs_teacher_inflation{end}" for end in ("", "_low", "_high")]].to_numpy(float).T
        place = len(labels) + np.arange(len(part))
        axis.hlines(place, low, high, color=colour, alpha=0.7, linewidth=1.2)
        axis.plot(values, place, "o", color=colour, alpha=0.7)
        mean, half = interval(values)
        axis.errorbar(mean, place[-1] + 1, xerr=half, fmt="D", color=colour, elinewidth=2.5, markersize=6)
        labels += [*(f"{method_name(name)}, seed {seed}" for seed in part["seed"]), f"mean, {method_name(name)}"]
    axis.axvline(0, color="#222222", linewidth=0.8)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("inflation: MAD of student − MAD of its teacher, on test")
    return figures.caption(drawing, note)


@figures.themed
def reliability(calibrations, groups, *, note):
    """Draw accuracy against confidence by group, a panel per model.

    Parameters
    ----------
    calibrations : dict
        {method: (Calibration, gaps of ECE by run, (low, high) of the gap's floor)}, of `findings.calibration`.
    """
    drawing, axes = figures.panels(len(calibrations), x="confidence (probability)", y="accuracy on test", height=3.1)
    for axis, (name, (found, gaps, (low, high))) in zip(axes, calibrations.items(), strict=True):
        rows = pd.DataFrame({"confidence": found.confidence.ravel(), "accuracy": found.accuracy.ravel()})
        rows["group"] = np.repeat(groups, found.confidence.shape[1])
        axis.axline((1, 1), slope=1, color="#999999", linewidth=0.8, linestyle=":")
        look = {"hue": "group", "style": "group", "dashes": False, "estimator": None} | _look(groups)
        sns.lineplot(rows, x="confidence", y="accuracy", style_order=groups, ax=axis, **look)
        axis.get_legend().remove()
        gap = f"gap of ECE {plus_minus(*interval(gaps), 3, '+')}\n(floor {low:+.3f} to {high:+.3f})"
        axis.set_title(f"{method_name(name)}\n{gap}", fontsize=8)
    return _with_groups(drawing, axes[0], note)


@figures.themed
def leakage(rows, *, note):
    """Draw how well an attacker finds the group: rows is the table of `findings.leakage`, a row per run."""
    kinds = list(dict.fromkeys(rows["kind"]))
    drawing, axis = figures.figure(width=7.5, height=1.3 + 0.34 * len(kinds))
    rows = rows.assign(kind=rows["kind"].map(method_name))
    ends = rows.groupby("kind", sort=False)[["floor_low", "floor_high"]].mean()
    axis.barh(ends.index, ends["floor_high"] - ends["floor_low"], left=ends["floor_low"], height=0.7,
              label="logits, group permuted within classes", **HALO)  # fmt: skip
    look = {"y": "kind", "order": [method_name(name) for name in kinds], "jitter": False, "ax": axis}
    sns.stripplot(rows, x="attacker_labels", marker="|", color="#222222", size=10, linewidth=1, **look,
                  label="labels with as many mistakes")  # fmt: skip
    sns.stripplot(rows, x="attacker", hue="kind", palette=figures.palette(kinds), legend=False, alpha=0.8, **look)
    axis.plot([], [], "o", color="#777777", label="logits")
    axis.axvline(rows["chance"].mean(), color="#222222", linewidth=0.8, linestyle=":", label="the commonest group")
    axis.set(xlabel="attacker's accuracy at naming the group", ylabel="")
    figures.legend([axis], loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return figures.caption(drawing, note)
