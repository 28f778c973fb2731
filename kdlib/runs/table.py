"""Records of finished runs as a table, with every metric computed from the stored predictions.

A metric that is new, or was mended, therefore has its figures for every run that is in the store, without training. They are
kept in `metrics.json` beside the record, under a version: a hash of the code that computes them."""

import functools
import hashlib
import importlib.metadata

import numpy as np
import pandas as pd

from kdlib import bias, data, evaluate, files, paths
from kdlib.runs import store
from kdlib.runs.settings import Run, as_run, from_record

COMPUTED_BY = ("evaluate.py", "runs/table.py", "data/splits.py")  # beside the bias package
PROVENANCE = ("key", "teacher_key", "seconds", "commit", "device")


def table(settings) -> pd.DataFrame:
    """Return one row per run: its settings, metrics, cost and provenance.

    Parameters
    ----------
    settings : iterable of Run or dict

    Returns
    -------
    DataFrame
        Metrics are named by split and metric (`test_accuracy`, `val_mad`), those of a student against its teacher
        `vs_teacher_…`.

    Raises
    ------
    ValueError
        For a run that is not in the store, and for files that do not match their record.
    """
    rows = []
    for run in map(as_run, settings):
        record = store.stored(run)
        if record is None:
            raise ValueError(f"this run is not in the store, so it has no results yet: {run}")
        provenance = {name: record[name] for name in PROVENANCE}
        rows.append(from_record(record["settings"]) | flat(metrics(run, record)) | record["cost"] | provenance)
    return pd.DataFrame(rows).copy()  # in one piece, so that columns can be added


def metrics(run: Run, record) -> dict:
    """Return the metrics of a finished run, from its predictions; cached until the code of a metric changes.

    Returns
    -------
    dict
        `val` and `test` (dicts of performance and `bias.summary`), `vs_teacher` (of `bias.compare`, where there is a teacher)
        and `test_accuracy_best_epoch`, from the record.
    """
    file = paths.runs_folder() / record["key"] / "metrics.json"
    sources = [record] + ([store.stored_record(record["teacher_key"])] if record["teacher_key"] else [])
    of = [
        each and each.get("files", {}).get("predictions.npz") for each in sources
    ]  # metrics of other predictions are none
    store.checked_file(record["key"], "predictions.npz")
    try:
        cached = files.read_json(file)
        if cached["version"] == version() and cached["of"] == of and files.SEAL in cached:
            return cached["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or damaged: computed again below
    teacher = record["teacher_key"]
    teacher_classes = None if teacher is None else predicted_classes(store.stored_predictions(teacher))
    values = metrics_of(run.load_data(), predicted_classes(store.stored_predictions(record["key"])), teacher_classes)
    values["test_accuracy_best_epoch"] = record["metrics"]["test_accuracy_best_epoch"]
    with files.only_writer(file.parent):
        return files.write_sealed(file, {"version": version(), "of": of, "metrics": values})["metrics"]


def predicted_classes(arrays) -> dict:
    """Return labels, groups and predicted classes, int64 (N,), of val and test, from the arrays of `store.predictions`."""
    classes = {name: values for name, values in arrays.items() if not name.endswith("_logits")}
    return classes | {f"{name}_predicted": arrays[f"{name}_logits"].argmax(1) for name in ("val", "test")}


def metrics_of(dataset, classes, teacher_classes=None, splits=("val", "test")) -> dict:
    """Return the metrics of predicted classes: see `metrics`.

    Where the test split shows the same image in several groups, its figures are paired.

    Parameters
    ----------
    dataset : data.Dataset
        Whose classes and groups are predicted; bias is measured on `data.bias_classes`. Its images are not read.
    classes, teacher_classes : dict
        Of `predicted_classes`, of the network and of its teacher.
    splits : sequence of str
        Whose metrics are wanted.
    """
    options, values = {"num_classes": len(data.bias_classes(dataset))}, {}
    pairs = {"val": None, "test": pairs_of(dataset.test)}
    for name in splits:
        truth, predicted, group = (classes[f"{name}_{part}"] for part in ("labels", "predicted", "group"))
        performance = evaluate.performance(truth, predicted, len(dataset.classes))
        labels, guesses = (data.bias_labels(dataset, numbers) for numbers in (truth, predicted))
        # accuracy is that on the classes as they are, not on merged ones
        values[name] = performance | bias.summary(labels, guesses, group, pair=pairs[name], **options) | performance
    if teacher_classes is not None:
        numbers = classes["test_labels"], teacher_classes["test_predicted"], classes["test_predicted"]
        labels, teacher_guesses, guesses = (data.bias_labels(dataset, each) for each in numbers)
        group = classes["test_group"]
        values["vs_teacher"] = bias.compare(labels, teacher_guesses, guesses, group, pair=pairs["test"], **options)
    return values


def pairs_of(split):
    """Return the `source` of a split that shows most of its originals in several groups, as the planted sets do; else None.

    A few twins among photographs are no reason to speak of pairs, nor are persons who were photographed several times."""
    if split.source is None or not bias.is_paired(split.source, split.group):
        return None
    known = split.group >= 0
    originals = pd.DataFrame({"source": split.source[known], "group": split.group[known]})
    groups = originals.groupby("source")["group"].nunique()
    if originals.duplicated().any():  # different images of one person in one group
        return None
    return split.source if (groups > 1).mean() > 0.5 else None


def flat(values) -> dict:
    """Return nested metrics as one dict: {"test": {"mad": …}} as {"test_mad": …}."""
    result = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result |= {f"{name}_{part}": item for part, item in value.items()}
        else:
            result[name] = value
    return result


@functools.cache
def version() -> str:
    """Return a hash of the code behind the metrics, and of the versions of numpy and scikit-learn."""
    digest = hashlib.sha256(f"{np.__version__} {importlib.metadata.version('scikit-learn')}".encode())
    for file in (*sorted((paths.PACKAGE / "bias").glob("*.py")), *(paths.PACKAGE / name for name in COMPUTED_BY)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
