"""Tables: intervals, paired tests, what debiasing changes, the Pareto front, and sweeps."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_examples import row, study

from kdlib import names, runs, sweep
from kdlib.bias.stats import interval
from kdlib.report import tables, tradeoff_figures


def test_interval_is_students():
    values = [0.7, 0.75, 0.72, 0.8]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    mean, half = interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(interval([0.5])[1])
    assert np.isnan(interval([])[0])


def test_paired_test_is_scipys_and_needs_the_same_seeds():
    table = study()
    test = tables.paired(table, {"method": "ckd"}, {"method": "scratch"})
    sides = [tables.select(table, **names.PLAIN, method=m, student="s")["test_accuracy"] for m in ("ckd", "scratch")]
    assert test["p_value"] == pytest.approx(stats.ttest_rel(*sides).pvalue)
    assert test["difference"] == pytest.approx(sides[0].mean() - sides[1].mean())
    with pytest.raises(ValueError, match="same seeds"):
        tables.paired(table[(table["seed"] < 2) | (table["method"] == "ckd")], {"method": "ckd"}, {"method": "scratch"})
    with pytest.raises(ValueError, match="method"):
        tables.select(table, methd="ckd")


def test_teachers_are_told_from_the_student_alone():
    means = tables.means(study()).set_index(["method", "debias"])
    assert means.loc[("teacher", "none"), "accuracy"] == pytest.approx(0.9)
    assert means.loc[("scratch", "none"), "accuracy"] == pytest.approx(0.83)
    assert means.loc[("scratch", "none"), "n"] == 3


def test_changes_say_what_debiasing_does_and_whether_it_helps():
    found = tables.changes(study()).set_index("method")
    assert found["helps"].all()
    assert found["mad"].tolist() == pytest.approx([0.1 - 0.29 + 0.01 / 3, 0.1 - 0.33 + 0.01 / 3])
    assert found.loc["ckd", "accuracy"] == pytest.approx(0.83 + 0.01 - 0.805)
    assert not tables.changes(study(debiased_mad=0.29))["helps"].any(), "MAD did not fall to half"
    assert not tables.changes(study(debiased_accuracy=0.7))["helps"].any(), "half the bias at ten points is no success"
    useless = study().assign(test_degenerate=lambda t: (t["debias"] != "none") & (t["seed"] == 1))
    assert tables.changes(useless)["degenerate"].tolist() == [1, 1]
    assert not tables.changes(useless)["helps"].any(), "a degenerate model is not praised"


def test_a_fall_whose_interval_reaches_zero_is_no_help():
    """MAD falls to less than half on average, but one seed of three does not fall at all."""
    wide = study(debiased_mad=0.0)
    wide.loc[(wide["debias"] != "none") & (wide["seed"] == 0), "test_mad"] = 0.33
    changes = tables.changes(wide)
    assert (changes["mad_before"] + changes["mad"] < changes["mad_before"] / 2).all()
    assert (changes["mad"] - changes["mad_half"] < 0).all()
    assert (changes["mad"] + changes["mad_half"] > 0).all()
    assert not changes["falls"].any()
    assert not changes["helps"].any()
    sure = tables.changes(study())
    assert sure["falls"].all()
    assert sure["helps"].all()


def test_changes_of_the_teacher_alone_and_of_both():
    rows = [row("ckd", seed, 0.8, 0.1 + seed / 100, teacher_debias="reweight") for seed in range(3)]
    rows += [row("ckd", seed, 0.8, 0.1, debias="mfd", lam=3.0, teacher_debias="reweight") for seed in range(3)]
    table = pd.concat([study(), pd.DataFrame(rows)])
    found = tables.changes(table)
    assert found["teacher_debias"].tolist() == ["none", "none", "reweight"], "both at once are no kind of their own"
    shown = tables.debiasers(table).set_index("debiasing")
    assert list(shown.index) == ["domain-independent", "teacher reweight"]
    assert shown.loc["domain-independent", "helps"] == "2 of 2: student alone, CKD"
    assert shown.loc["teacher reweight", "collapsed runs"] == "0 of 3"
    without = table[~((table["method"] == "ckd") & (table["seed"] == 2) & (table["debias"] == "domain_independent"))]
    assert tables.changes(without)["n"].tolist() == [3, 2, 3], "seeds that both have are compared"
    assert tables.changes(study().query("debias == 'none'")).empty


def test_kinds_have_names_that_tell_them_apart():
    assert names.kind_name({"method": "ckd", "debias": "group_dro", "lam": 0.01}) == "CKD + group DRO λ 0.01"
    both = {"method": "rkd", "debias": "mfd", "lam": 3.0, "teacher_debias": "adversary", "teacher_lam": 2.0}
    assert names.kind_name(both) == "RKD + MFD λ 3, teacher adversary λ 2"
    assert names.kind_name({"debias": "domain_independent"}) == "domain-independent"
    assert names.kind_name({"teacher_debias": "critic", "teacher_lam": 1.0}) == "teacher critic λ 1"
    assert names.kind_name({}) == "plain"


def test_a_method_and_a_debiaser_without_a_label_show_under_their_own_names():
    rows = [row("zz_new", seed, 0.8, 0.3) for seed in range(3)]
    rows += [row("zz_new", seed, 0.8, 0.1, debias="zz_debias", lam=2.0) for seed in range(3)]
    table = pd.concat([study(), pd.DataFrame(rows)])
    assert tables.methods_of(table) == ["scratch", "ckd", "zz_new"]
    assert {"zz_new", "zz_new + zz-debias λ 2"} <= set(readable(table)["model"])
    shown = tables.debiasers(table).set_index("debiasing")
    assert shown.loc["zz-debias λ 2", "helps"].endswith("zz_new")


def readable(table):
    cost = {"parameters": 1000, "latency_ms": 0.5, "test_worst_cell": 0.2, "test_equalized_odds": 0.1}
    return tables.readable(table.assign(**cost, test_precision=0.8, test_recall=0.8, test_f1=0.8))


def test_pairs_and_flip_rates_are_shown_where_the_table_has_them():
    table = study()
    assert "flip rate" not in readable(table)
    assert "flip_rate" not in tables.means(table)
    assert "blind" in tables.floor_note(table)
    assert "pairs" not in tables.floor_note(table)
    table = table.assign(test_flip_rate=table["seed"] / 10, test_paired=True)
    assert readable(table)["flip rate"].iloc[0] == "0.100 ± 0.248"
    assert tables.means(table)["flip_rate"].tolist() == pytest.approx([0.1] * 5)
    for text in (tables.floor_note(table), tables.floor_name(tables.means(table))):
        assert "pairs" in text
    assert "bias 0" in tables.floor_note(table)
    assert "blind" in tables.floor_note(table.assign(test_paired=False))


def test_pareto_front_against_a_loop():
    generator = np.random.default_rng(0)
    accuracy, disparity = generator.random(40).round(1), generator.random(40).round(1)
    front = set(tradeoff_figures.pareto(accuracy, disparity))
    for i in range(40):
        beaten = any(
            accuracy[j] >= accuracy[i] and disparity[j] <= disparity[i]
            and (accuracy[j] > accuracy[i] or disparity[j] < disparity[i])
            for j in range(40)
        )  # fmt: skip
        twin = any((accuracy[i], disparity[i]) == (accuracy[j], disparity[j]) for j in front)
        assert (i in front) or beaten or twin
        assert not (i in front and beaten)


def test_a_sweep_gives_a_row_per_run_in_order_and_survives_a_failure(tiny, monkeypatch):
    grid = [
        {"method": method, "epochs": 1, "student": "convnet_4", "teacher": "convnet_8"} for method in ("rkd", "scratch")
    ]
    lines = []
    table = sweep.sweep(grid, workers=1, log=lines.append)
    assert table["method"].tolist() == ["rkd", "scratch"]
    assert {"test_accuracy", "test_mad", "val_accuracy", "parameters", "latency_ms", "vs_teacher_inflation"} <= set(
        table
    )
    assert sum(line.startswith("[") for line in lines) == 3  # the teacher as well
    assert sweep.sweep(grid, workers=1, log=lines.append).equals(table)
    assert sum(line.startswith("[") for line in lines) == 3
    original = runs.run
    monkeypatch.setattr(runs, "run", lambda run, **o: 1 / 0 if run.method == "ckd" else original(run, **o))
    with pytest.raises(RuntimeError, match=r"(?s)1 of 2 runs failed.*ckd.*ZeroDivisionError"):
        sweep.sweep([grid[0] | {"method": method} for method in ("ckd", "ctkd")], workers=1, log=lines.append)
    assert runs.stored(grid[0] | {"method": "ctkd"})
    with pytest.raises(ValueError, match="local"):
        sweep.sweep(grid, engine="locl")


def test_a_sweep_in_processes_equals_one_here(shared_data, digits, tmp_path, monkeypatch):
    grid = [{"method": "scratch", "epochs": 1, "student": "convnet_4", "seed": seed} for seed in (0, 1)]
    apart = sweep.sweep(grid, workers=2, log=list)
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "other"))
    here = sweep.sweep(grid, workers=1, log=list)
    assert apart["test_accuracy"].tolist() == here["test_accuracy"].tolist()
    assert apart["key"].tolist() == here["key"].tolist()
