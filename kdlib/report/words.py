"""Sentences computed from the table of a sweep, as Markdown: other numbers, other sentences."""

import numpy as np
from scipy.special import stdtrit

from kdlib import data
from kdlib.bias import benjamini_hochberg
from kdlib.bias.stats import interval, t_test
from kdlib.names import PLAIN, kind_name, method_name
from kdlib.report.tables import (
    changes,
    floor,
    labelled,
    means,
    methods_of,
    paired,
    plain_students,
    plus_minus,
    span,
)  # fmt: skip

LEVEL = 0.05


def in_words(table) -> str:
    """What the table says: bias beyond chance, inflation by distillation, what debiasing does and costs."""
    table = labelled(table)
    methods = methods_of(table)
    plain = plain_students(table, methods)
    if plain["test_mad"].isna().all():
        return "**No bias figures.** No class has test pictures of two groups."
    distilled = [name for name in methods if name != "scratch"]
    parts = [_beyond_chance(plain), _inflation(table, distilled), _debiasing(table), _useless(table)]
    return "\n\n".join(filter(None, parts))


def _beyond_chance(plain):
    tested = plain[plain["test_mad_p_value"].notna()]
    beyond, useless = int((tested["test_mad_p_value"] < 0.01).sum()), int(tested["test_degenerate"].astype(bool).sum())
    collapsed = f"; {useless} of these {len(tested)} students are degenerate" if useless else ""
    return (
        f"**Bias beyond chance.** {beyond} of {len(tested)} students without debiasing have a MAD above the noise floor "
        f"(p < .01{collapsed}); their mean MAD is {plain['test_mad'].mean():.3f}, and a model blind to the group would show "
        f"{plain['test_mad_floor'].mean():.3f}."
    )


def _inflation(table, methods):
    """Against the own teacher, and against the student alone; what differs is said only after adjustment for the methods.

    MAD's noise floor falls as accuracy rises, so a fair student that learns more has less of it: that distillation itself
    adds bias or takes it away is said only where a measure without that floor agrees."""
    kept = [name for name in methods if not _collapsed(table, name)]
    if not kept or "scratch" not in set(table["method"]) or _collapsed(table, "scratch"):
        return ""
    left_out = listed(method_name(name) for name in methods if name not in kept)
    teacher, alone, fair, above, below, networks = {}, {}, {}, 0, 0, 0
    two_groups = table["test_sqrt_u"].notna().any()
    table = table.assign(_fair=table["test_sqrt_u"] if two_groups else table["test_mad"] - table["test_mad_floor"])
    measure = "√U" if two_groups else "MAD less its floor"
    for method in kept:
        rows = plain_students(table, [method])
        values = rows["vs_teacher_inflation"].astype(float)
        mean, half = interval(values)
        teacher[method] = {"difference": mean, "half": half, "p_value": t_test(values)}
        alone[method] = paired(table, {"method": method}, {"method": "scratch"}, "test_mad")
        fair[method] = paired(table, {"method": method}, {"method": "scratch"}, "_fair")
        above += int((rows["vs_teacher_inflation_low"] > 0).sum())
        below += int((rows["vs_teacher_inflation_high"] < 0).sum())
        networks += len(rows)
    seeds = max(test["n"] for test in alone.values())
    (grown, teacher_says), (changed, alone_says), (agreed, fair_says) = map(_verdicts, (teacher, alone, fair))
    more, less = ([name for name in changed[sign] if name in agreed[sign]] for sign in (1, -1))
    text = (
        f"**Does distillation inflate bias?** *Against its own, larger teacher*, MAD {teacher_says}. Of {networks} "
        f"networks the interval over test pictures lies above zero for {above} and below for {below}. *Against the same "
        f"student trained alone*, which is what distillation itself does, MAD {alone_says}; {measure}, which "
        f"does not fall because a student is more accurate, {fair_says}. "
    )
    if more:
        text += f"Distillation itself adds bias here with {listed(more)}. "
    if less:
        text += f"Distillation itself takes bias away here with {listed(less)}. "
    if not more and not less:
        text += "That distillation itself adds bias or takes it away is not shown here" + (
            ": what is shown against the teacher may come with the smaller network alone. "
            if grown[1] or grown[-1]
            else ". "
        )
    if left_out:
        text += f"Not looked at, being degenerate in a seed: {left_out}. "
    return text + (
        f"(Means over {seeds} seeds, ± half-width of Student's 95 % interval; p of the t-test over seeds, adjusted for "
        f"{len(kept)} methods after Benjamini and Hochberg, shown at {LEVEL:g}.)"
    )


def _verdicts(tests):
    """({1: methods with more, −1: with less, 0: with neither shown, None: without a test}, the same as part of a sentence)."""
    adjusted = benjamini_hochberg([test["p_value"] for test in tests.values()])
    found, parts = {1: [], -1: [], 0: [], None: []}, {1: [], -1: [], 0: [], None: []}
    for (method, test), p_value in zip(tests.items(), adjusted, strict=True):
        sign = None if np.isnan(p_value) else int(np.sign(test["difference"])) if p_value < LEVEL else 0
        found[sign].append(method_name(method))
        size = plus_minus(test["difference"], test["half"], sign="+")
        parts[sign].append(
            f"{method_name(method)} ({size}" + ("" if np.isnan(p_value) else f", p = {p_value:.2g}") + ")"
        )
    says = {1: "is higher for", -1: "is lower for", 0: "shows no difference for", None: "could not be tested for"}
    return found, "; ".join(f"{words} {listed(parts[sign])}" for sign, words in says.items() if parts[sign])


