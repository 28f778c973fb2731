"""What is shipped: forms of a network measured, kept and compared; what is said of them follows from the table."""

import numpy as np
import pandas as pd
import pytest

from kdlib import bias, names, paths, runs
from kdlib.export import measure, quantise
from kdlib.report import edge, edge_figures, edge_words
from kdlib.runs.table import pairs_of

pytest.importorskip("onnxruntime")
SETTINGS = {"student": "convnet_4", "teacher": "convnet_8", "method": "ckd", "epochs": 2, "device": "cpu"}


@pytest.fixture
def keys(digits):
    made = [SETTINGS | {"seed": seed, "debias": name} for seed in (0, 1) for name in ("none", "domain_independent")]
    return [runs.run(settings, log=lambda line: None)["key"] for settings in made]


def test_forms_are_measured_kept_and_compared_with_torch(keys, digits, monkeypatch):
    rows = measure.measured(keys[:2], workers=1)
    forms = list(zip(rows["form"], rows["calibration"], strict=True))[:7]
    assert forms == [
        ("torch", ""), ("onnx", ""), ("int8_channel", "balanced"), ("int8_tensor", "balanced"), ("int8_channel", "training"),
        ("int8_channel", "grey"), ("int8_channel", "colour"),
    ]  # fmt: skip
    stored = runs.stored_predictions(keys[0])["test_logits"].argmax(1)
    with np.load(paths.runs_folder() / keys[0] / "edge.npz") as arrays:
        predicted = arrays["predicted"]
    assert (predicted[0] == stored).all()
    test, row = digits.test, rows.iloc[2]
    change = bias.compare(test.labels, stored, predicted[2].astype(int), test.group, pair=pairs_of(test))
    assert row["mad_change"] == pytest.approx(change["inflation"])
    assert row["churn"] == pytest.approx(change["churn"])
    assert row["negative_flips_group_1"] == pytest.approx(change["negative_flips_group_1"])
    assert row["churn_group_0_low"] <= row["churn_group_0"] <= row["churn_group_0_high"]
    assert row["mad"] == pytest.approx(rows.iloc[0]["mad"] + row["mad_change"])
    assert (rows.loc[rows["form"] == "onnx", "churn"] == 0).all()
    assert rows.loc[rows["form"] == "onnx", "largest_difference"].max() < 1e-4
    sizes = rows.groupby("form")["bytes"].max()
    assert sizes["int8_tensor"] < sizes["int8_channel"]
    assert (rows[["ms_1", "ms_1_95", "ms_32"]] > 0).all(axis=None)
    assert (rows.loc[rows["form"] != "torch", "memory_mib"] > 0).all()

    calls, real = [], quantise.quantised
    monkeypatch.setattr(quantise, "quantised", lambda *given, **options: calls.append(1) or real(*given, **options))
    monkeypatch.setattr(measure, "cost", lambda key: rows[["student", "data", "form", "ms_1"]].drop_duplicates("form"))
    again = measure.measured(keys[:2], workers=1)
    assert calls == [], "kept beside the run"
    pd.testing.assert_series_equal(again["mad"], rows["mad"])
    monkeypatch.setattr(measure, "_of_code", lambda: "other code")
    measure.measured(keys[:1], workers=1)
    assert len(calls) == 5, "made again by other code"


def test_runs_that_are_missing_are_named():
    with pytest.raises(ValueError, match="run 0123 is not in the store"):
        measure.rows_of("0123")


def test_figures_of_changed_decisions(digits):
    test = digits.test
    before, after = test.labels.copy(), test.labels.copy()
    after[np.flatnonzero(test.group == 1)[:30]] = (test.labels[np.flatnonzero(test.group == 1)[:30]] + 1) % 10
    found = measure.figures(after, before, digits)
    share = 30 / (test.group == 1).sum()
    assert found["churn_group_1"] == found["negative_flips_group_1"] == pytest.approx(share)
    assert found["churn_group_0"] == found["negative_flips_group_0"] == 0
    assert found["mad_change"] == pytest.approx(found["mad"])
    back = measure.figures(before, after, digits)
    assert back["negative_flips"] == 0, "what was mended is no negative flip"
    assert back["churn"] == found["churn"]


