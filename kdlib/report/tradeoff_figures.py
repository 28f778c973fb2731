"""Figures of what less bias costs: bias beside accuracy by model, debiaser, strength and temperature.

Each function returns a matplotlib Figure. Points are means over seeds, their intervals Student's, 95 %."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from kdlib.names import debiaser_name, method_name
from kdlib.report import figures
from kdlib.report.figures import HALO, POINTS
from kdlib.report.tables import floor_name, labelled

CROWD = 60  # kinds: more of them are drawn without intervals and λ
MEASURES = {"mad": "mean absolute disparity (MAD)", "flip_rate": "flip rate (share of pairs)"}


@figures.themed
def bias_against_accuracy(points, *, floor, constant, note):
    """Draw the headline: test MAD against test accuracy, and the flip rate beside it where there is one.

    Parameters
    ----------
    points : DataFrame
        Of `tables.means`: a row per kind.
    floor : (float, float)
        Of `tables.floor`.
    constant : float
        Accuracy of the classifier that always names the commonest class; its MAD is 0.
    note : str
        The caption, to which what was left out is added.
    """
    measures = [name for name in MEASURES if name in points]
    drawing, axes = figures.figure(1, len(measures), width=3.6 + 5.4 * len(measures), height=5.2, squeeze=False)
    collapsed, shown = points[points["degenerate"]], points[~points["degenerate"]]
    accuracy = (points if shown.empty else shown)["accuracy"]
    margin = 0.08 * np.ptp(accuracy) + 0.01
    left, right = accuracy.min() - margin, min(1.0, accuracy.max() + margin)
    inside = collapsed[collapsed["accuracy"] >= left]
    axes[0, 0].axhspan(*floor, **HALO, label=f"{floor_name(points)} (95 %)")
    for axis, measure in zip(axes.flat, measures, strict=True):
        _kinds(axis, points, measure)
        students = shown[shown["method"] != "teacher"]
        front = students.iloc[pareto(students["accuracy"].to_numpy(), students[measure].to_numpy())]
        look = {"color": "#555555", "linewidth": 1, "label": "students' best trade-offs (Pareto front)"}
        axis.plot(front["accuracy"], front[measure], "--", **look)
        if len(inside):
            axis.plot(inside["accuracy"], inside[measure], "kx", label="collapsed model")
        highest = pd.concat([shown, inside])[measure].max()
        axis.set(xlim=(left, right), ylim=(-0.02 * highest, 1.25 * highest or 1))
        axis.set(xlabel="accuracy on the test split", ylabel=f"{MEASURES[measure]} on the test split")
        if constant >= left:
            axis.plot(constant, 0, "+", color="#333333", markersize=8, label="constant classifier")
    if constant < left:
        axes[0, 0].annotate(
            f"constant classifier: accuracy {constant:.3f}, MAD 0", (left, 0), xytext=(28, 6), textcoords="offset points",
            fontsize=7, arrowprops={"arrowstyle": "->", "color": "#555555"}, va="bottom",
        )  # fmt: skip
    figures.legend(axes.flat)
    if len(shown) > CROWD:
        halves = shown[["mad_half", "accuracy_half"]].median()
        note += (
            f" Intervals are left out: median half-width {halves.iloc[0]:.3f} of MAD, {halves.iloc[1]:.3f} of accuracy."
        )
    if outside := len(collapsed) - len(inside):
        note += f" {outside} collapsed {'model lies' if outside == 1 else 'models lie'} outside the axes."
    return figures.caption(drawing, note)


def _kinds(axis, points, measure):
    """A point for each kind: colour for the method, marker for the debiaser, hollow where the teacher was debiased."""
    shown = points[~points["degenerate"]]
    crowd, strong = len(shown) > CROWD, set(points.loc[points["lam"] > 0, "debias"])
    of_method, of_debiaser = figures.colours(points["method"]), figures.markers(points["debias"])
    names = {
        name: debiaser_name(name) + (" (with its λ)" if name in strong and not crowd else "") for name in of_debiaser
    }
    palette = figures.palette(points["method"])
    look = {
        "x": "accuracy", "y": measure, "hue": "method", "hue_order": list(palette), "palette": palette, "style": "debiaser",
        "style_order": list(names.values()), "markers": {names[name]: of_debiaser[name] for name in names},
        "s": 25 if crowd else 55, "linewidth": 0.4, "zorder": 4, "ax": axis,
    }  # fmt: skip
    rows = points.assign(method=points["method"].map(method_name), debiaser=points["debias"].map(names))
    rows.loc[rows["degenerate"], measure] = np.nan  # in the legend alone
    hollow = (rows["teacher_debias"] != "none") & rows[measure].notna()
    sns.scatterplot(rows.assign(**{measure: rows[measure].mask(hollow)}), **look)
    if hollow.any():
        sns.scatterplot(rows[hollow], legend=False, **look)
        rings = axis.collections[-1]
        rings.set(edgecolor=rings.get_facecolor(), facecolor="white", linewidth=1.2)
        axis.plot([], [], "o", color="#777777", markerfacecolor="white", label="hollow: teacher debiased")
    if not crowd:
        x, y, colour = shown["accuracy"], shown[measure], shown["method"].map(of_method)
        halves = shown[f"{measure}_half"], shown["accuracy_half"]
        axis.errorbar(x, y, *halves, fmt="none", ecolor=list(colour), elinewidth=0.8, alpha=0.3)
        for lam, *point, ink in zip(shown["lam"], x, y, colour, strict=True):
            if lam:
                axis.annotate(f"{lam:g}", point, xytext=(5, 3), textcoords="offset points", fontsize=6, color=ink)


def pareto(accuracy, disparity):
    """Return the indices, by rising accuracy, of the points that no other beats in both: arrays (n,) of accuracy and bias."""
    order = np.lexsort((disparity, -accuracy))  # the most accurate first
    least_before = np.minimum.accumulate([np.inf, *disparity[order]])[:-1]
    return order[disparity[order] < least_before][::-1]


@figures.themed
def by_debiaser(shifts, *, note):
    """Draw what each debiaser changes in MAD and accuracy, from the largest fall of MAD to the smallest.

    Parameters
    ----------
    shifts : DataFrame
        Of `ranking.shifts`: debias, method, seed, and the changes of mad and accuracy.
    """
    order = shifts.groupby("debias")["mad"].mean().sort_values().index
    palette = figures.palette(shifts["method"])
    rows = shifts.assign(method=shifts["method"].map(method_name), debiaser=shifts["debias"].map(debiaser_name))
    drawing, axes = figures.figure(1, 2, width=9.5, height=1.5 + 0.27 * len(order), sharey=True)
    for axis, column in zip(axes, ("mad", "accuracy"), strict=True):
        look = {"x": column, "y": "debiaser", "order": [debiaser_name(name) for name in order], "ax": axis}
        of_methods = rows.groupby(["debiaser", "method"], as_index=False)[column].mean()
        sns.stripplot(of_methods, hue="method", palette=palette, hue_order=palette, jitter=False, size=5, **look)
        of_seeds = rows.groupby(["debiaser", "seed"], as_index=False)[column].mean()
        diamonds = {"marker": "D", "color": "#000000", "linestyle": "none", "label": "mean over methods"}
        sns.pointplot(of_seeds, **look, **POINTS | diamonds)
        axis.axvline(0, color="#222222", linewidth=0.8)
        axis.set(xlabel=f"change of {'MAD' if column == 'mad' else column} on test", ylabel="")
        axis.xaxis.set_major_locator(MaxNLocator(6))
    figures.legend(axes)
    return figures.caption(drawing, note)


@figures.themed
def strengths(table, *, floor, note):
    """Draw MAD and accuracy against λ: a row per debiaser, a line per method, λ = 0 being the method without the debiaser.

    Parameters
    ----------
    table : DataFrame
        Of runs. Drawn are its students of plain teachers, and of its debiasers those that have a strength.
    floor : (float, float)
        See `tables.floor`.
    """
    rows = labelled(table).query("method != 'teacher' and teacher_debias == 'none'")
    strong = list(figures.markers(rows.loc[rows["lam"] > 0, "debias"])) or ["none"]
    drawing, axes = figures.figure(len(strong), 2, width=9, height=2.8 if len(strong) > 1 else 3.4, squeeze=False)
    for pair, debias in zip(axes, strong, strict=True):
        shown = rows[rows["debias"].isin(["none", debias])]
        label = f"λ of {debiaser_name(debias)}" if debias != "none" else "λ (no debiaser)"
        _lines(pair, shown, "lam", label, floor, figures.palette(rows["method"]))
        figures.legend(pair)
    for axis in axes[1:, 1]:
        axis.get_legend().remove()
    return figures.caption(drawing, note + _crossed(rows))


@figures.themed
def temperatures(table, *, floor, note):
    """Draw MAD and accuracy against the temperature of distillation, a line per method.

    table: of runs without debiasing, with the column `temperature`; floor: see `tables.floor`."""
    drawing, axes = figures.figure(1, 2, width=9)
    _lines(axes, table, "temperature", "temperature of distillation", floor, figures.palette(table["method"]))
    figures.legend(axes)
    return figures.caption(drawing, note + _crossed(table))


def _crossed(rows):
    return " Crossed out: collapsed in at least one seed." if rows["test_degenerate"].astype(bool).any() else ""


def _lines(axes, rows, column, label, floor, palette):
    """Test MAD and test accuracy by the values of `column`, a line per method, collapsed kinds crossed out."""
    order = [f"{value:g}" for value in sorted(rows[column].unique())]
    rows = rows.assign(value=rows[column].map("{:g}".format), method=rows["method"].map(method_name))
    collapsed = rows[
        rows.groupby(["method", "value"])["test_degenerate"].transform(lambda each: each.astype(bool).any())
    ]
    axes[0].axhspan(*floor, **HALO, label=f"{floor_name(rows)} (95 %)")
    look = {
        "x": "value",
        "hue": "method",
        "order": order,
        "hue_order": list(palette),
        "dodge": 0.2 if len(palette) > 1 else False,
    }
    for axis, measure in zip(axes, ("mad", "accuracy"), strict=True):
        look |= {"y": f"test_{measure}", "ax": axis}
        sns.pointplot(rows, palette=palette, marker="o", legend=measure == "accuracy", **look, **POINTS)
        crosses = {"marker": "x", "linestyle": "none", "errorbar": None, "markersize": 8, "legend": False}
        sns.pointplot(collapsed, palette=dict.fromkeys(palette, "#000000"), **look, **crosses)
        axis.set(xlabel=label, ylabel=f"{'MAD' if measure == 'mad' else measure} on test")
    highest = rows.groupby(["method", "value"])["test_mad"].mean().max()
    axes[0].set_ylim(0, min(axes[0].get_ylim()[1], 2 * highest or 1))  # few seeds have wide intervals
    axes[1].set_ylim(0, 1.02)
