"""Which debiaser, and how strong: λ chosen on validation, the area under a debiaser's accuracy–bias front, and debiasers
ranked by comparisons that are paired by method and seed.

Validation chooses; the test figures of what it chose are then read, once. The front over all λ looks at test for each of
them, so it says what a debiaser could do, not what one would have got."""

import numpy as np
import pandas as pd

from kdlib import bias, data, runs
from kdlib.bias.stats import holm, interval, t_test
from kdlib.bias.tables import mean_of
from kdlib.names import PLAIN, debiaser_name, method_name
from kdlib.report.tables import changes, labelled, plus_minus, select

HALVED_BY = "halved by (MAD, change of accuracy)"
TOLERANCE = 0.01  # of accuracy on validation, that a less biased λ may cost


def rare_group_gap(y_true, y_pred, group, rare) -> float:
    """Accuracy on images of their class's common group minus that on images of its rare group. NaN where either is empty.

    y_true, y_pred, group: (N,); rare: (K,), the group that is rarer in each class in training, −1 where both are as common;
    images of such a class and of an unknown group are left out."""
    chosen = (group >= 0) & (rare[y_true] >= 0)
    right, in_rare = (y_true == y_pred)[chosen], (group == rare[y_true])[chosen]
    if not in_rare.any() or in_rare.all():
        return np.nan
    return float(right[~in_rare].mean() - right[in_rare].mean())


def group_balanced_accuracy(y_true, y_pred, group) -> float:
    """Accuracy where the groups of a class count alike: the mean over classes, each with its share of the images, of the mean
    of its groups' recalls. A class without a known group counts with its recall.

    y_true, y_pred, group: (N,), the group −1 where unknown."""
    known, every = (
        mean_of(bias.class_recall(y_true, y_pred, groups), axis=0) for groups in (group, np.zeros_like(group))
    )
    recall = np.where(np.isnan(known), every, known)
    return float(mean_of(recall, np.bincount(y_true, minlength=len(recall))))


def on_validation(table) -> pd.DataFrame:
    """The table with what a λ is chosen by: `val_balanced_accuracy`, which is `group_balanced_accuracy` on validation;
    `val_bias`, and `criterion`, what that is: √U⁺ on validation where at least half of the classes have two images in each
    group there, else the size of the rare group's gap, whichever way it points (U is not defined by single images); with more
    than two groups MAD on validation (U is of two).

    Validation is cut from training, so where training is skewed plain accuracy on it rewards the shortcut that debiasing is to
    remove: on CIFAR-100 with planted grey, plain distillation has .45 there, .28 with the groups alike, and .29 on test."""
    dataset = runs.load_data(table["data"].iloc[0], *_data_options(table.iloc[0]))
    counts = {name: data.class_by_group(dataset.splits[name], dataset, merged=True) for name in ("train", "val")}
    there = counts["train"].any(axis=1)
    found = [_val_predictions(key) for key in table["key"]]
    table = table.assign(val_balanced_accuracy=[group_balanced_accuracy(*three) for three in found])
    if len(dataset.groups) > 2:
        return table.assign(val_bias=table["val_mad"].astype(float), criterion="MAD")
    if 2 * (counts["val"][there] >= 2).all(axis=1).sum() >= there.sum():
        return table.assign(val_bias=table["val_sqrt_u"].astype(float).clip(lower=0), criterion="√U⁺")
    tied = (counts["train"] == counts["train"][:, :1]).all(axis=1)
    rare = np.where(tied, -1, counts["train"].argmin(axis=1))
    gaps = [
        rare_group_gap(*(data.bias_labels(dataset, numbers) for numbers in pair), group, rare) for *pair, group in found
    ]
    return table.assign(val_bias=np.abs(gaps), criterion="rare group's gap")


def _val_predictions(key):
    """Labels, predictions and groups of a finished run on validation, each (N,)."""
    arrays = runs.stored_predictions(key)
    return arrays["val_labels"], arrays["val_logits"].argmax(1), arrays["val_group"]


def _data_options(row):
    skew = row.get("skew")
    options = [None if skew is None or pd.isna(skew) else float(skew)]
    return [*options, row["data_options"]] if isinstance(row.get("data_options"), str) else options


def students(table) -> pd.DataFrame:
    """The rows that say what a debiaser does to a student: teachers, and students of debiased teachers, are left out."""
    table = labelled(table)
    return select(table[table["method"] != "teacher"], teacher_debias="none")


