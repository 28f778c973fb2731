"""Figures from tables and arrays. Each function returns a matplotlib Figure; colours are colour-blind safe and mean the
same everywhere; n and the kind of interval stand in the caption that `caption` writes below the axes."""

import textwrap

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.bias.stats import interval
from kdlib.names import debiaser_name, method_name

# Okabe and Ito's colours, which colour-blind readers tell apart
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F", "#000000")
LOOK = {
    "axes.grid": True, "grid.color": "#e5e5e5", "font.size": 9, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "kdlib",
}  # fmt: skip
COLOURS = {
    "teacher": "#000000", "scratch": "#7F7F7F", "ckd": "#0072B2", "rkd": "#E69F00", "rkd_author": "#9A6A00",
    "ctkd": "#009E73", "ctkd_instance": "#005C43", "kdpp": "#D55E00", "dkd": "#CC79A7", "dkdpp": "#8A4070",
}  # fmt: skip
MARKERS = {
    "none": "o", "critic": "^", "critic_faithful": "v", "adversary": "P", "adversary_conditional": "X", "projection": "<",
    "domain_independent": "s", "reweight": "D", "resample": "d", "bias_mimicking": "h", "group_dro": ">",
    "gap_penalty": "p", "mfd": "H", "dfr": "8", "balanced_teacher": "*", "logit_adjustment": "1", "adversary_embedding": "2",
    "adversary_embedding_conditional": "3",
}  # fmt: skip
DIVERGING = "RdBu_r"
MANY = 20  # classes: more are drawn without their names, or in part
CROWD = 60  # points: more are drawn without their bars and λ


def colour_of(name):
    """A method's colour; of a name that has none, one of the palette that stays the same."""
    return COLOURS.get(name, PALETTE[sum(map(ord, name)) % len(PALETTE)])


def marker_of(debias):
    """A debiaser's marker; of one that has none, its initials."""
    return MARKERS.get(debias, f"${''.join(part[:1] for part in debias.split('_'))}$")


def figure(rows=1, columns=1, *, width=7.5, height=3.2, **options):
    """A Figure with a grid of axes, in the study's look: (figure, axes)."""
    with matplotlib.rc_context(LOOK):
        drawing = Figure(figsize=(width, height * rows), layout="constrained", dpi=110)
        return drawing, drawing.subplots(rows, columns, **options)


def caption(drawing, text):
    """Write the caption under the figure; returns the figure."""
    drawing.supxlabel(text, fontsize=8, color="#444444", x=0.01, ha="left", wrap=True)
    return drawing


