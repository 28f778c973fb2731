"""Sentences computed from the table of a sweep, as Markdown: other numbers, other sentences."""

import numpy as np
from scipy.special import stdtrit

from kdlib import data
from kdlib.bias import benjamini_hochberg
from kdlib.bias.stats import interval, t_test
from kdlib.names import PLAIN, kind_name, method_name
from kdlib.report import tables
from kdlib.report.tables import has_pairs, methods_of, paired, plain_students, plus_minus, span

LEVEL = 0.05
SHOWN = 5  # kinds of debiasing with their figures; the others are named
VERDICTS = {1: "is higher for", -1: "is lower for", 0: "shows no difference for", None: "could not be tested for"}


def in_words(table) -> str:
    """Return what the table shows: bias beyond chance, inflation by distillation, what debiasing does and costs."""
    table = tables.labelled(table)
    methods = methods_of(table)
    plain = plain_students(table, methods)
    if plain["test_mad"].isna().all():
        return "**No bias figures.** No class has test images of two groups."
    distilled = [name for name in methods if name != "scratch"]
    parts = [_beyond_chance(plain), _inflation(table, distilled), _debiasing(table), _collapsed_models(table)]
    return "\n\n".join(filter(None, parts))


def _beyond_chance(plain):
    tested = plain[plain["test_mad_p_value"].notna()]
    beyond, collapsed = (tested["test_mad_p_value"] < 0.01).sum(), tested["test_degenerate"].astype(bool).sum()
    text = (
        f"**Bias beyond chance.** {_share(beyond, len(tested))} students without debiasing have a MAD above the noise floor "
        f"(p < .01). "
    )
    text += f"{collapsed} of these {len(tested)} students collapsed. " if collapsed else ""
    mad, chance = f"{plain['test_mad'].mean():.3f}", f"{plain['test_mad_floor'].mean():.3f}"
    if has_pairs(plain):
        text += (
            f"Their mean MAD is {mad}. The floor exchanges the groups within pairs of the same image and averages {chance} "
            "(a model blind to the group has bias 0)."
        )
    else:
        text += f"Their mean MAD is {mad}; a model blind to the group would show {chance}."
    if tables.has_flips(plain):
        text += f" The prediction changes with the group for {plain['test_flip_rate'].mean():.1%} of the pairs."
    return text


def _inflation(table, methods):
    """Distilled students against their own teacher, and against the student alone, adjusted for the number of methods.

    MAD's noise floor falls as accuracy rises, so a fair student that learns more has less MAD. That distillation itself changes
    bias is therefore said only where a measure without that floor agrees."""
    kept = [name for name in methods if not _collapsed(table, name)]
    if not kept or "scratch" not in set(table["method"]) or _collapsed(table, "scratch"):
        return ""
    left_out = listed(method_name(name) for name in methods if name not in kept)
    two_groups = table["test_sqrt_u"].notna().any()
    measure = "√U" if two_groups else "MAD less its floor"
    table = table.assign(_fair=table["test_sqrt_u"] if two_groups else table["test_mad"] - table["test_mad_floor"])
    rows = plain_students(table, kept)
    above, below = (rows["vs_teacher_inflation_low"] > 0).sum(), (rows["vs_teacher_inflation_high"] < 0).sum()
    of_teacher, of_alone, of_fair = {}, {}, {}
    for method in kept:
        inflation = rows.loc[rows["method"] == method, "vs_teacher_inflation"].astype(float)
        mean, half = interval(inflation)
        of_teacher[method] = {"difference": mean, "half": half, "p_value": t_test(inflation)}
        of_alone[method] = paired(table, {"method": method}, {"method": "scratch"}, "test_mad")
        of_fair[method] = paired(table, {"method": method}, {"method": "scratch"}, "_fair")
    against_teacher, teacher_text = _verdicts(of_teacher)
    against_alone, alone_text = _verdicts(of_alone)
    agreed, fair_text = _verdicts(of_fair)
    text = (
        f"**Does distillation inflate bias?** *Against its own, larger teacher*, MAD {teacher_text}. Judged by intervals over "
        f"test images, {_networks(above, below, len(rows))}. *Against the same student trained alone*, which shows what "
        f"distillation itself does, MAD {alone_text}; {measure}, which does not fall with higher accuracy, {fair_text}. "
    )
    more, less = ([name for name in against_alone[sign] if name in agreed[sign]] for sign in (1, -1))
    text += f"Both measures are higher with {listed(more)} than for the student alone. " if more else ""
    text += f"Both measures are lower with {listed(less)} than for the student alone. " if less else ""
    if not more and not less:
        text += "We found no evidence that distillation itself changes bias. "
        if against_teacher[1] or against_teacher[-1]:
            text += "The smaller network alone may explain the difference from the teacher. "
    text += f"Not compared, because they collapsed in at least one seed: {left_out}. " if left_out else ""
    return text + (
        f"(Means over {max(test['n'] for test in of_alone.values())} seeds ± half-width of Student's 95 % interval. t-tests "
        f"over seeds, p adjusted for {len(kept)} methods after Benjamini and Hochberg; a difference is stated at {LEVEL:g}.)"
    )


