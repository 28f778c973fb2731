"""From the table of a sweep to what a reader sees: means with intervals, paired differences, what debiasing changes.

A *kind* of model is all that tells two rows apart but the seed. Intervals over seeds are Student's, 95 %."""

from collections import namedtuple

import numpy as np
import pandas as pd

from kdlib import bias, data, runs
from kdlib.bias.stats import interval, paired_difference
from kdlib.bias.tables import extent
from kdlib.names import METHODS, PLAIN, kind_name, method_name, unknown_name

KIND = ["method", "debias", "lam", "teacher_debias", "teacher_lam"]


def labelled(table) -> pd.DataFrame:
    """The table with method "teacher" for the runs that other runs of it use as their teacher."""
    return table.assign(method=table["method"].mask(table["key"].isin(table["teacher_key"].dropna()), "teacher"))


def methods_of(table) -> list:
    """The methods in the table, teachers apart: those of `names.METHODS` in that order, then the others by name."""
    present = set(table["method"]) - {"teacher"}
    return [name for name in METHODS if name in present] + sorted(present.difference(METHODS))


def as_teachers(table) -> pd.DataFrame:
    """The table with method "teacher" throughout, where it holds nothing else."""
    return table.assign(method="teacher")


def means(table, columns=("accuracy", "mad")) -> pd.DataFrame:
    """One row per kind of model: n seeds, and for each metric the mean over seeds of the test figure (`mad`), its standard
    deviation (`mad_std`) and the half-width of its interval (`mad_half`)."""
    rows = []
    for kind, group in labelled(table).groupby(KIND, sort=False):
        row = dict(zip(KIND, kind, strict=True)) | {"n": len(group)}
        for column in columns:
            values = group[f"test_{column}"].astype(float)
            row[column], row[f"{column}_half"] = interval(values)
            row[f"{column}_std"] = values.std()
        row["degenerate"] = bool(group["test_degenerate"].any())
        rows.append(row)
    return pd.DataFrame(rows)


def select(table, **settings) -> pd.DataFrame:
    """The rows whose columns have these values. ValueError for an unknown column."""
    for column, value in settings.items():
        if column not in table:
            raise unknown_name(column, table.columns, "column")
        table = table[table[column] == value]
    return table


def paired(table, one, other, column="test_accuracy") -> dict:
    """`one` − `other` (dicts of settings for `select`, plain where they say nothing), paired by seed: difference, half-width
    of its interval, two-sided p_value of the paired t-test, n. ValueError unless both have the same seeds."""
    table = labelled(table)
    sides = [
        select(table, **PLAIN | side).set_index("seed")[column].astype(float).sort_index() for side in (one, other)
    ]
    if len(sides[1]) == 1 and other.get("method") == "teacher":  # one teacher for all seeds
        sides[1] = pd.Series(sides[1].iloc[0], index=sides[0].index)
    if list(sides[0].index) != list(sides[1].index) or sides[0].index.has_duplicates or not len(sides[0]):
        seeds = [side.index.tolist() for side in sides]
        raise ValueError(f"a paired test needs the same seeds once on both sides, got {seeds[0]} and {seeds[1]}")
    return paired_difference(*sides)


def differences(table, pairs) -> pd.DataFrame:
    """A row per pair (one, other) of settings: what `one` changes in test accuracy and MAD, paired by seed."""
    rows = []
    for one, other in pairs:
        accuracy, mad = (paired(table, one, other, f"test_{column}") for column in ("accuracy", "mad"))
        rows.append(
            {
                "pair": f"{kind_name(one)} − {kind_name(other)}",
                "n": accuracy["n"],
                "accuracy": plus_minus(accuracy["difference"], accuracy["half"], sign="+"),
                "p (accuracy)": f"{accuracy['p_value']:.3g}",
                "MAD": plus_minus(mad["difference"], mad["half"], sign="+"),
                "p (MAD)": f"{mad['p_value']:.3g}",
            }
        )
    return pd.DataFrame(rows)