def samples(dataset, split="train", *, seed=0):
    """A random picture of each class (columns) in each group (rows; one where there are none), with the number of pictures
    in that cell; of many classes, those that have a group."""
    part, generator = dataset.splits[split], np.random.default_rng(seed)
    numbered = dict(enumerate(dataset.groups)) or {-1: "no group"}
    classes = range(len(dataset.classes))
    if len(classes) > MANY:
        classes = np.unique(part.labels[np.isin(part.group, list(numbered))])[:MANY]
    drawing, axes = figure(len(numbered), len(classes), width=max(4, 0.9 * len(classes)), height=1.25, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        label, group = classes[column], list(numbered)[row]
        cell = np.flatnonzero((part.labels == label) & (part.group == group))
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(f"n = {len(cell)}", fontsize=7)
        if len(cell):
            axis.imshow(part.images[generator.choice(cell)].transpose(1, 2, 0))
        if row == 0:
            axis.set_title(textwrap.fill(dataset.classes[label], 12), fontsize=9 if len(classes) < 12 else 7)
        if column == 0:
            axis.set_ylabel(numbered[group])
    return caption(
        drawing, f"{dataset.name}, {split} split: one random picture per class and group; n pictures in the cell."
    )


def noise_floor(floors, *, note):
    """A blind model's MAD and the smallest change that can be resolved, against recall; floors: of `resolution.floors`."""
    drawing, axis = figure()
    colour = PALETTE[0]
    axis.fill_between(floors["recall"], floors["low"], floors["high"], alpha=0.25, color=colour, linewidth=0)
    axis.plot(floors["recall"], floors["floor"], "o-", color=colour, label="MAD of a model blind to the group")
    axis.plot(floors["recall"], floors["apart"], "s--", color=PALETTE[3], label="smallest change, errors independent")
    axis.plot(floors["recall"], floors["alike"], "^:", color=PALETTE[2], label="smallest change, models alike")
    axis.set(xlabel="recall, the same in every group", ylabel="mean absolute disparity (MAD)", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return caption(drawing, note)


def class_axis(axis, classes):
    """Name the classes below the axis, or number them where they are many."""
    if len(classes) > MANY:
        axis.set(xlabel="number of the class")
    else:
        turned = {"rotation": 45, "ha": "right"} if max(map(len, classes)) > 6 else {}
        axis.set_xticks(range(len(classes)), classes, **turned)
        axis.set(xlabel="class")


def curves(histories, column, *, label, ax=None):
    """A figure of the mean over seeds (line) and range (band): histories maps a name in COLOURS, or any text, to a list of
    history tables, one per seed. Those without the column are left out; the others keep their colours."""
    drawing, axis = figure() if ax is None else (ax.figure, ax)
    for number, (name, tables) in enumerate(histories.items()):
        if column not in tables[0]:
            continue
        values = np.stack([table[column] for table in tables])
        epochs = np.arange(1, values.shape[1] + 1)
        colour = COLOURS.get(name, PALETTE[number % len(PALETTE)])
        axis.plot(epochs, values.mean(0), color=colour, label=f"{method_name(name)} (n = {len(tables)})")
        axis.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axis.has_data():
        axis.legend(frameon=False)
    return drawing


def matrices(panels, *, label, low=None, high=None, cmap="viridis", ticks=None):
    """Square matrices side by side under one colour scale: panels maps titles to arrays."""
    drawing, axes = figure(1, len(panels), width=3.1 * len(panels), height=3.0, squeeze=False)
    low = min(np.min(matrix) for matrix in panels.values()) if low is None else low
    high = max(np.max(matrix) for matrix in panels.values()) if high is None else high
    for axis, (title, matrix) in zip(axes.flat, panels.items(), strict=True):
        image = axis.imshow(matrix, vmin=low, vmax=high, cmap=cmap)
        axis.set_title(title, fontsize=9)
        axis.grid(False)
        if ticks is None or len(ticks) > MANY:
            axis.set(xticks=[], yticks=[])
        else:
            axis.set_xticks(range(len(ticks)), ticks)
            axis.set_yticks(range(len(ticks)), ticks)
    drawing.colorbar(image, ax=axes, label=label, shrink=0.8)
    return drawing


def bias_against_accuracy(points, *, floor, constant, note):
    """The headline: test MAD against test accuracy.

    points: a table with columns method, debias, lam, teacher_debias, accuracy, accuracy_half, mad, mad_half, n, degenerate,
    one row per kind of model (`results.means`); floor: (low, high) of MAD for a model blind to the group; constant: accuracy of
    the classifier that always names the commonest class, whose MAD is 0; note: the caption."""
    drawing, axis = figure(width=9, height=5.6)
    axis.axhspan(*floor, color="#bbbbbb", alpha=0.35, linewidth=0, label="noise floor of MAD (95 %)")
    useless, shown = points[points["degenerate"]], points[~points["degenerate"]]
    crowded = len(shown) > CROWD
    for _, row in shown.iterrows():
        colour, marker = colour_of(row["method"]), marker_of(row["debias"])
        point = row["accuracy"], row["mad"]
        face = "white" if row["teacher_debias"] != "none" else colour
        style = {"marker": marker, "linestyle": "none", "color": colour, "markerfacecolor": face}
        axis.plot(*point, markersize=5 if crowded else 7, zorder=4, **style)
        if crowded:
            continue
        axis.errorbar(*point, row["mad_half"], row["accuracy_half"], color=colour, elinewidth=0.8, alpha=0.3, zorder=2)
        if row["lam"]:
            axis.annotate(f"{row['lam']:g}", point, xytext=(5, 3), textcoords="offset points", fontsize=6, color=colour)
    students = shown[shown["method"] != "teacher"]
    front = students.iloc[pareto(students["accuracy"].to_numpy(), students["mad"].to_numpy())]
    axis.plot(
        front["accuracy"], front["mad"], "--", color="#555555", zorder=3, linewidth=1, label="students' Pareto front"
    )
    accuracy = (points if shown.empty else shown)["accuracy"]
    margin = 0.08 * np.ptp(accuracy) + 0.01
    left, right = accuracy.min() - margin, min(1.0, accuracy.max() + margin)
    inside = useless[useless["accuracy"] >= left]
    highest = max(shown["mad"].max() if len(shown) else 0, inside["mad"].max() if len(inside) else 0)
    axis.set(xlim=(left, right), ylim=(-0.02 * highest, 1.25 * highest or 1))
    if constant < left:
        axis.annotate(
            f"constant classifier: accuracy {constant:.3f}, MAD 0", (left, 0), xytext=(28, 6), textcoords="offset points",
            fontsize=7, arrowprops={"arrowstyle": "->", "color": "#555555"}, va="bottom",
        )  # fmt: skip
    else:
        axis.plot(constant, 0, "x", color="#333333", label="constant classifier")
    axis.set(xlabel="accuracy on the test split", ylabel="mean absolute disparity (MAD) on the test split")
    for _, row in inside.iterrows():  # marked, and no part of the front
        axis.plot(row["accuracy"], row["mad"], "x", color=colour_of(row["method"]), markersize=6, zorder=3)
    if len(inside):
        axis.plot([], [], "x", color="#777777", label="degenerate: useless")
    _legend(axis, points, crowded)
    if crowded:
        note += f" Without the bars, for so many kinds: median half-width {shown['mad_half'].median():.3f} of MAD, "
        note += f"{shown['accuracy_half'].median():.3f} of accuracy."
    if len(useless):
        note += f" {len(useless)} kinds of model are degenerate in a seed at least, so not to be praised: "
        note += f"{len(inside)} crossed out, {len(useless) - len(inside)} left of the axis."
    return caption(drawing, note)


def _legend(axis, points, crowded):
    def handle(label, colour, marker, hollow=False):
        face = "white" if hollow else colour
        axis.plot([], [], marker=marker, linestyle="none", color=colour, markerfacecolor=face, label=label)

    for method in _ordered(points["method"], COLOURS):
        handle(method_name(method), colour_of(method), "o")
    for debias in _ordered(points["debias"], MARKERS):
        strength = " (with its λ)" if not crowded and points.loc[points["debias"] == debias, "lam"].any() else ""
        handle(debiaser_name(debias) + strength, "#777777", marker_of(debias))
    if (points["teacher_debias"] != "none").any():
        handle("hollow: teacher debiased", "#777777", "o", hollow=True)
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))


