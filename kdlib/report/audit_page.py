"""The page of an audit: one HTML file without scripts, fonts or pictures from elsewhere, for wide and narrow, light and dark.

Whatever a table may hold (names of classes, groups, columns, files) is escaped where it is written."""

from html import escape

import numpy as np

import kdlib
from kdlib.report.audit_figures import class_figure, difference, group_figure
from kdlib.report.audit_words import TOO_LITTLE, different, inflation, number, p_text, percent, span
from kdlib.report.words import listed


def page(found, findings, verdict) -> str:
    """Return the page of an `audit.Predictions`, its Findings and its Verdict, as HTML."""
    sections = [
        _section("What the numbers are", _key_table(found, findings)),
        _section(f"By class and {found.attribute}", class_figure(found, findings), _class_table(found, findings)),
        _section(f"By {found.attribute}", group_figure(found, findings), _group_table(found, findings)),
        _section("Each attribute alone", _alone_table(findings)) if len(findings.alone) else "",
        _section("What these data cannot show", _list(verdict.limits)),
        _section("How it was computed", _paragraphs(_method(found)), _all_figures(findings)),
    ]
    return _PAGE.format(
        title=escape(f"Bias audit of {found.name}"),
        about=escape(_about(found)),
        kind=verdict.kind.replace(" ", "-"),
        verdict=f"<strong>{escape(verdict.title)}</strong> {_text(' '.join(verdict.sentences))}",
        teacher=_paragraphs(verdict.of_teacher),
        sections="\n".join(sections),
    )


def _about(found):
    sizes = (found.group[:, None] == np.arange(len(found.groups))).sum(0)
    groups = listed([f"“{name}” {size}" for name, size in zip(found.groups, sizes, strict=True)])
    text = f"{len(found.group)} images, {len(found.classes)} classes; {found.attribute}: {groups}"
    unknown = (found.group < 0).sum()
    return (
        text
        + (f"; unknown {unknown}" if unknown else "")
        + (f". Teacher: {found.teacher_name}." if found.teacher_name else ".")
    )


# ---- pieces


def _section(title, *parts):
    return f"<section><h2>{escape(title)}</h2>\n{''.join(parts)}</section>"


def _text(text):
    return escape(text).replace(" %", "&nbsp;%")


def _paragraphs(texts):
    return "".join(f"<p>{_text(text)}</p>" for text in texts)


def _list(texts):
    return f"<ul>{''.join(f'<li>{_text(text)}</li>' for text in texts)}</ul>"


def _table(caption, head, rows, marked=()):
    """A table of texts, its first column names; a row of which the number is in `marked` stands out."""
    cells = "".join(f'<th scope="col">{_text(text)}</th>' for text in head)
    lines = []
    for place, (name, *values) in enumerate(rows):
        look = ' class="marked"' if place in marked else ""
        row = "".join(f"<td>{_text(text)}</td>" for text in values)
        lines.append(f'<tr{look}><th scope="row">{_text(name)}</th>{row}</tr>')
    return (
        f'<p class="note">{_text(caption)}</p><div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>\n"
    )


def _p(value):
    """A p-value in a column of p-values."""
    return p_text(value).removeprefix("p ").removeprefix("= ") if np.isfinite(value) else "–"


# ---- tables


def _key_table(found, findings):
    """The figures that the verdict rests on, each with what it means."""
    models = [figures for figures in (findings.figures, findings.teacher) if figures]
    rows = []

    def row(name, text):
        rows.append([name, *(text(figures) for figures in models)])

    def ends(figures, key, **options):
        return span(*(figures[f"{key}{end}"] for end in ("", "_low", "_high")), **options)

    row("Accuracy", lambda f: number(f["accuracy"]))
    row("MAD: difference in recall between groups, mean over classes", lambda f: number(f["mad"]))
    row(
        "Floor: the MAD of chance alone (95 %)", lambda f: span(f["mad_floor"], f["mad_floor_low"], f["mad_floor_high"])
    )
    row("p: share of chance draws with that MAD or more", lambda f: _p(f["mad_p_value"]))
    if findings.sqrt_u:
        values = [span(figures["sqrt_u"], *ends) for figures, ends in zip(models, findings.sqrt_u, strict=True)]
        rows.append(["√U: root mean square of the differences, less the share of chance (95 %)", *values])
    row("Accuracy of the worst group (95 %)", lambda f: ends(f, "worst_group_accuracy"))
    row("Recall of the worst cell (class × group)", lambda f: number(f["worst_cell"]))
    row("Equalized odds: difference in true or false positive rates", lambda f: number(f["equalized_odds"]))
    row(
        "Demographic parity: difference in how often a class is named, beyond that of the labels",
        lambda f: number(f["demographic_parity_excess"], sign=True),
    )
    if findings.figures["paired"]:
        row("Flip rate: share of pairs whose prediction changes with the group (95 %)", lambda f: ends(f, "flip_rate"))
    if findings.teacher:
        measure, *change = inflation(found, findings)
        rows.append([f"{measure}: student minus teacher (95 %)", span(*change, sign=True), ""])
        rows.append(["MAD: student minus teacher (95 %)", ends(findings.comparison, "inflation", sign=True), ""])
    return _table("Bias of the model", ["", "student", "teacher"] if findings.teacher else ["", "value"], rows)


