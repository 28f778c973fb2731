"""Choosing λ on validation, areas under accuracy–bias fronts, and debiasers ranked by paired comparisons."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdlib import data
from kdlib.bias.stats import holm
from kdlib.report import evidence, ranking, selection, tables


def row(
    debias="none", lam=0.0, seed=0, accuracy=0.8, mad=0.3, *, val_accuracy=None, val_bias=None, method="ckd", **more
):
    base = {
        "method": method, "debias": debias, "lam": lam, "seed": seed, "teacher_debias": "none", "teacher_lam": 0.0,
        "key": f"{method}{debias}{lam}{seed}", "teacher_key": f"t{seed}", "test_accuracy": accuracy, "test_mad": mad,
        "test_sqrt_u": mad, "test_degenerate": False, "criterion": "√U⁺",
        "val_balanced_accuracy": accuracy if val_accuracy is None else val_accuracy,
        "val_bias": mad if val_bias is None else val_bias,
    }  # fmt: skip
    return base | more


def grid(*kinds, seeds=3):
    """Rows over seeds: kinds are (debias, lam, val_accuracy, val_bias, test_accuracy, test_mad)."""
    return pd.DataFrame(
        row(debias, lam, seed, accuracy + seed / 1000, mad + seed / 500, val_accuracy=val_accuracy, val_bias=val_bias)
        for debias, lam, val_accuracy, val_bias, accuracy, mad in kinds
        for seed in range(seeds)
    )


def test_the_least_biased_within_a_point_of_the_best_validation_accuracy_is_chosen():
    table = grid(
        ("none", 0.0, 0.80, 0.30, 0.8, 0.3),
        ("critic", 1.0, 0.805, 0.20, 0.8, 0.2),
        ("critic", 10.0, 0.797, 0.10, 0.8, 0.1),  # within a point, the least biased
        ("critic", 50.0, 0.78, 0.01, 0.8, 0.0),  # fairer, but too costly
    )
    assert selection.choose(table)["lam"].tolist() == [10.0]
    assert selection.choose(table, tolerance=0.001)["lam"].tolist() == [1.0]
    assert selection.choose(table, tolerance=0.5)["lam"].tolist() == [50.0]


def test_the_choice_does_not_look_at_test():
    table = grid(
        ("none", 0.0, 0.8, 0.3, 0.8, 0.3), ("critic", 1.0, 0.8, 0.2, 0.8, 0.2), ("critic", 9.0, 0.8, 0.1, 0.8, 0.1)
    )
    chosen = selection.choose(table)
    wild = table.assign(test_accuracy=table["test_accuracy"][::-1].to_numpy(), test_mad=0.0, test_sqrt_u=np.nan)
    pd.testing.assert_frame_equal(selection.choose(wild), chosen)


def test_no_debiasing_is_among_the_choices_and_undefined_bias_is_the_worst():
    table = grid(("none", 0.0, 0.9, 0.3, 0.9, 0.3), ("critic", 1.0, 0.7, 0.0, 0.7, 0.0))
    assert selection.choose(table)["lam"].tolist() == [0.0]
    table = grid(("none", 0.0, 0.9, np.nan, 0.9, 0.3), ("critic", 1.0, 0.9, 0.5, 0.7, 0.0))
    assert selection.choose(table)["lam"].tolist() == [1.0]


def test_where_no_debiasing_is_chosen_its_runs_stand_under_the_debiasers_name():
    table = grid(("none", 0.0, 0.9, 0.3, 0.9, 0.3), ("critic", 1.0, 0.7, 0.0, 0.7, 0.0))
    rows = selection.at_choice(table, selection.choose(table)).set_index("debias")
    assert rows.loc["critic", "test_accuracy"].tolist() == rows.loc["none", "test_accuracy"].tolist()


def test_a_debiaser_without_strength_has_nothing_to_choose():
    table = grid(("none", 0.0, 0.9, 0.1, 0.9, 0.3), ("domain_independent", 0.0, 0.5, 0.9, 0.9, 0.1))
    chosen = selection.choose(table)
    assert chosen[["lam", "candidates", "criterion"]].values.tolist() == [[0.0, 1, "no λ"]]
    at = selection.at_choice(table, chosen)
    assert at[at["debias"] == "domain_independent"]["test_mad"].tolist() == pytest.approx([0.1, 0.102, 0.104])


def test_hypervolume_of_rectangles_by_hand():
    assert ranking.hypervolume([0.8], [0.2], accuracy_from=0.1) == pytest.approx(0.7 * 0.8)
    assert ranking.hypervolume([0.8, 0.6], [0.2, 0.1], accuracy_from=0.1) == pytest.approx(0.5 * 0.9 + 0.2 * 0.8)
    assert ranking.hypervolume([0.8, 0.6], [0.2, 0.3], accuracy_from=0.1) == pytest.approx(
        0.7 * 0.8
    )  # the second adds nothing
    assert ranking.hypervolume([], [], accuracy_from=0.1) == 0
    assert ranking.hypervolume([0.05], [0.0], accuracy_from=0.1) == 0  # worse than the constant classifier


points = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6)


@given(points, st.floats(0, 0.9))
def test_hypervolume_is_the_share_of_a_fine_grid_that_is_dominated(found, start):
    accuracy, disparity = np.array(found).reshape(-1, 2).T
    a, d = np.meshgrid(np.linspace(start, 1, 201), np.linspace(0, 1, 201))
    dominated = ((a[..., None] <= accuracy) & (d[..., None] >= disparity)).any(-1).mean() * (1 - start)
    area = ranking.hypervolume(accuracy, disparity, accuracy_from=start)
    assert area == pytest.approx(dominated, abs=0.02)
    more = ranking.hypervolume([*accuracy, 0.5], [*disparity, 0.5], accuracy_from=start)
    assert more >= area - 1e-12


def test_holm_as_published():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    adjusted = holm([np.nan, 0.02])
    assert np.isnan(adjusted[0])
    assert adjusted[1] == 0.02


def study():
    kinds = [
        ("none", 0.0, 0.8, 0.3, 0.80, 0.30),
        ("good", 0.0, 0.8, 0.1, 0.82, 0.10),
        ("poor", 0.0, 0.8, 0.3, 0.79, 0.29),
    ]
    return pd.concat([grid(*kinds), grid(*kinds).assign(method="rkd")])


def test_the_ranking_is_by_area_and_paired():
    table = study()
    ranked = ranking.ranking(table, selection.choose(table), accuracy_from=0.1)
    assert ranked["debiaser"].tolist() == ["good", "poor"]
    assert ranked["mean rank"].tolist() == ["1.00 ± 0.00", "2.00 ± 0.00"]
    assert ranked["n"].tolist() == [3, 3]
    assert ranked["Δ MAD"].str.split(" ").str[0].tolist() == ["-0.200", "-0.010"]
    assert ranked["Δ accuracy"].str.split(" ").str[0].tolist() == ["+0.020", "-0.010"]


def test_a_degenerate_model_is_worth_no_area():
    table = study()
    table.loc[table["debias"] == "good", "test_degenerate"] = True
    ranked = ranking.ranking(table, selection.choose(table), accuracy_from=0.1)
    assert ranked["debiaser"].tolist() == ["poor", "good"]
    assert ranked["collapsed"].tolist() == ["0 of 6", "6 of 6"]


def test_who_halves_the_bias():
    table = study()
    halved = ranking.halved(table, selection.choose(table))
    assert halved["halved by (MAD, change of accuracy)"].str.startswith("good (0.102").all()
    costly = table.assign(test_accuracy=table["test_accuracy"].where(table["debias"] != "good", 0.7))
    assert set(ranking.halved(costly, selection.choose(costly))["halved by (MAD, change of accuracy)"]) == {"none"}


def test_distilled_students_beside_the_student_alone_debiased_alike():
    table = study()
    alone = table[table["method"] == "rkd"].assign(method="scratch")
    alone = alone.assign(
        test_mad=alone["test_mad"] + 0.05 + alone["seed"] / 100, test_accuracy=alone["test_accuracy"] - 0.1
    )
    alone = alone[alone["debias"] != "poor"]
    whole = pd.concat([table, alone])
    beside = ranking.beside_alone(whole, selection.choose(whole)).set_index("debiaser")
    assert list(beside.index) == ["no debiasing", "good"]
    assert beside.loc["good", "n"] == 3
    assert beside.loc["good", "MAD, student alone"] == "0.162"
    assert beside.loc["good", "distilled, Δ MAD"].startswith("-0.060 ± 0.025")
    p = stats.ttest_1samp([-0.05, -0.06, -0.07], 0).pvalue
    assert float(beside.loc["good", "p (MAD)"]) == pytest.approx(2 * p, rel=0.05), "adjusted over both rows"
    assert beside.loc["no debiasing", "distilled, Δ accuracy"].startswith("+0.100")
    assert ranking.beside_alone(table, selection.choose(table)).empty


def test_a_choice_at_the_end_of_the_grid_is_named():
    kinds = [("none", 0.0, 0.8, 0.3), ("far", 1.0, 0.8, 0.2), ("far", 2.0, 0.8, 0.1), ("near", 1.0, 0.8, 0.1)]
    table = grid(
        *[(*kind, 0.8, 0.2) for kind in kinds],
        ("only", 1.0, 0.8, 0.1, 0.8, 0.2),
        ("near", 2.0, 0.8, 0.2, 0.8, 0.2),
        ("fixed", 0.0, 0.8, 0.1, 0.8, 0.1),
    )
    edge = selection.at_edge(table, selection.choose(table))
    assert edge["debias"].tolist() == ["far"]
    assert edge["lam"].tolist() == [2.0]


def test_one_debiaser_against_others():
    table = study()
    found = ranking.against(table, selection.choose(table), "poor", ["good"]).iloc[0]
    assert found["MAD"].startswith("+0.190")
    assert found["n"] == 3


def test_differences_are_paired_by_method_and_seed_and_averaged_over_methods():
    generator = np.random.default_rng(0)
    table = study().assign(test_mad=lambda t: generator.random(len(t)))
    change = ranking._change(table[table["debias"] == "good"], table[table["debias"] == "poor"], "mad")
    wide = table.pivot_table("test_mad", "seed", ["debias", "method"])
    by_seed = (wide["good"] - wide["poor"]).mean(axis=1)
    assert change["difference"] == pytest.approx(by_seed.mean())
    assert change["p_value"] == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    assert change["n"] == 3
    partly = table[(table["method"] == "ckd") | (table["seed"] > 0) | (table["debias"] != "good")]
    change = ranking._change(partly[partly["debias"] == "good"], table[table["debias"] == "poor"], "mad")
    both = (wide["good"] - wide["poor"]).loc[1:].mean(axis=1)
    only = table.query("method == 'ckd' and seed == 0").set_index("debias")["test_mad"]
    assert change["difference"] == pytest.approx(np.mean([only["good"] - only["poor"], *both])), (
        "what one side lacks is left out"
    )


def test_a_new_debiaser_and_method_are_ranked_under_their_own_names():
    table = study().replace({"debias": {"good": "zz_debias"}, "method": {"rkd": "zz_new"}})
    chosen = selection.choose(table)
    assert ranking.ranking(table, chosen, accuracy_from=0.1)["debiaser"].tolist() == ["zz-debias", "poor"]
    assert ranking.halved(table, chosen)["method"].tolist() == ["CKD", "zz_new"]
    assert set(tables.crossed(table.query("debias != 'poor'"), "mad").columns) == {"none", "zz_debias"}


def test_group_balanced_accuracy_by_hand():
    labels, group = np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 0, -1, -1, -1])
    predicted = np.array([0, 0, 1, 1, 1, 0, 2, 0])  # recalls: 2/3 and 0; 1, its unknown left out; a half
    expected = 0.5 * (2 / 3 + 0) / 2 + 0.25 * 1 + 0.25 * 0.5
    assert selection.group_balanced_accuracy(labels, predicted, group) == pytest.approx(expected)


@given(st.integers(0, 10**6))
def test_group_balanced_accuracy_is_accuracy_where_cells_are_alike_and_blind_to_how_often_a_group_comes(seed):
    generator = np.random.default_rng(seed)
    labels, group = (part.ravel() for part in np.meshgrid(np.arange(4), np.arange(3)))
    labels, group = np.repeat(labels, 5), np.repeat(group, 5)
    predicted = generator.integers(4, size=60)
    balanced = selection.group_balanced_accuracy(labels, predicted, group)
    assert balanced == pytest.approx((labels == predicted).mean())
    more = np.concatenate(
        [np.arange(60), *[np.flatnonzero(group == 1)] * 3]
    )  # one group four times as often, in each class
    assert selection.group_balanced_accuracy(labels[more], predicted[more], group[more]) == pytest.approx(balanced)


def test_rare_group_gap_by_hand():
    rare = np.array([0, 1, -1])
    labels, group = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([1, 1, 0, 0, 0, 1, 1])
    predicted = np.array([0, 1, 1, 1, 1, 1, 0])  # common: 3 of 4; rare: 1 of 2; class 2 has no rare group
    assert selection.rare_group_gap(labels, predicted, group, rare) == pytest.approx(0.25)
    assert np.isnan(selection.rare_group_gap(labels[:2], predicted[:2], group[:2], rare))
    assert selection.rare_group_gap(labels, predicted, np.where(group == 0, 0, -1), rare) == pytest.approx(1.0)


def test_what_a_strength_is_chosen_by_depends_on_the_cells_of_validation(digits, monkeypatch):
    def checked(predicted, dataset=digits, **columns):
        classes = {"val_labels": digits.val.labels, "val_group": digits.val.group, "val_predicted": predicted}
        proof = evidence.Evidence(dataset, lambda key: classes)
        return selection.on_validation(pd.DataFrame([row(val_sqrt_u=-0.2, **columns)]), proof).iloc[0]

    rare = data.class_by_group(digits.train, digits).argmin(1)
    in_rare = digits.val.group == rare[digits.val.labels]
    wrong_in_rare = np.where(in_rare, 3, digits.val.labels)  # but for class 3
    found = checked(wrong_in_rare)
    assert found["criterion"] == "rare group's gap"
    assert found["val_bias"] == pytest.approx(0.9)
    assert found["val_balanced_accuracy"] == pytest.approx(0.55, abs=0.05), (
        "right in the common half and a tenth of the rare"
    )
    wrong_in_common = np.where(in_rare, digits.val.labels, 3)
    assert 0.85 < checked(wrong_in_common)["val_bias"] < 0.95, "as biased, the other way"
    monkeypatch.setattr(data, "class_by_group", lambda *_, **__: np.full((10, 2), 5))
    found = checked(wrong_in_rare)
    assert (found["criterion"], found["val_bias"]) == ("√U⁺", 0.0)
    found = checked(wrong_in_rare, dataclasses.replace(digits, groups=("a", "b", "c")), val_mad=0.3)
    assert (found["criterion"], found["val_bias"]) == ("MAD", 0.3)


def test_nothing_is_chosen_where_validation_has_no_bias_figure():
    table = grid(("none", 0.0, 0.9, np.nan, 0.9, 0.3), ("critic", 1.0, 0.9, np.nan, 0.7, 0.0))
    with pytest.raises(ValueError, match="no λ of critic on ckd can be chosen"):
        selection.choose(table)


def test_debiasers_are_ranked_over_the_methods_that_all_have():
    """One that is not for the student alone, which is easier to debias here, is worse with every method that it has."""
    alone = grid(("none", 0.0, 0.5, 0.5, 0.5, 0.5), ("simple", 0.0, 0.5, 0.5, 0.5, 0.45)).assign(method="scratch")
    kinds = ("none", 0.0, 0.8, 0.3, 0.8, 0.3), ("simple", 0.0, 0.8, 0.1, 0.8, 0.1), ("taught", 0.0, 0.8, 0.1, 0.8, 0.12)
    table = pd.concat([alone, grid(*kinds), grid(*kinds).assign(method="rkd")])
    chosen = selection.choose(table)
    ranked = ranking.ranking(table, chosen, accuracy_from=0.1)
    assert ranked["debiaser"].tolist() == ["simple", "taught"]
    assert ranked["mean rank"].tolist() == ["1.00 ± 0.00", "2.00 ± 0.00"]
    assert set(ranking.shifts(table, chosen)["method"]) == {"ckd", "rkd"}


def test_shifts_are_paired_by_method_and_seed_at_the_chosen_strength():
    table = study()
    chosen = selection.choose(table)
    found = ranking.shifts(table, chosen).set_index(["debias", "method", "seed"])
    at = selection.at_choice(table, chosen).set_index(["debias", "method", "seed"])
    assert set(found.index) == {index for index in at.index if index[0] != "none"}
    for (debias, method, seed), row in found.iterrows():
        for column in ("accuracy", "mad"):
            difference = (
                at.loc[(debias, method, seed), f"test_{column}"] - at.loc[("none", method, seed), f"test_{column}"]
            )
            assert row[column] == pytest.approx(difference)
