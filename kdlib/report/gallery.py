"""The figures of a study that follow from its table alone, with their captions: the same in notebooks, in what is published and
when it is verified."""

from kdlib.names import PLAIN
from kdlib.report import inflation, ranking, selection, tables, tradeoff_figures

INTERVAL = "bars: Student's 95 % interval"


def headline(table, labels):
    """Draw bias against accuracy for every kind of model of a table; labels: int (N,), of the test split."""
    means = tables.means(table)
    note = (
        f"Points: mean over {table['seed'].nunique()} seeds; {INTERVAL}. Test split, {len(labels)} images. "
        f"{tables.floor_note(table)}"
    )
    constant = ranking.constant_accuracy(labels)
    return tradeoff_figures.bias_against_accuracy(means, floor=tables.floor(table), constant=constant, note=note)


def debiasers(table, chosen):
    """Draw what each debiaser changes at the λ that validation chose; arguments as of `ranking.shifts`."""
    note = (
        "Against the same method without the debiaser, paired by seed, at the λ that validation chose. Dots: mean over "
        f"{table['seed'].nunique()} seeds; {INTERVAL} over seeds, of means over methods. Test split."
    )
    return tradeoff_figures.by_debiaser(ranking.shifts(table, chosen), note=note)


def strengths(table):
    """Draw MAD and accuracy against λ."""
    note = f"Points: mean over {table['seed'].nunique()} seeds; {INTERVAL}. {tables.floor_note(table)}"
    return tradeoff_figures.strengths(table, floor=tables.floor(table), note=note)


def temperatures(table):
    """Draw MAD and accuracy against the temperature of distillation; `table` holds the runs of each temperature."""
    rows = inflation.with_temperatures(table)
    note = f"Points: mean over {rows['seed'].nunique()} seeds; {INTERVAL}. {tables.floor_note(rows)}"
    return tradeoff_figures.temperatures(rows, floor=tables.floor(rows), note=note)


def of_table(table, evidence) -> dict:
    """Return {name: figure} of all that a table can show.

    Parameters
    ----------
    table : DataFrame
        Of `publish.study_table`: a row per run, with its `part` of the study.
    evidence : evidence.Evidence
    """
    grid = table[table["part"] == "grid"]
    drawn = {"bias_against_accuracy": headline(grid, evidence.dataset.test.labels)}
    if has_choice(grid):
        checked = selection.on_validation(grid, evidence)
        drawn["debiasers"] = debiasers(checked, selection.choose(checked))
    if grid[grid["lam"] > 0].groupby("debias")["lam"].nunique().gt(1).any():
        drawn["strengths"] = strengths(grid)
    softened = table[table["part"] == "temperature"]
    if len(softened):
        drawn["temperatures"] = temperatures(softened)
    return drawn


def has_choice(table) -> bool:
    """Return whether a table holds students with two debiasers or more."""
    rows = selection.students(table)
    return rows.loc[rows["debias"] != PLAIN["debias"], "debias"].nunique() > 1


def caption_of(drawing) -> str:
    """Return the caption of a figure."""
    return " ".join(drawing.get_supxlabel().split())


def alternative_text(drawing, name) -> str:
    """Return a text for readers who do not see the figure: what its axes show, and its caption."""
    axes = [axis for axis in drawing.axes if axis.get_visible() and axis.get_xlabel()]
    shown = "; ".join(dict.fromkeys(f"{axis.get_ylabel() or 'rows'} against {axis.get_xlabel()}" for axis in axes))
    return f"{name.replace('_', ' ')}: {shown}. {caption_of(drawing)}".strip()
