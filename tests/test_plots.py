"""What must not be lost in a figure: marks that tell kinds apart, collapsed models marked, every debiaser its row."""

import numpy as np
import pandas as pd
import pytest
from bias_examples import render
from matplotlib.colors import to_hex
from study_examples import row, study

from kdlib import debias, methods
from kdlib.bias import calibration
from kdlib.bias.stats import interval
from kdlib.report import bias_figures, figures, tables, tradeoff_figures


def point(method="ckd", debias="none", lam=0.0, accuracy=0.9, mad=0.2, **more):
    base = {"method": method, "debias": debias, "lam": lam, "teacher_debias": "none", "teacher_lam": 0.0}
    base |= {"accuracy": accuracy, "accuracy_half": 0.01, "mad": mad, "mad_half": 0.02, "n": 3, "degenerate": False}
    return base | more


def headline(*rows):
    return tradeoff_figures.bias_against_accuracy(pd.DataFrame(rows), floor=(0.03, 0.08), constant=0.1, note="3 seeds.")


def labels(drawing):
    return [text.get_text() for text in drawing.axes[-1].get_legend().get_texts()]


def colour_in_legend(legend, label):
    handles = dict(zip([text.get_text() for text in legend.get_texts()], legend.legend_handles, strict=True))
    return to_hex(handles[label].get_color())


def test_every_debiaser_and_method_has_a_mark_of_its_own():
    names = {*debias.DEBIASERS, *figures.MARKERS, "some_new_thing", "some_other_thing", "zz_new"}
    assert len(set(figures.markers(names).values())) == len(names)
    names = [*methods.METHODS, *figures.COLOURS, *(f"new_{number}" for number in range(12))]
    assert len(set(figures.colours(names).values())) == len(set(names))
    assert figures.colours(["zz_new", "ckd"])["ckd"] == figures.COLOURS["ckd"], "a new name takes nobody's colour"
    assert list(figures.markers(["dfr", "new", "none"])) == ["none", "dfr", "new"], "known ones come first"


def with_new_names():
    """A study with a method and a debiaser that no label, colour or marker is written down for."""
    rows = []
    for seed in range(3):
        rows.append(row("zz_new", seed, 0.81, 0.25 + seed / 100))
        rows += [row(method, seed, 0.84, 0.08, debias="zz_debias", lam=2.0) for method in ("ckd", "scratch", "zz_new")]
    return pd.concat([study(), pd.DataFrame(rows)], ignore_index=True)


def test_a_new_method_and_debiaser_are_in_every_figure_of_a_table_with_a_colour_of_their_own():
    table, floor = with_new_names(), (0.03, 0.08)
    points = tradeoff_figures.bias_against_accuracy(tables.means(table), floor=floor, constant=0.1, note="n")
    lines = tradeoff_figures.strengths(table, floor=floor, note="n")
    plain = tables.plain_students(table, ["ckd", "zz_new"]).assign(temperature=4.0)
    warm = tradeoff_figures.temperatures(plain, floor=floor, note="n")
    shifts = table[(table["debias"] != "none")].assign(mad=-0.1, accuracy=0.01)
    bars = tradeoff_figures.by_debiaser(shifts, note="n")
    for drawing in (points, lines, warm, bars):
        render(drawing)
        legend = next(axis.get_legend() for axis in drawing.axes if axis.get_legend())
        assert colour_in_legend(legend, "zz_new") == figures.SPARE_COLOURS[0]
        assert colour_in_legend(legend, "CKD") == figures.COLOURS["ckd"].lower()
    assert "zz-debias (with its λ)" in labels(points)
    assert "λ of zz-debias" in lines.axes[0].get_xlabel()
    assert "zz-debias" in [text.get_text() for text in bars.axes[0].get_yticklabels()]
    inflation = bias_figures.inflation(table, note="n").axes[0]
    assert [text.get_text() for text in inflation.get_yticklabels()][4:] == [
        *(f"zz_new, seed {seed}" for seed in range(3)), "mean, zz_new",
    ]  # fmt: skip


