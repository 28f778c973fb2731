"""λ chosen on the validation split alone, and the runs of the chosen kinds."""

import numpy as np
import pandas as pd

from kdlib import bias, data
from kdlib.bias.tables import mean_of
from kdlib.names import PLAIN
from kdlib.report import evidence
from kdlib.report.tables import labelled, select

TOLERANCE = 0.01  # of accuracy on validation, that a less biased λ may cost


def rare_group_gap(y_true, y_pred, group, rare) -> float:
    """Return the accuracy on images of their class's common group minus that on images of its rare group.

    Parameters
    ----------
    y_true, y_pred, group : int arrays (N,)
        Images of an unknown group (−1) are left out.
    rare : int array (K,)
        The group that is rarer in each class in training; −1 where both are as common, and the class is left out.

    Returns
    -------
    float
        NaN where either part is empty.
    """
    chosen = (group >= 0) & (rare[y_true] >= 0)
    right, in_rare = (y_true == y_pred)[chosen], (group == rare[y_true])[chosen]
    if not in_rare.any() or in_rare.all():
        return np.nan
    return float(right[~in_rare].mean() - right[in_rare].mean())


def group_balanced_accuracy(y_true, y_pred, group) -> float:
    """Return the accuracy if the groups of each class counted alike.

    It is the mean over classes, weighted by their images, of the mean of their groups' recalls. A class without a known group
    counts with its recall.

    Parameters
    ----------
    y_true, y_pred, group : int arrays (N,)
        The group is −1 where unknown.
    """
    known, every = (
        mean_of(bias.class_recall(y_true, y_pred, groups), axis=0) for groups in (group, np.zeros_like(group))
    )
    recall = np.where(np.isnan(known), every, known)
    return float(mean_of(recall, np.bincount(y_true, minlength=len(recall))))


def on_validation(table, proof=None) -> pd.DataFrame:
    """Return the table with what λ is chosen by, both on the validation split.

    Validation is cut from training. Where training is skewed, plain accuracy on it rewards the shortcut that debiasing should
    remove: on CIFAR-100 with planted grey, plain distillation has .45 there, .28 with the groups alike, and .29 on test.

    Parameters
    ----------
    table : DataFrame
        A row per run.
    proof : evidence.Evidence, optional
        The data set and the runs' predicted classes; default: those of the run store.

    Returns
    -------
    DataFrame
        With the columns val_balanced_accuracy (`group_balanced_accuracy`), val_bias, and criterion, which names that bias: √U⁺
        where at least half of the classes have two images in each group; else the absolute `rare_group_gap`, as U is not
        defined for single images; with more than two groups MAD, as U is for two.
    """
    proof = proof or evidence.of_store(table)
    dataset = proof.dataset
    counts = {name: data.class_by_group(dataset.splits[name], dataset, merged=True) for name in ("train", "val")}
    has_groups = counts["train"].any(axis=1)
    predictions = [_val_predictions(proof, key) for key in table["key"]]
    table = table.copy().assign(val_balanced_accuracy=[group_balanced_accuracy(*arrays) for arrays in predictions])
    if len(dataset.groups) > 2:
        return table.assign(val_bias=table["val_mad"].astype(float), criterion="MAD")
    if 2 * (counts["val"][has_groups] >= 2).all(axis=1).sum() >= has_groups.sum():
        return table.assign(val_bias=table["val_sqrt_u"].astype(float).clip(lower=0), criterion="√U⁺")
    tied = (counts["train"] == counts["train"][:, :1]).all(axis=1)
    rare = np.where(tied, -1, counts["train"].argmin(axis=1))
    gaps = []
    for truth, predicted, group in predictions:
        labels, guesses = data.bias_labels(dataset, truth), data.bias_labels(dataset, predicted)
        gaps.append(rare_group_gap(labels, guesses, group, rare))
    return table.assign(val_bias=np.abs(gaps), criterion="rare group's gap")


def _val_predictions(proof, key):
    """Labels, predictions and groups of a finished run on validation, each (N,)."""
    classes = proof.predictions(key)
    return classes["val_labels"], classes["val_predicted"], classes["val_group"]


def students(table) -> pd.DataFrame:
    """Return the rows that show what a debiaser does to a student: no teachers, and no students of debiased teachers."""
    table = labelled(table)
    return select(table[table["method"] != "teacher"], teacher_debias="none")


def choose(table, tolerance=TOLERANCE) -> pd.DataFrame:
    """Return the λ of each method × debiaser, chosen on validation alone.

    Among the λ (0 included) whose mean `val_balanced_accuracy` is within `tolerance` of the best, the one with the least mean
    `val_bias` is chosen; of equals, the smallest. A debiaser without a strength has nothing to choose.

    Parameters
    ----------
    table : DataFrame
        Of `on_validation`. NaN counts as the worst bias.

    Returns
    -------
    DataFrame
        method, debias, lam, candidates (their number), criterion.

    Raises
    ------
    ValueError
        Where no candidate has a bias figure.
    """
    table = students(table)
    rows = []
    for (method, debias), group in table[table["debias"] != "none"].groupby(["method", "debias"], sort=False):
        if (group["lam"] > 0).any():
            group = pd.concat([select(table, **PLAIN, method=method), group])
        means = group.groupby("lam")[["val_balanced_accuracy", "val_bias"]].mean()
        if len(means) > 1 and means["val_bias"].isna().all():
            raise ValueError(
                f"no λ of {debias} on {method} can be chosen: validation has no bias figure (NaN for each)"
            )
        accuracy = means["val_balanced_accuracy"]
        candidates = means[accuracy >= accuracy.max() - tolerance]["val_bias"].fillna(np.inf)
        criterion = group["criterion"].iloc[0] if len(means) > 1 else "no λ"
        rows.append((method, debias, float(candidates.idxmin()), len(means), criterion))
    return pd.DataFrame(rows, columns=["method", "debias", "lam", "candidates", "criterion"])


def at_edge(table, chosen) -> pd.DataFrame:
    """Return the rows of `choose` whose λ is the largest of several that were tried: there a larger one may do better."""
    largest = students(table).groupby(["method", "debias"])["lam"].max()
    tried = [largest[choice.method, choice.debias] for choice in chosen.itertuples()]
    return chosen[(chosen["lam"] == tried) & (chosen["candidates"] > 2)]  # 0 is a candidate, too


def at_choice(table, chosen) -> pd.DataFrame:
    """Return the rows of the chosen kinds, and the plain ones.

    Each is under its debiaser's name, even where λ = 0, plain distillation, was chosen."""
    table = students(table)
    parts = [select(table, **PLAIN)]
    for choice in chosen.itertuples():
        plain = choice.lam == 0 and choice.criterion != "no λ"
        rows = select(table, method=choice.method, debias="none" if plain else choice.debias, lam=choice.lam)
        parts.append(rows.assign(debias=choice.debias))
    return pd.concat(parts)


def in_common(table, chosen):
    """Return (table, chosen) of the methods that every debiaser was trained with, so that means compare like with like.

    A debiaser that needs a teacher is not for the student alone."""
    methods = chosen.groupby("debias")["method"].agg(set)
    common = set.intersection(*methods) if len(methods) else set()
    return table[labelled(table)["method"].isin(common)], chosen[chosen["method"].isin(common)]
