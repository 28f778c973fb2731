"""What is shipped, in words: verdicts on float ONNX, int8, debiasing, calibration and cost, computed from `edge.csv`."""

from kdlib.names import kind_name
from kdlib.report import tables
from kdlib.report.edge import FORM_NAMES, MEASURES, composition, effects, fallen, form, groups_of, sound, survival
from kdlib.report.words import LEVEL, listed


def in_words(rows) -> str:
    """Return the verdicts on what is shipped, in Markdown, computed from the table."""
    if rows["mad"].isna().all():
        return "\n\n".join((_float(rows), _cost(rows)))
    changed = effects(rows)
    parts = [_float(rows), _moved(rows, changed), _survives(rows), _composed(rows), _tuning(changed), _cost(rows)]
    return "\n\n".join(part for part in parts if part)


def _float(rows):
    onnx = form(rows, "onnx")
    same = int((onnx["churn"] == 0).sum())
    return (
        f"**ONNX in float** decides on every test image as torch does in {same} of {len(onnx)} networks; logits differ by at "
        f"most {onnx['largest_difference'].max():.1g}."
    )


def _moved(rows, changed):
    parts = ["**Does int8 move bias?**"]
    for name in ("int8_channel", "int8_tensor"):
        group = form(rows, name)
        useless, group = fallen(rows, group), sound(group)
        if group.empty:
            parts.append(f"*{FORM_NAMES[name].capitalize()}*: every network collapsed.")
            continue
        beyond = int(((group["mad_change_low"] > 0) | (group["mad_change_high"] < 0)).sum())
        own = changed[changed["form"] == name]
        shown = own[own["p_holm"] < LEVEL]
        text = (
            f"*{FORM_NAMES[name].capitalize()}* changes MAD by {tables.span(group['mad_change'], '+')} over {len(group)} "
            f"networks, and {group['churn'].min():.2%} to {group['churn'].max():.2%} of the decisions. "
            f"In {beyond} networks ({0.05 * len(group):.0f} by chance) the interval over test images leaves out no change. "
        )
        if len(useless):
            kinds = listed(dict.fromkeys(kind_name(row) for _, row in useless.iterrows()))
            text += f"{len(useless)} networks that are of use in torch collapsed, and are not counted here: {kinds}. "
        if own["p_value"].notna().any():
            kinds = [
                f"{kind_name(row)} ({MEASURES[row['measure']]} {row['difference']:+.3f})" for _, row in shown.iterrows()
            ]
            text += (
                f"Over seeds and adjusted after Holm, a change is shown for {listed(kinds)}. " if kinds else
                f"Over seeds and adjusted after Holm over {len(changed)} tests, no change of MAD or √U is shown. "
            )  # fmt: skip
            limits = own[own["measure"] == "mad"]["excluded"]
            text += (
                f"A change of MAD beyond ±{limits.median():.3f} is excluded for half of the kinds, and beyond "
                f"±{limits.max():.3f} for all."
            )
        parts.append(text.strip())
    return " ".join(parts)


def _survives(rows):
    falls = survival(rows)
    if falls.empty:
        return ""
    parts = ["**Does debiasing survive?**"]
    for name, group in falls.groupby("form", sort=False):
        took = group[group["in_torch"] - group["in_torch_half"].fillna(float("inf")) > 0]
        if took.empty:
            continue
        still = took[took["in_int8"] - took["in_int8_half"] > 0]
        kept = took["kept"]
        parts.append(
            f"Of {len(took)} debiased kinds whose MAD falls in torch (interval over seeds), it still falls in {len(still)} as "
            f"{FORM_NAMES[name]}; {kept.min():.0%} to {kept.max():.0%} of the fall is kept."
        )
    if len(parts) == 1:
        return parts[0] + " For no debiaser the interval of the fall leaves out zero in torch, so nothing can be said."
    return " ".join(parts)


def _composed(rows):
    students = sound(rows[(rows["method"] != "teacher") & (rows["form"] == "int8_channel")])
    if students["calibration"].nunique() < 2:
        return ""
    said = []
    for pictures, group in students.groupby("calibration", sort=False):
        worst = group.loc[group["mad_change"].abs().idxmax()]
        said.append(
            f"{composition(pictures)}, MAD moves by up to {abs(worst['mad_change']):.3f} and decisions by up to "
            f"{group['churn'].max():.1%}"
        )
    worst = students.loc[students["mad_change"].abs().idxmax()]
    by_group = ", ".join(f"{worst[f'churn_group_{number}']:.1%} in group {number}" for number in groups_of(rows))
    return (
        f"**What do the calibration pictures do?** Calibrated on {'; on '.join(said)}. The largest move is "
        f"{kind_name(worst)}, seed {worst['seed']}, calibrated on {composition(worst['calibration'])}: MAD "
        f"{worst['mad'] - worst['mad_change']:.3f} → {worst['mad']:.3f}, churn {by_group}."
    )


def _tuning(changed):
    own = changed[(changed["form"] == "int8_channel") & (changed["measure"] == "mad")]
    if own["p_value"].isna().all():
        return ""
    shown = own[own["p_holm"] < LEVEL]
    largest = own.loc[own["difference"].abs().idxmax()]
    if shown.empty:
        return (
            "**Quantisation-aware tuning** is left out: int8 per channel is not shown to move bias in any of "
            f"{len(own)} kinds (the largest mean change of MAD is {largest['difference']:+.3f}), so there is nothing for "
            "it to mend."
        )
    return (
        f"**Quantisation-aware tuning** could be tried here: int8 per channel moves the MAD of {len(shown)} of {len(own)} "
        f"kinds, by up to {shown['difference'].abs().max():.3f}."
    )


def _cost(rows):
    students = rows[rows["method"] != "teacher"]
    before, after = form(students, "onnx"), form(students, "int8_channel")
    faster = [f"{before[f'ms_{size}'].median() / after[f'ms_{size}'].median():.2f} at batch {size}" for size in (1, 32)]
    return (
        f"**Bytes and milliseconds.** int8 per channel takes {after['bytes'].mean() / before['bytes'].mean():.0%} of the bytes "
        f"of float ONNX, and runs {listed(faster)} times as fast, on the CPU of this machine with one thread (median)."
    )
