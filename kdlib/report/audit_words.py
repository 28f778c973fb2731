"""The verdict on a table of predictions, and what the data cannot show, in plain sentences that follow from the figures."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdlib.bias import resolution
from kdlib.report.audit_findings import LEVEL
from kdlib.report.words import listed

TOO_LITTLE = 0.2  # where not even a difference in recall of this size is excluded, the data say too little
NAMED = 3  # classes that the verdict describes
FEW = 10  # images in a cell: fewer are pointed out


@dataclass(frozen=True)
class Verdict:
    """`kind`: biased, not shown, too little data, too weak. The rest is plain text."""

    kind: str
    title: str
    sentences: list
    of_teacher: list
    limits: list


def verdict(found, findings) -> Verdict:
    """Return what an `audit.Predictions` and its Findings say."""
    of_teacher = _against_teacher(found, findings) if findings.teacher else []
    return Verdict(*_judged(found, findings), of_teacher, _limits(found, findings))


def number(value, digits=3, *, sign=False) -> str:
    """Return a number as the page writes it, with a true minus, and – where there is none."""
    return (
        "–"
        if not np.isfinite(value)
        else f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")
    )


def span(value, low, high, *, sign=False) -> str:
    """Return a number with its limits, which stay on one line."""
    if not np.isfinite(value):
        return "–"
    return f"{number(value, sign=sign)} ({number(low, sign=sign)}\u00a0to\u00a0{number(high, sign=sign)})"


def p_text(value) -> str:
    """Return a p-value as `p = 0.03` or `p < 0.001`."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def percent(share) -> str:
    """Return a share in percent."""
    return f"{100 * share:.0f} %" if 0.005 < share < 0.995 or share in (0, 1) else f"{100 * share:.1f} %"


def different(by_class) -> pd.DataFrame:
    """Return the classes that differ after adjustment, largest disparity first."""
    chosen = by_class[by_class["p_adjusted"] < LEVEL / 2]
    return chosen.iloc[np.argsort(-chosen["value"].abs().to_numpy(), kind="stable")]


def _judged(found, findings):
    """Return kind, title and sentences. Two looks are taken, at MAD and class by class, so each is held to half the level."""
    figures, classes = findings.figures, different(findings.by_class)
    mad = f"The mean difference in recall between groups (MAD) is {number(figures['mad'])}. "
    mad += (
        f"With groups exchanged at random within pairs of the same original it is {number(figures['mad_floor'])}"
        if figures["paired"]
        else f"A model blind to {found.attribute} would show {number(figures['mad_floor'])} on these images"
    )
    mad += (
        f" (95 %: {number(figures['mad_floor_low'])} to {number(figures['mad_floor_high'])}; "
        f"{p_text(figures['mad_p_value'])})."
    )
    useless = (
        f"With an accuracy of {percent(figures['accuracy'])} the model is hardly better than one that always names the same "
        "class. Such models look fair and are useless."
    )
    if not figures["classes_counted"]:
        return "too little data", "Too little data.", ["No class has images of two groups, so nothing can be compared."]
    beyond = figures["mad_p_value"] < LEVEL / 2
    if beyond or len(classes):
        size = []
        if findings.sqrt_u and np.isfinite(figures["sqrt_u"]):
            value, low, high = (number(max(root, 0)) for root in (figures["sqrt_u"], *findings.sqrt_u[0]))
            size = [
                f"With the share of chance taken out, the typical difference (√U) is {value} (95 %: {low} to {high})."
            ]
        if not beyond:
            mad += " Over all classes that is not beyond chance; in single classes it is."
        more = [useless] if figures["degenerate"] else []
        return "biased", "Biased.", [mad, *size, *_named(found, classes, len(findings.by_class)), *more]
    if findings.excluded > TOO_LITTLE:
        return "too little data", "Too little data.", [_too_little(found, findings.excluded), mad]
    if figures["degenerate"]:
        return "too weak", "Too weak a model to judge.", [useless, mad]
    excluded = (
        f"A typical difference in recall{_between(found)} above {number(findings.excluded)} is excluded (root mean square over "
        "classes, 95 %); a smaller one is not."
    )
    return "not shown", "No bias shown.", [mad, "No single class differs after adjustment for all of them.", excluded]


def _between(found):
    return "" if len(found.groups) == 2 else ", between any two groups,"


def _too_little(found, excluded):
    text = "These images could hardly show a bias: "
    if not np.isfinite(excluded):
        return text + "no size of a difference is excluded, since too few classes have two images of each group."
    times = max(2, int(np.ceil((excluded / (TOO_LITTLE / 2)) ** 2)))
    return text + (
        f"a typical difference in recall{_between(found)} of up to {number(excluded, 2)} is not excluded (root mean square "
        f"over classes, 95 %). To exclude one of {TOO_LITTLE / 2:g} takes about {times} times as many."
    )


