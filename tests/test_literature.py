"""The table beside the literature: published figures, ours only where they were measured, and paired tests."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdlib import runs
from kdlib.report import literature


def row(method, seed, accuracy, teacher="resnet56", student="resnet20", **more):
    alone = method == "scratch"
    base = dict(
        method=method, seed=seed, test_accuracy=accuracy, test_accuracy_best_epoch=accuracy + 0.01, student=student,
        teacher="" if alone else teacher, key=f"{method}{student}{seed}{more}", teacher_key=None if alone else teacher,
        debias="none", lam=0.0, teacher_debias="none", teacher_lam=0.0, epochs=240, schedule="step", lr=0.05, batch_size=64,
        nesterov=False, device="cpu", method_options="",
    )  # fmt: skip
    return base | more


@pytest.fixture
def table():
    alone, ckd = [0.68, 0.69, 0.70], [0.70, 0.72, 0.715]
    rows = [row("scratch", 0, 0.72, student="resnet56", key="resnet56")]
    rows += [row("scratch", seed, value) for seed, value in enumerate(alone)]
    rows += [row("ckd", seed, value) for seed, value in enumerate(ckd)]
    rows += [
        row("ckd", seed, value, lr=0.1, nesterov=True, method_options="kd=3.5") for seed, value in enumerate(alone)
    ]
    return pd.DataFrame(rows)


def test_ours_beside_theirs(table):
    shown = literature.beside(table)
    r20 = shown[shown["pair"] == "resnet56->resnet20"].set_index("method")
    assert r20.loc["teacher", ["published", "ours, last epoch", "n"]].tolist() == ["72.34", "72.00", 1]
    assert r20.loc["student alone", "ours, last epoch"] == "69.00 ± 1.00"
    assert r20.loc["student alone", "best epoch on test"] == "70.00 ± 1.00"
    ckd = r20.loc["CKD"].set_index("recipe")
    assert set(ckd.index) == {
        "240 epochs, step, lr 0.05, batch 64", "240 epochs, step, lr 0.1, batch 64, nesterov, kd=3.5",
    }  # fmt: skip
    p_value = stats.ttest_rel([0.70, 0.72, 0.715], [0.68, 0.69, 0.70]).pvalue
    assert ckd["against alone"].iloc[0] == f"+2.17 (p = {p_value:.2g})"
    assert ckd["against alone"].iloc[1] == "+0.00"


def test_what_was_not_run_says_so(table):
    shown = literature.beside(table)
    missing = shown[shown["ours, last epoch"] == "not run"]
    assert ("resnet56->resnet20", "KD++") in set(zip(missing["pair"], missing["method"], strict=True))
    assert set(missing["n"]) == {""}
    others = shown[shown["pair"] == "vgg13->vgg8"]
    assert set(others["ours, last epoch"]) == {"not run"}
    assert others.set_index("method").loc["DKD", "published"] == "74.68"


def test_a_pair_without_published_figures_shows_a_dash(table):
    other = table.assign(student=table["student"].replace("resnet20", "resnet8"))
    shown = literature.beside(other)
    ours = shown[(shown["pair"] == "resnet56->resnet8") & (shown["method"] == "CKD")]
    assert set(ours["published"]) == {"–"}


def test_published_figures_are_those_of_the_papers():
    assert literature.PUBLISHED["resnet56->resnet20"] == {
        "teacher": 72.34, "scratch": 69.06, "ckd": 70.66, "rkd": 69.61, "ctkd": 71.19, "kdpp": 72.53, "dkd": 71.97,
    }  # fmt: skip
    assert literature.PUBLISHED["resnet32x4->resnet8x4"]["kdpp"] == 75.54


def test_parts_of_a_method(table):
    parts = {"CKD": table[table["method"] == "ckd"].head(3), "alone": table[table["student"] == "resnet20"].head(3)}
    shown = literature.ablation(parts)
    assert shown["test accuracy"].tolist() == ["71.17 ± 1.04", "69.00 ± 1.00"]
    assert shown["against CKD"].iloc[1].startswith("-2.17 (p = ")
    steps = literature.steps(parts, {"distillation": ("CKD", "alone")})
    assert steps["brings"].iloc[0].startswith("+2.17 (p = ")


def test_amplification_stands_beside_cifar_10s_where_the_groups_show_the_same_images(table, digits, monkeypatch):
    table = table[table["method_options"] == ""]  # teacher, student alone, CKD
    blind = np.eye(10)[digits.test.labels]
    predictions = {key: np.eye(10)[digits.test.group] if key == "resnet56" else blind for key in table["key"]}
    monkeypatch.setattr(runs, "stored_predictions", lambda key: {"test_logits": predictions[key]})
    shown = literature.skewed(table, dataclasses.replace(digits, name="cifar10s")).set_index("model")
    assert shown.loc["teacher", "amplification"] == "0.5000"
    assert shown.loc["teacher", "published amplification"] == ".0739 ± .0019"
    assert shown.loc["CKD", ["n", "amplification", "published accuracy"]].tolist() == [3, "0.0000 ± 0.0000", "–"]
    assert "published accuracy" not in literature.skewed(table, digits)
    other = dataclasses.replace(digits.test, source=np.arange(len(digits.test)))
    for source in (other, dataclasses.replace(digits.test, source=None)):
        assert literature.skewed(table, dataclasses.replace(digits, test=source)).empty