def choose(table, tolerance=TOLERANCE) -> pd.DataFrame:
    """The λ of each method × debiaser, by a rule that reads validation alone: among the λ, 0 included, whose
    `val_balanced_accuracy` is within `tolerance` of the best of them, that of the least `val_bias`, both means over seeds; of
    equals, the smallest. Columns method, debias, lam, candidates, criterion. A debiaser without strength has nothing to choose.

    table: of `on_validation`. NaN counts as the worst; ValueError where there is nothing else."""
    table = students(table)
    rows = []
    for (method, debias), own in table[table["debias"] != "none"].groupby(["method", "debias"], sort=False):
        if (own["lam"] > 0).any():
            own = pd.concat([select(table, **PLAIN, method=method), own])
        means = own.groupby("lam")[["val_balanced_accuracy", "val_bias"]].mean()
        if len(means) > 1 and means["val_bias"].isna().all():
            raise ValueError(
                f"no λ of {debias} on {method} can be chosen: validation has no bias figure (NaN for each)"
            )
        accuracy = means["val_balanced_accuracy"]
        near = means[accuracy >= accuracy.max() - tolerance]["val_bias"].fillna(np.inf)
        criterion = own["criterion"].iloc[0] if len(means) > 1 else "no λ"
        rows.append(
            {"method": method, "debias": debias, "lam": float(near.idxmin()), "candidates": len(means), "criterion": criterion}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "debias", "lam", "candidates", "criterion"])


def at_choice(table, chosen) -> pd.DataFrame:
    """The table's rows of the chosen kinds, each under its debiaser's name even where λ = 0, plain distillation, was chosen;
    and the plain ones."""
    table = students(table)
    parts = [select(table, **PLAIN)]
    for choice in chosen.itertuples():
        plain = choice.lam == 0 and choice.criterion != "no λ"
        rows = select(table, method=choice.method, debias="none" if plain else choice.debias, lam=choice.lam)
        parts.append(rows.assign(debias=choice.debias))
    return pd.concat(parts)


def in_common(table, chosen):
    """(table, chosen) of the methods that every debiaser was trained with, so that means over methods compare like with like:
    one that needs a teacher is not for the student alone."""
    every = chosen.groupby("debias")["method"].agg(set)
    common = set.intersection(*every) if len(every) else set()
    return table[labelled(table)["method"].isin(common)], chosen[chosen["method"].isin(common)]


def shifts(table, chosen) -> pd.DataFrame:
    """A row per method, debiaser and seed: what the debiaser, at the λ that validation chose, changes in test `accuracy` and
    `mad` against the same method without it, of the methods that every debiaser was trained with."""
    at, plain = at_choice(*in_common(table, chosen)), select(students(table), **PLAIN)
    found = []
    for debias, own in at[at["debias"] != "none"].groupby("debias", sort=False):
        differ = {column: _paired(own, plain, column) for column in ("accuracy", "mad")}
        found.append(pd.DataFrame(differ).reset_index().assign(debias=debias))
    return pd.concat(found)


def hypervolume(accuracy, disparity, *, accuracy_from) -> float:
    """The area that points dominate: all (a, d) with accuracy_from ≤ a ≤ accuracy and disparity ≤ d ≤ 1 of any point.

    accuracy, disparity: arrays (n,); 0 without points, at most 1 − accuracy_from (one point of accuracy 1, without bias)."""
    area, reached = 0.0, accuracy_from
    points = sorted(zip(np.asarray(accuracy, float), np.asarray(disparity, float), strict=True))
    for index, (right, _) in enumerate(points):
        least = min(low for _, low in points[index:])
        if right > reached and least < 1:
            area += (right - reached) * (1 - least)
            reached = right
    return float(area)


def areas(table, accuracy_from) -> pd.DataFrame:
    """Hypervolume of each method × debiaser × seed over the rows of `table`; a degenerate model counts for nothing."""
    rows = []
    for (method, debias, seed), own in table.groupby(["method", "debias", "seed"], sort=False):
        own = own[~own["test_degenerate"].astype(bool)]
        area = hypervolume(own["test_accuracy"], own["test_mad"], accuracy_from=accuracy_from)
        rows.append({"method": method, "debias": debias, "seed": seed, "area": area})
    return pd.DataFrame(rows)


