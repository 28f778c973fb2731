"""Debiasers ranked at the λ that validation chose, by comparisons that are paired by method and seed.

The front over all λ looks at test for each of them, so it shows what a debiaser could do, not what one would have got."""

import numpy as np
import pandas as pd

from kdlib.bias.stats import holm, interval, paired_difference
from kdlib.names import PLAIN, debiaser_name, method_name
from kdlib.report.selection import at_choice, in_common, students
from kdlib.report.tables import changes, plus_minus, select

HALVED_BY = "halved by (MAD, change of accuracy)"
CHANGED = {"accuracy": "accuracy", "mad": "MAD", "sqrt_u": "√U"}


def shifts(table, chosen) -> pd.DataFrame:
    """Return what each debiaser changes at the λ that validation chose, against the same method without it.

    Returns
    -------
    DataFrame
        A row per method, debias and seed with the changes of test `accuracy` and `mad`, of the methods that every debiaser was
        trained with.
    """
    rows, plain = at_choice(*in_common(table, chosen)), select(students(table), **PLAIN)
    changes_by_debiaser = []
    for debias, group in rows[rows["debias"] != "none"].groupby("debias", sort=False):
        matched = {column: _matched(group, plain, column) for column in ("accuracy", "mad")}
        change = pd.DataFrame({column: sides["with"] - sides["without"] for column, sides in matched.items()})
        changes_by_debiaser.append(change.reset_index().assign(debias=debias))
    return pd.concat(changes_by_debiaser)


def hypervolume(accuracy, disparity, *, accuracy_from) -> float:
    """Return the area that points dominate: all (a, d) with accuracy_from ≤ a ≤ accuracy and disparity ≤ d ≤ 1 of any point.

    Parameters
    ----------
    accuracy, disparity : arrays (n,)
    accuracy_from : float
        Where the area begins, as the accuracy of the constant classifier.

    Returns
    -------
    float
        Between 0 (no points) and 1 − accuracy_from (one point of accuracy 1 without bias).

    References
    ----------
    Zitzler and Thiele (1998), Multiobjective optimization using evolutionary algorithms.

    Examples
    --------
    >>> round(hypervolume([0.8, 0.6], [0.2, 0.1], accuracy_from=0.1), 2)
    0.61
    """
    area, reached = 0.0, accuracy_from
    points = sorted(zip(np.asarray(accuracy, float), np.asarray(disparity, float), strict=True))
    for index, (right, _) in enumerate(points):
        least = min(low for _, low in points[index:])
        if right > reached and least < 1:
            area += (right - reached) * (1 - least)
            reached = right
    return float(area)


def areas(table, accuracy_from) -> pd.DataFrame:
    """Return the hypervolume of each method × debiaser × seed over the rows of `table`; collapsed models count for nothing."""
    rows = []
    for (method, debias, seed), group in table.groupby(["method", "debias", "seed"], sort=False):
        group = group[~group["test_degenerate"].astype(bool)]
        area = hypervolume(group["test_accuracy"], group["test_mad"], accuracy_from=accuracy_from)
        rows.append({"method": method, "debias": debias, "seed": seed, "area": area})
    return pd.DataFrame(rows)


def ranking(table, chosen, *, accuracy_from) -> pd.DataFrame:
    """Return the debiasers, best first, at the λ that validation chose.

    All is averaged within a seed over the methods that every debiaser was trained with, so n is the number of seeds. That the
    first is the best was seen on the same images.

    Parameters
    ----------
    table : DataFrame
        Of `selection.on_validation`.
    chosen : DataFrame
        Of `selection.choose`.
    accuracy_from : float
        See `hypervolume`.

    Returns
    -------
    DataFrame
        A row per debiaser: what it changes in test accuracy, MAD and √U against the same method without it, with Student's 95 %
        intervals; its area (that one point) and the area of its front over all λ; its mean rank by area; p (paired t-test,
        adjusted after Holm) of its area against the first row's.
    """
    table, chosen = in_common(table, chosen)
    at_chosen = at_choice(table, chosen)
    point = areas(at_chosen, accuracy_from)
    everything = students(table)
    strengths = everything[everything["debias"] != "none"]
    plain = select(everything, **PLAIN)
    with_plain = [  # a debiaser with a strength may be used at λ = 0 too
        pd.concat([group, plain.assign(debias=debias)]) if (group["lam"] > 0).any() else group
        for debias, group in strengths.groupby("debias", sort=False)
    ]
    front = areas(pd.concat(with_plain), accuracy_from)
    ranks = point[point["debias"] != "none"].copy()
    ranks["rank"] = ranks.groupby(["method", "seed"])["area"].rank(ascending=False)
    of_debiaser = {}
    for debias in strengths["debias"].unique():
        rows = at_chosen[at_chosen["debias"] == debias]
        of_debiaser[debias] = {column: _change(rows, plain, column) for column in ("accuracy", "mad", "sqrt_u")} | {
            "area": _by_seed(point, debias, "area"),
            "front": _by_seed(front, debias, "area"),
            "rank": _by_seed(ranks, debias, "rank"),
            "collapsed": f"{int(rows['test_degenerate'].astype(bool).sum())} of {len(rows)}",
        }
    order = sorted(of_debiaser, key=lambda debias: -of_debiaser[debias]["area"].mean())
    best = of_debiaser[order[0]]["area"]
    p_values = holm([paired_difference(best, of_debiaser[debias]["area"])["p_value"] for debias in order[1:]])
    return pd.DataFrame(
        _ranking_row(debias, of_debiaser[debias], p) for debias, p in zip(order, [None, *p_values], strict=True)
    )