def crossed(table, column) -> pd.DataFrame:
    """Test `column` by method and teacher's debiaser (rows) and student's debiaser (columns), mean ± half-width."""
    rows = means(table, (column,))
    rows["cell"] = [
        plus_minus(row[column], row[f"{column}_half"]) + (" (degenerate)" if row["degenerate"] else "")
        for _, row in rows.iterrows()
    ]
    rows["method"] = rows["method"].map(method_name)
    rows = rows.rename(columns={"teacher_debias": "teacher", "debias": "student"})
    return rows.pivot(index=["method", "teacher"], columns="student", values="cell")


def plus_minus(mean, half, digits=3, sign="-") -> str:
    """`0.912 ± 0.011`; without the second part where there is no interval."""
    return f"{mean:{sign}.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def readable(table) -> pd.DataFrame:
    """The results table for a page: per kind of model, mean over seeds (± half-width of its interval), MAD beside its
    floor, the cost, and a mark on useless models."""
    rows = means(table, ("accuracy", "precision", "recall", "f1", "mad", "mad_floor", "worst_cell", "equalized_odds"))
    names = [kind_name(row) + (" (degenerate)" if row["degenerate"] else "") for _, row in rows.iterrows()]
    shown = pd.DataFrame({"model": names, "n": rows["n"]})
    headings = {"accuracy": "accuracy", "mad": "MAD", "mad_floor": "MAD's floor", "worst_cell": "worst cell"}
    headings |= {"equalized_odds": "equalized odds", "precision": "precision", "recall": "recall", "f1": "F1"}
    for column, heading in headings.items():
        halves = rows[f"{column}_half"] if column in ("accuracy", "mad") else np.full(len(rows), np.nan)
        shown[heading] = [plus_minus(mean, half) for mean, half in zip(rows[column], halves, strict=True)]
    groups = [group for _, group in labelled(table).groupby(KIND, sort=False)]
    shown["p < .01"] = [f"{(group['test_mad_p_value'] < 0.01).sum()} of {len(group)}" for group in groups]
    shown["parameters"] = [f"{group['parameters'].iloc[0]:,}" for group in groups]
    shown["ms / image"] = [f"{group['latency_ms'].median():.2f}" for group in groups]
    return shown


def plain_students(table, methods) -> pd.DataFrame:
    """The rows of these methods without any debiasing, ordered by method."""
    rows = select(labelled(table), **PLAIN)
    return pd.concat([rows[rows["method"] == method] for method in methods])


def floor(table):
    """(low, high): the 95 % range of test MAD for models blind to the group, mean over the plain students."""
    rows = select(labelled(table), **PLAIN)
    rows = rows[rows["method"] != "teacher"]
    return float(rows["test_mad_floor_low"].mean()), float(rows["test_mad_floor_high"].mean())


def changes(table) -> pd.DataFrame:
    """What debiasing changes, a row per method and kind of debiasing: of the student alone, and of its teacher alone.

    Columns: method; debias, lam, teacher_debias, teacher_lam; n seeds, those that both have; mad_before; mad and accuracy, the
    changes against the same method without it, paired by seed, with mad_half, mad_p, accuracy_half; degenerate seeds; and
    whether it `helps`: MAD at half or less, with the interval of its change below zero, at most a point of accuracy lost,
    and no seed degenerate."""
    table, rows = labelled(table), []
    students = table[table["method"] != "teacher"]
    kinds = students[KIND].drop_duplicates()
    kinds = kinds[(kinds["debias"] != "none") ^ (kinds["teacher_debias"] != "none")]
    for kind in kinds.to_dict("records"):
        change = {name: kind[name] for name in PLAIN}
        one, other = select(table, **kind), select(table, **PLAIN, method=kind["method"])
        common = set(one["seed"]) & set(other["seed"])
        if not common:
            continue
        one, other = (side[side["seed"].isin(common)] for side in (one, other))
        mad, accuracy = (
            paired(pd.concat([one, other]), kind, {"method": kind["method"]}, f"test_{name}")
            for name in ("mad", "accuracy")
        )
        before, useless = other["test_mad"].mean(), int(one["test_degenerate"].sum())
        rows.append(
            kind
            | change
            | {
                "n": mad["n"], "mad_before": before, "mad": mad["difference"], "mad_half": mad["half"],
                "mad_p": mad["p_value"], "accuracy": accuracy["difference"], "accuracy_half": accuracy["half"],
                "degenerate": useless,
                "helps": bool(
                    mad["difference"] + mad["half"] < 0
                    and before + mad["difference"] <= before / 2
                    and accuracy["difference"] >= -0.01
                    and not useless
                ),
            }
        )  # fmt: skip
    return pd.DataFrame(rows, columns=CHANGES)


