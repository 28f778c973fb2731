"""Figures from tables and arrays, in one theme: each function returns a matplotlib Figure.

Seaborn draws what it can, with Student's intervals where it computes them. A method has the same colour in every figure, and a
debiaser the same marker. One without an entry here gets a colour or marker that nothing else has."""

import textwrap

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.bias.stats import student_interval
from kdlib.names import method_name

PALETTE = sns.color_palette("colorblind").as_hex()  # readers with any colour vision tell these apart
COLOURS = {
    "teacher": "#000000", "scratch": PALETTE[7], "ckd": PALETTE[0], "rkd": PALETTE[1], "rkd_author": "#8A5A00",
    "ctkd": PALETTE[2], "ctkd_instance": "#005C43", "kdpp": PALETTE[3], "dkd": PALETTE[4], "dkdpp": "#8A4070",
}  # fmt: skip
SPARE_COLOURS = (PALETTE[9], "#332288", "#999933", "#661100")
MARKERS = {
    "none": "o", "critic": "^", "critic_faithful": "v", "adversary": "P", "adversary_conditional": "X", "projection": "<",
    "domain_independent": "s", "reweight": "D", "resample": "d", "bias_mimicking": "h", "group_dro": ">", "gap_penalty": "p",
    "mfd": "H", "dfr": "8", "balanced_teacher": "*", "logit_adjustment": (4, 1, 0), "adversary_embedding": (4, 1, 45),
    "adversary_embedding_conditional": (3, 1, 0),
}  # fmt: skip
DIVERGING = "RdBu_r"
MANY = 20  # classes: more of them are numbered, or drawn in part
THEME = {
    **sns.axes_style("whitegrid", rc={"grid.color": "#e5e5e5", "axes.edgecolor": "#666666"}),
    **sns.plotting_context("paper"),
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5, "lines.linewidth": 1.3, "lines.markersize": 4.5,
}  # fmt: skip
# for the whole process, since ticks are drawn late: names are no mathematics ("cost $10 to $20"), and equal figures equal files
matplotlib.rcParams |= {"text.parse_math": False, "svg.hashsalt": "kdlib"}
themed = matplotlib.rc_context(THEME)  # a decorator
BARS = {"errorbar": student_interval, "capsize": 0.08, "err_kws": {"linewidth": 0.8}}
POINTS = BARS | {"linewidth": 1.2, "markersize": 4.5}
HALO = {"linewidth": 0, "color": "#bbbbbb", "alpha": 0.35}  # of a band


def colours(names) -> dict:
    """Return {method or other name: its colour}, labelled methods first and in their order; no two names share a colour."""
    spare = [*SPARE_COLOURS, *sns.husl_palette(len(set(names)), s=0.8, l=0.45).as_hex()]
    return _assigned(names, COLOURS, spare)


def palette(names) -> dict:
    """Return {label: colour}, as seaborn takes it, for the legend of a figure of these methods."""
    return {method_name(name): colour for name, colour in colours(names).items()}


def markers(debiasers) -> dict:
    """Return {debiaser: its marker}, known debiasers first and in their order; no two share a marker."""
    stars = [(points, 1, 0) for points in range(6, 7 + len(set(debiasers)))]
    return _assigned(debiasers, MARKERS, stars)


def _assigned(names, known, spare):
    present = set(names)
    ordered = [name for name in known if name in present] + sorted(present.difference(known))
    free = iter(spare)
    return {name: known[name] if name in known else next(free) for name in ordered}


@themed
def figure(rows=1, columns=1, *, width=7.5, height=3.2, **options):
    """Return (Figure, axes): a grid of axes in the study's theme.

    Parameters
    ----------
    rows, columns : int
    width, height : float
        In inches: of the figure, and of one row.
    **options
        Of `Figure.subplots`.
    """
    drawing = Figure(figsize=(width, height * rows), layout="constrained", dpi=110)
    return drawing, drawing.subplots(rows, columns, **options)


