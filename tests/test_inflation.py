"""What distillation itself changes: paired effects, their adjustment and pooling; and the findings that README says of them."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_examples import row

from kdlib import paths
from kdlib.bias.stats import holm, paired_difference, student_interval, t_test
from kdlib.report import claims, controls, inflation, publish


def study(shift=0.0, temperature_shift=0.0, seeds=8, seed=0):
    """CKD and RKD beside the student alone; RKD's bias is moved by `shift`, that of CKD at T = 1 by `temperature_shift`."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(seeds):
        noise = rng.normal(0, 0.01, 4)
        common = rng.normal(0, 0.05)
        changes = {"scratch": (0, None), "ckd": (0, None), "rkd": (shift, None), "ckd at 1": (temperature_shift, 1.0)}
        for (name, (change, temperature)), error in zip(changes.items(), noise, strict=True):
            bias = 0.3 + common + change + error
            values = row(
                name.split(" ")[0], number, 0.8, bias, test_sqrt_u=bias, test_flip_rate=bias, test_paired=True,
                temperature=temperature, key=f"{name}{number}", part="temperature" if temperature else "grid",
            )  # fmt: skip
            rows.append(values)
            if name == "ckd":
                rows.append(values | {"part": "temperature"})
    return pd.DataFrame(rows)


def test_effects_are_paired_by_seed_and_adjusted_over_everything():
    table = study(shift=-0.1, temperature_shift=-0.05)
    result = inflation.effects(table).set_index(["what", "measure"])
    assert set(result.index.get_level_values("what")) == {"CKD", "RKD", "CKD, T 1"}
    grid = table[table["part"] == "grid"].set_index(["method", "seed"])["test_sqrt_u"]
    difference = np.array([grid["rkd", number] - grid["scratch", number] for number in range(8)])
    expected = stats.ttest_1samp(difference, 0)
    rkd = result.loc[("RKD", "sqrt_u")]
    assert rkd["difference"] == pytest.approx(difference.mean())
    assert rkd["p_value"] == pytest.approx(expected.pvalue)
    assert rkd["difference"] + rkd["half"] == pytest.approx(expected.confidence_interval().high)
    ends = expected.confidence_interval(0.9)
    assert rkd["excluded"] == pytest.approx(max(abs(ends.low), abs(ends.high)))
    bias = result[result.index.get_level_values("measure") != "accuracy"]
    smallest = bias["p_value"].min()
    assert bias["p_holm"].min() == pytest.approx(min(1, 6 * smallest)), "three comparisons of two measures"
    assert result["p_holm"].notna().sum() == 6
    assert result.loc[("CKD, T 1", "sqrt_u"), "difference"] == pytest.approx(-0.05, abs=0.02)


def test_words_say_what_is_shown_and_what_is_excluded():
    shown = inflation.in_words(inflation.effects(study(shift=-0.1)))
    assert "RKD lowers √U (-0.1" in shown
    assert "CKD no change is shown" in shown
    nothing = inflation.effects(study())
    text = inflation.in_words(nothing)
    assert "no evidence" in text
    limit = nothing[(nothing["measure"] != "accuracy") & (nothing["against"] == "student alone")]["excluded"].max()
    assert f"±{limit:.3f}" in text
    assert "RKD raises" in inflation.in_words(inflation.effects(study(shift=0.1)))


def test_models_that_collapsed_have_no_effect():
    table = study(shift=-0.1)
    table.loc[(table["method"] == "rkd") & (table["seed"] == 3), "test_degenerate"] = True
    result = inflation.effects(table)
    assert set(result["what"]) == {"CKD", "CKD, T 1"}
    nothing = inflation.effects(table.assign(test_degenerate=True))
    assert nothing.empty
    assert "Not compared" in inflation.in_words(nothing)


def test_studies_are_pooled_by_random_effects():
    estimates, errors = np.array([0.1, 0.3, 0.2]), np.array([0.05, 0.1, 0.05])
    weights = 1 / errors**2
    mean, error = inflation.random_effects(estimates, errors)
    spread = (weights * (estimates - (weights * estimates).sum() / weights.sum()) ** 2).sum()
    between = max(0, (spread - 2) / (weights.sum() - (weights**2).sum() / weights.sum()))
    assert between > 0
    weights = 1 / (errors**2 + between)
    assert mean == pytest.approx((weights * estimates).sum() / weights.sum())
    dispersion = (weights * (estimates - mean) ** 2).sum() / 2  # Hartung and Knapp's, where it is above 1
    assert error == pytest.approx(np.sqrt(max(1, dispersion) / weights.sum()))
    same = inflation.random_effects(np.array([0.2, 0.2]), np.array([0.1, 0.1]))
    assert same == pytest.approx((0.2, 0.1 / np.sqrt(2))), "studies that agree are as sure as their errors, no surer"
    apart = inflation.random_effects(np.array([0.0, 1.0]), np.array([0.001, 0.001]))
    assert apart == pytest.approx((0.5, 0.5), rel=1e-4), "studies that differ: the standard error of their mean"
    pooled = inflation.pooled({"one": study(-0.1), "two": study(-0.1, seed=1)}).set_index(["what", "measure"])
    assert pooled.loc[("RKD", "sqrt_u"), "studies"] == 2
    assert pooled.loc[("RKD", "sqrt_u"), "p_value"] < 0.05 < pooled.loc[("CKD", "sqrt_u"), "p_value"]
    effects = [inflation.effects(study(-0.1, seed=seed)).set_index(["what", "measure"]) for seed in (0, 1)]
    ends = [effect.loc[("RKD", "sqrt_u"), "difference"] for effect in effects]
    rkd = pooled.loc[("RKD", "sqrt_u")]
    assert min(ends) <= rkd["difference"] <= max(ends)
    assert abs(rkd["difference"]) < rkd["excluded"] < abs(rkd["difference"]) + rkd["half"]
    assert inflation.pooled({"one": study()}).empty, "one study is not pooled"


