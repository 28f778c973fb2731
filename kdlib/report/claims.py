"""The findings at the top of README: sentences whose numbers come from the published tables."""

import textwrap

import pandas as pd

from kdlib import paths
from kdlib.bias.stats import holm, interval, paired_difference
from kdlib.files import replacing
from kdlib.names import method_name
from kdlib.report import inflation, publish, selection
from kdlib.report.controls import OURS, by_seed
from kdlib.report.tables import labelled, methods_of, paired, plus_minus

# what a fair comparison needs beside balanced-teacher: a retrained teacher, and the student alone debiased likewise
ALONE = "for the student alone with logit adjustment"
CONTROLS = {
    "with the teacher retrained by logit adjustment and the student resampled": {
        "teacher_debias": "logit_adjustment", "teacher_lam": 1.0, "debias": "resample",
    },
    ALONE: {"method": "scratch", "debias": "logit_adjustment", "lam": 1.0},
}  # fmt: skip
WEAKER = "digits_controls_small"  # digits_controls with a weaker student


def findings() -> str:
    """Return the findings as a Markdown list; a study that is not published has no sentence."""
    sentences = {
        "digits_inflation": distillation, "digits_controls": planted, "faces_debiasing": faces, "cifar100_short": accuracy,
    }  # fmt: skip
    published = {name: say for name, say in sentences.items() if publish.published_folder(name).exists()}
    look = {"width": 128, "initial_indent": "- ", "subsequent_indent": "  ", "break_long_words": False}
    lines = [f"{say(table(name))} ({_link(name)})" for name, say in published.items()]
    return "\n".join(textwrap.fill(line, break_on_hyphens=False, **look) for line in lines)


def marked() -> dict:
    """Return what several studies say together: {(page, mark): Markdown between its marks}."""
    return {("README.md", "findings"): findings(), (publish.RESULTS, "pooled"): pooled(published())}


def into_pages():
    """Put each part of `marked` between its marks, as `<!-- findings -->` and `<!-- /findings -->` of README.md."""
    for (page, mark), inside in marked().items():
        file = paths.ROOT / page
        with replacing(file) as temporary:
            temporary.write_text(publish.between_marks(file.read_text(), mark, inside))


def published() -> dict:
    """Return the tables of all published studies, by name."""
    names = sorted(file.parent.name for file in publish.published_folder().glob("*/results.csv"))
    return {name: table(name) for name in names}


def pooled(studies) -> str:
    """Return the effects of distillation over studies, those of `published`, as a table and a sentence before it."""
    result = inflation.pooled(studies)
    shown = result[result["p_holm"] < inflation.LEVEL]
    if shown.empty:
        limits = result[result["measure"].isin(inflation.BIAS)].groupby("measure", sort=False)["excluded"].max()
        sizes = " and of the ".join(f"{inflation.MEASURES[name]} beyond ±{limit:.3f}" for name, limit in limits.items())
        said = f"Over all studies no method is shown to change bias; a mean change of {sizes} is excluded."
    else:
        said = (
            "Over all studies: "
            + "; ".join(
                f"{row.what} {'lowers' if row.difference < 0 else 'raises'} {inflation.MEASURES[row.measure]} "
                f"({plus_minus(row.difference, row.half, sign='+')}, Holm-adjusted p = {row.p_holm:.2g})"
                for row in shown.itertuples()
            )
            + "; nothing else is shown."
        )
    return f"{said}\n\n{publish.markdown(inflation.readable(result))}"


def table(name) -> pd.DataFrame:
    """Return the published table of a study; those published before there were parts are a grid."""
    return with_part(pd.read_csv(publish.published_folder(name) / "results.csv").copy())


def with_part(table) -> pd.DataFrame:
    """Return the table with the column `part`: one without it is a grid."""
    return table if "part" in table else table.assign(part="grid")


def distillation(study) -> str:
    """Return what distillation itself does to bias."""
    return f"**Does distillation itself change bias?** {inflation.in_words(inflation.effects(study))}"