def _named(found, classes, count):
    """Sentences on the classes that differ most."""
    if classes.empty:
        return [
            f"No single one of the {count} classes differs after adjustment for all of them: the bias is spread over several, "
            "or too small to place."
        ]
    verb = "differs" if len(classes) == 1 else "differ"
    sentences = [f"{len(classes)} of {count} classes {verb} after adjustment for all of them (Holm)."]
    for _, row in classes.head(NAMED).iterrows():
        recalls = np.array([row[f"recall_{g}"] for g in range(len(found.groups))])
        least, most = np.nanargmin(recalls), np.nanargmax(recalls)
        sentences.append(
            f"“{row['name']}” is recognised in {percent(recalls[least])} of {row[f'images_{least}']} images of "
            f"“{found.groups[least]}” and in {percent(recalls[most])} of {row[f'images_{most}']} of “{found.groups[most]}”."
        )
    return sentences


def inflation(found, findings) -> tuple:
    """Return what is compared with the teacher, and its change with limits: √U, or of several groups MAD less its floor."""
    name, shift, measure = "sqrt_u_inflation", 0.0, "√U"
    if len(found.groups) > 2:
        name, measure = "inflation", "MAD less its floor"
        shift = findings.figures["mad_floor"] - findings.teacher["mad_floor"]
    return measure, *(findings.comparison[name + end] - shift for end in ("", "_low", "_high"))


def _against_teacher(found, findings):
    measure, value, low, high = inflation(found, findings)
    if not np.isfinite([value, low, high]).all():
        return ["The student cannot be compared with its teacher: too few classes have two images of each group."]
    change = (
        f"{measure} changes by {number(value, sign=True)} (95 %: {number(low, sign=True)} to {number(high, sign=True)})"
    )
    if low > 0 or high < 0:
        return [f"The student is {'more' if low > 0 else 'less'} biased than its teacher: {change}."]
    if max(-low, high) > TOO_LITTLE:
        return [f"These images cannot tell whether the student is more biased than its teacher: {change}."]
    return [
        f"No difference from its teacher is shown: {change}. A rise above {number(max(high, 0))} and a fall beyond "
        f"{number(max(-low, 0))} are excluded."
    ]


def _limits(found, findings):
    """Return what the data cannot show, a sentence or two each."""
    figures, by_class, groups = findings.figures, findings.by_class, range(len(found.groups))
    cells = by_class[[f"images_{g}" for g in groups]].to_numpy()
    lines = [*_resolution(found, figures, by_class, cells)]
    lone = by_class["name"][(cells > 0).sum(1) < 2].tolist()
    if lone:
        named = listed([f"“{name}”" for name in lone[:10]]) if len(lone) <= 10 else f"{len(lone)} classes"
        lines.append(f"{named} {'have' if len(lone) > 1 else 'has'} images of one group only and cannot be compared.")
    few = (cells > 0) & (cells < FEW)
    if few.any():
        lines.append(
            f"{few.sum()} of {(cells > 0).sum()} cells (class × group) hold fewer than {FEW} images, the smallest "
            f"{cells[cells > 0].min()}: a single image moves their recall by {percent(1 / cells[cells > 0].min())}."
        )
    if figures["unknown"]:
        lines.append(
            f"{figures['unknown']} of {len(found.group)} images have no known group. They count in the accuracy and nowhere "
            "else."
        )
    if found.pooled:
        names = [f"{name} ({images})" for name, images in found.pooled.items()]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        lines.append(f"Rare combinations are pooled in the group “other”: {'; '.join(names[:10])}{more}.")
    if not figures["paired"]:
        lines.append(
            "A difference between groups may come from whatever else differs between their images, such as pose, light or "
            "age. Only pairs that show the same original in several groups (a column pair) would rule that out."
            + (
                " The pairs given hold no class and id in two groups, so they are not used."
                if found.pair is not None
                else ""
            )
        )
    lines += [
        "Labels and groups are taken as true. A bias that the labels share with the model is invisible.",
        "This is one model on one set of images. Intervals cover the chance of the images; another training would give another "
        "model, and other images (another place, another camera) may show another bias.",
    ]
    if found.probability is None:
        lines.append("Without probabilities nothing is said of calibration, of ranking (AUC) or of another threshold.")
    return lines


def _resolution(found, figures, by_class, cells):
    chosen = resolution.counted(cells)
    if not len(chosen):
        return []
    recalls = by_class[[f"recall_{g}" for g in range(len(found.groups))]].to_numpy()[(cells > 0).sum(1) >= 2]
    recall = float(np.clip(np.nanmean(recalls), 0.05, 0.99))
    if figures["paired"]:
        known = len(found.group) - figures["unknown"]
        text = (
            f"{figures['pairs']} pairs show the same original in several groups; floors and intervals are those of pairs. A "
            f"model blind to {found.attribute} has a MAD of exactly 0 on them"
        )
        partners = figures["pairs"] * len(found.groups) == known
        return [f"{text}{'.' if partners else '; images without a partner add noise.'}"]
    row = resolution.floors(cells, recalls=(recall,), models=2000).iloc[0]
    return [
        f"{len(chosen)} of {len(cells)} classes have images of two groups, in cells of {chosen[chosen > 0].min()} to "
        f"{chosen.max()} images. Any two models as accurate as this one (recall {recall:.2f}) and blind to {found.attribute} "
        f"show a MAD of {number(row.low)} to {number(row.high)}. Two of them that disagree on {percent(resolution.ALIKE)} of "
        f"images differ in MAD by up to {number(row.alike)} by chance: a smaller difference between two models means nothing "
        "here."
    ]
