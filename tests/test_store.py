"""The table of a store: metrics computed from predictions, whatever the record says, and files that fit their record."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from kdlib import bias, paths, runs
from kdlib.data import Split
from kdlib.runs import Run, run, store
from kdlib.runs.table import metrics, pairs_of, table, version

SMALL = {"student": "convnet_4", "teacher": "convnet_8", "epochs": 1}


@pytest.fixture
def finished(tiny):
    run(Run(**SMALL, method_options="kd=2"), log=list)
    return Run(**SMALL, method_options="kd=2")


def forget(settings):
    (settings.folder / "metrics.json").unlink(missing_ok=True)


def edit(settings, **changes):
    file = settings.folder / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_table_does_not_believe_what_was_frozen_in_the_record(finished):
    before = table([finished])
    record = runs.stored(finished)
    wrong = {"test_accuracy_best_epoch": 0.5, "test": {"accuracy": 0.123, "mad": 9.0}, "val": {}, "vs_teacher": {}}
    edit(finished, metrics=wrong)
    forget(finished)
    after = table([finished])
    assert after["test_accuracy"].item() == before["test_accuracy"].item() == record["metrics"]["test"]["accuracy"]
    assert after["vs_teacher_inflation"].item() == record["metrics"]["vs_teacher"]["inflation"]
    pd.testing.assert_frame_equal(
        before.drop(columns="test_accuracy_best_epoch"), after.drop(columns="test_accuracy_best_epoch")
    )


def test_a_metric_that_is_added_has_its_figure_for_runs_that_are_finished(finished, monkeypatch):
    before = table([finished])
    original = bias.summary

    def with_one_more(y_true, y_pred, group, **options):
        return original(y_true, y_pred, group, **options) | {"lowest_recall": float(np.mean(y_true == y_pred)) / 2}

    monkeypatch.setattr(bias, "summary", with_one_more)
    assert "test_lowest_recall" not in table([finished]), "kept until the code of the metrics changes"
    monkeypatch.setattr("kdlib.runs.table.version", lambda: "another")
    after = table([finished])
    assert after["test_lowest_recall"].item() == before["test_accuracy"].item() / 2
    assert "test_lowest_recall" in table([finished])


def test_the_version_follows_the_code_of_the_metrics(tmp_path, monkeypatch):
    files = sorted((paths.ROOT / "kdlib" / "bias").glob("*.py"))
    assert len(files) > 5
    before = version()
    copied = tmp_path / "kdlib"
    shutil.copytree(paths.ROOT / "kdlib", copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(paths, "PACKAGE", copied)
    version.cache_clear()
    assert version() == before
    for name in ("bias/metrics.py", "evaluate.py", "data/splits.py"):
        (copied / name).write_text((copied / name).read_text() + "\n")
        version.cache_clear()
        assert version() != before
        before = version()
    version.cache_clear()


def test_a_damaged_cache_of_metrics_is_computed_again(finished):
    before = table([finished])
    file = finished.folder / "metrics.json"
    for damage in (
        "{",
        "[]",
        json.dumps({"version": version()}),
        json.dumps({"version": "older", "metrics": {"test": {}}}),
    ):
        file.write_text(damage)
        pd.testing.assert_frame_equal(table([finished]), before)
    assert json.loads(file.read_text())["version"] == version()


def test_a_file_that_does_not_fit_its_record_is_refused_by_name(finished):
    assert set(runs.stored(finished)["files"]) == {"model.safetensors", "predictions.npz", "history.csv"}
    readers = {
        "predictions.npz": lambda: runs.predictions(finished),
        "history.csv": lambda: runs.history(finished),
        "model.safetensors": lambda: runs.load_model(finished),
    }
    for name, read in readers.items():
        file = finished.folder / name
        content = file.read_bytes()
        read()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=f"{name} does not match"):
            read()
        file.unlink()
        with pytest.raises(ValueError, match=f"{name} is missing"):
            read()
        file.write_bytes(content)
    predictions = finished.folder / "predictions.npz"
    predictions.write_bytes(predictions.read_bytes() + b"0")
    with pytest.raises(ValueError, match=r"predictions\.npz does not match"):
        table([finished])


def test_records_of_earlier_versions_are_read(finished):
    before = table([finished])
    record = runs.stored(finished)
    settings = {name: value for name, value in record["settings"].items() if name != "method_options"}
    settings |= {"ce": None, "kd": 2.0, "nd": None, "alpha": None, "beta": None}
    file = finished.folder / "record.json"
    earlier = {name: value for name, value in record.items() if name != "files"} | {"settings": settings}
    file.write_text(json.dumps(earlier))
    after = table([finished])
    assert after["method_options"].item() == "kd=2"
    pd.testing.assert_frame_equal(before, after[before.columns])
    assert store.checked_file(record["key"], "predictions.npz").exists()


def test_a_run_that_is_not_in_the_store_is_named(tiny):
    with pytest.raises(ValueError, match="not in the store"):
        table([Run(**SMALL)])


def test_metrics_of_a_student_need_its_teachers_predictions(finished):
    forget(finished)
    (finished.teacher_run().folder / "predictions.npz").unlink()
    with pytest.raises(ValueError, match=finished.teacher_run().key):
        metrics(finished, runs.stored(finished))


def test_a_planted_test_split_is_paired_and_a_few_twins_are_no_pairs(digits):
    assert pairs_of(digits.test) is digits.test.source
    assert pairs_of(digits.train) is None
    images, labels = np.zeros((6, 1, 2, 2), np.uint8), np.zeros(6, int)
    group = np.array([0, 1, 0, 1, 0, -1])
    twins = Split(images, labels, group, source=np.array([7, 7, 1, 2, 3, 4]))
    assert bias.is_paired(twins.source, group)
    assert pairs_of(twins) is None
    mostly = Split(images, labels, group, source=np.array([7, 7, 1, 1, 3, 4]))
    assert pairs_of(mostly) is mostly.source
    persons = Split(images, labels, group, source=np.array([7, 7, 7, 7, 3, 4]))
    assert pairs_of(persons) is None, "different images of a person"
    assert pairs_of(Split(images, labels, group)) is None
