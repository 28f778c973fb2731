"""What must not be lost in a figure: marks that tell kinds apart, degenerate models marked, every debiaser its row."""

import numpy as np
import pandas as pd
import pytest
from bias_examples import render

from kdlib import debias, methods
from kdlib.report import bias_figures, figures


def point(method="ckd", debias="none", lam=0.0, accuracy=0.9, mad=0.2, **more):
    base = {"method": method, "debias": debias, "lam": lam, "teacher_debias": "none", "teacher_lam": 0.0}
    figures = {"accuracy": accuracy, "accuracy_half": 0.01, "mad": mad, "mad_half": 0.02, "n": 3, "degenerate": False}
    return base | figures | more


def headline(*rows):
    return figures.bias_against_accuracy(pd.DataFrame(rows), floor=(0.03, 0.08), constant=0.1, note="3 seeds.")


def labels(drawing):
    return [text.get_text() for text in drawing.axes[0].get_legend().get_texts()]


def test_every_debiaser_and_method_has_a_mark_of_its_own():
    markers = [figures.marker_of(name) for name in {*debias.DEBIASERS, *figures.MARKERS}]
    assert len(set(markers)) == len(markers)
    assert len({figures.colour_of(name) for name in methods.METHODS}) == len(methods.METHODS)
    assert figures.marker_of("some_new_thing") == "$snt$"
    assert figures.colour_of("new") == figures.colour_of("new")


def test_unknown_debiasers_and_methods_are_drawn_and_named():
    drawing = headline(point(), point("new_method"), point(debias="some_new_thing", lam=2.0, mad=0.1))
    render(drawing)
    assert {"CKD", "new_method", "no debiasing", "some-new-thing (with its λ)"} <= set(labels(drawing))


def test_ten_debiasers_stay_in_the_legend():
    names = [name for name in figures.MARKERS if name != "none"][:10]
    rows = [point(debias=name, lam=1.0, accuracy=0.8 + i / 100, mad=0.3 - i / 50) for i, name in enumerate(names)]
    drawing = headline(point(), *rows)
    render(drawing)
    box = drawing.axes[0].get_legend().get_window_extent()
    assert len(labels(drawing)) == 2 + 1 + 11
    assert box.y0 >= 0
    assert box.y1 <= drawing.bbox.y1
    assert box.x1 <= drawing.bbox.x1


def crosses(axis):
    return [tuple(line.get_xydata()[0]) for line in axis.lines if line.get_marker() == "x" and len(line.get_xydata())]


def test_degenerate_models_are_crossed_out_and_no_part_of_the_front():
    useless = point(debias="critic", lam=50.0, accuracy=0.89, mad=0.01, degenerate=True)
    far = point("rkd", debias="critic", lam=50.0, accuracy=0.2, mad=0.0, degenerate=True)
    drawing = headline(point(), point("rkd", accuracy=0.85, mad=0.1), useless, far)
    axis = drawing.axes[0]
    assert (0.89, 0.01) in crosses(axis)
    front = next(line for line in axis.lines if line.get_linestyle() == "--").get_xydata().tolist()
    assert front == [[0.85, 0.1], [0.9, 0.2]]
    assert axis.get_xlim()[0] > 0.2
    assert "2 kinds of model are degenerate" in drawing.get_supxlabel()
    assert "1 crossed out, 1 left of the axis" in drawing.get_supxlabel()
    assert "degenerate: useless" in labels(drawing)
    assert "degenerate" not in headline(point()).get_supxlabel()


def test_strengths_have_a_row_for_each_debiaser_that_begins_without_it():
    rows = [point(mad=0.3), point("rkd", mad=0.25)]
    rows += [point(debias="critic", lam=lam, mad=0.3 - lam / 100, degenerate=lam == 10) for lam in (1.0, 10.0)]
    rows += [point("rkd", debias="mfd", lam=3.0, mad=0.1)]
    drawing = figures.strengths(pd.DataFrame(rows), floor=(0.03, 0.08), note="3 seeds.")
    assert [axis.get_xlabel() for axis in drawing.axes] == ["λ, strength of critic"] * 2 + ["λ, strength of MFD"] * 2
    critic = drawing.axes[0]
    assert [text.get_text() for text in critic.get_xticklabels()] == ["0", "1", "10"]
    drawn = [line.get_ydata().tolist() for line in critic.lines if line.get_marker() == "o"]
    assert [0.3, 0.29, 0.2] in [[round(y, 9) for y in line] for line in drawn]
    assert [y for _, y in crosses(critic)] == pytest.approx([0.2])
    assert crosses(drawing.axes[2]) == []
    alone = figures.strengths(pd.DataFrame(rows[:2]), floor=(0.03, 0.08), note="3 seeds.")
    assert [text.get_text() for text in alone.axes[0].get_xticklabels()] == ["0"]


def test_forest_draws_means_apart_from_what_they_sum_up():
    rows = [("CKD, seed 0", "ckd", 0.1, 0.05, 0.15), ("mean, CKD", "ckd", 0.12, 0.0, 0.24)]
    axis = figures.forest(rows, label="inflation", note="n = 3").axes[0]
    points = [line for line in axis.lines if line.get_marker() != "None"]
    assert [line.get_marker() for line in points] == ["o", "D"]
    assert [line.get_xdata()[0] for line in points] == [0.1, 0.12]


