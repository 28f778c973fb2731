"""What is shipped: a study's students on their way to a device, in torch, ONNX and int8, beside their teachers.

The table `edge.csv` has a row per network and form; everything that is said or drawn here follows from it."""

import re

import numpy as np
import pandas as pd

from kdlib import paths
from kdlib.bias.stats import holm, interval, paired_difference, student_interval
from kdlib.files import replacing
from kdlib.names import PLAIN, kind_name
from kdlib.report import pages, selection, tables
from kdlib.report.words import LEVEL
from kdlib.runs import given

FORM_NAMES = {
    "torch": "float, torch",
    "onnx": "float, ONNX",
    "int8_channel": "int8 per channel",
    "int8_tensor": "int8 per tensor",
}
KIND = tables.KIND
MEASURES = {"mad": "MAD", "sqrt_u": "√U"}


def shipped(table) -> list:
    """Return the keys of the runs that are taken to a device, given the table of a study's grid.

    They are the students without debiasing and those of each debiaser at the λ that validation chose, of all methods and
    seeds, and the plain teachers, unless these are files of outputs."""
    grid = tables.labelled(table)
    students = selection.students(table)
    if (students["debias"] != "none").any():
        students = selection.at_choice(table, selection.choose(selection.on_validation(table)))
    teachers = tables.select(grid[grid["method"] == "teacher"], **PLAIN)
    if paths.smoke():
        students = students[students["method"].isin(tables.methods_of(students)[:2])]
    chosen = pd.concat([teachers, students])
    return list(dict.fromkeys(chosen.loc[~chosen["student"].map(given.is_arrays), "key"]))


def table_of(table, profile, *, workers=None) -> pd.DataFrame:
    """Return the rows of `export.measure.measured` for a study, and write them as its `edge.csv`; table: of its grid."""
    from kdlib.export import measure

    rows = measure.measured(shipped(table), workers=workers)
    teachers = set(rows["teacher_key"].dropna())
    rows["method"] = rows["method"].mask(rows["key"].isin(teachers), "teacher")
    with replacing(pages.folder(profile) / "edge.csv") as temporary:
        rows.to_csv(temporary, index=False)
    return rows


def first_calibration(rows) -> str:
    """Return the composition of the calibration pictures with which int8 is shipped."""
    return rows.loc[rows["form"] == "int8_channel", "calibration"].iloc[0]


def form(rows, name, calibration=None) -> pd.DataFrame:
    """Return the rows of a form; of int8 those of the first composition of calibration pictures, or of another."""
    found = rows[rows["form"] == name]
    if not name.startswith("int8"):
        return found
    return found[found["calibration"] == (calibration or first_calibration(rows))]


def sound(rows) -> pd.DataFrame:
    """Return the rows that are not degenerate."""
    return rows[~rows["degenerate"].astype(bool)]


def fallen(rows, group) -> pd.DataFrame:
    """Return the rows of a form, `group`, that are degenerate although their networks are not so in torch."""
    useful = set(sound(form(rows, "torch"))["key"])
    return group[group["degenerate"].astype(bool) & group["key"].isin(useful)]


def effects(rows) -> pd.DataFrame:
    """Return what int8 changes in each kind of model, against the same networks in torch, paired by seed.

    Returns
    -------
    DataFrame
        A row per kind, form and measure (mad, sqrt_u), without kinds in which a network is degenerate: the kind, form,
        measure, difference, half (of Student's 95 % interval), p_value, n, excluded (the size of a change that two one-sided
        tests exclude at 5 %), and p_holm, adjusted over all rows.
    """
    result = []
    for name in ("int8_channel", "int8_tensor"):
        for kind, group in form(rows, name).groupby(KIND, sort=False):
            if group["degenerate"].astype(bool).any():
                continue
            for measure in MEASURES:
                change = group[f"{measure}_change"].astype(float)
                ends = student_interval(change, level=1 - 2 * LEVEL)
                tested = paired_difference(change.to_numpy(), np.zeros(len(change)))
                about = dict(zip(KIND, kind, strict=True)) | {"form": name, "measure": measure}
                result.append(about | tested | {"excluded": float(np.max(np.abs(ends)))})
    result = pd.DataFrame(result, columns=[*KIND, "form", "measure", "difference", "half", "p_value", "n", "excluded"])
    return result.assign(p_holm=holm(result["p_value"]))


def survival(rows) -> pd.DataFrame:
    """Return how much MAD each debiaser takes away in torch and in int8, against the same method without it, paired by seed.

    Returns
    -------
    DataFrame
        A row per method, debias and form, without kinds in which a network is degenerate: in_torch and in_int8 with their
        half-widths, n, and kept, the second's part of the
        first (NaN where debiasing takes nothing away in torch).
    """
    result = []
    students = rows[rows["method"] != "teacher"]
    kinds = students.loc[students["debias"] != "none", ["method", "debias", "lam"]].drop_duplicates()
    for kind in kinds.to_dict("records"):
        for name in ("int8_channel", "int8_tensor"):
            falls = {}
            for side in ("torch", name):
                of_form = form(students, side).set_index("seed")
                debiased = of_form[(of_form[list(kind)] == pd.Series(kind)).all(axis=1)]
                plain = of_form[(of_form["method"] == kind["method"]) & (of_form["debias"] == "none")]
                if pd.concat([plain, debiased])["degenerate"].astype(bool).any():
                    break  # a collapsed network has no bias to speak of
                falls[side] = paired_difference(plain["mad"], debiased["mad"])
            if len(falls) < 2:
                continue
            before, after = falls["torch"], falls[name]
            result.append(
                kind
                | {"form": name, "in_torch": before["difference"], "in_torch_half": before["half"]}
                | {"in_int8": after["difference"], "in_int8_half": after["half"], "n": after["n"]}
                | {"kept": after["difference"] / before["difference"] if before["difference"] > 0 else np.nan}
            )
    columns = ("method", "debias", "lam", "form", "in_torch", "in_torch_half", "in_int8", "in_int8_half", "n", "kept")
    return pd.DataFrame(result, columns=columns)


