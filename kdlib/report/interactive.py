"""What readers play with on the index page: bias against accuracy in Vega-Lite, and tables that DataTables sorts and filters.

Both libraries come with their Python packages (altair and vl-convert, itables) and are written into the page, once."""

import json
import re
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.markers import MarkerStyle

from kdlib.names import debiaser_name, kind_name, method_name
from kdlib.report import figures, tables
from kdlib.report.tradeoff_figures import MEASURES

INK = "currentColor"  # black on white, white on black
NUMBER = re.compile(r"[+-]?\d[\d,]*\.?\d*(e[+-]?\d+)?")


def bundles() -> dict:
    """Return {library: JavaScript module}, and the style sheet of the tables: everything that the page needs of them."""
    import itables
    import vl_convert

    tables_folder = Path(itables.__file__).parent / "html"
    return {
        "charts": vl_convert.javascript_bundle(),
        "tables": (tables_folder / "dt_bundle.js").read_text(),
        "tables_style": (tables_folder / "dt_bundle.css").read_text(),
    }


def as_json(value) -> Markup:
    """Return a value as JSON that can stand inside a script element."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def sortable(table) -> dict:
    """Return a table of text for the page's template: columns, and rows of (text, the number that it begins with or None)."""
    rows = [[(text, _number(text)) for text in row] for row in table.astype(str).itertuples(index=False)]
    return {"columns": list(table.columns), "rows": rows}


def _number(text):
    found = NUMBER.match(text.strip())
    return float(found[0].replace(",", "")) if found else None


def trade_off(table, link="") -> dict | None:
    """Return the interactive figure of bias against accuracy: a specification for each measure, and what can be switched off.

    Parameters
    ----------
    table : DataFrame
        A row per run.
    link : str
        Where a click on a point goes; "" is nowhere.

    Returns
    -------
    dict or None
        points, charts (Vega-Lite specifications), and methods and debiasers: lists of their name, label, and colour or outline.
        None where no model has a bias figure.
    """
    means = tables.means(table)
    means = means[means["mad"].notna()]
    if means.empty:
        return None
    measures = [name for name in MEASURES if name in means]
    of_method, of_debiaser = figures.colours(means["method"]), figures.markers(means["debias"])
    methods = [
        {"name": name, "label": method_name(name), "colour": INK if name == "teacher" else colour}
        for name, colour in of_method.items()
    ]
    debiasers = [
        {"name": name, "label": debiaser_name(name), "outline": outline(marker)} for name, marker in of_debiaser.items()
    ]
    points = [_point(row, measures, link) for _, row in means.iterrows()]
    charts = [_chart(points, means, measure, methods, debiasers, tables.floor(table)) for measure in measures]
    return {
        "points": points,
        "charts": charts,
        "methods": methods,
        "debiasers": debiasers,
        "collapsed": bool(means["degenerate"].any()),
    }


def _point(row, measures, link):
    point = {"model": kind_name(row), "seeds": int(row["n"]), "method": row["method"], "debias": row["debias"]}
    point |= {"collapsed": bool(row["degenerate"]), "accuracy": _digits(row["accuracy"])}
    point |= {"accuracy ± 95 %": tables.plus_minus(row["accuracy"], row["accuracy_half"])}
    for name in measures:
        point |= {name: _digits(row[name]), f"{_short(name)} ± 95 %": tables.plus_minus(row[name], row[f"{name}_half"])}
        if not np.isnan(row[f"{name}_half"]):
            ends = max(row[name] - row[f"{name}_half"], 0), row[name] + row[f"{name}_half"]
            point |= dict(zip((f"{name}_low", f"{name}_high"), map(_digits, ends), strict=True))
    return point | ({"link": link} if link else {})


def _short(measure):
    return "MAD" if measure == "mad" else measure.replace("_", " ")


def _digits(value):
    return round(float(value), 4)


