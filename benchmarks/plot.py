"""The benchmark's figure: time of a step under each loop, and what a run of a sweep costs."""

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from kdlib import files
from kdlib.names import method_name
from kdlib.report.figures import PALETTE, caption, figure

KINDS = {  # column: label, colour, marker
    "plain_ms": ("plain loop", PALETTE[3], "s"),
    "first_epoch_ms": ("ours, bank empty", PALETTE[1], "^"),
    "ours_ms": ("ours, bank filled", PALETTE[0], "o"),
    "at_once_ms": ("ours, {at_once} runs at once: time per step and run", PALETTE[2], "D"),
    "limit_ms": ("student alone: forward and backward", PALETTE[7], "|"),
}


def draw(results):
    """Return a Figure of the results of `benchmarks.speed`."""
    rows = results["rows"]
    drawing, (times, runs) = figure(1, 2, width=10, height=1.8 + 0.28 * len(rows), width_ratios=(3, 1))
    places = np.arange(len(rows))[::-1]
    for name, (label, colour, marker) in KINDS.items():
        label = label.format(at_once=rows[0]["at_once"])
        times.plot([row[name] for row in rows], places, marker, color=colour, label=label, markersize=7)
    for row, place in zip(rows, places, strict=True):
        times.annotate(f" {row['ratio']:.1f} ×", (row["plain_ms"], place), xytext=(6, -3), textcoords="offset points")
    names = [f"{row['pair'].replace('->', ' → ')}, {method_name(row['method'])}" for row in rows]
    times.set_yticks(places, names, fontsize=8)
    times.set(xlabel="time per step (ms, log scale)", xscale="log")
    times.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    times.set_ylim(-0.6, len(rows) - 0.4)
    times.xaxis.set_major_formatter(ScalarFormatter())
    times.xaxis.set_minor_formatter(NullFormatter())
    times.margins(x=0.15)
    drawing.legend(*times.get_legend_handles_labels(), fontsize=7, loc="outside upper left", ncols=4, frameon=False)
    sweep = results["scaling"]
    counts = [row["runs"] for row in sweep["runs"]]
    for label, column, colour in (
        ("mean of the runs", "ms_a_step_and_run", PALETTE[1]),
        ("the last run", "last_ms", PALETTE[0]),
    ):
        runs.plot(counts, [row[column] for row in sweep["runs"]], "o-", color=colour, label=label, markersize=4)
    runs.set(xlabel="runs in the sweep", xscale="log", ylabel="time per step and run (ms)", ylim=(0, None))
    runs.set_xticks(counts, counts)
    runs.minorticks_off()
    runs.legend(fontsize=7, frameon=False)
    parts = [
        f"{results['name']}, {results['threads']} threads, {results['date']}.",
        f"Medians of {results['segments']} segments of {results['steps']} steps, the loops by turns; numbers: plain loop "
        "over ours with the bank filled.",
        f"Right: one epoch of {sweep['steps']} steps, {sweep['pair'].replace('->', ' → ')}; the first run fills the bank.",
    ]
    return caption(drawing, " ".join(parts))


def save(results, target):
    """Write the figure as PNG and SVG beside the JSON file; `target` is its path without a suffix."""
    drawing = draw(results)
    for kind in ("png", "svg"):
        with files.replacing(target.with_suffix(f".{kind}")) as temporary:
            drawing.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)
