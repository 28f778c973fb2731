"""From the table of a sweep to what a reader sees: means with intervals, paired differences, what debiasing changes.

A *kind* of model is every setting except the seed. Intervals over seeds are Student's, 95 %. Methods and debiasers are those
that the table holds, whether or not `names` has a label for them."""

from collections import namedtuple

import numpy as np
import pandas as pd

from kdlib import bias, data, runs
from kdlib.bias.stats import interval, paired_difference
from kdlib.bias.tables import extent
from kdlib.names import METHODS, PLAIN, kind_name, method_name, unknown_name

KIND = ["method", "debias", "lam", "teacher_debias", "teacher_lam"]
CHANGES = [
    *KIND, "n", "mad_before", "mad", "mad_half", "mad_p", "accuracy", "accuracy_half", "degenerate", "falls", "helps"
]  # fmt: skip
MOST_LOST = 0.01  # of accuracy, by a debiaser that helps


def labelled(table) -> pd.DataFrame:
    """Return the table with method "teacher" for the runs that other runs of it use as their teacher."""
    return table.assign(method=table["method"].mask(table["key"].isin(table["teacher_key"].dropna()), "teacher"))


def methods_of(table) -> list:
    """Return the methods in the table, teachers apart: those of `names.METHODS` in that order, then the others by name."""
    present = set(table["method"]) - {"teacher"}
    return [name for name in METHODS if name in present] + sorted(present.difference(METHODS))


def as_teachers(table) -> pd.DataFrame:
    """Return the table with method "teacher" throughout, where it holds nothing else."""
    return table.assign(method="teacher")


def has_pairs(table) -> bool:
    """Return whether the test split shows the same image in several groups, so that floors exchange groups within pairs."""
    return "test_paired" in table and bool(table["test_paired"].eq(True).any())


def has_flips(table) -> bool:
    """Return whether the table has flip rates: the share of pairs whose prediction changes with the group."""
    return "test_flip_rate" in table and bool(table["test_flip_rate"].notna().any())


def floor_name(table) -> str:
    """Return what the noise floor of these runs is, for a legend."""
    return "MAD with groups exchanged in pairs" if has_pairs(table) else "MAD of a model blind to the group"


def floor_note(table) -> str:
    """Return what the noise floor of these runs is, as a sentence for a caption."""
    if has_pairs(table):
        return ("Floor: 95 % of MAD when groups are exchanged within pairs of the same image "
                "(a model blind to the group has bias 0).")  # fmt: skip
    return "Floor: 95 % of MAD for a model blind to the group (groups permuted within each class)."


def means(table, columns=()) -> pd.DataFrame:
    """Return a row per kind of model.

    Parameters
    ----------
    table : DataFrame
        A row per run.
    columns : sequence of str
        Metrics of the test split; by default accuracy, MAD, and the flip rate where there is one.

    Returns
    -------
    DataFrame
        The kind, n (seeds), whether any seed is `degenerate`, `test_paired`; and of each metric, say mad, the mean over seeds
        `mad`, its standard deviation `mad_std`, and the half-width of its interval `mad_half`.
    """
    columns = columns or ["accuracy", "mad", *(["flip_rate"] if has_flips(table) else [])]
    rows = []
    for kind, group in labelled(table).groupby(KIND, sort=False):
        row = dict(zip(KIND, kind, strict=True)) | {"n": len(group)}
        for column in columns:
            values = group[f"test_{column}"].astype(float)
            row[column], row[f"{column}_half"] = interval(values)
            row[f"{column}_std"] = values.std()
        row |= {"degenerate": bool(group["test_degenerate"].any()), "test_paired": has_pairs(group)}
        rows.append(row)
    return pd.DataFrame(rows)


def select(table, **settings) -> pd.DataFrame:
    """Return the rows whose columns have these values. ValueError for an unknown column."""
    for column, value in settings.items():
        if column not in table:
            raise unknown_name(column, table.columns, "column")
        table = table[table[column] == value]
    return table