def _chart(points, means, measure, methods, debiasers, floor):
    """The specification of one panel; what `hidden` and `collapsed` hold is set by the page's switches."""
    import altair as alt

    shown = means if means["degenerate"].all() else means[~means["degenerate"]]
    margin = 0.05 * np.ptp(shown["accuracy"]) + 0.01
    across = [shown["accuracy"].min() - margin, min(1.0, shown["accuracy"].max() + margin)]
    up = [0, min(1.0, 1.15 * max(shown[measure].max(), 0.01))]
    scales = {
        "x": alt.Scale(domain=list(map(_digits, across)), clamp=True, nice=False),
        "y": alt.Scale(domain=list(map(_digits, up)), clamp=True, nice=False),
    }
    y = alt.Y(f"{measure}:Q", title=MEASURES[measure], scale=scales["y"])
    x = alt.X("accuracy:Q", title="accuracy on the test split", scale=scales["x"])
    colour = _scale([(one["name"], one["colour"]) for one in methods])
    shape = _scale([(one["name"], one["outline"]) for one in debiasers])
    hidden, collapsed = alt.param("hidden", value=[]), alt.param("collapsed", value=False)
    visible = (
        "indexof(hidden, 'method ' + datum.method) < 0 && indexof(hidden, 'debias ' + datum.debias) < 0"
        " && (collapsed || !datum.collapsed)"
    )
    base = alt.Chart(alt.NamedData("points")).transform_filter(visible)
    colours = alt.Color("method:N", scale=colour, legend=None)
    bars = base.mark_rule(opacity=0.3, clip=True, aria=False).encode(
        x=x, y=alt.Y(f"{measure}_low:Q", scale=scales["y"]), y2=f"{measure}_high:Q", color=colours
    )
    said = ["model", "accuracy ± 95 %", f"{_short(measure)} ± 95 %", "seeds", "collapsed"]
    links = {"href": "link:N"} if "link" in points[0] else {}
    marks = base.mark_point(filled=True, size=90, opacity=0.9, aria=False).encode(
        x=x, y=y, color=colours, shape=alt.Shape("debias:N", scale=shape, legend=None),
        tooltip=[alt.Tooltip(f"{name}:N") for name in said], **links,
    )  # fmt: skip
    layers = [bars, marks]
    if measure == "mad" and not np.isnan(floor).any():
        band = alt.Chart(alt.Data(values=[{"low": _digits(floor[0]), "high": _digits(floor[1])}]))
        look = band.mark_rect(color="#888888", opacity=0.25, clip=True, aria=False)
        layers.insert(0, look.encode(y=alt.Y("low:Q", scale=scales["y"]), y2="high:Q"))
    said = (
        f"{MEASURES[measure]} against accuracy of {len(points)} models: accuracy from {shown['accuracy'].min():.3f} to "
        f"{shown['accuracy'].max():.3f}, {_short(measure)} from {shown[measure].min():.3f} to {shown[measure].max():.3f}"
    )
    chart = alt.layer(*layers).add_params(hidden, collapsed)
    chart = chart.properties(width="container", height=330, background="transparent", description=said)
    chart = chart.configure_axis(labelColor=INK, titleColor=INK, gridOpacity=0.25, titleFontWeight="normal")
    chart = chart.configure_view(stroke=None)
    return chart.to_dict()


def _scale(pairs):
    import altair as alt

    return alt.Scale(domain=[name for name, _ in pairs], range=[value for _, value in pairs])


def outline(marker) -> str:
    """Return the outline of a matplotlib marker as an SVG path within −1 and 1, so that both figures have the same marks."""
    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    parts = []
    for vertices, code in path.iter_segments(simplify=False, curves=True):
        numbers = " ".join(f"{value:.2f}" for value in np.asarray(vertices) * np.tile([2, -2], len(vertices) // 2))
        parts.append({1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[int(code)] + ("" if code == 79 else numbers))
    return "".join(parts)
