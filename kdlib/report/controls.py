"""Our own debiaser beside its controls: the student alone debiased likewise, other debiasers, and retrained teachers."""

import pandas as pd

from kdlib.bias.stats import holm, paired_difference
from kdlib.names import PLAIN, kind_name
from kdlib.report.tables import KIND, has_flips, labelled, plus_minus, select

OURS = {"debias": "balanced_teacher", "lam": 1.0}
COLUMNS = {"accuracy": "accuracy", "mad": "MAD", "sqrt_u": "√U", "flip_rate": "flip rate"}


def by_seed(rows, kind, column):
    """Return a metric of one kind of student by seed.

    Parameters
    ----------
    rows : DataFrame
        Of `tables.labelled`.
    kind : dict
        Settings, the rest plain. Without a method it is the mean over the distilled ones.
    column : str
        As "test_mad".
    """
    if "method" not in kind:
        rows = rows[~rows["method"].isin(("teacher", "scratch"))]
    return select(rows, **PLAIN | kind).groupby("seed")[column].mean()


def against_controls(table) -> pd.DataFrame:
    """Return a row per control of balanced-teacher (λ = 1): what the control reaches, and ours minus it, paired by seed.

    Kinds of distilled students are averaged over the methods within a seed. p is that of the paired t-test of MAD and of
    accuracy, adjusted after Holm over all controls. Empty where the table has no balanced-teacher at λ = 1.

    Parameters
    ----------
    table : DataFrame
        A row per run.
    """
    rows = labelled(table)
    if select(rows, **PLAIN | OURS).empty:
        return pd.DataFrame()
    students = rows[rows["method"] != "teacher"]
    debiased = students[(students["debias"] != "none") | (students["teacher_debias"] != "none")]
    kinds = debiased[KIND].drop_duplicates().to_dict("records")
    controls = [kind for kind in kinds if kind["method"] == "scratch"]
    settings = [{name: kind[name] for name in PLAIN} for kind in kinds if kind["method"] != "scratch"]
    controls += [kind for number, kind in enumerate(settings) if kind not in settings[:number] and kind != PLAIN | OURS]
    metrics = [name for name in COLUMNS if name != "flip_rate" or has_flips(rows)]
    result, tests = [], {"accuracy": [], "mad": []}
    for kind in controls:
        row = {"control": kind_name({"method": "distilled"} | kind)}
        differences = {}
        for metric in metrics:
            ours, control = (by_seed(rows, side, f"test_{metric}") for side in (OURS, kind))
            differences[metric] = paired_difference(ours, control)
            row[COLUMNS[metric]] = f"{control.mean():.3f}"
        row = {"control": row.pop("control"), "n": differences["mad"]["n"]} | row
        for metric, test in differences.items():
            row[f"ours, Δ {COLUMNS[metric]}"] = plus_minus(test["difference"], test["half"], sign="+")
            if metric in tests:
                tests[metric].append(test["p_value"])
        result.append(row)
    shown = pd.DataFrame(result)
    for metric, p_values in tests.items():
        shown[f"p ({COLUMNS[metric]})"] = [f"{p:.2g}" for p in holm(p_values)]
    return shown