def paired(table, one, other, column="test_accuracy") -> dict:
    """Return `one` − `other`, paired by seed.

    Parameters
    ----------
    table : DataFrame
        A row per run.
    one, other : dict
        Settings for `select`; what they do not name is plain.
    column : str

    Returns
    -------
    dict
        Of `bias.paired_difference`: difference, half, p_value, n.

    Raises
    ------
    ValueError
        Unless both have the same seeds, each once. A single teacher stands beside all seeds.
    """
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
    """Return a row per pair (one, other) of settings: what `one` changes in test accuracy and MAD, paired by seed."""
    rows = []
    for one, other in pairs:
        row = {"pair": f"{kind_name(one)} − {kind_name(other)}"}
        for column, heading in (("accuracy", "accuracy"), ("mad", "MAD")):
            change = paired(table, one, other, f"test_{column}")
            row |= {"n": change["n"], heading: plus_minus(change["difference"], change["half"], sign="+")}
            row[f"p ({heading})"] = f"{change['p_value']:.3g}"
        rows.append(row)
    return pd.DataFrame(rows)


def crossed(table, column) -> pd.DataFrame:
    """Return test `column`, mean ± half-width, by method and teacher's debiaser (rows) and student's debiaser (columns)."""
    rows = means(table, (column,))
    rows["cell"] = [plus_minus(row[column], row[f"{column}_half"]) + _mark(row) for _, row in rows.iterrows()]
    rows["method"] = rows["method"].map(method_name)
    rows = rows.rename(columns={"teacher_debias": "teacher", "debias": "student"})
    return rows.pivot(index=["method", "teacher"], columns="student", values="cell")


def _mark(row):
    return " (collapsed)" if row["degenerate"] else ""


def plus_minus(mean, half, digits=3, sign="-") -> str:
    """Return `0.912 ± 0.011`; without the second part where there is no interval."""
    return f"{mean:{sign}.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def readable(table) -> pd.DataFrame:
    """Return the results table for a page: per kind of model, means over seeds, MAD beside its floor, the cost."""
    headings = {"accuracy": "accuracy", "mad": "MAD", "mad_floor": "MAD's floor"}
    headings |= {"flip_rate": "flip rate"} if has_flips(table) else {}
    headings |= {"worst_cell": "worst cell", "equalized_odds": "equalized odds"}
    headings |= {"precision": "precision", "recall": "recall", "f1": "F1"}
    rows = means(table, tuple(headings))
    shown = pd.DataFrame({"model": [kind_name(row) + _mark(row) for _, row in rows.iterrows()], "n": rows["n"]})
    for column, heading in headings.items():
        with_interval = column in ("accuracy", "mad", "flip_rate")
        halves = rows[f"{column}_half"] if with_interval else np.full(len(rows), np.nan)
        shown[heading] = [plus_minus(mean, half) for mean, half in zip(rows[column], halves, strict=True)]
    groups = [group for _, group in labelled(table).groupby(KIND, sort=False)]
    shown["p < .01"] = [f"{(group['test_mad_p_value'] < 0.01).sum()} of {len(group)}" for group in groups]
    shown["parameters"] = [f"{group['parameters'].iloc[0]:,}" for group in groups]
    shown["ms / image"] = [f"{group['latency_ms'].median():.2f}" for group in groups]
    return shown


def plain_students(table, methods) -> pd.DataFrame:
    """Return the rows of these methods without any debiasing, ordered by method."""
    rows = select(labelled(table), **PLAIN)
    return pd.concat([rows[rows["method"] == method] for method in methods])


def floor(table):
    """Return (low, high), the 95 % range of test MAD's noise floor, mean over the students without debiasing."""
    rows = select(labelled(table), **PLAIN)
    rows = rows[rows["method"] != "teacher"]
    return float(rows["test_mad_floor_low"].mean()), float(rows["test_mad_floor_high"].mean())