def _networks(above, below, count):
    if not above and not below:
        return f"none of the {count} networks differs from its teacher"
    if above and below:
        return f"{above} of {count} networks were more biased than their teacher, and {below} less biased"
    text = (
        f"{_share(above + below, count).lower()} networks were {'more' if above else 'less'} biased than their teacher"
    )
    return text if above + below == count else f"{text}, and none was {'less' if above else 'more'} biased"


def _share(number, count):
    """`All 12`, `None of the 12`, `5 of 12`."""
    return f"All {count}" if number == count else f"{number} of {count}" if number else f"None of the {count}"


def _verdicts(tests):
    """({1: methods with more, −1: less, 0: no difference shown, None: not tested}, the same as part of a sentence)."""
    adjusted = benjamini_hochberg([test["p_value"] for test in tests.values()])
    methods, parts = {sign: [] for sign in VERDICTS}, {sign: [] for sign in VERDICTS}
    for (method, test), p_value in zip(tests.items(), adjusted, strict=True):
        size = plus_minus(test["difference"], test["half"], sign="+")
        if np.isnan(p_value):
            sign = None
        else:
            sign = int(np.sign(test["difference"])) if p_value < LEVEL else 0
            size += f", p = {p_value:.2g}"
        methods[sign].append(method_name(method))
        parts[sign].append(f"{method_name(method)} ({size})")
    return methods, "; ".join(f"{verdict} {listed(parts[sign])}" for sign, verdict in VERDICTS.items() if parts[sign])


def _collapsed(table, method):
    """Whether a student of this method without debiasing is degenerate in any seed."""
    return bool(plain_students(table, [method])["test_degenerate"].astype(bool).any())


def _debiasing(table):
    rows = tables.changes(table)
    if rows.empty:
        return ""
    title = "**Which debiasing helps, and at what price?** "
    if rows["mad_half"].isna().all():
        return title + "One seed has no interval, so we draw no conclusion."
    kinds = []
    for kind, part in rows.groupby(list(PLAIN), sort=False):
        kinds.append((f"*{kind_name(dict(zip(PLAIN, kind, strict=True)))}*", part))
    kinds.sort(key=lambda kind: (-kind[1]["helps"].sum(), kind[1]["mad"].mean()))
    text = title + (
        "Debiasing *helps* if MAD falls to half or less, the interval of the fall (paired over seeds) lies below zero, "
        "accuracy drops by at most one point and no network collapses. We compared "
        f"{len(rows)} combinations of method, debiaser and λ on the same images, without adjustment. "
    )
    helpful = [(name, part) for name, part in kinds if part["helps"].any()]
    for number, (name, part) in enumerate(helpful[:SHOWN]):
        text += (
            f"{name} helps {'most' if not number else 'too'}: with {part['helps'].sum()} of {len(part)} methods (MAD from "
            f"{span(part['mad_before'])}, changed by {span(part['mad'], '+')}; accuracy by {span(part['accuracy'], '+')}). "
        )
    further = [name for name, _ in helpful[SHOWN:]]
    text += f"{len(further)} more help with at least one method: {listed(further)}. " if further else ""
    useless = [name for name, part in kinds if not part["helps"].any()]
    text += f"No method was helped by {listed(useless, 'or')}. " if useless else ""
    costly = [name for name, part in kinds if (part["falls"] & (part["accuracy"] < -tables.MOST_LOST)).any()]
    text += f"Less bias, but at more than a point of accuracy for some method: {listed(costly)}. " if costly else ""
    return text.rstrip()


