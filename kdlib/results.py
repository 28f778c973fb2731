"""From the table of a sweep to what a reader sees: means with intervals, paired differences, and sentences.

A *kind* of model is all that tells two rows apart but the seed. Intervals over seeds are Student's, 95 %."""

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes a second to import

from kdlib import bias, data, runs
from kdlib.paths import near

KIND = ["method", "debias", "lam", "teacher_debias", "teacher_lam"]
PLAIN = {"debias": "none", "lam": 0.0, "teacher_debias": "none", "teacher_lam": 0.0}
NAMES = {
    "scratch": "student alone", "ckd": "CKD", "rkd": "RKD", "rkd_author": "RKD (author's)", "ctkd": "CTKD",
    "ctkd_instance": "CTKD (instance-wise)", "kdpp": "KD++", "dkd": "DKD", "dkdpp": "DKD++",
}  # fmt: skip


def interval(values, level=0.95):
    """(mean, half-width) of Student's t interval of the mean of a few numbers; half-width NaN for fewer than two."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()) if len(values) else np.nan, np.nan
    half = stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def labelled(table) -> pd.DataFrame:
    """The table with method "teacher" for the runs that other runs of it use as their teacher."""
    return table.assign(method=table["method"].mask(table["key"].isin(table["teacher_key"].dropna()), "teacher"))


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
            raise near(column, table.columns, "column")
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
    difference = sides[0] - sides[1]
    mean, half = interval(difference)
    return {"difference": mean, "half": half, "p_value": t_test(difference), "n": len(difference)}


def t_test(differences) -> float:
    """Two-sided p-value of Student's t-test that the mean of a few paired differences is 0; NaN where they have no spread."""
    n = len(differences)
    error = np.std(differences, ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return float(2 * stdtr(n - 1, -abs(np.mean(differences)) / error)) if error > 1e-12 else np.nan


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
    rows["cell"] = [plus_minus(mean, half) for mean, half in zip(rows[column], rows[f"{column}_half"], strict=True)]
    rows["method"] = rows["method"].map(lambda name: NAMES.get(name, name))
    rows = rows.rename(columns={"teacher_debias": "teacher", "debias": "student"})
    return rows.pivot(index=["method", "teacher"], columns="student", values="cell")


def plus_minus(mean, half, digits=3, sign="-") -> str:
    """`0.912 ± 0.011`; without the second part where there is no interval."""
    return f"{mean:{sign}.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def kind_name(settings) -> str:
    """A kind of model in words, from settings or a row: `CKD + critic λ 10, teacher debiased`."""
    settings = PLAIN | dict(settings)
    text = NAMES.get(settings.get("method"), settings.get("method", ""))
    if settings["debias"] != "none":
        text += f" + {settings['debias'].replace('_', '-')}" + (f" λ {settings['lam']:g}" if settings["lam"] else "")
    text += ", teacher debiased" if settings["teacher_debias"] != "none" else ""
    return text.removeprefix(" + ").removeprefix(", ") or "plain"


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


def disparities(settings) -> np.ndarray:
    """(runs, K): the signed class disparity on test of each finished run, over the classes of `data.bias_classes`."""
    figures = []
    for run in settings:
        arrays, dataset = runs.predictions(run), runs.as_run(run).load_data()
        labels, predicted = (
            data.bias_labels(dataset, numbers) for numbers in (arrays["test_labels"], arrays["test_logits"].argmax(1))
        )
        classes = len(data.bias_classes(dataset))
        figures.append(bias.class_disparity(labels, predicted, arrays["test_group"], num_classes=classes))
    return np.array(figures)


def in_words(table) -> str:
    """What the table says, as Markdown: bias beyond chance, inflation by distillation, what debiasing does and costs."""
    table = labelled(table)
    methods = [name for name in NAMES if name in set(table["method"])]
    distilled = [name for name in methods if name != "scratch"]
    plain = plain_students(table, methods)
    beyond = int((plain["test_mad_p_value"] < 0.01).sum())
    parts = [
        f"**Bias beyond chance.** {beyond} of {len(plain)} students without debiasing have a MAD above the noise floor "
        f"(p < .01); their mean MAD is {plain['test_mad'].mean():.3f}, and a model blind to the group would show "
        f"{plain['test_mad_floor'].mean():.3f}.",
        "**Does distillation inflate bias?** " + " ".join(_inflation(table, name) for name in distilled),
    ]
    kinds = table.loc[table["debias"] != "none", ["debias", "lam"]].drop_duplicates().itertuples(index=False)
    plain_teacher = select(table, teacher_debias="none")
    helped = [_helped(plain_teacher, methods, {"debias": debias, "lam": lam}) for debias, lam in kinds]
    if helped:
        parts.append("**What debiasing the student does.** " + " ".join(helped))
    for name in table.loc[table["teacher_debias"] != "none", "teacher_debias"].unique():
        parts.append("**Debiasing only the teacher.** " + _helped(table, distilled, {"teacher_debias": name}))
    useless = means(table).query("degenerate")
    if len(useless):
        listed = ", ".join(kind_name(row) for _, row in useless.iterrows())
        parts.append(
            f"**Useless models.** Degenerate in at least one seed, so not to be praised for low bias: {listed}."
        )
    return "\n\n".join(parts)


def _inflation(table, method):
    rows = plain_students(table, [method])
    above = int((rows["vs_teacher_inflation_low"] > 0).sum())
    below = int((rows["vs_teacher_inflation_high"] < 0).sum())
    against = paired(table, {"method": method}, {"method": "scratch"}, "test_mad")
    change = plus_minus(against["difference"], against["half"], sign="+")
    return (
        f"{NAMES[method]}: MAD {rows['vs_teacher_inflation'].mean():+.3f} against its teacher (interval above zero in "
        f"{above} of {len(rows)} seeds, below in {below}), {change} against the student alone "
        f"(paired over {against['n']} seeds: {verdict(against)})."
    )


def verdict(test, level=0.05) -> str:
    """A paired test in words: `more, p = .01`, `less, p = .02`, or `no difference shown, p = .4`."""
    if not test["p_value"] < level:
        return "no difference shown" + ("" if np.isnan(test["p_value"]) else f", p = {test['p_value']:.2g}")
    return f"{'more' if test['difference'] > 0 else 'less'}, p = {test['p_value']:.2g}"


def _helped(table, methods, change):
    """How many methods the change helps: MAD at half or less, its paired interval below zero, at most a point of accuracy."""
    helped, lines = 0, []
    for method in methods:
        before = select(table, **PLAIN, method=method)["test_mad"].mean()
        mad = paired(table, {"method": method} | change, {"method": method}, "test_mad")
        accuracy = paired(table, {"method": method} | change, {"method": method})
        clear = mad["difference"] + mad["half"] < 0
        helped += bool(clear and before + mad["difference"] <= before / 2 and accuracy["difference"] >= -0.01)
        lines.append(f"{NAMES[method]} {before:.3f} → {before + mad['difference']:.3f} ({accuracy['difference']:+.3f})")
    name = kind_name({key: value for key, value in change.items() if key in PLAIN})
    return (
        f"*{name}* brings MAD to half or less, with the interval of the difference below zero and at most one point of "
        f"accuracy lost, for {helped} of {len(methods)}: {', '.join(lines)} (MAD before → after, change of accuracy)."
    )


def limits(table, dataset) -> str:
    """What this table cannot resolve, as Markdown, from its seeds and the sizes of the cells."""
    seeds = table["seed"].nunique()
    cells = {name: data.class_by_group(split, dataset, merged=True) for name, split in dataset.splits.items()}
    cells = {name: counts[counts.any(axis=1)] for name, counts in cells.items()}  # classes with a group
    low, high = floor(table)
    lines = []
    if seeds > 1:
        factor = stdtrit(seeds - 1, 0.975) / np.sqrt(seeds)
        lines.append(
            f"- With {seeds} seeds an interval is ± {factor:.2f} standard deviations over seeds. It covers the spread of "
            "training, not that of the test pictures, which are the same for every seed; the bootstrap intervals cover those."
        )
    lines.append(
        f"- A test cell (class × group) holds {cells['test'].min()} to {cells['test'].max()} pictures. A model blind to the "
        f"group shows a MAD of {low:.3f} to {high:.3f}: below that, bias and chance cannot be told apart for one model."
    )
    lines.append(
        f"- {int((cells['val'] < 10).sum())} of {cells['val'].size} validation cells hold fewer than ten pictures, so "
        "validation can hardly rank models by bias here. No λ was chosen: the whole list is shown."
    )
    students = labelled(table).query("method != 'teacher'")
    pair = f"{', '.join(filter(None, table['teacher'].unique()))} → {', '.join(students['student'].unique())}"
    lines.append(f"- One pair of networks ({pair}) on one data set, {dataset.name}: no claim beyond it.")
    return "\n".join(lines)