def test_a_new_method_is_in_every_figure_by_class_and_by_run():
    rng = np.random.default_rng(0)
    kinds, classes, groups = ("ckd", "zz_new"), ("a", "b", "c"), ("x", "y")
    values = {name: rng.normal(size=(3, 3)) for name in kinds}
    found = calibration(rng.integers(3, size=60), rng.dirichlet(np.ones(3), 60), rng.integers(2, size=60), bins=3)
    panels = [
        bias_figures.recall_by_group({name: rng.random((3, 2, 3)) for name in kinds}, classes, groups, note="n"),
        bias_figures.inheritance({name: (values[name], values[name]) for name in kinds}, classes, note="n"),
        bias_figures.reliability({name: (found, np.zeros(3), (-0.1, 0.1)) for name in kinds}, groups, note="n"),
    ]
    for drawing in panels:
        assert [axis.get_title().split("\n")[0] for axis in drawing.axes] == ["CKD", "zz_new"]
    attacks = {"attacker": 0.8, "attacker_labels": 0.5, "floor_low": 0.4, "floor_high": 0.6, "chance": 0.5}
    rows = [
        bias_figures.heat_map(values, classes, note="n"),
        bias_figures.leakage(pd.DataFrame([{"kind": name} | attacks for name in kinds]), note="n"),
    ]
    for drawing in rows:
        assert [text.get_text() for text in drawing.axes[0].get_yticklabels()] == ["CKD", "zz_new"]
    epochs = pd.DataFrame({"epoch": [1, 2], "ce": [2.0, 1.0]})
    lines = [
        bias_figures.disparity_by_class(values, classes, note="n"),
        figures.curves({name: [epochs] for name in kinds}, "ce", label="loss"),
        figures.distributions({name: [rng.normal(size=50)] for name in kinds}, labels=["norm"], note="n"),
    ]
    for drawing in lines:
        assert [text.split(" (")[0] for text in labels(drawing)] == ["CKD", "zz_new"]


def test_twelve_debiasers_stay_in_the_legend():
    names = [name for name in figures.MARKERS if name != "none"][:12]
    rows = [point(debias=name, lam=1.0, accuracy=0.8 + i / 100, mad=0.3 - i / 50) for i, name in enumerate(names)]
    drawing = headline(point(), *rows)
    render(drawing)
    box = drawing.axes[0].get_legend().get_window_extent()
    assert {f"{debias_name} (with its λ)" for debias_name in ("critic", "MFD", "group DRO")} <= set(labels(drawing))
    assert box.y0 >= 0
    assert box.y1 <= drawing.bbox.y1
    assert box.x1 <= drawing.bbox.x1


def crosses(axis):
    lines = [line for line in axis.lines if line.get_marker() == "x"]
    return [tuple(xy) for line in lines for xy in line.get_xydata() if not np.isnan(xy).any()]


def drawn_points(axis):
    return {
        tuple(xy.round(9)) for points in axis.collections if len(points.get_offsets()) for xy in points.get_offsets()
    }


def front(axis):
    return [line.get_xydata().tolist() for line in axis.lines if "Pareto" in str(line.get_label())]


def test_collapsed_models_are_crossed_out_and_no_part_of_the_front():
    useless = point(debias="critic", lam=50.0, accuracy=0.89, mad=0.01, degenerate=True)
    far = point("rkd", debias="critic", lam=50.0, accuracy=0.2, mad=0.0, degenerate=True)
    drawing = headline(point(), point("rkd", accuracy=0.85, mad=0.1), useless, far)
    axis = drawing.axes[0]
    assert crosses(axis) == [(0.89, 0.01)]
    assert {(0.9, 0.2), (0.85, 0.1)} <= drawn_points(axis)
    assert (0.89, 0.01) not in drawn_points(axis)
    assert front(axis) == [[[0.85, 0.1], [0.9, 0.2]]]
    assert axis.get_xlim()[0] > 0.2
    assert "1 collapsed model lies outside" in drawing.get_supxlabel()
    assert "collapsed model" in labels(drawing)
    assert "collapsed" not in headline(point()).get_supxlabel()


def test_students_of_debiased_teachers_are_hollow():
    axis = headline(point(), point(accuracy=0.8, mad=0.1, teacher_debias="dfr")).axes[0]
    rings = [points for points in axis.collections if any(to_hex(face) == "#ffffff" for face in points.get_facecolor())]
    assert [ring.get_offsets().tolist() for ring in rings] == [[[0.8, 0.1]]]


def test_flip_rates_stand_beside_mad_where_there_are_any():
    rows = [
        point(flip_rate=0.3, flip_rate_half=0.01, test_paired=True),
        point("rkd", accuracy=0.8, flip_rate=0.1, flip_rate_half=0.01),
    ]
    drawing = headline(*rows)
    render(drawing)
    left, right = drawing.axes
    assert (0.9, 0.3) in drawn_points(right)
    assert "flip rate" in right.get_ylabel()
    assert "MAD" in left.get_ylabel()
    assert any("exchanged in pairs" in label for label in labels(drawing))
    assert len(headline(point()).axes) == 1
    assert any("blind" in label for label in labels(headline(point())))