def _matched(rows, plain_rows, column):
    """Test `column` of two sets of rows, side by side as `with` and `without`, by method and seed."""
    sides = [side.set_index(["method", "seed"])[f"test_{column}"].astype(float) for side in (rows, plain_rows)]
    return pd.concat(sides, axis=1, join="inner", keys=["with", "without"]).dropna()


def _change(rows, plain_rows, column):
    """The paired difference over seeds of test `column`, methods averaged within a seed."""
    matched = _matched(rows, plain_rows, column).groupby("seed").mean()
    return paired_difference(matched["with"], matched["without"])


def _by_seed(rows, debias, column):
    return rows[rows["debias"] == debias].groupby("seed")[column].mean()


def _ranking_row(debias, values, p_value):
    row = {"debiaser": debiaser_name(debias), "n": len(values["area"])}
    for column, heading in CHANGED.items():
        row[f"Δ {heading}"] = plus_minus(values[column]["difference"], values[column]["half"], sign="+")
    return row | {
        "area": plus_minus(*interval(values["area"])),
        "area of the front": plus_minus(*interval(values["front"])),
        "mean rank": plus_minus(*interval(values["rank"]), digits=2),
        "p against the first": "" if p_value is None else "–" if np.isnan(p_value) else f"{p_value:.2g}",
        "collapsed": values["collapsed"],
    }


def halved(table, chosen) -> pd.DataFrame:
    """Return, per method, the debiasers that help at the λ that validation chose (`helps` of `tables.changes`)."""
    changed, rows = changes(at_choice(table, chosen)).sort_values("mad"), []
    for method, group in changed.groupby("method", sort=False):
        listed = [
            f"{debiaser_name(row.debias)} ({row.mad_before + row.mad:.3f}, {row.accuracy:+.3f})"
            for row in group[group["helps"]].itertuples()
        ]
        before = f"{group['mad_before'].iloc[0]:.3f}"
        rows.append({"method": method_name(method), "MAD without": before, HALVED_BY: "; ".join(listed) or "none"})
    return pd.DataFrame(rows)


def beside_alone(table, chosen) -> pd.DataFrame:
    """Return what distillation adds to each debiaser: distilled students minus the student alone, debiased alike.

    Each side has the λ that validation chose for it. Distilled students are averaged over the methods within a seed.

    Returns
    -------
    DataFrame
        A row per debiaser that the student alone was trained with, and one for none: what the student alone reaches, and
        differences of test accuracy and MAD, paired by seed, with Student's 95 % interval and p adjusted after Holm over the
        rows. Empty without a student alone.
    """
    at_chosen = at_choice(table, chosen)
    alone = at_chosen[at_chosen["method"] == "scratch"]
    distilled = at_chosen[at_chosen["method"] != "scratch"]
    shared = [debias for debias in alone["debias"].unique() if (distilled["debias"] == debias).any()]
    rows = [{"debiaser": debiaser_name(debias)} for debias in shared]
    for column in ("accuracy", "mad"):
        heading = CHANGED[column]
        sides = [[_by_seed(side, debias, f"test_{column}") for side in (distilled, alone)] for debias in shared]
        tests = [paired_difference(*both) for both in sides]
        for row, both, test, p in zip(rows, sides, tests, holm([test["p_value"] for test in tests]), strict=True):
            row["n"] = test["n"]
            row[f"{heading}, student alone"] = f"{both[1].mean():.3f}"
            row[f"distilled, Δ {heading}"] = plus_minus(test["difference"], test["half"], sign="+")
            row[f"p ({heading})"] = "–" if np.isnan(p) else f"{p:.2g}"
    return pd.DataFrame(rows)


def constant_accuracy(labels) -> float:
    """Return the accuracy of the classifier that always names the commonest class of labels (N,)."""
    return float(np.bincount(labels).max() / len(labels))


def against(table, chosen, debias, rivals) -> pd.DataFrame:
    """Return what debiaser `debias` changes against each of `rivals`, at the λ that validation chose.

    Returns
    -------
    DataFrame
        A row per pair: differences of test accuracy, MAD and √U, paired by method and seed, methods averaged within a seed,
        with Student's 95 % interval and p (adjusted after Holm for `rivals`); and the number of collapsed networks of either.
    """
    at_chosen = at_choice(table, chosen)
    rows_of = {name: at_chosen[at_chosen["debias"] == name] for name in (debias, *rivals)}
    rows = [
        {"pair": f"{debiaser_name(debias)} − {debiaser_name(rival)}", "n": rows_of[debias]["seed"].nunique()}
        for rival in rivals
    ]
    for column, heading in CHANGED.items():
        differences = [_change(rows_of[debias], rows_of[rival], column) for rival in rivals]
        p_values = holm([difference["p_value"] for difference in differences])
        for row, difference, p_value in zip(rows, differences, p_values, strict=True):
            row[heading] = plus_minus(difference["difference"], difference["half"], sign="+")
            row[f"p ({heading})"] = f"{p_value:.2g}"
    for row, rival in zip(rows, rivals, strict=True):
        row["collapsed"] = int(rows_of[debias]["test_degenerate"].sum() + rows_of[rival]["test_degenerate"].sum())
    return pd.DataFrame(rows)