def _class_table(found, findings):
    two, head = len(found.groups) == 2, ["class", *(f"recall “{name}” (images)" for name in found.groups)]
    head += ["difference (95 %)" if two else "largest difference", "95 % of what chance produces", "p, adjusted"]
    head += ["teacher's difference"] if found.teacher_name else []
    rows = []
    for _, row in findings.by_class.iterrows():
        cells = [f"{number(row[f'recall_{g}'])}\u00a0({row[f'images_{g}']})" for g in range(len(found.groups))]
        ends = [row.get("low", np.nan), row.get("high", np.nan)]
        cells.append(span(row["value"], *ends, sign=True) if two else number(row["value"]))
        known = np.isfinite(row["value"])
        cells.append(
            f"{number(row['floor_low'], sign=two)}\u00a0to\u00a0{number(row['floor_high'], sign=two)}" if known else "–"
        )
        cells.append(_p(row["p_adjusted"]) if known else "–")
        cells += [number(row["teacher_value"], sign=two)] if found.teacher_name else []
        rows.append([row["name"], *cells])
    marked = set(different(findings.by_class).index)
    caption = f"By class: {difference(found)}. Bold: differs after adjustment for all classes (Holm)"
    return _table(caption, head, rows, marked)


def _group_table(found, findings):
    head, rows = ["group", "images", "accuracy (95 %)", "mean recall"], []
    scores = {"auc": "AUC", "brier": "Brier score", "overconfidence": "overconfidence"}
    scores = {name: text for name, text in scores.items() if name in findings.by_group}
    head += scores.values()
    head += (
        ["teacher's accuracy (95 %)", "changed predictions", "right in the teacher alone"] if found.teacher_name else []
    )
    for number_, row in findings.by_group.iterrows():
        cells = [str(row["images"]), span(row["accuracy"], row["low"], row["high"]), number(row["macro_recall"])]
        cells += [number(row[name]) for name in scores]
        if found.teacher_name:
            cells.append(span(row["teacher_accuracy"], row["teacher_low"], row["teacher_high"]))
            cells += [percent(findings.comparison[f"{name}_group_{number_}"]) for name in ("churn", "negative_flips")]
        rows.append([row["name"], *cells])
    return _table(f"By {found.attribute}", head, rows)


def _alone_table(findings):
    rows = [
        [
            row["name"], str(row["groups"]), number(row["mad"]),
            span(row["mad_floor"], row["mad_floor_low"], row["mad_floor_high"]), _p(row["mad_p_value"]),
        ]
        for _, row in findings.alone.iterrows()
    ]  # fmt: skip
    return _table("Without adjustment for their number", ["attribute", "groups", "MAD", "floor (95 %)", "p"], rows)


def _method(found):
    pairs = "" if found.pair is None else "within pairs, and elsewhere "
    return [
        "Recall of a cell is the share of a class's images in one group that are recognised. The floor exchanges groups at "
        f"random {pairs}within classes, 2,000 times (seed 0), and computes MAD again; p is the share of these draws that reach "
        "the measured MAD. Single classes are drawn 10,000 times or more.",
        "“Biased” is said where MAD or a single class (adjusted for all classes after Holm) is beyond chance with p < 0.025, "
        "half of 5 % for each of the two looks. “No bias shown” is said with the size that is excluded: the upper 95 % limit "
        f"of √U, adjusted for the pairs of groups. Where that is above {TOO_LITTLE:g}, the data are too few.",
        "With more than two groups the difference is that of the largest and smallest recall, and √U does not exist; a student "
        "is then compared with its teacher by MAD less its floor.",
        f"Computed by kdlib {kdlib.__version__} (kdlib.bias); its documentation of metrics explains each name below.",
    ]