def made(changes, *, methods=("ckd",), debiasers=(("none", 0.4), ("critic", 0.1)), seeds=(0, 1, 2, 3)):
    """A table as `measured` makes it: MAD of each debiaser in torch; {(form, calibration): change by seed} of it."""
    rows = []
    for method in methods:
        for debias, mad in debiasers:
            for seed in seeds:
                about = names.PLAIN | {
                    "method": method,
                    "debias": debias,
                    "seed": seed,
                    "key": f"{method}{debias}{seed}",
                }
                cost = {"ms_1": 1.0, "ms_1_95": 2.0, "ms_32": 10.0, "ms_32_95": 11.0, "memory_mib": 5.0}
                for (form, calibration), change in {("torch", ""): 0, ("onnx", ""): 0, **changes}.items():
                    change = np.broadcast_to(change, len(seeds))[seed]
                    value = mad + 0.01 * seed + change
                    figures = {
                        "accuracy": 0.9,
                        "mad": value,
                        "mad_floor": 0.02,
                        "mad_floor_low": 0.01,
                        "mad_floor_high": 0.03,
                    }
                    figures |= {"sqrt_u": value, "flip_rate": np.nan, "worst_cell": 0.5, "degenerate": False}
                    figures |= {"largest_difference": 1e-6, "bytes": 100 if form.startswith("int8") else 200}
                    figures |= {"mad_change": change, "mad_change_low": change - 0.01, "mad_change_high": change + 0.01}
                    figures |= {"sqrt_u_change": change, "churn": abs(change)}
                    for name in ("churn", "negative_flips"):
                        for group in (0, 1):
                            figures |= {f"{name}_group_{group}{end}": abs(change) for end in ("", "_low", "_high")}
                    rows.append(about | {"form": form, "calibration": calibration} | cost | figures)
    return pd.DataFrame(rows)


SMALL = np.array([0.001, -0.001, 0.0005, -0.0004])
MOVED = np.array([0.05, 0.051, 0.049, 0.05])


def test_small_changes_are_bounded_and_tuning_is_left_out():
    rows = made({("int8_channel", "balanced"): SMALL, ("int8_tensor", "balanced"): -SMALL})
    changed = edge.effects(rows)
    assert len(changed) == 8  # kinds × forms × measures
    assert (changed["excluded"] < 0.003).all()
    text = edge_words.in_words(rows)
    assert "no change of MAD or √U is shown" in text
    assert "Quantisation-aware tuning** is left out" in text
    assert "still falls in 1 as int8 per channel; 100% to 100% of the fall is kept" in text
    assert "takes 50% of the bytes" in text


def test_a_shift_is_shown_and_tuning_considered():
    text = edge_words.in_words(made({("int8_channel", "balanced"): MOVED, ("int8_tensor", "balanced"): SMALL}))
    assert "a change is shown for CKD (MAD +0.050), CKD (√U +0.050), CKD + critic" in text
    assert "could be tried here: int8 per channel moves the MAD of 2 of 2 kinds, by up to 0.050" in text
    assert "In 8 networks (0 by chance)" in text


def test_debiasing_that_is_lost_in_int8_is_said():
    rows = made({("int8_channel", "balanced"): 0, ("int8_tensor", "balanced"): 0})
    lost = (rows["form"] == "int8_tensor") & (rows["debias"] == "critic")
    rows.loc[lost, "mad"] += 0.3
    falls = edge.survival(rows).set_index("form")["kept"]
    assert falls["int8_channel"] == pytest.approx(1)
    assert falls["int8_tensor"] == pytest.approx(0)
    assert "it still falls in 0 as int8 per tensor" in edge_words.in_words(rows)


