"""A results table for the tests: a teacher, a student alone and CKD, plain and debiased, over three seeds."""

import pandas as pd


def row(method="ckd", seed=0, accuracy=0.8, mad=0.3, debias="none", lam=0.0, teacher_debias="none", **more):
    base = {
        "method": method, "seed": seed, "debias": debias, "lam": lam, "teacher_debias": teacher_debias, "teacher_lam": 0.0,
        "key": f"{method}{debias}{lam}{teacher_debias}{seed}", "teacher_key": None if method == "scratch" else f"t{seed}",
        "test_accuracy": accuracy, "test_mad": mad, "test_degenerate": False, "test_mad_p_value": 0.001,
        "test_sqrt_u": mad - 0.05, "test_mad_floor": 0.05, "test_mad_floor_low": 0.03, "test_mad_floor_high": 0.08,
        "vs_teacher_inflation": 0.1, "vs_teacher_inflation_low": 0.05, "vs_teacher_inflation_high": 0.15,
        "student": "s", "teacher": "t",
    }  # fmt: skip
    return base | more


def study(debiased_mad=0.1, debiased_accuracy=0.83):
    rows = []
    for seed in range(3):
        jitter = 0.01 * seed
        rows.append(row("scratch", seed, 0.9, 0.2 + jitter, key=f"t{seed}", student="t"))
        rows += [row("scratch", seed, 0.82 + jitter, 0.3 - jitter), row("ckd", seed, 0.8 + jitter / 2, 0.32 + jitter)]
        for method in ("scratch", "ckd"):
            rows.append(
                row(method, seed, debiased_accuracy + jitter, debiased_mad + jitter / 3, debias="domain_independent")
            )
    return pd.DataFrame(rows)