def runs_table(*kinds, seeds=3):
    """Runs of (method, debias, lam, mad, degenerate), alike over seeds."""
    return pd.DataFrame(
        row(method, seed, 0.8, mad + seed / 1000, debias=debias, lam=lam, test_degenerate=degenerate and seed == 0)
        for method, debias, lam, mad, degenerate in kinds
        for seed in range(seeds)
    )


def test_strengths_have_a_row_for_each_debiaser_that_begins_without_it():
    kinds = [("ckd", "none", 0.0, 0.3, False), ("rkd", "none", 0.0, 0.25, False), ("rkd", "mfd", 3.0, 0.1, False)]
    kinds += [("ckd", "critic", lam, 0.3 - lam / 100, lam == 10) for lam in (1.0, 10.0)]
    drawing = tradeoff_figures.strengths(runs_table(*kinds), floor=(0.03, 0.08), note="3 seeds.")
    assert [axis.get_xlabel() for axis in drawing.axes] == ["λ of critic"] * 2 + ["λ of MFD"] * 2
    critic = drawing.axes[0]
    assert [axis.get_legend() is not None for axis in drawing.axes] == [False, True, False, False], "one legend"
    assert [text.get_text() for text in critic.get_xticklabels()] == ["0", "1", "10"]
    drawn = [line.get_ydata().tolist() for line in critic.lines if line.get_marker() == "o" and len(line.get_ydata())]
    assert pytest.approx([0.301, 0.291, 0.201]) in drawn
    assert [y for _, y in crosses(critic)] == pytest.approx([0.201])
    assert crosses(drawing.axes[2]) == []
    assert "collapsed" in drawing.get_supxlabel()
    alone = tradeoff_figures.strengths(runs_table(*kinds[:2]), floor=(0.03, 0.08), note="3 seeds.")
    assert [text.get_text() for text in alone.axes[0].get_xticklabels()] == ["0"]


def test_intervals_in_figures_are_students():
    table = runs_table(("ckd", "none", 0.0, 0.3, False))
    axis = tradeoff_figures.strengths(table, floor=(0.03, 0.08), note="n").axes[0]
    mean, half = interval(table["test_mad"])
    bars = [line.get_ydata() for line in axis.lines if line.get_marker() == "None" and len(line.get_ydata()) > 1]
    assert any(
        np.nanmin(bar) == pytest.approx(mean - half) and np.nanmax(bar) == pytest.approx(mean + half) for bar in bars
    )


def test_inflation_draws_means_apart_from_what_they_sum_up():
    table = study().query("debias == 'none'").copy()
    table["vs_teacher_inflation"] = table["seed"] / 10
    axis = bias_figures.inflation(table, note="n = 3").axes[0]
    diamonds = [line for line in axis.lines if line.get_marker() == "D"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert dots[0].get_xdata().tolist() == pytest.approx([0, 0.1, 0.2])
    assert [line.get_xydata()[0].tolist() for line in diamonds] == [pytest.approx([0.1, 3])]


def test_heat_map_shows_means_over_seeds_and_marks_those_that_differ_from_zero():
    sure = np.array([[0.3, 0.1, np.nan], [0.31, -0.1, np.nan], [0.29, 0.02, np.nan]])
    drawing = bias_figures.heat_map({"ckd": sure, "teacher": sure * 0.5}, ("a", "b", "c"), note="3 seeds.")
    axis = drawing.axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.30•", "0.01", "0.15•", "0.00"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["a", "b"], (
        "a class without a disparity has no column"
    )
    assert [text.get_text() for text in axis.get_yticklabels()] == ["CKD", "teacher"]
    cells = axis.collections[0]
    assert np.allclose(cells.get_array().ravel(), [0.3, 0.02 / 3, 0.15, 0.01 / 3])
    assert cells.get_clim()[0] == -cells.get_clim()[1], "no disparity is the middle of the scale"


def test_inheritance_draws_the_mean_slope_of_the_seeds():
    teachers = np.array([[0.1, 0.2, -0.3, np.nan], [0.2, 0.1, -0.2, np.nan]])
    students = np.stack([2 * teachers[0] + 0.1, 3 * teachers[1]])
    axis = bias_figures.inheritance({"ckd": (teachers, students)}, ("a", "b", "c", "d"), note="2 seeds.").axes[0]
    assert "slope 2.50 ± " in axis.get_title()
    assert "r 1.00" in axis.get_title()
    fit = next(line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_color() == figures.COLOURS["ckd"])
    assert np.diff(fit.get_ydata())[0] / np.diff(fit.get_xdata())[0] == pytest.approx(2.5)
    assert {text.get_text() for text in axis.texts} == {"a", "b", "c"}