def _all_figures(findings):
    def value(entry):
        return str(entry).lower() if isinstance(entry, bool) else "–" if np.isnan(entry) else f"{entry:.6g}"

    head = ["name", "student", "teacher"] if findings.teacher else ["name", "value"]
    names = findings.figures
    rows = [
        [name, *(value(figures.get(name, np.nan)) for figures in (findings.figures, findings.teacher) if figures)]
        for name in names
    ]
    tables = _table("bias.summary", head, rows)
    if findings.comparison:
        tables += _table(
            "bias.compare", ["name", "value"], [[name, value(v)] for name, v in findings.comparison.items()]
        )
    return f"<details><summary>All figures</summary>{tables}</details>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; --text: #1d2329; --soft: #57606a; --line: #d5dae0; --back: #fff; --box: #f4f6f8;
  --student: #0b62a8; --teacher: #a8540b; --chance: #c9ced6; --biased: #b3261e; --unknown: #8a6100; --fair: #1a6b3c }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #e4e8ec; --soft: #a3adb8; --line: #39424c; --back: #14181d;
  --box: #1e242b; --student: #6cb2f0; --teacher: #f0a35e; --chance: #46505b; --biased: #ff8a80; --unknown: #e8bd5a;
  --fair: #7fd39e }} }}
* {{ box-sizing: border-box }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60rem; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere }}
h1, h2 {{ line-height: 1.2 }} h2 {{ margin-top: 2.5rem; font-size: 1.3rem }}
.note, figcaption {{ color: var(--soft); font-size: .9rem }}
.verdict {{ background: var(--box); border-left: .4rem solid var(--unknown); padding: .8rem 1rem; border-radius: .3rem }}
.verdict p {{ margin: .4rem 0 }} .verdict strong {{ color: var(--unknown) }}
.biased {{ border-color: var(--biased) }} .biased strong {{ color: var(--biased) }}
.not-shown {{ border-color: var(--fair) }} .not-shown strong {{ color: var(--fair) }}
.scroll {{ overflow-x: auto; margin: .3rem 0 1rem }} .scroll:focus-visible {{ outline: 2px solid var(--student) }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 100% }}
th, td {{ padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: normal }}
thead th {{ max-width: 10rem; vertical-align: bottom }} th {{ overflow-wrap: break-word }}
th:first-child {{ text-align: left; font-weight: normal; min-width: 11rem; max-width: 22rem }}
thead th {{ color: var(--soft); font-weight: 600 }} .marked th, .marked td {{ font-weight: 700 }}
figure {{ margin: 1.2rem 0 }} figcaption {{ margin-bottom: .4rem }}
.key {{ margin-right: 1rem; white-space: nowrap }} i {{ font-style: normal }}
i.student {{ color: var(--student) }} i.teacher {{ color: var(--teacher) }}
i.band {{ display: inline-block; width: 1.2em; height: .8em; background: var(--chance); opacity: .6 }}
svg {{ display: block; overflow: visible; font-size: 13px }}
svg text {{ fill: var(--text); stroke: var(--back); stroke-width: 4px; paint-order: stroke }}
svg .tick {{ fill: var(--soft); text-anchor: middle; font-size: 12px }}
.grid {{ stroke: var(--line); stroke-width: 1 }} .zero {{ stroke: var(--soft); stroke-width: 1.5 }}
.chance {{ fill: var(--chance); opacity: .6 }} line.student, line.teacher {{ stroke-width: 2 }}
.student {{ stroke: var(--student); fill: var(--student) }} .teacher {{ stroke: var(--teacher); fill: var(--back) }}
circle.teacher {{ stroke-width: 2 }} summary {{ cursor: pointer }}
@media (max-width: 32rem) {{ table {{ font-size: .8rem }} th, td {{ padding: .3rem }} th:first-child {{ min-width: 6.3rem }} }}
</style></head><body>
<main>
<h1>{title}</h1>
<p class="note">{about}</p>
<div class="verdict {kind}"><p>{verdict}</p>{teacher}</div>
{sections}
</main>
</body></html>
"""
