"""What methods, debiasers and runs are called in tables, figures and messages.

A name that is missing here shows as it is; nothing is left out because it has no label."""

import difflib
import html
import re

METHODS = {
    "teacher": "teacher", "scratch": "student alone", "ckd": "CKD", "rkd": "RKD", "rkd_author": "RKD (author's)",
    "ctkd": "CTKD", "ctkd_instance": "CTKD (instance-wise)", "kdpp": "KD++", "dkd": "DKD", "dkdpp": "DKD++",
    "dist": "DIST", "logit_standardization": "LSKD",
}  # fmt: skip
DEBIASERS = {
    "none": "no debiasing", "mfd": "MFD", "dfr": "DFR", "group_dro": "group DRO", "dett": "DeTT", "ltkd": "LTKD-like",
    "teachers_pet": "Teacher's pet", "jtt": "JTT", "afr": "AFR", "balanced_teacher_measured": "balanced-teacher (κ = 0)",
    "balanced_teacher_prior": "balanced-teacher (κ = ∞)", "balanced_teacher_unsampled": "balanced-teacher (not resampled)",
}  # fmt: skip
PLAIN = {"debias": "none", "lam": 0.0, "teacher_debias": "none", "teacher_lam": 0.0}  # a run without any debiasing


def method_name(method) -> str:
    """Return the label of a method, or its own name where it has none."""
    return METHODS.get(method, method)


def debiaser_name(debias, lam=0) -> str:
    """Return a debiaser in words, as `critic λ 10`, `group DRO` or `domain-independent`."""
    return DEBIASERS.get(debias, debias.replace("_", "-")) + (f" λ {lam:g}" if lam else "")


def kind_name(settings) -> str:
    """Return a kind of model in words, as `CKD + critic λ 10, teacher domain-independent`.

    Parameters
    ----------
    settings : mapping
        A run's settings, or a row of a table: method, debias, lam, teacher_debias, teacher_lam. What is missing is plain.
    """
    settings = PLAIN | dict(settings)
    text = method_name(settings.get("method", ""))
    if settings["debias"] != "none":
        text += f" + {debiaser_name(settings['debias'], settings['lam'])}"
    if settings["teacher_debias"] != "none":
        text += f", teacher {debiaser_name(settings['teacher_debias'], settings['teacher_lam'])}"
    return text.removeprefix(" + ").removeprefix(", ") or "plain"


def run_name(run) -> str:
    """Return a run in a few words, as `resnet8 alone, seed 0` or `ckd + critic λ 10, seed 1`."""
    text = f"{run.student} alone" if run.method == "scratch" else run.method
    if run.debias != "none":
        text += f" + {run.debias}" + (f" λ {run.lam:g}" if run.lam else "")
    if run.teacher_debias != "none":
        text += f", teacher {run.teacher_debias}" + (f" λ {run.teacher_lam:g}" if run.teacher_lam else "")
    text += f", {run.method_options}" if run.method_options else ""
    return f"{text}{', nesterov' if run.nesterov else ''}, seed {run.seed}"


def literal(text) -> str:
    """Return a text that somebody gave, as Markdown and HTML that show it as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+.!|$~:-])", r"\\\1", html.escape(str(text), quote=False))


def unknown_name(name, known, what) -> ValueError:
    """Return the error for an unknown `name`, with the most similar known one first."""
    known = [str(item) for item in known]
    guess = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {guess[0]!r}?" if guess else ""
    return ValueError(f"unknown {what} {name!r}.{hint} Known: {', '.join(known)}")
