"""Published CIFAR-100 accuracies, and the study's own beside them.

The published figures are top-1 in %, mostly of one run and of the best epoch *on test*, which exceeds the last epoch by .32 on
average and 1.01 at most; 240 epochs of crop and flip on all 50,000 training images, batch 64, SGD (Tian et al. 2020 and the
papers of each method). Ours are the last epoch, over seeds, trained on what validation leaves: 45,000 images, or 49,900 in
profile cifar100. Our best epoch on test is among those in which test was evaluated. What was not run here has no figure."""

import numpy as np
import pandas as pd

from kdlib import data, runs
from kdlib.bias.skew import skew_amplification
from kdlib.bias.stats import paired_difference
from kdlib.names import PLAIN, kind_name, method_name
from kdlib.report.tables import KIND, labelled, methods_of, select

_PAIRS = ("resnet56->resnet20", "resnet110->resnet32", "resnet32x4->resnet8x4", "wrn_40_2->wrn_16_2",
          "wrn_40_2->wrn_40_1", "vgg13->vgg8")  # fmt: skip
_TOP1 = {
    "teacher": (72.34, 74.31, 79.42, 75.61, 75.61, 74.64),
    "scratch": (69.06, 71.14, 72.50, 73.26, 71.98, 70.36),
    "ckd": (70.66, 73.08, 73.33, 74.92, 73.54, 72.98),
    "rkd": (69.61, 71.82, 71.90, 73.35, 72.22, 71.48),
    "ctkd": (71.19, 73.52, 73.39, 75.45, 73.93, 73.52),
    "kdpp": (72.53, None, 75.54, None, 74.59, None),
    "dkd": (71.97, 74.11, 76.32, 76.24, 74.81, 74.68),
}
PUBLISHED = {pair: {method: row[i] for method, row in _TOP1.items()} for i, pair in enumerate(_PAIRS)}
NOT_RUN = "not run"
# CIFAR-10S, ResNet-18, the protocol of profile cifar10s: accuracy in % and `skew_amplification`, a replication of Wang et al.
# (CVPR 2020) with 16 runs, mean ± standard deviation
SKEWED = {
    "teacher": ("88.54 ± 0.26", ".0739 ± .0019"),
    "teacher + domain-independent": ("92.31 ± 0.15", ".0051 ± .0007"),
}


def beside(table) -> pd.DataFrame:
    """Return the published accuracies and ours, in %.

    Returns
    -------
    DataFrame
        A row per pair, method and recipe, with the published pairs that were not run here. Ours: mean ± standard deviation over
        n seeds of the last epoch; the best epoch on test (only for comparison with theirs); and the difference from the student
        alone and from CKD, paired by seed, with p of the t-test.
    """
    plain = select(labelled(table), **PLAIN)
    distilled = plain[plain["teacher_key"].notna()]
    pairs = list(dict.fromkeys(f"{row.teacher}->{row.student}" for row in distilled.itertuples()))
    rows = [row for pair in pairs for row in _of_pair(plain, pair)]
    for pair in [pair for pair in PUBLISHED if pair not in pairs]:
        rows += [_row(pair, method, None) for method in PUBLISHED[pair]]
    return pd.DataFrame(rows)


def _of_pair(plain, pair):
    teacher, student = pair.split("->")
    distilled = plain[(plain["teacher"] == teacher) & (plain["student"] == student)]
    parts = {
        "teacher": plain[plain["key"].isin(distilled["teacher_key"])],
        "scratch": plain[(plain["method"] == "scratch") & (plain["student"] == student)],
    }
    for method in dict.fromkeys([*methods_of(distilled), *PUBLISHED.get(pair, {})]):
        if method in set(distilled["method"]):
            parts[method] = distilled[distilled["method"] == method]
        else:
            parts.setdefault(method, None)
    controls = {name: parts[name] for name in ("scratch", "ckd") if parts.get(name) is not None}
    rows = []
    for method, part in parts.items():
        if part is None or not len(part):
            rows.append(_row(pair, method, None))
            continue
        recipes = part.apply(recipe, axis=1)
        rows += [_row(pair, method, part[recipes == text], text, controls) for text in recipes.unique()]
    return rows