def planted(study) -> str:
    """Return what balanced-teacher removes of a planted bias, beside its fair controls."""
    grid = labelled(study[study["part"] == "grid"])
    before, after, fair = beside_controls(grid)
    flips = [interval(by_seed(grid, kind, "test_flip_rate"))[0] for kind in ({}, OURS)]
    beside = [f"{mad:.3f} {name} (ours {_signed(test)}, p = {p:.2g})" for name, mad, test, p in fair]
    return (
        "**A planted bias, removed without retraining the teacher.** With *balanced-teacher*, this study's own debiaser, "
        f"MAD falls from {interval(before)[0]:.3f} to {interval(after)[0]:.3f}, the flip rate from {flips[0]:.3f} to "
        f"{flips[1]:.3f} ({len(before)} seeds, mean of four methods, λ not tuned). "
        f"Its fair controls have a MAD of {' and '.join(beside)}. "
        f"{_gains(study)}"
    )


def beside_controls(grid) -> tuple:
    """Return MAD by seed without and with balanced-teacher, and of CONTROLS each (name, MAD, ours minus it, adjusted p)."""
    before, after = (by_seed(grid, kind, "test_mad") for kind in ({}, OURS))
    mads = [by_seed(grid, kind, "test_mad") for kind in CONTROLS.values()]
    tests = [paired_difference(after, mad) for mad in mads]
    adjusted = holm([test["p_value"] for test in tests])
    return before, after, [*zip(CONTROLS, (interval(mad)[0] for mad in mads), tests, adjusted, strict=True)]


def _gains(study):
    """What distillation adds to accuracy once both are debiased, for this student and for a weaker one."""
    studies = {"": study}
    if publish.published_folder(WEAKER).exists():
        studies[f" for a weaker student ({_link(WEAKER)})"] = table(WEAKER)
    tests = []
    for rows in map(labelled, (each[each["part"] == "grid"] for each in studies.values())):
        sides = [by_seed(rows, kind, "test_accuracy") for kind in (OURS, CONTROLS[ALONE])]
        tests.append(paired_difference(*sides))
    adjusted = holm([test["p_value"] for test in tests])
    said = [f"{_signed(test)}{name} (p = {p:.2g})" for name, test, p in zip(studies, tests, adjusted, strict=True)]
    return f"Beside the student alone with logit adjustment, distillation so debiased changes accuracy by {' and '.join(said)}."


def faces(study) -> str:
    """Return what debiasers remove of a bias that nobody planted: the range over all that collapse in no run."""
    plain, fallen, shown = falls(study)
    return (
        f"**Gender in faces**: of a MAD of {interval(plain)[0]:.3f}, {len(fallen)} settings of debiasers remove from "
        f"{plus_minus(*min(fallen))} to {plus_minus(*max(fallen))} ({len(plain)} seeds, mean of four methods); adjusted "
        f"after Holm, p is below {inflation.LEVEL:g} for {shown or 'none'} of the {len(fallen)}."
    )


def falls(study) -> tuple:
    """Return MAD by seed without debiasing; (mean, half-width) of its falls; and how many of these are shown.

    Settings in which a student collapsed are left out. A fall is shown where p of the t-test, paired by seed and adjusted
    after Holm over all falls, is below .05.
    """
    rows = selection.students(study)
    plain = by_seed(rows, {}, "test_mad")
    kinds = [
        dict(zip(("debias", "lam"), kind, strict=True))
        for kind, runs in rows[rows["debias"] != "none"].groupby(["debias", "lam"])
        if not runs["test_degenerate"].any()
    ]
    tests = [paired_difference(plain, by_seed(rows, kind, "test_mad")) for kind in kinds]
    adjusted = holm([test["p_value"] for test in tests])
    shown = sum(p < inflation.LEVEL and test["difference"] > 0 for p, test in zip(adjusted, tests, strict=True))
    return plain, [(test["difference"], test["half"]) for test in tests], shown


def accuracy(study) -> str:
    """Return what distillation brings in accuracy on CIFAR-100 in a short form."""
    gains = {
        name: paired(study, {"method": name}, {"method": "scratch"}) for name in methods_of(study) if name != "scratch"
    }
    adjusted = holm([gain["p_value"] for gain in gains.values()])
    shown = [
        f"{method_name(name)} {100 * gain['difference']:+.1f} ± {100 * gain['half']:.1f} (p = {p:.2g})"
        for (name, gain), p in zip(gains.items(), adjusted, strict=True)
    ]
    seeds = next(iter(gains.values()))["n"]
    return (
        f"**CIFAR-100 in a short form**: points of accuracy over the student alone, {seeds} seeds, p adjusted after Holm: "
        f"{', '.join(shown)}."
    )


def _signed(test):
    return plus_minus(test["difference"], test["half"], sign="+")


def _link(name):
    return f"[{name}](reports/published/{name}/README.md)"
