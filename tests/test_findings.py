"""Bias figures from stored predictions: of arrays that are known, and of a run that was trained here."""

import dataclasses

import numpy as np
import pytest
from bias_examples import close, render, simulate
from scipy import stats

from kdlib import bias, data, runs
from kdlib.report import bias_figures, findings, tables


@pytest.fixture
def stored(monkeypatch, digits):
    """A function (groups) -> {kind: settings}: three teachers, and students three times as biased, as if they had been run."""

    def make(groups=2, merged=()):
        rng = np.random.default_rng(0)
        y, _, g = simulate(rng, classes=10, per_cell=20, groups=groups)
        g[:10] = -1
        arrays = {}
        for name, disparity in (("teacher", 0.1), ("ckd", 0.3)):
            for seed in range(3):
                predicted = simulate(rng, classes=10, per_cell=20, groups=groups, disparity=disparity)[1]
                logits = rng.normal(size=(len(y), 10)).astype(np.float32) + 4 * np.eye(10, dtype=np.float32)[predicted]
                arrays[name, seed] = {"test_logits": logits, "test_labels": y, "test_group": g}
        test = dataclasses.replace(
            digits.test, images=np.zeros((len(y), 1, 1, 1), np.uint8), labels=y, group=g, group_share=None,
            source=np.arange(len(y)),
        )  # fmt: skip
        names = tuple("abcdef"[:groups])
        dataset = dataclasses.replace(digits, test=test, groups=names, merged=merged, fingerprint="simulated")
        monkeypatch.setattr(runs, "predictions", lambda run: arrays[run["method"], run["seed"]])
        monkeypatch.setattr(runs, "as_run", lambda run: _Stub(dataset, run["seed"]))
        return {name: [{"method": name, "seed": seed} for seed in range(3)] for name in ("teacher", "ckd")}

    return make


class _Stub:
    def __init__(self, dataset, seed):
        self.load_data, self.seed = lambda: dataset, seed


def test_disparities_and_recalls_are_those_of_the_predictions(stored):
    kinds = stored()
    arrays = runs.predictions(kinds["ckd"][1])
    expected = arrays["test_labels"], arrays["test_logits"].argmax(1), arrays["test_group"]
    close(tables.disparities(kinds["ckd"])[1], bias.class_disparity(*expected))
    close(tables.recalls(kinds["ckd"])[1], bias.class_recall(*expected))
    one = tables.tested(kinds["ckd"][1])
    close(one.probabilities.sum(1), np.ones(len(one.labels)))
    close(one.probabilities.argmax(1), expected[1])


def test_probabilities_of_merged_classes_are_summed(stored):
    kinds = stored(merged=(0, 0, 1, 2, 3, 4, 5, 6, 7, 8))
    apart = runs.predictions(kinds["ckd"][0])["test_logits"].astype(float)
    apart = np.exp(apart) / np.exp(apart).sum(1, keepdims=True)
    one = tables.tested(kinds["ckd"][0])
    assert one.probabilities.shape[1] == 9
    close(one.probabilities[:, 0], apart[:, 0] + apart[:, 1])
    close(one.probabilities[:, 8], apart[:, 9])
    assert one.labels.max() == 8
    assert tables.disparities(kinds["ckd"]).shape == (3, 9)


def test_spread_tells_seeds_from_images(stored):
    kinds = stored()
    shown = findings.spread(kinds, n=200).set_index("model")
    assert list(shown.index) == ["teacher", "CKD"]
    every = [tables.tested(run) for run in kinds["ckd"]]
    values = [bias.mean_absolute_disparity(one.labels, one.predicted, one.group) for one in every]
    assert shown.loc["CKD", "mean"] == f"{np.mean(values):.3f}"
    assert shown.loc["CKD", "std over seeds"] == f"{np.std(values, ddof=1):.3f}"
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert shown.loc["CKD", "95 % over seeds"] == f"{low:.3f} to {high:.3f}"
    assert shown.loc["CKD", "95 % over images"] != shown.loc["CKD", "95 % over seeds"]


def test_class_tests_name_the_classes_that_changed(stored):
    kinds, names = stored(), [f"class {k}" for k in range(10)]
    shown = findings.class_tests(kinds["teacher"], {"ckd": kinds["ckd"]}, names).iloc[0]
    labels, teachers, group, _ = tables.population(kinds["teacher"])
    found = bias.class_tests(labels, teachers, tables.population(kinds["ckd"])[1], group)
    assert shown["classes tested"] == 10
    assert shown["p < .05"] == (found["p_value"] < 0.05).sum()
    named = [f"class {k} ({found['change'][k]:+.2f})" for k in np.flatnonzero(found["p_adjusted"] < 0.05)]
    assert shown["after adjustment"] == (", ".join(named) or "none")
    assert shown["largest change"].startswith(f"class {np.argmax(np.abs(found['change']))}: ")
    loose = findings.class_tests(kinds["teacher"], {"ckd": kinds["ckd"]}, names, level=0.9).iloc[0]
    assert loose["after adjustment"].count("class") > shown["after adjustment"].count("class")