def _ordered(names, known):
    """The distinct names, those that are known first and in their order."""
    found = set(names)
    return [name for name in known if name in found] + sorted(found.difference(known))


def pareto(accuracy, disparity):
    """Indices, by rising accuracy, of the points that no other beats: none is as accurate and less biased."""
    order = np.lexsort((disparity, -accuracy))
    front, least = [], np.inf
    for index in order:
        if disparity[index] < least:
            front.append(index)
            least = disparity[index]
    return front[::-1]


def disparity_label(values):
    """What disparities are: signed between two groups; of more groups a range, which is never below zero."""
    return "recall of group 1 − recall of group 0" if (values < 0).any() else "largest − smallest recall of a group"


def disparity_by_class(disparities, classes, *, note):
    """Disparity of each class that has one, models side by side: disparities maps a name in COLOURS to (seeds, K)."""
    counts = ~np.isnan(np.concatenate(list(disparities.values()))).all(axis=0)
    disparities = {name: values[:, counts] for name, values in disparities.items()}
    classes = [name for name, there in zip(classes, counts, strict=True) if there]
    drawing, axis = figure(width=9, height=3.6)
    width = 0.8 / len(disparities)
    for number, (name, values) in enumerate(disparities.items()):
        colour = COLOURS.get(name, PALETTE[number % len(PALETTE)])
        position = np.arange(len(classes)) + (number - (len(disparities) - 1) / 2) * width
        mean = np.nanmean(values, axis=0)
        half = [interval(column[~np.isnan(column)])[1] for column in values.T]
        axis.bar(position, mean, width, color=colour, label=method_name(name), zorder=2)
        axis.errorbar(position, mean, yerr=half, fmt="none", ecolor="#222222", elinewidth=0.7, zorder=3)
    axis.axhline(0, color="#222222", linewidth=0.8)
    class_axis(axis, classes)
    axis.set(ylabel=disparity_label(np.concatenate(list(disparities.values()))))
    axis.legend(frameon=False, fontsize=8, ncols=len(disparities), loc="lower center", bbox_to_anchor=(0.5, 1))
    return caption(drawing, note)