CHANGES = [
    *KIND, "n", "mad_before", "mad", "mad_half", "mad_p", "accuracy", "accuracy_half", "degenerate", "helps"
]  # fmt: skip


def debiasers(table) -> pd.DataFrame:
    """`changes` for a page: a row per kind of debiasing, with the methods it helps and the range of what it changes."""
    rows = []
    for kind, group in changes(table).groupby(list(PLAIN), sort=False):
        settings = dict(zip(PLAIN, kind, strict=True))
        helped = [method_name(name) for name in group.loc[group["helps"], "method"]]
        rows.append(
            {
                "debiasing": kind_name(settings),
                "helps": f"{len(helped)} of {len(group)}" + (f": {', '.join(helped)}" if helped else ""),
                "MAD before": span(group["mad_before"]),
                "change of MAD": span(group["mad"], "+"),
                "change of accuracy": span(group["accuracy"], "+"),
                "degenerate runs": f"{group['degenerate'].sum()} of {group['n'].sum()}",
            }
        )
    return pd.DataFrame(rows)


def span(values, sign="-") -> str:
    """`−0.31 to −0.17`, the smallest and the largest; one of them where they are alike."""
    ends = dict.fromkeys(f"{value:{sign}.3f}" for value in (values.min(), values.max()))
    return " to ".join(ends)


# ---- from stored predictions, on the classes of `data.bias_classes`


Tested = namedtuple("Tested", "labels predicted probabilities group together")


def tested(run) -> Tested:
    """labels, predicted, group (N,) and probabilities (N, K) of a finished run on test; together (N,): the original picture
    that each test picture shows, or None where the data set does not say."""
    arrays, dataset = runs.predictions(run), runs.as_run(run).load_data()
    logits = arrays["test_logits"].astype(np.float64)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    labels, predicted = (data.bias_labels(dataset, of) for of in (arrays["test_labels"], logits.argmax(1)))
    merged = np.zeros((len(labels), len(data.bias_classes(dataset))))
    for number, of_class in zip(data.bias_labels(dataset, np.arange(logits.shape[1])), probabilities.T, strict=True):
        merged[:, number] += of_class
    return Tested(labels, predicted, merged, arrays["test_group"], dataset.test.source)


def population(settings):
    """labels (N,), predictions (runs, N), group (N,) and the number of classes of runs on one test split."""
    every = [tested(run) for run in settings]
    first = every[0]
    return first.labels, np.stack([one.predicted for one in every]), first.group, first.probabilities.shape[1]


def recalls(settings) -> np.ndarray:
    """(runs, G, K): recall of each class in each group."""
    labels, predictions, group, classes = population(settings)
    return np.array([bias.class_recall(labels, predicted, group, num_classes=classes) for predicted in predictions])


def disparities(settings) -> np.ndarray:
    """(runs, K): recall of group 1 minus that of group 0; where the attribute has more values, largest minus smallest."""
    found = recalls(settings)
    return found[:, 1] - found[:, 0] if found.shape[1] == 2 else extent(found)