def survival_in_names(rows) -> pd.DataFrame:
    """Return `survival` as readers see it: names of students and forms, falls with their intervals, the part that is kept."""
    falls = survival(rows)
    kinds = [kind_name({**PLAIN, **kind}) for kind in falls[["method", "debias", "lam"]].to_dict("records")]
    shown = pd.DataFrame({"student": kinds, "form": falls["form"].map(FORM_NAMES), "n": falls["n"]})
    for side, title in (("in_torch", "fall of MAD in torch"), ("in_int8", "fall of MAD in int8")):
        pairs = zip(falls[side], falls[f"{side}_half"], strict=True)
        shown[title] = [tables.plus_minus(value, half) for value, half in pairs]
    shown["kept"] = [f"{part:.0%}" if part == part else "–" for part in falls["kept"]]
    return shown


def calibrations(rows) -> pd.DataFrame:
    """Return what the composition of the calibration pictures does to int8 per channel, over all students, for a page."""
    result = []
    students = rows[(rows["method"] != "teacher") & (rows["form"] == "int8_channel")]
    for pictures, every in students.groupby("calibration", sort=False):
        group = sound(every)
        if group.empty:
            continue
        worst = group.loc[group["mad_change"].abs().idxmax()]
        result.append(
            {
                "calibrated on": composition(pictures),
                "networks": len(group),
                "collapsed": len(fallen(rows, every)),
                "change of MAD": tables.span(group["mad_change"], "+"),
                "churn, mean": f"{group['churn'].mean():.2%}",
                "churn, most": f"{group['churn'].max():.2%}",
                "accuracy lost, most": f"{_lost(rows, group).max():.3f}",
                "moved most": f"{kind_name(worst)}, seed {worst['seed']}: {worst['mad'] - worst['mad_change']:.3f} → "
                f"{worst['mad']:.3f}",
            }
        )
    return pd.DataFrame(result)


def composition(name):
    """Return a composition of calibration pictures in words."""
    return {"balanced": "all groups alike", "training": "as in training"}.get(name, f"{name} alone")


def _lost(rows, group):
    before = form(rows, "torch").set_index("key")["accuracy"]
    return before.loc[group["key"]].to_numpy() - group["accuracy"].to_numpy()


def readable(rows) -> pd.DataFrame:
    """Return the table for a page: a row per kind and form, means over seeds ± half-width of Student's interval."""
    shown = []
    kept = [rows[rows["method"] == "teacher"], rows[rows["method"] != "teacher"]]
    groups = groups_of(rows)
    for part in kept:
        for kind, group in part.groupby(KIND, sort=False):
            for name in FORM_NAMES:
                of_form = form(group, name, first_calibration(rows))
                if len(of_form):
                    shown.append(_row(dict(zip(KIND, kind, strict=True)), name, of_form, groups))
    return pd.DataFrame(shown)


def groups_of(rows) -> list:
    """Return the numbers of the groups that the table has, as text."""
    return [found[1] for name in rows if (found := re.fullmatch(r"churn_group_(\d+)", name))]


def _row(kind, name, group, groups):
    def said(column, digits=3):
        return tables.plus_minus(*interval(group[column].astype(float)), digits)

    def ends(column):
        return (
            f"{group[column].mean():.2%} ({group[column + '_low'].mean():.2%} to {group[column + '_high'].mean():.2%})"
        )

    row = {
        "model": kind_name(kind),
        "form": FORM_NAMES[name],
        "n": len(group),
        "accuracy": said("accuracy"),
        "MAD": said("mad"),
    }
    row |= {
        "MAD's floor": f"{group['mad_floor'].mean():.3f}",
        "√U": said("sqrt_u"),
        "worst cell": f"{group['worst_cell'].mean():.3f}",
    }
    row |= {"flip rate": said("flip_rate")} if group["flip_rate"].notna().any() else {}
    for number in groups:
        row |= {f"churn, group {number}": ends(f"churn_group_{number}") if name != "torch" else "–"}
        row |= {f"negative flips, group {number}": ends(f"negative_flips_group_{number}") if name != "torch" else "–"}
    first = group.iloc[0]
    row |= {"KiB": f"{group['bytes'].mean() / 1024:.1f}"}
    row |= {f"ms, batch {size} (95 %)": f"{first[f'ms_{size}']:.3f} ({first[f'ms_{size}_95']:.3f})" for size in (1, 32)}
    return row | {"MiB of memory": "–" if pd.isna(first["memory_mib"]) else f"{first['memory_mib']:.1f}"}