def ranking(table, chosen, *, accuracy_from) -> pd.DataFrame:
    """A row per debiaser, best first, at the λ that validation chose: what it changes in test accuracy, MAD and √U against the
    same method without it, its area (of that one point) and that of its whole front over λ, its mean rank by area
    among the debiasers, and p (Holm) of the paired test against the first row's area; that the first is best was seen on
    the same pictures. Over the methods that every debiaser was trained with, averaged within a seed, so n is the number
    of seeds; intervals are Student's, 95 %.

    accuracy_from: where the area begins, as the accuracy of the constant classifier."""
    table, chosen = in_common(table, chosen)
    at = at_choice(table, chosen)
    point = areas(at, accuracy_from)
    everything = students(table)
    strengths = everything[everything["debias"] != "none"]
    plain = select(everything, **PLAIN)
    with_plain = [  # a debiaser with a strength may be used at λ = 0 too
        pd.concat([own, plain.assign(debias=debias)]) if (own["lam"] > 0).any() else own
        for debias, own in strengths.groupby("debias", sort=False)
    ]
    front = areas(pd.concat(with_plain), accuracy_from)
    ranks = point[point["debias"] != "none"].copy()
    ranks["rank"] = ranks.groupby(["method", "seed"])["area"].rank(ascending=False)
    rows = {}
    for debias in strengths["debias"].unique():
        own, differ = at[at["debias"] == debias], {}
        for column in ("accuracy", "mad", "sqrt_u"):
            differ[column] = _difference(own, plain, column)
        rows[debias] = differ | {
            "area": point[point["debias"] == debias].groupby("seed")["area"].mean(),
            "front": front[front["debias"] == debias].groupby("seed")["area"].mean(),
            "rank": ranks[ranks["debias"] == debias].groupby("seed")["rank"].mean(),
            "degenerate": int(own["test_degenerate"].astype(bool).sum()),
            "rows": len(own),
        }
    order = sorted(rows, key=lambda debias: -rows[debias]["area"].mean())
    p_values = holm([t_test(rows[order[0]]["area"] - rows[debias]["area"]) for debias in order[1:]])
    return pd.DataFrame(
        _ranking_row(debias, rows[debias], p) for debias, p in zip(order, [None, *p_values], strict=True)
    )


def _paired(one, other, column):
    """Test `column` of rows `one` minus that of `other`, by method and seed."""
    sides = [part.set_index(["method", "seed"])[f"test_{column}"].astype(float) for part in (one, other)]
    return (sides[0] - sides[1]).dropna()


def _difference(one, other, column):
    """`_paired`, its mean over methods, by seed."""
    return _paired(one, other, column).groupby("seed").mean()


def _ranking_row(debias, found, p_value):
    def shown(name, sign="-"):
        return plus_minus(*interval(found[name]), sign=sign)

    return {
        "debiaser": debiaser_name(debias),
        "n": len(found["area"]),
        "Δ accuracy": shown("accuracy", "+"),
        "Δ MAD": shown("mad", "+"),
        "Δ √U": shown("sqrt_u", "+"),
        "area": shown("area"),
        "area of the front": shown("front"),
        "mean rank": plus_minus(*interval(found["rank"]), digits=2),
        "p against the first": "" if p_value is None else "–" if np.isnan(p_value) else f"{p_value:.2g}",
        "degenerate": f"{found['degenerate']} of {found['rows']}",
    }


def halved(table, chosen) -> pd.DataFrame:
    """Per method, the debiasers that help at the λ that validation chose, in the sense of `results.changes`: MAD at half or
    less with the interval of its change below zero, at most a point of accuracy lost, no degenerate seed."""
    found, rows = changes(at_choice(table, chosen)).sort_values("mad"), []
    for method, own in found.groupby("method", sort=False):
        helping = own[own["helps"]]
        listed = [
            f"{debiaser_name(row.debias)} ({row.mad_before + row.mad:.3f}, {row.accuracy:+.3f})"
            for row in helping.itertuples()
        ]
        before = f"{own['mad_before'].iloc[0]:.3f}"
        rows.append({"method": method_name(method), "MAD without": before, HALVED_BY: "; ".join(listed) or "none"})
    return pd.DataFrame(rows)


def constant_accuracy(labels) -> float:
    """Accuracy of the classifier that always names the commonest class of labels (N,)."""
    return float(np.bincount(labels).max() / len(labels))


def against(table, chosen, one, others) -> pd.DataFrame:
    """Debiaser `one` against each of `others` at their chosen λ: differences of test accuracy, MAD and √U, paired by method and
    seed, methods averaged within a seed, with Student's 95 % interval and p (Holm over `others`); degenerate networks of
    either are counted."""
    at = at_choice(table, chosen)
    sides = {debias: at[at["debias"] == debias] for debias in (one, *others)}
    rows = [
        {"pair": f"{debiaser_name(one)} − {debiaser_name(other)}", "n": sides[one]["seed"].nunique()}
        for other in others
    ]
    for column in ("accuracy", "mad", "sqrt_u"):
        found = [_difference(sides[one], sides[other], column) for other in others]
        for row, change, p_value in zip(rows, found, holm([t_test(change) for change in found]), strict=True):
            row |= {column: plus_minus(*interval(change), sign="+"), f"p ({column})": f"{p_value:.2g}"}
    for row, other in zip(rows, others, strict=True):
        row["degenerate"] = int(sides[one]["test_degenerate"].sum() + sides[other]["test_degenerate"].sum())
    return pd.DataFrame(rows)