def _row(pair, method, part, text="", controls=None):
    published = PUBLISHED.get(pair, {}).get(method)
    row = {"pair": pair, "method": method_name(method), "published": f"{published:.2f}" if published else "–"}
    if part is None:
        return (
            row
            | {"ours, last epoch": NOT_RUN}
            | dict.fromkeys(("n", "best epoch on test", *_TESTS, "recipe", "device"), "")
        )
    accuracy, best = (100 * part[column].astype(float) for column in ("test_accuracy", "test_accuracy_best_epoch"))
    row |= {"ours, last epoch": _mean_and_std(accuracy), "n": len(part), "best epoch on test": _mean_and_std(best)}
    for column, control in zip(_TESTS, ("scratch", "ckd"), strict=True):
        other = controls.get(control)
        row[column] = "" if method in ("teacher", control) or other is None else _paired(part, other)
    return row | {"recipe": text, "device": ", ".join(part["device"].unique())}


_TESTS = ("against alone", "against CKD")


def _mean_and_std(values, digits=2):
    return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def _paired(part, other):
    """`+1.20 (p = 0.003)`: the mean difference in points over the seeds that both have, and p of the paired t-test."""
    test = paired_difference(_by_seed(part), _by_seed(other))
    if not test["n"]:
        return ""
    return f"{test['difference']:+.2f}" + ("" if np.isnan(test["p_value"]) else f" (p = {test['p_value']:.2g})")


def _by_seed(part):
    return 100 * part.drop_duplicates("seed").set_index("seed")["test_accuracy"].astype(float)


def skewed(table, dataset) -> pd.DataFrame:
    """Return test accuracy in % and `skew_amplification`, beside the published figures where the data set is CIFAR-10S.

    Returns
    -------
    DataFrame
        A row per kind of model, mean ± standard deviation over n seeds. Empty unless each group of the test split shows the
        same images.
    """
    source, group, rows = dataset.test.source, dataset.test.group, []
    images = [] if source is None else [np.sort(source[group == number]) for number in range(len(dataset.groups))]
    if len(images) < 2 or any(not np.array_equal(images[0], other) for other in images[1:]):
        return pd.DataFrame()
    for kind, part in labelled(table).groupby(KIND, sort=False):
        name = kind_name(dict(zip(KIND, kind, strict=True)))
        every = [runs.stored_predictions(key)["test_logits"].argmax(1) for key in part["key"]]
        values = [skew_amplification(data.bias_labels(dataset, predicted), group) for predicted in every]
        row = {"model": name, "n": len(part), "accuracy": _mean_and_std(100 * part["test_accuracy"].astype(float))}
        row["amplification"] = _mean_and_std(pd.Series(values), digits=4)
        if dataset.name == "cifar10s":
            row["published accuracy"], row["published amplification"] = SKEWED.get(name, ("–", "–"))
        rows.append(row)
    return pd.DataFrame(rows)


def recipe(row) -> str:
    """Return how a run was trained, in words: `240 epochs, step, lr 0.05, batch 64, nesterov, kd=3.5`."""
    text = f"{row['epochs']} epochs, {row['schedule'].replace('_', '-')}, lr {row['lr']:g}, batch {row['batch_size']}"
    text += ", nesterov" if row["nesterov"] else ""
    text += ", bfloat16" if row.get("precision") == "bfloat16" else ""
    for name in ("temperature", "ramp"):
        if row.get(name) is not None and not pd.isna(row[name]):
            text += f", {name} {row[name]:g}"
    text += f", {row['method_options']}" if row.get("method_options") else ""
    return text if row.get("weights", "none") == "none" else "the published checkpoint"


def ablation(parts) -> pd.DataFrame:
    """Return the parts of a method, {name: table of its runs}, compared with the first of them.

    Returns
    -------
    DataFrame
        A row per part: mean test accuracy in % ± standard deviation, n, and the difference, paired by seed.
    """
    first, first_part = next(iter(parts.items()))
    return pd.DataFrame(
        {
            "model": name,
            "test accuracy": _mean_and_std(100 * part["test_accuracy"].astype(float)),
            "n": len(part),
            f"against {first}": "" if name == first else _paired(part, first_part),
        }
        for name, part in parts.items()
    )


def steps(parts, pairs) -> pd.DataFrame:
    """Return what each change brings: pairs is {change: (name of a part, name of the part without it)}."""
    return pd.DataFrame(
        {"change": change, "brings": _paired(parts[one], parts[other])} for change, (one, other) in pairs.items()
    )
