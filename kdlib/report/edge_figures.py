"""Figures of what is shipped: bias against accuracy, bytes and milliseconds, form by form."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, LogLocator

from kdlib.names import method_name
from kdlib.report import edge, figures

FORM_MARKERS = {"torch": "o", "onnx": "D", "int8_channel": "s", "int8_tensor": "X"}
AXES = {"accuracy": "accuracy on the test split", "bytes": "KiB of the file", "ms_1": "milliseconds an image (batch 1)"}


@figures.themed
def bias_on_device(rows, *, note):
    """Draw test MAD against accuracy, bytes and milliseconds: a point per kind and form, colour for the method.

    Parameters
    ----------
    rows : DataFrame
        Of `edge.table_of`.
    note : str
        The caption.
    """
    chosen = pd.concat([edge.form(rows, name, edge.first_calibration(rows)) for name in FORM_MARKERS])
    collapsed = int(rows["degenerate"].astype(bool).sum())
    chosen = edge.sound(chosen)
    if chosen.empty:
        return nothing_left(collapsed)
    points = chosen.groupby([*edge.KIND, "form"], sort=False)[["mad", *AXES]].mean().reset_index()
    points["bytes"] /= 1024
    palette = figures.palette(points["method"])
    names = {name: edge.FORM_NAMES[name] for name in FORM_MARKERS}
    shown = points.assign(method=points["method"].map(method_name), form=points["form"].map(names))
    drawing, axes = figures.figure(1, len(AXES), width=12.5, height=4.2, sharey=True)
    look = {
        "y": "mad", "hue": "method", "hue_order": list(palette), "palette": palette, "style": "form",
        "style_order": list(names.values()), "markers": {names[name]: marker for name, marker in FORM_MARKERS.items()},
        "s": 34, "linewidth": 0.4, "alpha": 0.85,
    }  # fmt: skip
    for axis, (column, label) in zip(axes, AXES.items(), strict=True):
        band = rows[rows["form"] == "torch"][["mad_floor_low", "mad_floor_high"]].mean()
        axis.axhspan(*band, **figures.HALO, label="MAD of a model blind to the group (95 %)")
        sns.scatterplot(shown, x=column, ax=axis, **look)
        axis.set(xlabel=label, ylabel="mean absolute disparity (MAD)", ylim=(0, 1.1 * np.nanmax(points["mad"])))
        if column != "accuracy":
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.minorticks_off()
    figures.legend(axes)
    if collapsed:
        note += f" Left out: {collapsed} collapsed networks."
    return figures.caption(drawing, note)


def nothing_left(collapsed):
    """Return a figure that says that every network collapsed, so that there is nothing to compare."""
    drawing, axis = figures.figure(height=1.2)
    axis.set_axis_off()
    axis.text(
        0,
        0.5,
        f"All {collapsed} networks and forms collapsed: their bias means nothing, and none is drawn.",
        fontsize=9,
    )
    return drawing


@figures.themed
def calibrations(rows, *, note):
    """Draw what the calibration pictures do: the change of MAD and the decisions that changed, a point per network."""
    students = edge.sound(rows[(rows["method"] != "teacher") & (rows["form"] == "int8_channel")])
    if students.empty:
        return nothing_left(int(rows["degenerate"].astype(bool).sum()))
    shown = students.assign(
        composition=students["calibration"].map(edge.composition), method=students["method"].map(method_name)
    )
    palette = figures.palette(students["method"])
    drawing, axes = figures.figure(1, 2, width=10, height=1.4 + 0.45 * shown["composition"].nunique(), sharey=True)
    for axis, (column, label) in zip(
        axes, {"mad_change": "change of MAD", "churn": "decisions that changed"}.items(), strict=True
    ):
        sns.swarmplot(
            shown, x=column, y="composition", hue="method", palette=palette, hue_order=list(palette), size=3.5,
            legend=column == "churn", warn_thresh=1, ax=axis,
        )  # fmt: skip
        axis.axvline(0, color="#222222", linewidth=0.8)
        axis.set(xlabel=f"{label}, int8 per channel against torch", ylabel="calibrated on")
    figures.legend(axes[1:])
    return figures.caption(drawing, note)