def _collapsed(table, method):
    """Whether a plain student of this method is degenerate in a seed."""
    return bool(plain_students(table, [method])["test_degenerate"].astype(bool).any())


def _debiasing(table):
    rows = changes(table)
    if rows.empty:
        return ""
    kinds = [
        (kind_name(dict(zip(PLAIN, kind, strict=True))), part) for kind, part in rows.groupby(list(PLAIN), sort=False)
    ]
    kinds.sort(key=lambda kind: (-kind[1]["helps"].sum(), kind[1]["mad"].mean()))
    helpful = [(name, part) for name, part in kinds if part["helps"].any()]
    useless = [name for name, part in kinds if not part["helps"].any()]
    if rows["mad_half"].isna().all():
        return "**Which debiasing helps, and at what price?** One seed has no interval, so nothing is said."
    text = (
        "**Which debiasing helps, and at what price?** It is said to help where MAD falls to half or less, the interval of the "
        "fall (paired over seeds) lies below zero, at most one point of accuracy is lost and no network is degenerate. "
        f"{len(rows)} combinations of method, debiaser and λ were looked at on the same pictures, without adjustment. "
    )
    for number, (name, part) in enumerate(helpful):
        first = f"Most by this measure: *{name}*" if not number else f"*{name}*"
        text += (
            f"{first} helps for {part['helps'].sum()} of {len(part)} (MAD from {span(part['mad_before'])}, changed by "
            f"{span(part['mad'], '+')}; accuracy by {span(part['accuracy'], '+')}). "
        )
    if not helpful:
        none = (
            f"None of {len(kinds)} kinds does" if len(kinds) > 1 else "The only kind, *" + kinds[0][0] + "*, does not"
        )
        text += f"{none}, for any method. "
    elif useless:
        text += f"For no method: {listed([f'*{name}*' for name in useless])}. "
    costly = [
        name
        for name, part in kinds
        if ((part["mad"] + part["mad_half"] < 0) & (part["accuracy"] < -0.01) & (part["degenerate"] == 0)).any()
    ]
    if costly:
        text += (
            f"Less bias at more than a point of accuracy, for some method: {listed([f'*{name}*' for name in costly])}. "
        )
    return text.rstrip()


def _useless(table):
    useless = means(table).query("degenerate")
    if not len(useless):
        return ""
    names = "; ".join(kind_name(row) for _, row in useless.iterrows())
    return f"**Useless models.** Degenerate in at least one seed, so not to be praised for low bias: {names}."


def listed(names) -> str:
    """`a, b and c`."""
    names = list(names)
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def verdict(test, level=LEVEL) -> str:
    """A paired test in words: `more, p = .01`, `less, p = .02`, or `no difference shown, p = .4`."""
    if not test["p_value"] < level:
        return "no difference shown" + ("" if np.isnan(test["p_value"]) else f", p = {test['p_value']:.2g}")
    return f"{'more' if test['difference'] > 0 else 'less'}, p = {test['p_value']:.2g}"


def limits(table, dataset) -> str:
    """What this table cannot resolve, from its seeds and the sizes of the cells."""
    seeds = table["seed"].nunique()
    cells = {name: data.class_by_group(split, dataset, merged=True) for name, split in dataset.splits.items()}
    cells = {name: counts[counts.any(axis=1)] for name, counts in cells.items()}  # classes with a group
    low, high = floor(table)
    lines = []
    if seeds > 1:
        factor = stdtrit(seeds - 1, 0.975) / np.sqrt(seeds)
        lines.append(
            f"- With {seeds} seeds an interval is ± {factor:.2f} standard deviations over seeds. It covers the spread of "
            "training, not that of the test pictures, which are the same for every seed; the bootstrap intervals cover those."
        )
        halves = _halves(labelled(table))
        if len(halves):
            lines.append(
                f"- The difference in MAD between a method and the student alone is known to ± {np.median(halves):.3f} (median "
                f"half-width; {halves.min():.3f} to {halves.max():.3f}): a smaller effect of distillation would not be seen."
            )
    lines.append(
        f"- A test cell (class × group) holds {cells['test'].min()} to {cells['test'].max()} pictures. A model blind to the "
        f"group shows a MAD of {low:.3f} to {high:.3f}: below that, bias and chance cannot be told apart for one model."
    )
    copies = len(dataset.test) - len(np.unique(dataset.test.source)) if dataset.test.source is not None else 0
    if copies:
        lines.append(
            f"- {copies} of {len(dataset.test)} test pictures are copies of others, in another group or not. Floors and "
            "intervals take pictures as independent; where both groups see the same pictures, they are wider than need be."
        )
    lines.append(
        f"- {int((cells['val'] < 10).sum())} of {cells['val'].size} validation cells hold fewer than ten pictures, so "
        "validation can hardly rank models by bias here. No λ was chosen: the whole list is shown."
    )
    students = labelled(table).query("method != 'teacher'")
    pair = f"{', '.join(filter(None, table['teacher'].unique()))} → {', '.join(students['student'].unique())}"
    lines.append(f"- One pair of networks ({pair}) on one data set, {dataset.name}: no claim beyond it.")
    return "\n".join(lines)


def _halves(table):
    """Half-widths of the intervals of MAD, each plain method against the student alone."""
    methods = [name for name in methods_of(table) if name != "scratch"]
    return np.array([paired(table, {"method": name}, {"method": "scratch"}, "test_mad")["half"] for name in methods])