def test_heat_map_shows_means_over_seeds_and_marks_those_that_differ_from_zero():
    sure = np.array([[0.3, 0.1, np.nan], [0.31, -0.1, np.nan], [0.29, 0.02, np.nan]])
    drawing = bias_figures.heat_map({"ckd": sure, "teacher": sure * 0.5}, ("a", "b", "c"), note="3 seeds.")
    axis = drawing.axes[0]
    assert [text.get_text() for text in axis.texts] == ["0.30•", "0.01", "0.15•", "0.00"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["a", "b"], (
        "a class without a disparity has no column"
    )
    assert [text.get_text() for text in axis.get_yticklabels()] == ["CKD", "teacher"]
    image = axis.images[0]
    assert np.allclose(image.get_array(), [[0.3, 0.02 / 3], [0.15, 0.01 / 3]])
    assert image.get_clim()[0] == -image.get_clim()[1], "no disparity is the middle of the scale"


def test_inheritance_draws_the_mean_slope_of_the_seeds():
    teachers = np.array([[0.1, 0.2, -0.3, np.nan], [0.2, 0.1, -0.2, np.nan]])
    students = np.stack([2 * teachers[0] + 0.1, 3 * teachers[1]])
    axis = bias_figures.inheritance({"ckd": (teachers, students)}, ("a", "b", "c", "d"), note="2 seeds.").axes[0]
    assert "slope 2.50 ± " in axis.get_title()
    assert "r 1.00" in axis.get_title()
    two = [line for line in axis.lines if len(line.get_xdata()) == 2 and line.get_color() == figures.COLOURS["ckd"]]
    assert np.diff(two[0].get_ydata())[0] / np.diff(two[0].get_xdata())[0] == pytest.approx(2.5)
    assert {text.get_text() for text in axis.texts} == {"a", "b", "c"}


def test_many_classes_are_numbered_and_not_named():
    rng = np.random.default_rng(0)
    classes = [f"class {k}" for k in range(40)]
    drawings = [
        bias_figures.heat_map({"ckd": rng.normal(size=(3, 40)) / 10}, classes, note="n"),
        bias_figures.recall_by_group({"ckd": rng.random((3, 2, 40))}, classes, ("x", "y"), note="n"),
        bias_figures.inheritance({"ckd": (rng.normal(size=(3, 40)), rng.normal(size=(3, 40)))}, classes, note="n"),
    ]
    for drawing in drawings:
        render(drawing)
        everything = [text.get_text() for axis in drawing.axes for text in (*axis.texts, *axis.get_xticklabels())]
        assert not any("class " in text for text in everything)


def test_one_seed_has_no_interval_and_is_drawn():
    one, classes = np.array([[0.1, -0.2, 0.3]]), ("a", "b", "c")
    drawings = [
        bias_figures.heat_map({"ckd": one}, classes, note="n"),
        bias_figures.inheritance({"ckd": (one, 2 * one)}, classes, note="n"),
        bias_figures.recall_by_group({"ckd": np.abs(np.stack([one, one], 1))}, classes, ("x", "y"), note="n"),
    ]
    for drawing in drawings:
        render(drawing)
    assert not any("•" in text.get_text() for text in drawings[0].axes[0].texts)


def test_a_crowd_of_kinds_is_drawn_without_bars_and_says_so():
    rows = [point(debias="critic", lam=float(lam), mad=0.1 + lam / 1000) for lam in range(1, figures.CROWD + 2)]
    for few, drawing in ((True, headline(*rows[:5])), (False, headline(*rows))):
        render(drawing)
        axis = drawing.axes[0]
        assert bool(axis.containers) == few
        assert ("critic (with its λ)" in labels(drawing)) == few
        assert ("Without the bars" in drawing.get_supxlabel()) != few


def test_debiasers_are_ordered_by_what_they_take_away():
    rows = [
        {"debias": debias, "method": method, "seed": seed, "mad": mad + seed / 100, "accuracy": 0.01 * seed}
        for debias, mad in (("critic", 0.0), ("dfr", -0.2))
        for method in ("ckd", "rkd")
        for seed in range(3)
    ]
    drawing = figures.by_debiaser(pd.DataFrame(rows), note="3 seeds.")
    render(drawing)
    left = drawing.axes[0]
    assert [text.get_text() for text in left.get_yticklabels()] == ["DFR", "critic"]
    assert left.yaxis_inverted()
    diamonds = [line.get_xydata()[0].tolist() for line in left.lines if line.get_marker() == "D"]
    assert diamonds == [pytest.approx([-0.19, 0]), pytest.approx([0.01, 1])]


def test_where_every_model_is_degenerate_all_are_crossed_out_and_there_is_no_front():
    drawing = headline(point(mad=0.9, degenerate=True), point("rkd", accuracy=0.8, mad=0.1, degenerate=True))
    render(drawing)
    axis = drawing.axes[0]
    assert {(0.9, 0.9), (0.8, 0.1)} <= set(crosses(axis))
    assert axis.get_ylim()[1] > 0.9
    assert "degenerate: useless" in labels(drawing)
    assert not [line for line in axis.lines if line.get_linestyle() == "--" and len(line.get_xdata())]


def test_ranges_over_many_groups_have_no_sign_and_no_dots():
    wide = np.full((3, 2), 0.3) + np.arange(3)[:, None] / 100
    heat = bias_figures.heat_map({"ckd": wide}, ("a", "b"), note="3 seeds.")
    bars = figures.disparity_by_class({"ckd": wide}, ("a", "b"), note="3 seeds.")
    for drawing in (heat, bars):
        render(drawing)
    assert "•" not in heat.get_supxlabel()
    assert not [text for text in heat.axes[0].texts if "•" in text.get_text()]
    assert bars.axes[0].get_ylabel().startswith("largest − smallest")
    signed = figures.disparity_by_class({"ckd": -wide}, ("a", "b"), note="3 seeds.")
    assert signed.axes[0].get_ylabel().startswith("recall of group 1")
