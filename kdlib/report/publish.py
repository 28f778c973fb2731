"""Results of a real run, kept in the repository: a profile's table and figures, how they were made, and its part of README."""

import inspect
import re
import shutil
from datetime import date
from pathlib import Path

from kdlib import files, paths, profiles, runs, sweep
from kdlib.files import replacing
from kdlib.report import literature, pages, ranking, selection, tables, words

FIGURES = (*pages.INDEX_FIGURES, "debiaser_strengths", "temperatures", "ctkd_temperature")
MANY = 4  # debiasers: a ranking takes the place of README's table of models
SHORT = ("model", "n", "accuracy", "MAD", "MAD's floor", "flip rate", "worst cell")  # flip rate: where there is one


def publish(profile) -> Path:
    """Copy the results of a profile into `reports/published/<name>`, and return that folder.

    It gets the table, the figures, and a README.md with the words, command, commit, versions, device and date. The project's
    README.md gets the short table between its marks `<!-- name -->` and `<!-- /name -->`, if it has them.

    Parameters
    ----------
    profile : str or Path
        Its name, or the path of its file.

    Raises
    ------
    ValueError
        Where the profile has no results.
    """
    name = profiles.profile_name(profile)
    source, target = pages.folder(profile), paths.ROOT / "reports" / "published" / name
    if not (source / "results.csv").exists():
        raise ValueError(f"no results in {source}: run make all PROFILE={profile} first")
    table = pages.read_results(profile)
    shutil.rmtree(target, ignore_errors=True)
    files.make_folder(target)
    shutil.copy(source / "results.csv", target)
    figures = [
        source / "figures" / f"{figure}.png" for figure in FIGURES if table["lam"].any() or "strengths" not in figure
    ]
    figures = [file for file in figures if file.exists()]
    for file in figures:
        shutil.copy(file, target)
    record = runs.stored_record(table["key"].iloc[0])
    versions = " · ".join(f"{package} {version}" for package, version in record["versions"].items())
    text = words.in_words(table)
    short, details = _short(profile, table, text)
    parts = [
        f"# Profile {name}, as run",
        f"Command: `make all PROFILE={Path(profile).name}`. Date {date.today()}. "
        f"Commit {', '.join(sorted(table['commit'].unique()))}. "
        f"Device: {', '.join(table['device'].unique())}; {table['seconds'].sum():.0f} s of training in all. "
        f"Versions: {versions}.",
        text,
        *details,
        *(f"![{file.stem.replace('_', ' ')}]({file.name})" for file in figures),
        "## Every model\n\nTest split. Mean over n seeds, ± half-width of Student's 95 % interval; p < .01: seeds whose MAD "
        "exceeds the noise floor at that level.",
        markdown(tables.readable(table)),
    ]
    with replacing(target / "README.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")
    into_readme(name, short)
    return target


def _short(profile, table, text):
    """(what README shows of the profile, what its own page has beside words, figures and the whole table)."""
    if (table["data"] == "cifar100").any():
        about = inspect.getdoc(literature).split("\n\n")[1].replace("\n", " ")
        study = profiles.profile(profile, "all")  # every pair and recipe, not the first pair's alone
        beside = literature.beside(sweep.table(study.grid() + study.extras()).drop_duplicates("key"))
        ours = beside[beside["ours, last epoch"] != literature.NOT_RUN]
        short = ours.drop(columns=[column for column in ours if column.startswith("published")])
        return markdown(short), [f"## Beside the literature\n\n{about}", markdown(beside)]
    if table["debias"].nunique() > MANY:
        short = _ranked(profile, table)
        return short, [f"## Debiasers ranked\n\n{short}"]
    shown = tables.readable(table[table["lam"] == 0])
    return markdown(shown[[column for column in SHORT if column in shown]]) + "\n\n" + text, []


def _ranked(profile, table):
    """The debiasers ranked at the λ that validation chose, and those that halve each method's bias, as in notebook 08."""
    settings = profiles.profile(profile).grid()
    chosen = selection.choose(selection.on_validation(table))
    constant = ranking.constant_accuracy(runs.as_run(settings[0]).load_data().test.labels)
    parts = ranking.ranking(table, chosen, accuracy_from=constant), ranking.halved(table, chosen)
    return "\n\n".join(markdown(part) for part in parts)


def into_readme(name, text):
    """Put `text` between the marks of the profile in README.md, if it has them."""
    file = paths.ROOT / "README.md"
    mark, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before = file.read_text() if file.exists() else ""
    if mark in before and end in before:
        after = re.sub(f"{mark}.*?{end}", lambda _: f"{mark}\n{text}\n{end}", before, flags=re.DOTALL)
        with replacing(file) as temporary:
            temporary.write_text(after)


def markdown(table) -> str:
    """Return a table of text as Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.astype(str).itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