def forest(rows, *, label, note):
    """Estimates with intervals, one line each: rows is a list of (text, colour name, value, low, high). A text that begins with
    "mean" is drawn as a diamond, so that it is not taken for one of the estimates that it sums up."""
    drawing, axis = figure(width=7.5, height=0.9 + 0.24 * len(rows))
    for number, (text, name, value, low, high) in enumerate(rows):
        summary = text.startswith("mean")
        style = {"color": colour_of(name), "linewidth": 2.5 if summary else 1.2, "alpha": 1 if summary else 0.7}
        axis.plot([low, high], [number, number], **style)
        axis.plot(value, number, "D" if summary else "o", color=style["color"], markersize=6 if summary else 4)
    axis.axvline(0, color="#222222", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    return caption(drawing, note)


def by_debiaser(shifts, *, note):
    """Changes by debiasing, a line per debiaser from the largest fall of MAD to the least: shifts has columns debias, method,
    seed, mad and accuracy. Dots: a method's mean over seeds; diamond: mean over methods and seeds, its bar Student's 95 %
    interval over seeds, whose values are means over methods."""
    order = shifts.groupby("debias")["mad"].mean().sort_values().index
    drawing, axes = figure(1, 2, width=9.5, height=1.5 + 0.27 * len(order), sharey=True)
    for axis, column, label in zip(axes, ("mad", "accuracy"), ("MAD", "accuracy"), strict=True):
        for place, debias in enumerate(order):
            own = shifts[shifts["debias"] == debias]
            for method, value in own.groupby("method")[column].mean().items():
                axis.plot(value, place, "o", color=colour_of(method), markersize=4, alpha=0.8)
            mean, half = interval(own.groupby("seed")[column].mean())
            axis.errorbar(mean, place, xerr=half, fmt="D", color="#000000", markersize=5, capsize=2, zorder=3)
        axis.axvline(0, color="#222222", linewidth=0.8)
        axis.set_xlabel(f"change of {label} on test")
        axis.xaxis.set_major_locator(MaxNLocator(6))
    axes[0].set_yticks(range(len(order)), [debiaser_name(debias) for debias in order], fontsize=8)
    axes[0].set_ylim(len(order) - 0.4, -0.6)  # the first on top
    for method in _ordered(shifts["method"], COLOURS):
        axes[1].plot([], [], "o", color=colour_of(method), markersize=4, label=method_name(method))
    axes[1].plot([], [], "D", color="#000000", markersize=5, label="mean over methods")
    axes[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return caption(drawing, note)


def strengths(points, *, floor, note):
    """MAD and accuracy against λ, a row per debiaser and a line per method: points as for `bias_against_accuracy`, of
    debiasers that have a strength, and of the methods without any, which are their λ = 0."""
    plain = points[points["debias"] == "none"]
    debiasers = _ordered(points.loc[points["debias"] != "none", "debias"], MARKERS) or ["none"]
    drawing, axes = figure(len(debiasers), 2, width=9, height=2.8 if len(debiasers) > 1 else 3.4, squeeze=False)
    for pair, debias in zip(axes, debiasers, strict=True):
        found = points[points["debias"] == debias] if debias != "none" else plain[:0]
        _strength(pair, found, plain, floor, "" if debias == "none" else debiaser_name(debias))
        pair[0].set_ylim(0, 1.15 * points["mad"].max() or 1)
    handles = axes[0, 0].get_legend_handles_labels()
    axes[0, 1].legend(*handles, frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return caption(drawing, note + " Crossed out: degenerate in at least one seed.")


def _strength(axes, found, plain, floor, title):
    shown = sorted({0.0, *found["lam"]})
    axes[0].axhspan(*floor, color="#bbbbbb", alpha=0.35, linewidth=0, label="noise floor (95 %)")
    methods = _ordered([*plain["method"], *found["method"]], COLOURS)
    for number, method in enumerate(methods):
        rows = [of[of["method"] == method] for of in (plain, found)]
        rows = (rows[0] if rows[1].empty else pd.concat(rows)).sort_values("lam")
        beside = 0.05 * (number - (len(methods) - 1) / 2)  # so that intervals do not hide each other
        position = [shown.index(lam) + beside for lam in rows["lam"]]
        useless = rows["degenerate"].to_numpy(bool)
        for axis, column in zip(axes, ("mad", "accuracy"), strict=True):
            axis.errorbar(
                position, rows[column], yerr=rows[f"{column}_half"], marker="o", capsize=2, color=colour_of(method),
                label=method_name(method),
            )  # fmt: skip
            axis.plot(np.array(position)[useless], rows[column][useless], "x", color="#000000", markersize=9, zorder=5)
    for axis, label in zip(axes, ("MAD", "accuracy"), strict=True):
        axis.set_xticks(range(len(shown)), [f"{lam:g}" for lam in shown])
        axis.set(xlabel=f"λ, strength of {title or 'the debiaser'}", ylabel=f"{label} on test")
    axes[1].set_ylim(0, 1.02)


def temperatures(points, *, floor, note):
    """MAD and accuracy against the temperature of distillation, a line per method: points has a row per method and temperature
    with the columns of `results.means`."""
    drawing, axes = figure(1, 2, width=9)
    axes[0].axhspan(*floor, color="#bbbbbb", alpha=0.35, linewidth=0, label="noise floor (95 %)")
    for method, rows in points.groupby("method", sort=False):
        for axis, column in zip(axes, ("mad", "accuracy"), strict=True):
            look = {"marker": "o", "capsize": 2, "color": colour_of(method), "label": method_name(method)}
            axis.errorbar(rows["temperature"], rows[column], rows[f"{column}_half"], **look)
            useless = rows[rows["degenerate"].astype(bool)]
            axis.plot(useless["temperature"], useless[column], "kx", markersize=8, zorder=5)
    ticks = sorted(points["temperature"].unique())
    for axis, label in zip(axes, ("MAD", "accuracy"), strict=True):
        axis.set(xscale="log", xlabel="temperature of distillation (1 is the networks' own)", ylabel=f"{label} on test")
        axis.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axis.minorticks_off()
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    return caption(drawing, note + (" Crossed out: degenerate in a seed." if points["degenerate"].any() else ""))


def distributions(values, *, labels, note):
    """Histograms, a panel per quantity: values maps a name in COLOURS to a list of arrays, one per panel; labels name the
    panels' axes."""
    drawing, axes = figure(1, len(labels), width=4 * len(labels), height=3.2, squeeze=False)
    for panel, axis in enumerate(axes.flat):
        everything = np.concatenate([arrays[panel] for arrays in values.values()])
        edges = np.linspace(everything.min(), everything.max(), 41)
        for name, arrays in values.items():
            options = {"histtype": "step", "density": True, "linewidth": 1.5, "color": colour_of(name)}
            axis.hist(arrays[panel], edges, label=method_name(name), **options)
        axis.set(xlabel=labels[panel], ylabel="density")
    axes.flat[0].legend(frameon=False, fontsize=8)
    return caption(drawing, note)
