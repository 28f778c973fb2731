"""Figures of an audit as SVG inside the page: dots, intervals and bands of chance, in the page's colours."""

from html import escape

import numpy as np

from kdlib.report.audit_words import different, number, span

MOST_ROWS = 24  # classes in a figure; the table has all
LONGEST = 44  # characters of a name in a figure, as many as a telephone shows


def _dots(name, title, description, rows):
    """Dots with intervals and bands of chance, a row for each name, as SVG with places in percent: text keeps its size.

    rows: (name, band (low, high) or None, [(value, low, high, look)]); limits may be NaN."""
    values = [0.0] if rows[0][1] else []
    for _, band, marks in rows:
        values += [*(band or ()), *(limit for mark in marks for limit in mark[:3])]
    least, most = np.nanmin(values), np.nanmax(values)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (most - least) / step <= 5 or step == 0.5)
    first, last = np.floor(least / step + 1e-9) * step, np.ceil(most / step - 1e-9) * step
    last = max(last, first + step)
    ticks = np.arange(round((last - first) / step) + 1) * step + first

    def x(value):
        return f"{4 + 92 * (value - first) / (last - first):.2f}%"

    parts, y = [], 8
    for text, band, marks in rows:
        short = text if len(text) <= LONGEST else f"{text[: LONGEST - 16]}…{text[-15:]}"
        parts.append(f'<text x="0" y="{y + 11}">{escape(short)}<title>{escape(text)}</title></text>')
        height = 14 * len(marks)
        if band and np.isfinite(band).all():
            width = 92 * (band[1] - band[0]) / (last - first)
            parts.append(f'<rect class="chance" x="{x(band[0])}" y="{y + 16}" width="{width:.2f}%" height="{height}"/>')
        for place, (value, low, high, look) in enumerate(marks):
            middle = y + 23 + 14 * place
            if np.isfinite([low, high]).all():
                line = f'x1="{x(low)}" x2="{x(high)}" y1="{middle}" y2="{middle}"'
                parts.append(f'<line class="{look}" {line}/>')
            if np.isfinite(value):
                parts.append(f'<circle class="{look}" cx="{x(value)}" cy="{middle}" r="4.5"/>')
        y += height + 26
    grid = [
        f'<line class="{"zero" if abs(tick) < 1e-9 else "grid"}" x1="{x(tick)}" x2="{x(tick)}" y1="4" y2="{y}"/>'
        f'<text class="tick" x="{x(tick)}" y="{y + 16}">{number(tick + 0.0, 2)}</text>'
        for tick in ticks
    ]
    return (
        f'<svg role="img" aria-labelledby="{name}-title {name}-text" width="100%" height="{y + 24}">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(description)}</desc>'
        f"{''.join(grid + parts)}</svg>"
    )


def _figure(drawing, caption, found, chance=""):
    """A figure with its caption and what the marks mean."""
    keys = f'<span class="key"><i class="student">●</i> {"student" if found.teacher_name else "model"}</span>'
    if found.teacher_name:
        keys += '<span class="key"><i class="teacher">○</i> teacher</span>'
    if chance:
        keys += f'<span class="key"><i class="band"></i> {escape(chance)}</span>'
    return f"<figure><figcaption>{escape(caption)}<br>{keys}</figcaption>{drawing}</figure>\n"


def _marks(row, name, found):
    """The marks of a table's row: of the student, and of the teacher where there is one."""
    looks = (("", "student"), ("teacher_", "teacher"))[: 2 if found.teacher_name else 1]
    values = [(row[prefix + name], *(row.get(prefix + end, np.nan) for end in ("low", "high"))) for prefix, _ in looks]
    return [(*value, look) for value, (_, look) in zip(values, looks, strict=True)]


def difference(found) -> str:
    """Return what a class's disparity is, in words."""
    if len(found.groups) == 2:
        return f"recall of “{found.groups[1]}” minus “{found.groups[0]}”"
    return f"largest minus smallest recall over the {len(found.groups)} groups"


def class_figure(found, findings) -> str:
    """Return the figure of the classes' disparities, beside what chance produces, as HTML."""
    rows = findings.by_class[findings.by_class["value"].notna()]
    if rows.empty:
        return ""
    order = rows["value"].abs().sort_values(ascending=False, kind="stable").index[:MOST_ROWS]
    shown = rows.loc[order].sort_values("value", ascending=False, kind="stable")
    marks = [
        (row["name"], (row["floor_low"], row["floor_high"]), _marks(row, "value", found)) for _, row in shown.iterrows()
    ]
    least, most, count = shown.iloc[-1], shown.iloc[0], len(different(rows))
    what = difference(found)
    description = (
        f"{what[0].upper()}{what[1:]}, for {len(shown)} of {len(rows)} classes: from {number(least['value'], sign=True)} "
        f"({least['name']}) to {number(most['value'], sign=True)} ({most['name']}). After adjustment {count} of {len(rows)} "
        "classes differ."
    )
    caption = f"{what[0].upper()}{what[1:]}, by class" + (", with 95 % intervals" if len(found.groups) == 2 else "")
    if len(shown) < len(rows):
        caption += f"; the {len(shown)} largest of {len(rows)}"
    return _figure(_dots("classes", caption, description, marks), f"{caption}.", found, "95 % of what chance produces")


def group_figure(found, findings) -> str:
    """Return the figure of the groups' accuracy as HTML."""
    rows = findings.by_group
    marks = [(row["name"], None, _marks(row, "accuracy", found)) for _, row in rows.iterrows()]
    texts = [f"{row['name']} {span(row['accuracy'], row['low'], row['high'])}" for _, row in rows.iterrows()]
    caption = "Accuracy by group, with 95 % intervals"
    return _figure(_dots("groups", caption, f"{caption}: {'; '.join(texts)}.", marks), f"{caption}.", found)
