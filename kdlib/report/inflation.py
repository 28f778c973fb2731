"""What distillation itself does to bias: distilled students against the same student trained alone, and temperature by
temperature, adjusted over everything that is looked at."""

import numpy as np
import pandas as pd

from kdlib.bias.stats import holm, paired_difference, student_interval
from kdlib.methods import method_options
from kdlib.names import method_name
from kdlib.report.tables import has_flips, labelled, methods_of, plain_students, plus_minus

MEASURES = {"sqrt_u": "√U", "flip_rate": "flip rate", "accuracy": "accuracy"}
BIAS = ("sqrt_u", "flip_rate")  # √U has no floor that falls with accuracy; a flip needs no label
LEVEL = 0.05


def effects(table) -> pd.DataFrame:
    """Return what distillation, and its temperature, change in a study without debiasing, paired by seed.

    Parameters
    ----------
    table : DataFrame
        Of `publish.study_table`: with the parts grid and, where there is one, temperature.

    Returns
    -------
    DataFrame
        A row per comparison and measure, without those in which a model collapsed: what (method, or method and temperature),
        against, measure, difference, half (of Student's 95 % interval), n seeds, p_value, p_holm (over all rows that measure
        bias), and excluded: the size of a change that two one-sided tests exclude at 5 %, the larger end of the 90 %
        interval.
    """
    grid = labelled(table[table["part"] == "grid"])
    measures = [name for name in MEASURES if name != "flip_rate" or has_flips(grid)]
    pairs = [
        (method_name(method), plain_students(grid, [method]), "student alone", plain_students(grid, ["scratch"]))
        for method in methods_of(grid)
        if method != "scratch"
    ]
    softened = table[table["part"] == "temperature"]
    softened = with_temperatures(softened)
    for (method, temperature), rows in softened.groupby(["method", "temperature"], sort=False):
        default = default_temperature(method)
        if temperature != default:
            usual = softened[(softened["method"] == method) & (softened["temperature"] == default)]
            name = method_name(method)
            pairs.append((f"{name}, T {temperature:g}", rows, f"{name}, T {default:g}", usual))
    rows = []
    for what, changed, against, control in pairs:
        if pd.concat([changed, control])["test_degenerate"].astype(bool).any():
            continue  # a collapsed model has no bias to speak of
        for measure in measures:
            values = [side.set_index("seed")[f"test_{measure}"].astype(float) for side in (changed, control)]
            difference = (values[0] - values[1]).dropna()
            ends = student_interval(difference, level=1 - 2 * LEVEL)
            row = {"what": what, "against": against, "measure": measure, **paired_difference(*values)}
            rows.append(row | {"excluded": float(np.max(np.abs(ends)))})
    columns = ("what", "against", "measure", "difference", "half", "p_value", "n", "excluded")
    result = pd.DataFrame(rows, columns=columns)
    of_bias = result["measure"].isin(BIAS)
    result["p_holm"] = np.nan
    result.loc[of_bias, "p_holm"] = holm(result.loc[of_bias, "p_value"])
    return result


def default_temperature(method) -> float:
    """Return the temperature of a method where a run gives none."""
    return method_options(method)["temperature"]


def with_temperatures(table) -> pd.DataFrame:
    """Return the table with the temperature of each run, also where it is the method's default."""
    filled = [
        default_temperature(method) if np.isnan(temperature) else temperature
        for method, temperature in zip(table["method"], table["temperature"].astype(float), strict=True)
    ]
    return table.assign(temperature=filled)


def pooled(studies) -> pd.DataFrame:
    """Return the effect of each method on each measure over several studies.

    The rule: a study's estimate is its mean paired difference; studies are weighted by the inverse of its squared standard
    error, plus the variance between studies where they differ more than their errors explain (random effects). A measure that
    only one study has is left out.

    Parameters
    ----------
    studies : dict
        {name: table} of studies, each of `publish.study_table`. Those without the student alone, or with one seed, are passed
        over.

    Returns
    -------
    DataFrame
        what, measure, studies (their number), difference, half (of the 95 % interval), p_value, excluded
        (as in `effects`), and p_holm (over methods and measures of bias).
    """
    from scipy import stats

    every = pd.concat(effects(table).assign(study=name) for name, table in studies.items())
    every = every[every["against"] == "student alone"]
    rows = []
    for (what, measure), group in every.groupby(["what", "measure"], sort=False):
        group = group[group["half"] > 0]  # a study in which nothing varies has no standard error
        if len(group) < 2:
            continue
        error = group["half"] / stats.t.ppf(0.975, group["n"] - 1)
        mean, error = random_effects(group["difference"].to_numpy(), error.to_numpy())
        of_studies = stats.t(len(group) - 1)
        row = {"what": what, "measure": measure, "studies": len(group), "difference": mean}
        row |= {"half": of_studies.ppf(0.975) * error, "p_value": 2 * of_studies.sf(abs(mean) / error)}
        rows.append(row | {"excluded": abs(mean) + of_studies.ppf(1 - LEVEL) * error})
    result = pd.DataFrame(rows, columns=("what", "measure", "studies", "difference", "half", "p_value", "excluded"))
    of_bias = result["measure"].isin(BIAS)
    result["p_holm"] = np.nan
    result.loc[of_bias, "p_holm"] = holm(result.loc[of_bias, "p_value"])
    return result