def panels(number, *, x, y, columns=3, width=3.0, height=3.2):
    """Return (Figure, array of `number` axes): small figures that share both axes, labelled `x` and `y` at the outside."""
    columns = min(columns, number)
    rows = -(-number // columns)
    options = {"width": width * columns + 0.5, "height": height, "sharex": True, "sharey": True, "squeeze": False}
    drawing, axes = figure(rows, columns, **options)
    for axis in axes.flat[number:]:
        axis.remove()
    for axis in axes.flat[:number][-columns:]:  # nothing is below them
        axis.set_xlabel(x)
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel(y)
    return drawing, axes.flat[:number]


def caption(drawing, text):
    """Write the caption under the figure; returns the figure."""
    by_matplotlib = "$" not in text  # its wrapping would take what is between two of them for mathematics
    if not by_matplotlib:
        text = textwrap.fill(text, int(drawing.get_figwidth() * 16))
    drawing.supxlabel(text, fontsize=8, color="#444444", x=0.01, ha="left", wrap=by_matplotlib)
    return drawing


def legend(axes, **place):
    """Write one legend of what several axes show, each label once; by default to the right of the last of them."""
    handles = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        if axis.get_legend():
            axis.get_legend().remove()
    axes[-1].legend(handles.values(), handles, **({"loc": "center left", "bbox_to_anchor": (1, 0.5)} | place))


def class_axis(axis, classes):
    """Name the classes below the axis; where they are many, number them."""
    if len(classes) > MANY:
        number_classes(axis.xaxis)
    else:
        turned = {"rotation": 45, "ha": "right"} if max(map(len, classes)) > 6 else {}
        axis.set_xticks(range(len(classes)), classes, **turned)
        axis.set(xlabel="class")


def number_classes(axis):
    """Number the classes along an x axis or y axis, `axis`."""
    axis.set_major_locator(MaxNLocator(10, integer=True))
    axis.set_major_formatter("{x:.0f}")
    axis.set_label_text("number of the class")


@themed
def samples(dataset, split="train", *, seed=0):
    """Draw a random image of each class (columns) in each group (rows), with the number of images in that cell.

    Without groups there is one row; of many classes, the first 20 that have a group are drawn."""
    part, generator = dataset.splits[split], np.random.default_rng(seed)
    groups = dict(enumerate(dataset.groups)) or {-1: "no group"}
    classes = range(len(dataset.classes))
    if len(classes) > MANY:
        classes = np.unique(part.labels[np.isin(part.group, list(groups))])[:MANY]
    drawing, axes = figure(len(groups), len(classes), width=max(4, 0.9 * len(classes)), height=1.25, squeeze=False)
    for (row, column), axis in np.ndenumerate(axes):
        label, group = classes[column], list(groups)[row]
        cell = np.flatnonzero((part.labels == label) & (part.group == group))
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel(f"n = {len(cell)}", fontsize=7)
        if len(cell):
            axis.imshow(part.images[generator.choice(cell)].transpose(1, 2, 0))
        if row == 0:
            axis.set_title(textwrap.fill(dataset.classes[label], 12), fontsize=9 if len(classes) < 12 else 7)
        if column == 0:
            axis.set_ylabel(groups[group])
    return caption(
        drawing, f"{dataset.name}, {split} split: a random image of each class and group; n images per cell."
    )


@themed
def noise_floor(floors, *, note):
    """Draw the MAD of a model blind to the group, and the smallest change that can be resolved, against recall.

    floors: the table of `resolution.floors`."""
    drawing, axis = figure()
    labels = {
        "floor": "MAD of a model blind to the group",
        "apart": "smallest change between models with independent errors",
        "alike": "smallest change between models that mostly agree",
    }
    rows = floors.rename(columns=labels).melt("recall", list(labels.values()), "quantity", "MAD")
    sns.lineplot(
        rows,
        x="recall",
        y="MAD",
        hue="quantity",
        style="quantity",
        markers=["o", "s", "^"],
        palette=PALETTE[:3],
        ax=axis,
    )
    axis.fill_between(floors["recall"], floors["low"], floors["high"], alpha=0.25, color=PALETTE[0], linewidth=0)
    axis.set(xlabel="recall, the same in every group", ylabel="mean absolute disparity (MAD)", ylim=(0, None))
    axis.legend(title=None)
    return caption(drawing, note)


@themed
def curves(histories, column, *, label, ax=None):
    """Draw the mean over seeds (line) and their range (band) by epoch.

    Parameters
    ----------
    histories : dict
        {method, or any text: list of history tables, one per seed}. Those without the column are left out.
    column, label : str
        What is drawn, and what the axis is called.
    ax : Axes, optional
        Of a figure that exists already.
    """
    drawing, axis = figure() if ax is None else (ax.figure, ax)
    of_name = colours(histories)
    names = {
        f"{method_name(name)} (n = {len(tables)})": name for name, tables in histories.items() if column in tables[0]
    }
    if names:
        rows = pd.concat({name: pd.concat(histories[names[name]]) for name in names}, names=["name"]).reset_index(
            "name"
        )
        look = {"hue": "name", "palette": {text: of_name[name] for text, name in names.items()}}
        sns.lineplot(rows, x="epoch", y=column, errorbar=("pi", 100), ax=axis, **look)
        axis.legend(title=None)
    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawing


@themed
def matrices(matrices, *, label, low=None, high=None, cmap="viridis", ticks=None):
    """Draw square matrices, {title: (n, n)}, side by side under one colour scale.

    Parameters
    ----------
    matrices : dict
    label : str
        What the colours stand for.
    low, high : float, optional
        Ends of the scale; by default the smallest and largest entry.
    ticks : sequence of str, optional
        Names of rows and columns; left out where they are many.
    """
    drawing, axes = figure(1, len(matrices), width=3.1 * len(matrices), height=3.0, squeeze=False)
    low = min(np.min(matrix) for matrix in matrices.values()) if low is None else low
    high = max(np.max(matrix) for matrix in matrices.values()) if high is None else high
    names = ticks if ticks is not None and len(ticks) <= MANY else False
    for axis, (title, matrix) in zip(axes.flat, matrices.items(), strict=True):
        options = {"xticklabels": names, "yticklabels": names, "square": True, "cbar": False, "rasterized": True}
        sns.heatmap(matrix, vmin=low, vmax=high, cmap=cmap, ax=axis, **options)
        axis.tick_params("y", rotation=0)
        axis.set_title(title, fontsize=9)
    drawing.colorbar(axes[0, 0].collections[0], ax=axes, label=label, shrink=0.8)
    return drawing


@themed
def distributions(values, *, labels, note):
    """Draw histograms of several quantities, a panel each.

    Parameters
    ----------
    values : dict
        {method, or any text: list of arrays, one per quantity}.
    labels : list of str
        The names of the quantities.
    """
    drawing, axes = figure(1, len(labels), width=4 * len(labels), height=3.2, squeeze=False)
    for panel, axis in enumerate(axes.flat):
        arrays = {method_name(name): pd.Series(quantities[panel]) for name, quantities in values.items()}
        rows = pd.concat(arrays, names=["name", "row"]).rename("value").reset_index()
        options = {"stat": "density", "common_norm": False, "element": "step", "fill": False, "bins": 40}
        sns.histplot(rows, x="value", hue="name", palette=palette(values), legend=panel == 0, ax=axis, **options)
        axis.set(xlabel=labels[panel], ylabel="density")
    axes[0, 0].get_legend().set_title(None)
    return caption(drawing, note)
