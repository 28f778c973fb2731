"""What a published study keeps of its runs, small enough to commit: their predicted classes, from which its figures follow.

`predictions.npz` holds the labels, groups and sources of the splits and the classes that each run predicted on validation and
test; `study.json` holds the names of classes and groups and how the study was run. No image is in either."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib import bias, files, runs
from kdlib.data import Dataset, Split, bias_classes, bias_labels
from kdlib.runs.table import flat, metrics_of, predicted_classes

SPLITS = ("train", "val", "test")
VALIDATION = ("val_accuracy", "val_mad", "val_sqrt_u")  # what selection reads; the rest of validation is not published
NAMES = ("name", "classes", "groups", "merged")


@dataclass(frozen=True)
class Evidence:
    """The data set of a study (perhaps without its images) and the predicted classes of its runs.

    Attributes
    ----------
    dataset : data.Dataset
    predictions : callable
        key -> dict of int arrays: val_labels, val_group, val_predicted, and the same for test.
    """

    dataset: Any
    predictions: Any

    def metrics(self, row) -> dict:
        """Return a run's published metrics from its predictions and its teacher's, named as in a table (`test_mad`, …)."""
        teacher, classes = row["teacher_key"], self.predictions(row["key"])
        teacher_classes = self.predictions(teacher) if isinstance(teacher, str) else None
        tested = flat(metrics_of(self.dataset, classes, teacher_classes, splits=("test",)))
        return files.plain(self._on_validation(classes) | tested)

    def _on_validation(self, classes):
        """The figures of VALIDATION."""
        truth, predicted, group = (classes[f"val_{part}"] for part in ("labels", "predicted", "group"))
        arrays = bias_labels(self.dataset, truth), bias_labels(self.dataset, predicted), group
        options = {"num_classes": len(bias_classes(self.dataset))}
        mad = bias.mean_absolute_disparity(*arrays, **options)
        root = np.nan
        if len(self.dataset.groups) == 2:
            root = bias.signed_root(bias.mean_square_disparity(*arrays, **options))
        return dict(zip(VALIDATION, (float((truth == predicted).mean()), mad, root), strict=True))


def of_store(table) -> Evidence:
    """Return the evidence of a table's runs from the run store and the data set on this machine."""
    row = table.iloc[0]
    skew = row.get("skew")
    options = row["data_options"] if isinstance(row.get("data_options"), str) else ""
    dataset = runs.load_data(row["data"], None if skew is None or pd.isna(skew) else float(skew), options)
    return Evidence(dataset, lambda key: predicted_classes(runs.stored_predictions(key)))


def write(folder, table, evidence, provenance):
    """Write the evidence of a table's runs into `folder`.

    Parameters
    ----------
    folder : Path
    table : DataFrame
        Of `runs.table.table`, a row per run.
    evidence : Evidence
    provenance : dict
        How the study was run: command, date, versions.
    """
    arrays, keys = {}, sorted(set(table["key"]))
    for name in SPLITS:
        split = evidence.dataset.splits[name]
        for field in fields(Split):
            values = getattr(split, field.name)
            if field.name not in ("images", "names") and values is not None:
                arrays[f"{name}_{field.name}"] = _small(values)
    predictions = {key: evidence.predictions(key) for key in keys}
    for name in ("val", "test"):
        whole = len(evidence.dataset.splits[name])
        rows = [key for key in keys if len(predictions[key][f"{name}_predicted"]) == whole]
        arrays[f"{name}_keys"] = np.array(rows)
        arrays[f"{name}_predicted"] = _small(np.stack([predictions[key][f"{name}_predicted"] for key in rows]))
        for key in set(keys).difference(rows):  # a debiaser that refits on a part of validation leaves the rest
            for part in ("labels", "group", "predicted"):
                arrays[f"{key}_{name}_{part}"] = _small(predictions[key][f"{name}_{part}"])
    with files.replacing(Path(folder) / "predictions.npz", ".npz") as temporary:
        np.savez_compressed(temporary, **arrays)
    names = {name: getattr(evidence.dataset, name) for name in NAMES}
    files.write_json(Path(folder) / "study.json", {"dataset": names, "provenance": provenance})


def read(folder) -> tuple[Evidence, dict]:
    """Return the evidence that `write` left in `folder`, and the provenance. The data set has no images."""
    study = json.loads((Path(folder) / "study.json").read_text())
    with np.load(Path(folder) / "predictions.npz") as stored:
        arrays = {
            name: values.astype(np.int64) if values.dtype.kind in "iu" else values for name, values in stored.items()
        }
    splits = {}
    for name in SPLITS:
        given = {field.name: arrays.get(f"{name}_{field.name}") for field in fields(Split)}
        splits[name] = Split(**given | {"images": np.empty((len(given["labels"]), 0, 0, 0), np.uint8)})
    names = {name: tuple(value) if isinstance(value, list) else value for name, value in study["dataset"].items()}
    rows = {name: {key: row for row, key in enumerate(arrays[f"{name}_keys"])} for name in ("val", "test")}

    def predictions(key):
        result = {}
        for name in ("val", "test"):
            if key in rows[name]:
                split = splits[name]
                values = split.labels, split.group, arrays[f"{name}_predicted"][rows[name][key]]
            else:
                values = tuple(arrays[f"{key}_{name}_{part}"] for part in ("labels", "group", "predicted"))
            result |= dict(zip((f"{name}_labels", f"{name}_group", f"{name}_predicted"), values, strict=True))
        return result

    return Evidence(Dataset(**names, **splits), predictions), study["provenance"]


def _small(values):
    """Return an array in the smallest type that holds it."""
    values = np.asarray(values)
    if values.dtype.kind != "i" or not values.size:
        return values
    return values.astype(np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max())))