def random_effects(estimates, errors) -> tuple[float, float]:
    """Return (mean, its standard error) of estimates with standard errors, arrays (n,), n of 2 or more.

    The variance between studies is DerSimonian and Laird's. The standard error is Hartung and Knapp's, for Student's
    distribution with n − 1 degrees of freedom, as few studies tell little of how they differ; it is never smaller than the
    estimates' own errors would have it (Röver et al.).

    References
    ----------
    DerSimonian, Laird (1986). Meta-analysis in clinical trials. Controlled Clinical Trials 7.
    Hartung, Knapp (2001). A refined method for the meta-analysis of controlled clinical trials. Statistics in Medicine 20.
    Röver, Knapp, Friede (2015). Hartung-Knapp-Sidik-Jonkman approach and its modification. BMC Medical Research Methodology 15.
    """
    free = len(estimates) - 1
    weights = 1 / errors**2
    mean = (weights * estimates).sum() / weights.sum()
    spread = (weights * (estimates - mean) ** 2).sum()
    scale = weights.sum() - (weights**2).sum() / weights.sum()
    weights = 1 / (errors**2 + max(0.0, (spread - free) / scale))
    mean = (weights * estimates).sum() / weights.sum()
    dispersion = max(1.0, (weights * (estimates - mean) ** 2).sum() / free)
    return float(mean), float((dispersion / weights.sum()) ** 0.5)


def readable(result) -> pd.DataFrame:
    """Return `effects` or `pooled` for a page."""
    shown = result.assign(
        measure=result["measure"].map(MEASURES),
        difference=[plus_minus(d, h, sign="+") for d, h in zip(result["difference"], result["half"], strict=True)],
        p_value=result["p_value"].map("{:.2g}".format),
        p_holm=result["p_holm"].map(lambda p: "" if np.isnan(p) else f"{p:.2g}"),
    ).drop(columns="half")
    if "excluded" in shown:
        shown["excluded"] = shown["excluded"].map("{:.3f}".format)
    return shown.rename(columns={"p_value": "p", "p_holm": "p (Holm)", "excluded": "excluded beyond ±"})


def in_words(result) -> str:
    """Return what `effects` shows about bias, as a sentence or two."""
    rows = result[result["measure"].isin(BIAS) & (result["against"] == "student alone")]
    if rows.empty:
        return "Not compared: a model collapsed in each comparison."
    changed, unchanged = [], []
    for what, group in rows.groupby("what", sort=False):
        shown = group[group["p_holm"] < LEVEL]
        if shown.empty:
            unchanged.append((what, group["excluded"].max()))
        for row in shown.itertuples():
            verb = "lowers" if row.difference < 0 else "raises"
            size = plus_minus(row.difference, row.half, sign="+")
            accuracy = result[(result["what"] == what) & (result["measure"] == "accuracy")].iloc[0]
            gain = plus_minus(accuracy["difference"], accuracy["half"], sign="+")
            figures = f"{size}, Holm-adjusted p = {row.p_holm:.2g}; accuracy {gain}"
            changed.append(
                f"{what} {verb} {'the ' if row.measure == 'flip_rate' else ''}{MEASURES[row.measure]} ({figures})"
            )
    n, count = int(rows["n"].max()), result["measure"].isin(BIAS).sum()
    text = f"Against the same student trained alone ({n} seeds, {count} comparisons): "
    text += "; ".join(changed) if changed else "we found no evidence that distillation itself changes bias"
    if unchanged:
        names = ", ".join(what for what, _ in unchanged)
        limit = max(size for _, size in unchanged)
        text += (
            f"; for {names} no change is shown, and one beyond ±{limit:.3f} is excluded"
            if changed
            else (f"; changes beyond ±{limit:.3f} are excluded")
        )
    return text + "."