def test_leakage_and_calibration_of_stored_runs(stored):
    kinds = stored()
    rows = findings.leakage(kinds, folds=2, repeats=1, n=2)
    assert rows[["kind", "seed"]].values.tolist() == [[name, seed] for name in kinds for seed in range(3)]
    assert (rows["images"] == 390).all()
    assert (rows["unknown"] == 10).all()
    words = findings.leakage_in_words(rows).set_index("model")
    assert words.loc["CKD", "attacker"].startswith(f"{rows.loc[rows['kind'] == 'ckd', 'attacker'].mean():.3f} ± ")
    found, gaps, (low, high) = findings.calibration(kinds["ckd"], bins=5, n=30)
    assert found.count.sum() == 3 * 390
    one = tables.tested(kinds["ckd"][2])
    close(gaps[2], bias.calibration_gap(one.labels, one.probabilities, one.group, bins=5))
    assert low < 0 < high


def test_one_teacher_stands_beside_all_its_students(stored):
    kinds = stored()
    teachers, students = findings.inherited(kinds["teacher"][:1], kinds["ckd"])
    assert teachers.shape == students.shape == (3, 10)
    close(teachers[2], tables.disparities(kinds["teacher"])[0])


@pytest.mark.parametrize("groups", [2, 3])
def test_every_figure_is_drawn_whatever_the_number_of_groups(stored, groups):
    """The analysis of an attribute with many values must not stop at a figure or a table."""
    kinds = stored(groups)
    dataset = runs.as_run(kinds["ckd"][0]).load_data()
    classes = data.bias_classes(dataset)
    rows = {name: tables.disparities(settings) for name, settings in kinds.items()}
    recalls = {name: tables.recalls(settings) for name, settings in kinds.items()}
    calibrations = {name: findings.calibration(settings, n=5) for name, settings in kinds.items()}
    inherited = {"ckd": findings.inherited(kinds["teacher"], kinds["ckd"])}
    drawings = [
        bias_figures.disparity_by_class(rows, classes, note="a note"),
        bias_figures.heat_map(rows, classes, note="a note"),
        bias_figures.recall_by_group(recalls, classes, dataset.groups, note="a note"),
        bias_figures.inheritance(inherited, classes, note="a note"),
        bias_figures.reliability(calibrations, dataset.groups, note="a note"),
        bias_figures.leakage(findings.leakage(kinds, folds=2, repeats=1, n=1), note="a note"),
    ]
    for drawing in drawings:
        render(drawing)
        assert "a note" in drawing.get_supxlabel()
    for drawing in (drawings[2], drawings[4]):
        assert [text.get_text() for text in drawing.legends[0].get_texts()] == list(dataset.groups)
    found = findings.exemplars(kinds["teacher"], kinds, dataset.groups)
    assert found["share"].iloc[0] == "0.000"
    assert float(found["share"].iloc[1]) > 0.03
    assert len(findings.class_tests(kinds["teacher"], kinds, classes)) == 2
    assert len(findings.spread(kinds, n=20)) == 2
    one = kinds["teacher"][:1]  # one teacher for all seeds
    assert findings.spread({"teacher": one}, n=20)["95 % over seeds"].iloc[0] == "one seed"
    assert len(findings.class_tests(one, kinds, classes)) == len(findings.exemplars(one, kinds, dataset.groups)) == 2
    render(bias_figures.reliability({"teacher": findings.calibration(one, n=5)}, dataset.groups, note="a note"))
    assert (rows["teacher"] < 0).any() == (groups == 2), "a range is unsigned"


def test_a_run_on_an_attribute_with_many_values_has_its_record(tiny, monkeypatch):
    """Race has five values: a run's record must not stop at them, nor lose what can be said."""
    splits = {name: dataclasses.replace(split, group=np.arange(len(split)) % 3) for name, split in tiny.splits.items()}
    many = dataclasses.replace(tiny, groups=("x", "y", "z"), fingerprint="three groups", **splits)
    monkeypatch.setattr(data, "load", lambda name, **options: many)
    run = {"epochs": 1, "student": "convnet_4", "teacher": "convnet_8"}
    record = runs.run(run, log=lambda line: None)
    arrays = runs.predictions(run)
    labels, predicted = arrays["test_labels"], arrays["test_logits"].argmax(1)
    recalls = bias.class_recall(labels, predicted, arrays["test_group"], num_classes=10)
    assert recalls.shape == (3, 10)
    close(record["metrics"]["test"]["mad"], np.mean(np.nanmax(recalls, axis=0) - np.nanmin(recalls, axis=0)))
    assert 0 < record["metrics"]["test"]["mad_p_value"] <= 1
    assert "accuracy_group_2" in record["metrics"]["test"]
    assert {"inflation", "churn_group_2"} <= set(record["metrics"]["vs_teacher"])
    assert record["metrics"]["vs_teacher"]["correlation"] is None, "a signed figure is undefined, and JSON has no NaN"
