"""Results of a real run, kept in the repository: a study's table, predictions, figures, words, and part of docs/results.md.

All of it is rendered from the table and the predicted classes, so that `verify` can render it again without training."""

import inspect
import re
from datetime import date
from pathlib import Path

import pandas as pd

from kdlib import files, paths, profiles, runs
from kdlib.files import replacing
from kdlib.names import debiaser_name, method_name
from kdlib.report import controls, evidence, gallery, inflation, literature, ranking, selection, tables, words
from kdlib.runs.table import table as table_of

MANY = 4  # debiasers: more of them are ranked
SHORT = ("model", "n", "accuracy", "MAD", "MAD's floor", "flip rate", "worst cell")  # flip rate: where there is one
RESULTS = "docs/results.md"
DIGITS = "%.6g"  # of a published figure
EDGE = ("edge.csv", "edge.npz", "edge.md", "bias_on_device.png", "calibration_pictures.png")  # of `edge_publish`


def published_folder(name="") -> Path:
    """Return where the repository keeps the results of a study, or of all."""
    return paths.ROOT / "reports" / "published" / name


def study_table(study) -> pd.DataFrame:
    """Return the table of every run of a study, with the `part` of the study that it belongs to.

    The parts are grid (of the first pair; all that tables and rankings read), temperature, published, ablation, and the pair,
    as "resnet56->resnet20", for the grids of further pairs. A run may be in several parts.

    Raises
    ------
    ValueError
        Where a run is not in the store.
    """
    first = study.of("")
    settings_of = {
        "grid": first.grid(),
        "temperature": [run for method in study.methods for each in first.tempered(method).values() for run in each],
        "published": [run for one in study.each_pair() for method in one.published for run in one.as_published(method)],
        "ablation": [run for one in study.each_pair() for each in one.ablation().values() for run in each],
    }
    settings_of |= {"->".join(one.pairs[0]): one.grid() for one in study.each_pair()[1:]}
    tables_of_parts = [
        table_of(dict.fromkeys(map(runs.as_run, settings))).assign(part=part)
        for part, settings in settings_of.items()
        if settings
    ]
    whole = pd.concat(tables_of_parts, ignore_index=True)
    return whole.drop_duplicates(["key", "part"]).copy()


def compact(table) -> pd.DataFrame:
    """Return the columns of a table that are published."""
    return table[[name for name in table if not name.startswith("val_") or name in evidence.VALIDATION]]


def publish(profile) -> Path:
    """Write the results of a study into `reports/published/<name>`, and return that folder.

    It gets results.csv, predictions.npz, study.json, the figures, and a README.md with words and tables. docs/results.md gets
    the short form between its marks `<!-- name -->` and `<!-- /name -->`, if it has them.

    Parameters
    ----------
    profile : str or Path
        The study's name, or the path of its file.

    Raises
    ------
    ValueError
        Where a run of the study is not in the store.
    """
    name = profiles.profile_name(profile)
    table = study_table(profiles.profile(profile, "all"))
    proof = evidence.of_store(table)
    folder = published_folder(name)
    provenance = {
        "command": f"make all PROFILE={profile}",
        "date": str(date.today()),
        "versions": _versions(table["key"].unique()),
    }
    drawn = gallery.of_table(table, proof)  # before anything published is touched
    for file in folder.glob("*"):
        if file.name not in EDGE:
            file.unlink()
    files.make_folder(folder)
    with replacing(folder / "results.csv") as temporary:
        compact(table).to_csv(temporary, index=False, float_format=DIGITS)
    evidence.write(folder, table, proof, provenance)
    for figure, drawing in drawn.items():
        with replacing(folder / f"{figure}.png") as temporary:
            drawing.savefig(temporary, format="png")
    page, short = render(name, pd.read_csv(folder / "results.csv"), proof, provenance, drawn)
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(page)
    results = paths.ROOT / RESULTS
    if results.exists():
        with replacing(results) as temporary:
            temporary.write_text(between_marks(results.read_text(), name, short))
    return folder


def _versions(keys):
    """{package: its version, or the versions of all runs}."""
    every = [runs.stored_record(key)["versions"] for key in keys]
    return {name: ", ".join(dict.fromkeys(one.get(name, "?") for one in every)) for name in every[0]}