def test_collapsed_networks_are_counted_and_not_compared():
    rows = made({("int8_channel", "balanced"): SMALL, ("int8_tensor", "balanced"): SMALL})
    critic = (rows["form"] == "int8_tensor") & (rows["debias"] == "critic")
    rows.loc[critic, ["degenerate", "mad_change"]] = True, -0.4
    assert len(edge.effects(rows).query("form == 'int8_tensor'")) == 2
    text = edge_words.in_words(rows)
    assert "4 networks that are of use in torch collapsed, and are not counted here: CKD + critic." in text
    assert "-0.400" not in text
    rows.loc[rows["debias"] == "critic", "degenerate"] = True
    assert "collapsed" not in edge_words.in_words(rows), "they were of no use before"
    rows.loc[rows["form"] == "int8_tensor", "degenerate"] = True
    assert "*Int8 per tensor*: every network collapsed." in edge_words.in_words(rows)


def test_the_composition_that_moves_bias_most_is_named():
    forms = {
        ("int8_channel", "balanced"): SMALL,
        ("int8_tensor", "balanced"): SMALL,
        ("int8_channel", "grey"): [0, -0.1, 0, 0],
    }
    rows = made(forms)
    text = edge_words.in_words(rows)
    assert "The largest move is CKD, seed 1, calibrated on grey alone: MAD 0.410 → 0.310" in text
    shown = edge.calibrations(rows)
    assert shown["calibrated on"].tolist() == ["all groups alike", "grey alone"]
    assert shown["churn, most"].tolist() == ["0.10%", "10.00%"]
    drawn = edge_figures.calibrations(rows, note="n")
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == shown["calibrated on"].tolist()


def test_one_seed_and_no_groups_say_what_they_can():
    forms = {("int8_channel", "balanced"): 0.01, ("int8_tensor", "balanced"): 0.01}
    one = edge_words.in_words(made(forms, seeds=(0,)))
    assert "Over seeds" not in one
    assert "tuning" not in one
    rows = made(forms)
    rows[["mad", "mad_change", "sqrt_u"]] = np.nan
    assert edge_words.in_words(rows).startswith("**ONNX in float**")
    assert "Does int8 move bias" not in edge_words.in_words(rows)


def test_the_figure_shows_every_form_and_leaves_collapsed_networks_out():
    rows = made({("int8_channel", "balanced"): SMALL, ("int8_tensor", "balanced"): SMALL})
    rows.loc[(rows["form"] == "int8_tensor") & (rows["seed"] == 0), "degenerate"] = True
    drawn = edge_figures.bias_on_device(rows, note="Note.")
    assert [axis.get_xlabel() for axis in drawn.axes] == list(edge_figures.AXES.values())
    legend = {text.get_text() for text in drawn.axes[-1].get_legend().get_texts()}
    assert set(edge.FORM_NAMES.values()) <= legend
    assert "Left out: 2 collapsed networks." in drawn.get_supxlabel()


def test_the_students_that_are_shipped(keys, monkeypatch, tmp_path):
    from kdlib.sweep import table

    every = table(
        [SETTINGS | {"seed": seed, "debias": name} for seed in (0, 1) for name in ("none", "domain_independent")]
    )
    assert sorted(edge.shipped(every)) == sorted(keys)
    teachers = table([runs.as_run(SETTINGS | {"seed": seed}).teacher_run() for seed in (0, 1)])
    assert len(edge.shipped(pd.concat([every, teachers], ignore_index=True))) == 6
    monkeypatch.setattr(
        measure, "measured", lambda found, workers=None: made({}).assign(teacher_key=None, found=len(found))
    )
    assert edge.table_of(every, "mine")["found"].iloc[0] == 4
    assert len(pd.read_csv(paths.reports_folder() / "mine" / "edge.csv")) == len(made({}))
