"""What a study shows in a few sentences, each followed by a small table: computed, for readers with a minute."""

import pandas as pd

from kdlib import profiles
from kdlib.bias.stats import interval, paired_difference
from kdlib.names import PLAIN, kind_name
from kdlib.report import claims, controls, inflation, tables
from kdlib.report.tables import labelled, plus_minus
from kdlib.report.words import LEVEL, listed


def in_brief(table) -> list:
    """Return what the table of a study shows.

    Parameters
    ----------
    table : DataFrame
        Of `publish.study_table`: a row per run, with its `part` of the study.

    Returns
    -------
    list of (str, DataFrame or None)
        A sentence, and the small table that it rests on.
    """
    grid = labelled(table[table["part"] == "grid"])
    plain = tables.plain_students(grid, tables.methods_of(grid))
    if plain["test_mad"].isna().all():
        return [("No class has test images of two groups, so there are no bias figures.", None)]
    parts = [(_beyond_chance(plain), None), _distillation(table, grid), _debiasing(grid), (_collapsed(grid), None)]
    return [part for part in parts if part and part[0]]


def _beyond_chance(plain):
    tested = plain[plain["test_mad_p_value"].notna()]
    beyond = int((tested["test_mad_p_value"] < 0.01).sum())
    return (
        f"{beyond} of {len(tested)} students without debiasing are more biased than chance allows (p < .01): their mean MAD is "
        f"{plain['test_mad'].mean():.3f}, where a model blind to the group averages {plain['test_mad_floor'].mean():.3f}."
    )


def _distillation(table, grid):
    if grid["seed"].nunique() < 2 or "scratch" not in set(grid["method"]):
        return None
    changes = inflation.effects(table[table["part"] == "grid"]).dropna(subset=["difference"])
    of_bias = changes[changes["measure"].isin(inflation.BIAS)]
    if of_bias.empty:
        return None
    shown = of_bias[of_bias["p_holm"] < inflation.LEVEL]
    said = [
        f"{row.what} {'lowers' if row.difference < 0 else 'raises'} the {inflation.MEASURES[row.measure]} "
        f"by {abs(row.difference):.3f}"
        for row in shown.itertuples()
    ]
    others = [name for name in dict.fromkeys(of_bias["what"]) if name not in set(shown["what"])]
    limit = of_bias.loc[of_bias["what"].isin(others), "excluded"].max()
    if others:
        said.append(f"no change of bias is shown for {listed(others)}, and one beyond ±{limit:.3f} is excluded")
    text = (
        f"Beside the same student trained alone ({of_bias['n'].max()} seeds, adjusted after Holm), {'; '.join(said)}."
    )
    return text, inflation.readable(changes.drop(columns="against"))


def _debiasing(grid):
    changes = tables.changes(grid)
    if changes.empty or changes["mad_half"].isna().all():
        return None
    counts = changes.groupby(list(PLAIN), sort=False)["helps"].agg(["sum", "size"])
    helpful = counts[counts["sum"] > 0].sort_values("sum", ascending=False, kind="stable")
    if helpful.empty:
        text = (
            f"None of {len(counts)} settings of debiasing halves the MAD of any method for a point of accuracy at most."
        )
    else:
        best = kind_name(dict(zip(PLAIN, helpful.index[0], strict=True)))
        text = (
            f"{len(helpful)} of {len(counts)} settings of debiasing halve the MAD of some method for a point of accuracy at "
            f"most; most often {best} ({helpful['sum'].iloc[0]} of {helpful['size'].iloc[0]} methods)."
        )
    return text, tables.debiasers(grid, changes)


def _collapsed(grid):
    means = tables.means(grid)
    count = int(means["degenerate"].sum())
    return (
        count and f"{count} of {len(means)} kinds of model collapsed in a seed at least; their low bias means nothing."
    )


def verdict(studies) -> list:
    """Return the verdict of `claims.published`: a list of (sentence, study that it rests on or "")."""
    said = [(claims.pooled(studies).splitlines()[0], "")]
    for name, say in {"digits_controls": _planted, "faces_debiasing": _faces}.items():
        if name in studies:
            said.append((say(studies[name]), name))
    return said


def _planted(study):
    grid = labelled(study[study["part"] == "grid"])
    before, after, fair = claims.beside_controls(grid)
    gain = paired_difference(*(controls.by_seed(grid, kind, "test_accuracy") for kind in (controls.OURS, {})))
    shown = sum(p < LEVEL for *_, p in fair)
    beside = "is not shown to differ from" if not shown else f"differs from {shown} of"
    return (
        f"A planted bias can be removed: balanced-teacher lowers the MAD of digits from {interval(before)[0]:.3f} to "
        f"{interval(after)[0]:.3f} ({len(before)} seeds; accuracy "
        f"{plus_minus(gain['difference'], gain['half'], sign='+')}), and {beside} its {len(fair)} fair controls."
    )


def _faces(study):
    plain, falls, shown = claims.falls(study)
    return (
        f"A bias that nobody planted resists: of a MAD of {interval(plain)[0]:.3f} between genders in faces, debiasers remove "
        f"{min(falls)[0]:.3f} to {max(falls)[0]:.3f} ({len(plain)} seeds; adjusted, the fall is shown for {shown or 'none'} of "
        f"{len(falls)} settings)."
    )


def unknown(studies) -> list:
    """Return what the studies at hand leave open, as sentences; studies: {name: table of `publish.study_table`}."""
    said = []
    missing = [name for name in profiles.built_in() if name not in studies]
    if missing:
        said.append(f"Not run yet, so no figure of theirs is claimed: {', '.join(missing)}.")
    seeds = {name: table["seed"].nunique() for name, table in studies.items()}
    fewest = min(seeds.values())
    few = sorted(name for name, count in seeds.items() if count == fewest)
    limits = [_excluded(studies[name]) for name in few]
    said.append(
        f"Small effects: {len(few)} of {len(studies)} studies have {fewest} seeds ({', '.join(few)})"
        + (f"; there a change of √U up to ±{max(limits):.3f} by distillation would be missed." if any(limits) else ".")
    )
    planted = [name for name, table in studies.items() if _is_planted(table)]
    said.append(
        f"Real attributes: in {len(planted)} of {len(studies)} studies the attribute is a simple one that was planted (a "
        f"colour, or its loss); {', '.join(sorted(set(studies) - set(planted))) or 'none'} measure what nobody planted."
    )
    largest = max(table["parameters"].max() for table in studies.values())
    devices = sorted({device for table in studies.values() for device in table["device"].unique()})
    said.append(
        f"Large networks: the largest here has {largest:,} parameters, and all were trained on {', '.join(devices)}."
    )
    return said


def _excluded(table):
    changes = pd.DataFrame() if table["seed"].nunique() < 2 else inflation.effects(table[table["part"] == "grid"])
    return 0 if changes.empty else changes.loc[changes["measure"] == "sqrt_u", "excluded"].max()


def _is_planted(table):
    """Whether the groups are drawn into the images, as in the sets whose names end so."""
    return bool(table["data"].isin(("digits_s", "cifar10s", "cifar100s")).all())