def test_readme_says_what_the_published_tables_say():
    readme = (paths.ROOT / "README.md").read_text()
    assert publish.between_marks(readme, "findings", claims.findings()) == readme
    assert claims.findings() in readme
    for finding in claims.findings().split("\n- "):
        assert "seeds" in finding
        assert "±" in finding
    assert claims.pooled(claims.published()) in (paths.ROOT / publish.RESULTS).read_text()


def test_a_fall_is_shown_where_it_stays_so_after_holm():
    marginal = np.array([0.005, 0.01, 0.02, 0.03, 0.04])  # p = .03, .06 after Holm where two are alike
    falls = {
        "none": 0 * marginal,
        "resample": 0.2 + marginal,
        "critic": marginal,
        "adversary": marginal,
        "dfr": 0.25 + marginal,
    }
    rows = [
        row("ckd", seed, 0.9, 0.3 - fall[seed], debias, test_degenerate=debias == "dfr" and seed == 2)
        for debias, fall in falls.items()
        for seed in range(5)
    ]
    plain, fallen, shown = claims.falls(pd.DataFrame(rows))
    assert plain.tolist() == pytest.approx([0.3] * 5)
    assert sorted(fall for fall, _ in fallen) == pytest.approx([0.021, 0.021, 0.221]), (
        "what collapses in a seed is left out"
    )
    assert stats.ttest_1samp(marginal, 0).pvalue < 0.05, "shown if it were the only one"
    assert shown == 1
    rows = [made | {"test_mad": 0.6 - made["test_mad"]} for made in rows]
    assert claims.falls(pd.DataFrame(rows))[2] == 0, "a rise is no fall"


def test_controls_stand_beside_balanced_teacher_paired_by_seed():
    rng, rows = np.random.default_rng(0), []
    kinds = {
        ("scratch", "none", "none"): 0.3, ("ckd", "none", "none"): 0.3, ("rkd", "none", "none"): 0.3,
        ("ckd", "balanced_teacher", "none"): 0.05, ("rkd", "balanced_teacher", "none"): 0.07,
        ("ckd", "resample", "logit_adjustment"): 0.10, ("rkd", "resample", "logit_adjustment"): 0.06,
        ("scratch", "logit_adjustment", "none"): 0.09,
    }  # fmt: skip
    for seed in range(5):
        for (method, debias, teacher), mad in kinds.items():
            lam = {"balanced_teacher": 1.0, "logit_adjustment": 1.0}
            rows.append(row(
                method, seed, 0.9, mad + rng.normal(0, 0.005), debias, lam.get(debias, 0.0), teacher,
                teacher_lam=lam.get(teacher, 0.0), key=f"{method}{debias}{teacher}{seed}",
            ))  # fmt: skip
    table = pd.DataFrame(rows)
    shown = controls.against_controls(table).set_index("control")
    assert len(shown) == 2, "the student alone debiased, and the retrained teacher"
    name = "distilled + resample, teacher logit-adjustment λ 1"
    of = table.set_index(["method", "debias", "seed"])["test_mad"]
    ours = np.array([(of["ckd", "balanced_teacher", s] + of["rkd", "balanced_teacher", s]) / 2 for s in range(5)])
    control = np.array([(of["ckd", "resample", s] + of["rkd", "resample", s]) / 2 for s in range(5)])
    alone = np.array([of["scratch", "logit_adjustment", s] for s in range(5)])
    assert shown.loc[name, "ours, Δ MAD"].startswith(f"{(ours - control).mean():+.3f}")
    expected = holm([stats.ttest_1samp(ours - other, 0).pvalue for other in (alone, control)])
    assert shown["p (MAD)"].tolist() == [f"{p:.2g}" for p in expected]
    assert controls.against_controls(table[table["debias"] != "balanced_teacher"]).empty


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_students_test_and_interval_equal_scipys(seeds):
    values = np.random.default_rng(seeds).normal(0.3, 1, seeds)
    expected = stats.ttest_1samp(values, 0)
    assert t_test(values) == pytest.approx(expected.pvalue)
    assert student_interval(values) == pytest.approx(tuple(expected.confidence_interval()))
    assert np.isnan(t_test(np.ones(seeds)))


def test_a_paired_difference_takes_lists_arrays_and_series():
    values, control = [1.0, 2.0, 3.5], [0.0, 1.0, 1.0]
    expected = paired_difference(np.array(values), np.array(control))
    assert paired_difference(values, control) == expected
    assert expected["difference"] == 1.5
    shuffled = pd.Series(control[::-1], index=[2, 1, 0])
    assert paired_difference(pd.Series(values), shuffled)["difference"] == 1.5, "matched on the index"