def changes(table) -> pd.DataFrame:
    """Return what debiasing changes, of the student alone and of its teacher alone, against the same method without it.

    Returns
    -------
    DataFrame
        A row per method and kind of debiasing. n: the seeds that both have. mad_before: mean MAD without it. mad, accuracy:
        the changes, paired by seed, with mad_half, mad_p and accuracy_half. degenerate: the number of such seeds. falls: the
        interval of MAD's change lies below zero and no seed is degenerate. helps: it falls, to half or less, and at most a
        point of accuracy is lost.
    """
    rows, read = [], ["seed", "test_mad", "test_accuracy", "test_degenerate"]
    table = labelled(table)[[*KIND, *read]]  # wide tables are slow to select from
    kinds = table.loc[table["method"] != "teacher", KIND].drop_duplicates()
    kinds = kinds[(kinds["debias"] != "none") ^ (kinds["teacher_debias"] != "none")]
    for kind in kinds.to_dict("records"):
        debiased, plain = select(table, **kind), select(table, **PLAIN, method=kind["method"])
        common = set(debiased["seed"]) & set(plain["seed"])
        if not common:
            continue
        debiased, plain = (side[side["seed"].isin(common)].set_index("seed") for side in (debiased, plain))
        mad = paired_difference(debiased["test_mad"], plain["test_mad"])
        accuracy = paired_difference(debiased["test_accuracy"], plain["test_accuracy"])
        before, degenerate = plain["test_mad"].mean(), int(debiased["test_degenerate"].sum())
        falls = mad["difference"] + mad["half"] < 0 and not degenerate
        halved = before + mad["difference"] <= before / 2
        helps = falls and halved and accuracy["difference"] >= -MOST_LOST
        rows.append(
            kind
            | {"n": mad["n"], "mad_before": before, "mad": mad["difference"], "mad_half": mad["half"]}
            | {"mad_p": mad["p_value"], "accuracy": accuracy["difference"], "accuracy_half": accuracy["half"]}
            | {"degenerate": degenerate, "falls": bool(falls), "helps": bool(helps)}
        )
    return pd.DataFrame(rows, columns=CHANGES)


def debiasers(table, changed=None) -> pd.DataFrame:
    """Return `changes`, perhaps at hand, for a page: a row per kind of debiasing, with whom it helps and its changes' range."""
    rows = []
    for kind, group in (changes(table) if changed is None else changed).groupby(list(PLAIN), sort=False):
        helped = [method_name(name) for name in group.loc[group["helps"], "method"]]
        rows.append(
            {
                "debiasing": kind_name(dict(zip(PLAIN, kind, strict=True))),
                "helps": f"{len(helped)} of {len(group)}" + (f": {', '.join(helped)}" if helped else ""),
                "MAD before": span(group["mad_before"]),
                "change of MAD": span(group["mad"], "+"),
                "change of accuracy": span(group["accuracy"], "+"),
                "collapsed runs": f"{group['degenerate'].sum()} of {group['n'].sum()}",
            }
        )
    return pd.DataFrame(rows)


def span(values, sign="-") -> str:
    """Return `−0.31 to −0.17`, the smallest and the largest; one of them where they are alike."""
    ends = dict.fromkeys(f"{value:{sign}.3f}" for value in (values.min(), values.max()))
    return " to ".join(ends)


# ---- from stored predictions, on the classes of `data.bias_classes`


Tested = namedtuple("Tested", "labels predicted probabilities group together")


def tested(run) -> Tested:
    """Return the predictions of a finished run on the test split.

    Returns
    -------
    Tested
        labels, predicted, group (N,) and probabilities (N, K); together (N,): the original image that each test image shows, or
        None where the data set does not say.
    """
    arrays, dataset = runs.predictions(run), runs.as_run(run).load_data()
    logits = arrays["test_logits"].astype(np.float64)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    labels, predicted = (data.bias_labels(dataset, numbers) for numbers in (arrays["test_labels"], logits.argmax(1)))
    merged = np.zeros((len(labels), len(data.bias_classes(dataset))))
    for number, of_class in zip(data.bias_labels(dataset, np.arange(logits.shape[1])), probabilities.T, strict=True):
        merged[:, number] += of_class
    return Tested(labels, predicted, merged, arrays["test_group"], dataset.test.source)


def population(settings):
    """Return labels (N,), predictions (runs, N), group (N,) and the number of classes of runs on one test split."""
    every = [tested(run) for run in settings]
    first = every[0]
    return first.labels, np.stack([one.predicted for one in every]), first.group, first.probabilities.shape[1]


def recalls(settings) -> np.ndarray:
    """Return (runs, G, K): the recall of each class in each group."""
    labels, predictions, group, classes = population(settings)
    return np.array([bias.class_recall(labels, predicted, group, num_classes=classes) for predicted in predictions])


def disparities(settings) -> np.ndarray:
    """Return (runs, K): recall of group 1 − recall of group 0; of more groups, largest − smallest recall."""
    values = recalls(settings)
    return values[:, 1] - values[:, 0] if values.shape[1] == 2 else extent(values)
