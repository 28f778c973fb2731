"""Sentences that follow the numbers: change the table, and the sentence changes."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from study_examples import row, study

from kdlib.report import tables, words


def part(text, heading):
    """The paragraph with that heading."""
    return next(block for block in text.split("\n\n") if block.startswith(f"**{heading}"))


def with_inflation(table, values, method="ckd"):
    """Inflation against the teacher by seed, with intervals of ± .05 over images."""
    for seed, value in enumerate(values):
        chosen = (table["method"] == method) & (table["seed"] == seed)
        table.loc[chosen, ["vs_teacher_inflation", "vs_teacher_inflation_low", "vs_teacher_inflation_high"]] = [
            value, value - 0.05, value + 0.05,
        ]  # fmt: skip
    return table


def with_mad(table, values, method="ckd"):
    for seed, value in enumerate(values):
        chosen = (table["method"] == method) & (table["seed"] == seed) & (table["debias"] == "none")
        table.loc[chosen & (table["student"] == "s"), ["test_mad", "test_sqrt_u"]] = value
    return table


def test_bias_beyond_chance_counts_the_students():
    assert "All 6 students" in words.in_words(study())
    fair = study().assign(test_mad_p_value=lambda t: np.where(t["method"] == "ckd", 0.4, 0.001))
    assert "3 of 6 students" in words.in_words(fair)
    assert "None of the 6 students" in words.in_words(study().assign(test_mad_p_value=0.4))


def test_pairs_have_another_floor_and_a_flip_rate():
    text = part(words.in_words(study()), "Bias beyond chance")
    assert "blind to the group would show 0.050" in text
    assert "pairs" not in text
    text = part(words.in_words(study().assign(test_paired=True, test_flip_rate=0.25)), "Bias beyond chance")
    assert "within pairs" in text
    assert "bias 0" in text
    assert "would show" not in text
    assert "25.0%" in text


def test_inflation_against_the_teacher_follows_the_numbers():
    def inflation(values):
        return part(words.in_words(with_inflation(study(), values)), "Does distillation inflate")

    grown, shrunk, mixed = inflation([0.2, 0.21, 0.19]), inflation([-0.2, -0.21, -0.19]), inflation([0.2, -0.1, 0.01])
    assert "higher for CKD (+0.200 ± 0.025, p = 0.00083)" in grown
    assert "all 3 networks were more biased" in grown
    assert "lower for CKD (-0.200 ± 0.025" in shrunk
    assert "all 3 networks were less biased" in shrunk
    assert "no difference for CKD (+0.037" in mixed
    assert "1 of 3 networks were more biased than their teacher, and 1 less" in mixed
    assert "none of the 3 networks differs" in inflation([0.01, 0.02, 0.0])
    assert "2 of 3 networks were more biased than their teacher, and none" in inflation([0.2, 0.3, 0.0])


def test_what_distillation_itself_does_is_said_against_the_student_alone():
    def verdict(shift, table=None):
        table = study() if table is None else table
        mads = [alone + change for alone, change in zip([0.3, 0.29, 0.28], shift, strict=True)]
        return part(words.in_words(with_mad(table, mads)), "Does distillation")

    assert "Both measures are higher with CKD" in verdict([0.1, 0.101, 0.102])
    assert "Both measures are lower with CKD" in verdict([-0.1, -0.101, -0.102])
    neither = verdict([0.1, -0.1, 0.01], with_inflation(study(), [0.2, 0.21, 0.19]))
    assert "no evidence" in neither
    assert "smaller network" in neither
    nothing = verdict([0.1, -0.1, 0.01], with_inflation(study(), [0.2, -0.1, 0.05]))
    assert "no evidence" in nothing
    assert "smaller network" not in nothing


def test_what_distillation_does_needs_a_measure_that_accuracy_does_not_move():
    """A fair student that is more accurate has less MAD, as its floor falls."""
    table = with_mad(study(), [0.2, 0.191, 0.182])
    students = (table["student"] == "s") & (table["debias"] == "none")
    table.loc[students & (table["method"] == "scratch"), "test_sqrt_u"] = [0.11, 0.11, 0.11]
    table.loc[students & (table["method"] == "ckd"), "test_sqrt_u"] = [0.12, 0.1, 0.115]
    text = part(words.in_words(table), "Does distillation")
    assert "lower for CKD (-0.099" in text
    assert "no difference for CKD" in text.partition("√U")[2]
    assert "no evidence" in text
    many = part(words.in_words(table.assign(test_sqrt_u=np.nan, test_mad_floor=0.05)), "Does distillation")
    assert "MAD less its floor" in many
    assert "Both measures are lower with CKD" in many


def test_collapsed_students_are_no_verdict_on_distillation():
    table = with_mad(study(), [0.0, 0.001, 0.002])
    collapsed = (table["method"] == "ckd") & (table["debias"] == "none")
    text = words.in_words(table.assign(test_degenerate=collapsed))
    assert "Does distillation" not in text, "no other method is left"
    assert "3 of these 6 students collapsed" in text
    other = table[table["method"] == "ckd"].assign(method="rkd", key=lambda t: t["key"] + "r")
    other = pd.concat([table.assign(test_degenerate=collapsed), with_mad(other, [0.3, 0.31, 0.3], "rkd")])
    text = part(words.in_words(other), "Does distillation")
    assert "at least one seed: CKD." in text
    assert "CKD (" not in text


def test_one_seed_allows_no_verdict():
    text = words.in_words(study().query("seed == 0"))
    assert "could not be tested for CKD" in text
    assert "no difference" not in text
    assert "One seed has no interval" in text


def test_a_table_of_students_alone_or_without_them_has_no_verdict_on_distillation():
    assert "Does distillation" not in words.in_words(study().query("method == 'scratch' and student == 's'"))
    without = study().query("method != 'scratch' or student == 't'")
    assert "Does distillation" not in words.in_words(without)


def test_verdicts_are_adjusted_for_the_number_of_methods():
    """p = .03 is a verdict for one method, and none where four others were compared as well."""
    test = {"difference": 0.1, "half": 0.05, "p_value": 0.03}
    methods, text = words._verdicts({"ckd": test})
    assert methods[1] == ["CKD"]
    assert "higher for CKD (+0.100 ± 0.050, p = 0.03)" in text
    others = {name: test | {"p_value": 0.8} for name in ("rkd", "ctkd", "kdpp", "dkd")}
    methods, text = words._verdicts({"ckd": test} | others)
    assert methods[1] == []
    assert "no difference for CKD (+0.100 ± 0.050, p = 0.15), RKD" in text


def test_a_method_and_a_debiaser_without_a_label_are_named():
    table = study().replace({"method": {"ckd": "zz_new"}, "debias": {"domain_independent": "zz_debias"}})
    text = words.in_words(table)
    assert "for zz_new (" in part(text, "Does distillation")
    assert "*zz-debias*" in part(text, "Which debiasing")


def debiasing(*arguments, **options):
    return part(words.in_words(study(*arguments, **options)), "Which debiasing helps")


def test_which_debiasing_helps_follows_the_numbers():
    assert re.search(r"\*domain-independent\* helps .*2 of 2 .*0.290 to 0.330, .*-0.227 to -0.187", debiasing(0.1))
    useless = debiasing(0.29)
    assert "No method was helped by *domain-independent*" in useless
    costly = debiasing(0.1, debiased_accuracy=0.7)
    assert "No method was helped by *domain-independent*" in costly
    assert "more than a point of accuracy for some method: *domain-independent*" in costly
    assert "more than a point" not in debiasing(0.1)


def test_less_bias_is_said_only_of_a_fall_that_is_clear_of_zero():
    """On average MAD falls at the cost of accuracy, but one seed of three does not fall at all."""
    table = study(0.0, debiased_accuracy=0.7)
    table.loc[(table["debias"] != "none") & (table["seed"] == 0), "test_mad"] = 0.33
    assert "more than a point" not in part(words.in_words(table), "Which debiasing helps")
    assert "more than a point" in debiasing(0.0, debiased_accuracy=0.7)


def test_the_most_helpful_debiasing_comes_first(monkeypatch):
    def table(mad):
        rows = [
            row(method, seed, 0.83, mad + seed / 1000, debias="reweight")
            for method in ("scratch", "ckd")
            for seed in range(3)
        ]
        return pd.concat([study(0.1), pd.DataFrame(rows)])

    assert "*reweight* helps most" in words.in_words(table(0.02))
    late = words.in_words(table(0.13))
    assert "*domain-independent* helps most" in late
    assert "*reweight* helps too" in late
    assert "No method was helped by *reweight*" in words.in_words(table(0.3))
    monkeypatch.setattr(words, "SHOWN", 1)
    assert "1 more help with at least one method: *reweight*" in words.in_words(table(0.13))


def test_collapsed_models_are_named_and_not_praised():
    assert "Collapsed" not in words.in_words(study())
    useless = words.in_words(study().assign(test_degenerate=lambda t: t["debias"] == "domain_independent"))
    assert "student alone + domain-independent" in part(useless, "Collapsed")
    assert "No method was helped" in useless
    collapsed = study(0.0, debiased_accuracy=0.1)
    collapsed["test_degenerate"] = collapsed["debias"] == "domain_independent"
    assert "more than a point" not in words.in_words(collapsed)


def test_a_table_without_debiasing_or_without_groups():
    plain = words.in_words(study().query("debias == 'none'"))
    assert "Which debiasing" not in plain
    assert "Does distillation" in plain
    assert words.in_words(study().assign(test_mad=np.nan)).startswith("**No bias figures")


def test_names_in_a_row():
    assert [words.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert words.listed(["a", "b"], "or") == "a or b"


def test_limits_follow_the_table_and_the_data(digits):
    text = words.limits(study(), digits)
    half = tables.paired(tables.labelled(study()), {"method": "ckd"}, {"method": "scratch"}, "test_mad")["half"]
    assert f"± {half:.3f}" in text
    assert re.search(r"3 seeds.* ± 2.48", text)
    assert "0.030 to 0.080" in text
    assert "599 of 1198 test images are copies" in text
    assert "58 to 61" in text
    alone = words.limits(study().query("seed == 0"), digits)
    assert "seeds" not in alone
    assert "0.030 to 0.200" in words.limits(study().assign(test_mad_floor_high=0.2), digits)
    apart = dataclasses.replace(digits, test=dataclasses.replace(digits.test, source=np.arange(len(digits.test))))
    assert "copies" not in words.limits(study(), apart)
    in_pairs = words.limits(study().assign(test_paired=True), digits)
    assert "bias 0" in in_pairs
    assert "copies" not in in_pairs


@pytest.mark.parametrize("column", ["test_mad", "test_accuracy"])
def test_no_sentence_about_debiasing_survives_other_numbers(column):
    table = study()
    changed = table.assign(**{column: table[column] * np.where(table["debias"] == "none", 1, 0.5)})
    assert part(words.in_words(changed), "Which debiasing") != part(words.in_words(table), "Which debiasing")
