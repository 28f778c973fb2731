"""Sentences that follow the numbers: change the table, and the sentence changes."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from study_examples import row, study

from kdlib.report import tables, words


def part(text, heading):
    """The paragraph with that heading."""
    return next(block for block in text.split("\n\n") if block.startswith(f"**{heading}"))


def with_inflation(table, values, method="ckd"):
    """Inflation against the teacher by seed, with intervals of ± .05 over pictures."""
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
    assert "6 of 6 students" in words.in_words(study())
    fair = study().assign(test_mad_p_value=lambda t: np.where(t["method"] == "ckd", 0.4, 0.001))
    assert "3 of 6 students" in words.in_words(fair)


def test_inflation_against_the_teacher_follows_the_numbers():
    def says(values):
        return part(words.in_words(with_inflation(study(), values)), "Does distillation inflate")

    grown, shrunk, noisy = says([0.2, 0.21, 0.19]), says([-0.2, -0.21, -0.19]), says([0.2, -0.1, 0.05])
    assert "MAD is higher for CKD (+0.200 ± 0.025, p = 0.00083)" in grown
    assert "above zero for 3 and below for 0" in grown
    assert "MAD is lower for CKD (-0.200 ± 0.025" in shrunk
    assert "above zero for 0 and below for 3" in shrunk
    assert "shows no difference for CKD (+0.050" in noisy
    assert "above zero for 1 and below for 1" in noisy


def test_what_distillation_itself_does_is_said_against_the_student_alone():
    def says(shift, table=None):
        table = study() if table is None else table
        alone = [0.3, 0.29, 0.28]
        return part(
            words.in_words(with_mad(table, [a + s for a, s in zip(alone, shift, strict=True)])), "Does distillation"
        )

    assert "Distillation itself adds bias here with CKD." in says([0.1, 0.101, 0.102])
    assert "Distillation itself takes bias away here with CKD." in says([-0.1, -0.101, -0.102])
    neither = says([0.1, -0.1, 0.01], with_inflation(study(), [0.2, 0.21, 0.19]))
    assert "is not shown here: what is shown against the teacher may come with the smaller network alone." in neither
    nothing = says([0.1, -0.1, 0.01], with_inflation(study(), [0.2, -0.1, 0.05]))
    assert "is not shown here. " in nothing


def test_what_distillation_does_needs_a_measure_that_accuracy_does_not_move():
    """A fair student that is more accurate has less MAD, as its floor falls."""
    table = with_mad(study(), [0.2, 0.191, 0.182])
    students = (table["student"] == "s") & (table["debias"] == "none")
    table.loc[students & (table["method"] == "scratch"), "test_sqrt_u"] = [0.11, 0.11, 0.11]
    table.loc[students & (table["method"] == "ckd"), "test_sqrt_u"] = [0.12, 0.1, 0.115]
    text = part(words.in_words(table), "Does distillation")
    assert "MAD is lower for CKD (-0.099" in text
    assert "√U, which does not fall because a student is more accurate, shows no difference for CKD" in text
    assert "That distillation itself adds bias or takes it away is not shown here" in text
    many = part(words.in_words(table.assign(test_sqrt_u=np.nan, test_mad_floor=0.05)), "Does distillation")
    assert "MAD less its floor, which does not" in many
    assert "takes bias away here with CKD" in many


def test_collapsed_students_are_no_verdict_on_distillation():
    table = with_mad(study(), [0.0, 0.001, 0.002])
    collapsed = (table["method"] == "ckd") & (table["debias"] == "none")
    text = words.in_words(table.assign(test_degenerate=collapsed))
    assert "Does distillation" not in text, "no other method is left"
    assert "3 of these 6 students are degenerate" in text
    other = table[table["method"] == "ckd"].assign(method="rkd", key=lambda t: t["key"] + "r")
    other = pd.concat([table.assign(test_degenerate=collapsed), with_mad(other, [0.3, 0.31, 0.3], "rkd")])
    text = part(words.in_words(other), "Does distillation")
    assert "Not looked at, being degenerate in a seed: CKD." in text
    assert "CKD (" not in text


def test_one_seed_allows_no_verdict():
    text = words.in_words(study().query("seed == 0"))
    assert "could not be tested for CKD" in text
    assert "shows no difference" not in text
    assert "One seed has no interval, so nothing is said." in text


def test_a_table_of_students_alone_or_without_them_has_no_verdict_on_distillation():
    assert "Does distillation" not in words.in_words(study().query("method == 'scratch' and student == 's'"))
    without = study().query("method != 'scratch' or student == 't'")
    assert "Does distillation" not in words.in_words(without)


def test_verdicts_are_adjusted_for_the_number_of_methods():
    """p = .03 is a verdict for one method, and none where five others were looked at as well."""
    test = {"difference": 0.1, "half": 0.05, "p_value": 0.03}
    found, text = words._verdicts({"ckd": test})
    assert (found[1], text) == (["CKD"], "is higher for CKD (+0.100 ± 0.050, p = 0.03)")
    others = {name: test | {"p_value": 0.8} for name in ("rkd", "ctkd", "kdpp", "dkd")}
    found, text = words._verdicts({"ckd": test} | others)
    assert found[1] == []
    assert "shows no difference for CKD (+0.100 ± 0.050, p = 0.15), RKD" in text


def test_which_debiasing_helps_follows_the_numbers():
    def says(*arguments, **options):
        return part(words.in_words(study(*arguments, **options)), "Which debiasing helps")

    assert "*domain-independent* helps for 2 of 2 (MAD from 0.290 to 0.330, changed by -0.227 to -0.187" in says(0.1)
    assert "*, does not, for any method." in says(0.29)
    costly = says(0.1, debiased_accuracy=0.7)
    assert "The only kind" in costly
    assert "Less bias at more than a point of accuracy, for some method: *domain-independent*." in costly
    assert "Less bias at more" not in says(0.1)


def test_the_most_helpful_debiasing_comes_first():
    def table(mad):
        rows = [
            row(method, seed, 0.83, mad + seed / 1000, debias="reweight")
            for method in ("scratch", "ckd")
            for seed in range(3)
        ]
        return pd.concat([study(0.1), pd.DataFrame(rows)])

    assert "Most by this measure: *reweight* helps for 2 of 2" in words.in_words(table(0.02))
    late = words.in_words(table(0.13))
    assert "Most by this measure: *domain-independent* helps" in late
    assert "*reweight* helps for 2 of 2" in late
    assert "For no method: *reweight*." in words.in_words(table(0.3))


def test_degenerate_models_are_named_and_not_praised():
    assert "Degenerate" not in words.in_words(study())
    useless = words.in_words(study().assign(test_degenerate=lambda t: t["debias"] == "domain_independent"))
    assert (
        "Degenerate in at least one seed, so not to be praised for low bias: student alone + domain-independent"
        in useless
    )
    assert "The only kind" in useless
    collapsed = study(0.0, debiased_accuracy=0.1)
    collapsed["test_degenerate"] = collapsed["debias"] == "domain_independent"
    assert "Less bias at more than a point of accuracy" not in words.in_words(collapsed)


def test_a_table_without_debiasing_or_without_groups():
    plain = words.in_words(study().query("debias == 'none'"))
    assert "Which debiasing" not in plain
    assert "Does distillation" in plain
    assert words.in_words(study().assign(test_mad=np.nan)).startswith("**No bias figures.**")


def test_words_of_a_paired_test():
    assert words.verdict({"difference": 0.1, "p_value": 0.01}).startswith("more")
    assert words.verdict({"difference": -0.1, "p_value": 0.01}).startswith("less")
    assert words.verdict({"difference": 0.1, "p_value": 0.2}).startswith("no difference shown")
    assert words.verdict({"difference": 0.1, "p_value": np.nan}) == "no difference shown"
    assert [words.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_limits_follow_the_table_and_the_data(digits):
    text = words.limits(study(), digits)
    half = tables.paired(tables.labelled(study()), {"method": "ckd"}, {"method": "scratch"}, "test_mad")["half"]
    assert f"known to ± {half:.3f}" in text
    assert "With 3 seeds an interval is ± 2.48" in text
    assert "a MAD of 0.030 to 0.080" in text
    assert "599 of 1198 test pictures are copies" in text
    assert "test cell (class × group) holds 58 to 61" in text
    alone = words.limits(study().query("seed == 0"), digits)
    assert "With" not in alone
    wider = study().assign(test_mad_floor_high=0.2)
    assert "a MAD of 0.030 to 0.200" in words.limits(wider, digits)
    apart = dataclasses.replace(digits, test=dataclasses.replace(digits.test, source=np.arange(len(digits.test))))
    assert "copies" not in words.limits(study(), apart)


@pytest.mark.parametrize("column", ["test_mad", "test_accuracy"])
def test_no_sentence_about_debiasing_survives_other_numbers(column):
    table = study()
    changed = table.assign(**{column: table[column] * np.where(table["debias"] == "none", 1, 0.5)})
    assert part(words.in_words(changed), "Which debiasing") != part(words.in_words(table), "Which debiasing")