def test_many_classes_are_numbered_and_not_named():
    rng = np.random.default_rng(0)
    classes = [f"class {k}" for k in range(24)]
    drawings = [
        bias_figures.heat_map({"ckd": rng.normal(size=(3, 24)) / 10}, classes, note="n"),
        bias_figures.recall_by_group({"ckd": rng.random((3, 2, 24))}, classes, ("x", "y"), note="n"),
        bias_figures.inheritance({"ckd": (rng.normal(size=(3, 24)), rng.normal(size=(3, 24)))}, classes, note="n"),
        bias_figures.disparity_by_class({"ckd": rng.normal(size=(3, 24))}, classes, note="n"),
    ]
    for drawing in drawings:
        render(drawing)
        ticks = [text for axis in drawing.axes for text in (*axis.get_xticklabels(), *axis.get_yticklabels())]
        assert not any("class " in text.get_text() for text in (*ticks, *drawing.axes[0].texts))


def test_one_seed_has_no_interval_and_is_drawn():
    one, classes = np.array([[0.1, -0.2, 0.3]]), ("a", "b", "c")
    drawings = [
        bias_figures.heat_map({"ckd": one}, classes, note="n"),
        bias_figures.inheritance({"ckd": (one, 2 * one)}, classes, note="n"),
        bias_figures.recall_by_group({"ckd": np.abs(np.stack([one, one], 1))}, classes, ("x", "y"), note="n"),
        bias_figures.disparity_by_class({"ckd": one}, classes, note="n"),
    ]
    for drawing in drawings:
        render(drawing)
    assert not any("•" in text.get_text() for text in drawings[0].axes[0].texts)


def test_a_crowd_of_kinds_is_drawn_without_intervals_and_says_so(monkeypatch):
    monkeypatch.setattr(tradeoff_figures, "CROWD", 6)
    rows = [point(debias="critic", lam=float(lam), mad=0.1 + lam / 1000) for lam in range(1, 8)]
    for few, drawing in ((True, headline(*rows[:5])), (False, headline(*rows))):
        axis = drawing.axes[0]
        assert bool(axis.containers) == few
        assert ("critic (with its λ)" in labels(drawing)) == few
        assert ("Intervals are left out" in drawing.get_supxlabel()) != few


def test_debiasers_are_ordered_by_what_they_take_away():
    rows = [
        {"debias": debias, "method": method, "seed": seed, "mad": mad + seed / 100, "accuracy": 0.01 * seed}
        for debias, mad in (("critic", 0.0), ("dfr", -0.2))
        for method in ("ckd", "rkd")
        for seed in range(3)
    ]
    drawing = tradeoff_figures.by_debiaser(pd.DataFrame(rows), note="3 seeds.")
    render(drawing)
    left = drawing.axes[0]
    assert [text.get_text() for text in left.get_yticklabels()] == ["DFR", "critic"]
    assert left.yaxis_inverted()
    diamonds = [
        line.get_xydata().tolist() for line in left.lines if line.get_marker() == "D" and len(line.get_xydata())
    ]
    assert diamonds == [[pytest.approx([-0.19, 0]), pytest.approx([0.01, 1])]]


def test_where_every_model_has_collapsed_all_are_crossed_out_and_there_is_no_front():
    drawing = headline(point(mad=0.9, degenerate=True), point("rkd", accuracy=0.8, mad=0.1, degenerate=True))
    render(drawing)
    axis = drawing.axes[0]
    assert {(0.9, 0.9), (0.8, 0.1)} <= set(crosses(axis))
    assert axis.get_ylim()[1] > 0.9
    assert front(axis) in ([], [[]])


def test_ranges_over_many_groups_have_no_sign_and_no_dots():
    wide = np.full((3, 2), 0.3) + np.arange(3)[:, None] / 100
    heat = bias_figures.heat_map({"ckd": wide}, ("a", "b"), note="3 seeds.")
    bars = bias_figures.disparity_by_class({"ckd": wide}, ("a", "b"), note="3 seeds.")
    assert "•" not in heat.get_supxlabel()
    assert not [text for text in heat.axes[0].texts if "•" in text.get_text()]
    assert bars.axes[0].get_ylabel().startswith("largest − smallest")
    signed = bias_figures.disparity_by_class({"ckd": -wide}, ("a", "b"), note="3 seeds.")
    assert signed.axes[0].get_ylabel().startswith("recall of group 1")
