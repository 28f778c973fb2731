"""Texts for readers who do not see a figure, computed from what it draws."""

import numpy as np

from kdlib.report import gallery


def text(drawing, name) -> str:
    """Return what a figure shows: its axes and caption, the ranges that its points span, and the names in its legends."""
    ranges = dict.fromkeys(filter(None, (_ranges(axis) for axis in drawing.axes if axis.get_visible())))
    legends = [axis.get_legend() for axis in drawing.axes if axis.get_legend()]
    names = dict.fromkeys(label.get_text() for legend in [*legends, *drawing.legends] for label in legend.get_texts())
    parts = [gallery.alternative_text(drawing, name)]
    parts += [f"Drawn: {'; '.join(ranges)}."] if ranges else []
    parts += [f"Shown are {', '.join(names)}."] if names else []
    return " ".join(parts)


def _ranges(axis):
    """`accuracy 0.61 to 0.93, MAD 0.02 to 0.35`; of a map, the range of its values."""
    maps = [values for one in axis.collections if (values := one.get_array()) is not None and np.ndim(values) == 2]
    if maps:
        return f"values {np.nanmin(maps[0]):.2f} to {np.nanmax(maps[0]):.2f}"
    if not axis.has_data() or not np.isfinite(axis.dataLim.get_points()).all():
        return ""
    sides = (
        (axis.get_xlabel(), axis.xaxis, axis.dataLim.intervalx),
        (axis.get_ylabel(), axis.yaxis, axis.dataLim.intervaly),
    )
    return ", ".join(
        f"{label} {low:.2f} to {high:.2f}" for label, side, (low, high) in sides if label and _is_scale(side)
    )


def _is_scale(side):
    """Whether an axis measures, rather than names."""
    ticks = [label.get_text() for label in side.get_ticklabels()]
    return not any(character.isalpha() for tick in ticks for character in tick)