def _collapsed_models(table):
    collapsed = tables.means(table).query("degenerate")
    names = "; ".join(kind_name(row) for _, row in collapsed.iterrows())
    return (
        f"**Collapsed models.** Useless in at least one seed, so their low bias means nothing: {names}."
        if names
        else ""
    )


def listed(names, word="and") -> str:
    """Return `a, b and c`."""
    names = list(names)
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def limits(table, dataset) -> str:
    """Return what this table cannot resolve, given its seeds and the sizes of its cells, as a list in Markdown.

    Parameters
    ----------
    table : DataFrame
        A row per run.
    dataset : data.Dataset
        That all runs were tested on.
    """
    seeds = table["seed"].nunique()
    cells = {name: data.class_by_group(split, dataset, merged=True) for name, split in dataset.splits.items()}
    cells = {name: counts[counts.any(axis=1)] for name, counts in cells.items()}  # classes with a group
    low, high = tables.floor(table)
    lines = []
    if seeds > 1:
        factor = stdtrit(seeds - 1, 0.975) / np.sqrt(seeds)
        lines.append(
            f"With {seeds} seeds, an interval is ± {factor:.2f} standard deviations over seeds. It covers the spread of "
            "training. The test images are the same for every seed; the bootstrap intervals cover their spread."
        )
        halves = _halves(tables.labelled(table))
        if len(halves):
            lines.append(
                f"The difference in MAD between a method and the student alone is known to ± {np.median(halves):.3f} (median "
                f"half-width; {halves.min():.3f} to {halves.max():.3f}). We would miss a smaller effect of distillation."
            )
    sizes = f"A test cell (class × group) holds {cells['test'].min()} to {cells['test'].max()} images."
    pairs = len(dataset.test) - len(np.unique(dataset.test.source)) if dataset.test.source is not None else 0
    if has_pairs(table):
        lines.append(
            f"{sizes} Each test image is shown in two groups, so the floor exchanges the groups within pairs. "
            f"A model blind to the group has bias 0; below a MAD of {high:.3f}, we cannot tell bias from chance for one model."
        )
    else:
        lines.append(
            f"{sizes} A model blind to the group shows a MAD of {low:.3f} to {high:.3f}: in that range, we cannot tell bias "
            "from chance for one model."
        )
        if pairs:
            lines.append(
                f"{pairs} of {len(dataset.test)} test images are copies of others, or show a person that others show. Floors "
                "and intervals treat images as independent."
            )
    lines.append(
        f"{int((cells['val'] < 10).sum())} of {cells['val'].size} validation cells hold fewer than ten images, so validation "
        "can hardly rank models by bias here."
    )
    students = tables.labelled(table).query("method != 'teacher'")
    pair = f"{', '.join(filter(None, table['teacher'].unique()))} → {', '.join(students['student'].unique())}"
    lines.append(f"All of this is about one pair of networks ({pair}) on one data set, {dataset.name}.")
    return "\n".join(f"- {line}" for line in lines)


def _halves(table):
    """Half-widths of the intervals of MAD, each plain method against the student alone."""
    methods = [name for name in methods_of(table) if name != "scratch"]
    return np.array([paired(table, {"method": name}, {"method": "scratch"}, "test_mad")["half"] for name in methods])