def render(name, table, proof, provenance, drawn) -> tuple[str, str]:
    """Return the page of a published study, and its short form, as Markdown.

    Parameters
    ----------
    name : str
    table : DataFrame
        Of `study_table`.
    proof : evidence.Evidence
    provenance : dict
        command, date, versions.
    drawn : dict
        {name: figure}, of `gallery.of_table`.
    """
    grid = table[table["part"] == "grid"].copy()
    text = words.in_words(grid)
    short, details = _short(grid, table, proof, text)
    versions = " · ".join(f"{package} {version}" for package, version in provenance["versions"].items())
    all_runs = table.drop_duplicates("key")
    parts = [
        f"# Profile {name}, as run",
        f"Command: `{provenance['command']}`. Date {provenance['date']}. "
        f"Commit {', '.join(sorted(all_runs['commit'].map(str).unique()))}. "
        f"Device: {', '.join(all_runs['device'].unique())}; {len(all_runs)} runs, "
        f"{all_runs['seconds'].sum():.0f} s of training in all. Versions: {versions}.",
        text,
        *details,
        *_effects(table),
        *_controls(grid),
        *(f"![{gallery.alternative_text(drawing, figure)}]({figure}.png)" for figure, drawing in drawn.items()),
        "## Every model\n\nTest split. Mean over n seeds, ± half-width of Student's 95 % interval; p < .01: seeds whose MAD "
        f"exceeds the noise floor at that level. {tables.floor_note(grid)}",
        markdown(tables.readable(grid)),
    ]
    return "\n\n".join(parts) + "\n", short


def _effects(table):
    """What distillation itself changes, where the student was trained alone, too, with two seeds or more."""
    alone = table[(table["part"] == "grid") & (table["method"] == "scratch")]
    if not alone["student"].isin(table["student"][table["method"] != "scratch"]).any() or table["seed"].nunique() < 2:
        return []
    note = (
        "Paired by seed; ± half-width of Student's 95 % interval; p of the t-test, adjusted after Holm over the rows of √U and "
        "flip rate; a change of √U or flip rate beyond the last column is excluded (two one-sided tests at 5 %)."
    )
    changes = inflation.effects(table)
    if changes.empty:
        return []
    return [f"## What distillation itself changes\n\n{note}", markdown(inflation.readable(changes))]


def _controls(grid):
    """Our own debiaser beside its controls, where the study has it."""
    compared = controls.against_controls(grid)
    if compared.empty:
        return []
    note = (
        "balanced-teacher at λ = 1, minus each control, mean over the distilled students, paired by seed; ± half-width of "
        "Student's 95 % interval; p adjusted after Holm over the controls."
    )
    return [f"## balanced-teacher beside its controls\n\n{note}", markdown(compared)]


def _short(grid, table, proof, text):
    """(the short form, what the study's page has beside words, figures and the whole table)."""
    if (grid["data"] == "cifar100").any():
        about = inspect.getdoc(literature).split("\n\n")[1].replace("\n", " ")
        beside = literature.beside(table.drop_duplicates("key"))
        ours = beside[beside["ours, last epoch"] != literature.NOT_RUN]
        short = ours.drop(columns=[column for column in ours if column.startswith("published")])
        return markdown(short), [f"## Beside the literature\n\n{about}", markdown(beside)]
    if grid["debias"].nunique() > MANY:
        short = _ranked(grid, proof)
        return short, [f"## Debiasers ranked\n\n{short}"]
    shown = tables.readable(grid[grid["lam"] == 0])
    return markdown(shown[[column for column in SHORT if column in shown]]) + "\n\n" + text, []


def _ranked(grid, proof):
    """The debiasers ranked at the λ that validation chose, and those that halve each method's bias, as in notebook 08."""
    checked = selection.on_validation(grid, proof)
    chosen = selection.choose(checked)
    constant = ranking.constant_accuracy(proof.dataset.test.labels)
    parts = [
        markdown(ranking.ranking(checked, chosen, accuracy_from=constant)),
        markdown(ranking.halved(checked, chosen)),
        _edges(selection.at_edge(grid, chosen), chosen),
    ]
    alone = ranking.beside_alone(checked, chosen)
    if not alone.empty:
        note = (
            "What distillation adds to each debiaser: distilled students (mean over methods) minus the student alone."
        )
        parts += [note, markdown(alone)]
    return "\n\n".join(parts)


def _edges(at_edge, chosen):
    """A sentence on the λ that lie at the end of what was tried; none where nothing was chosen."""
    if not (chosen["candidates"] > 2).any():
        return "No debiaser has more than one λ beside 0 to choose from."
    if at_edge.empty:
        return "Validation chose the largest λ tried for none."
    names_of = [
        f"{debiaser_name(debias, lam)} ({', '.join(map(method_name, rows['method']))})"
        for (debias, lam), rows in at_edge.groupby(["debias", "lam"], sort=False)
    ]
    return f"Validation chose the largest λ that was tried, so a larger one may do better, for {'; '.join(names_of)}."


def between_marks(text, name, inside) -> str:
    """Return `text` with `inside` between its marks `<!-- name -->` and `<!-- /name -->`; unchanged where it has none."""
    mark, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if mark not in text or end not in text:
        return text
    return re.sub(f"{mark}.*?{end}", lambda _: f"{mark}\n{inside}\n{end}", text, flags=re.DOTALL)


def markdown(table) -> str:
    """Return a table of text as Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.astype(str).itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
