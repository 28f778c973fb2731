"""Notebooks executed and turned into pages, figures and tables written, and the index page that opens from disk.

A profile is given by its name or by the path of its file; its report is under the name. Importing this loads no torch."""

import html
import os
import re
import time
from pathlib import Path

import pandas as pd

from kdlib import files, paths
from kdlib.files import replacing
from kdlib.names import unknown_name
from kdlib.profiles import profile_name


def folder(profile) -> Path:
    """Return where the report of a profile goes; `profile` is its name or the path of its file."""
    return paths.reports_folder() / profile_name(profile)


def save(drawing, profile, name):
    """Write a figure as PNG and SVG under the profile's `figures/`, and return the PNG for a notebook to show."""
    from IPython.display import Image

    for kind in ("png", "svg"):
        with replacing(folder(profile) / "figures" / f"{name}.{kind}") as temporary:
            drawing.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return Image(filename=str(folder(profile) / "figures" / f"{name}.png"))


def save_results(table, profile):
    """Write the results table as `results.csv` and `results.parquet`."""
    with replacing(folder(profile) / "results.csv") as temporary:
        table.to_csv(temporary, index=False)
    with replacing(folder(profile) / "results.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def read_results(profile) -> pd.DataFrame:
    """Return the table that `save_results` wrote, in one piece, so that columns can be added."""
    return pd.read_csv(folder(profile) / "results.csv").copy()


def execute(path, out, parameters):
    """Run a notebook with papermill, and write it as a page beside it.

    Parameters
    ----------
    path, out : str or Path
        The notebook, and where it goes. `out` exists only once the notebook has finished; one that fails goes to `failed/`.
    parameters : dict of str
        {name: text}, converted to the types in the notebook's parameters cell.

    Raises
    ------
    ValueError
        For an unknown notebook or parameter, or a value of another type.
    RuntimeError
        When a cell fails.
    """
    import papermill

    path, out = Path(path), Path(out)
    if not path.exists():
        paths.check_checkout(f"notebook {path.stem!r}")
        raise unknown_name(
            path.stem, sorted(file.stem for file in (paths.ROOT / "notebooks").glob("*.ipynb")), "notebook"
        )
    values = typed_parameters(path, parameters)
    files.make_folder(out.parent)
    partial = out.with_suffix(".partial.ipynb")
    os.environ["KDLIB_HEADLESS"] = "1"
    began = time.monotonic()
    try:
        notebook = papermill.execute_notebook(
            _relative(path),
            _relative(partial),
            values,
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--log-level=CRITICAL"],  # else each kernel warns that it listens on local TCP
        )
    except papermill.PapermillExecutionError as error:
        failed = files.make_folder(out.parent / "failed") / out.name
        os.replace(partial, failed)
        raise RuntimeError(f"{path.name} failed: {error.ename}: {error.evalue}; see {_relative(failed)}") from error
    notebook.metadata["papermill"]["output_path"] = _relative(out)
    _write_page(notebook, out.with_suffix(".html"))
    import nbformat

    nbformat.write(notebook, partial)
    os.replace(partial, out)
    print(f"{path.stem}: {time.monotonic() - began:.0f} s -> {_relative(out)}", flush=True)


def typed_parameters(path, parameters) -> dict:
    """Return the values of `parameters`, given as text, in the types that the notebook's parameters cell gives them."""
    import papermill

    known = papermill.inspect_notebook(str(path))
    values = {}
    for parameter, text in parameters.items():
        if parameter not in known:
            raise unknown_name(parameter, known, f"parameter of {Path(path).name}:")
        kind = known[parameter]["inferred_type_name"]
        convert = {"str": str, "int": int, "float": float}.get(kind)
        if convert is None:
            raise ValueError(
                f"parameter {parameter} of {Path(path).name} is a {kind}; only str, int and float can be given"
            )
        try:
            values[parameter] = convert(text)
        except ValueError as error:
            raise ValueError(f"parameter {parameter} of {Path(path).name} is {kind}, got {text!r}") from error
    return values


def _relative(path):
    return os.path.relpath(path)


def _write_page(notebook, path):
    """Write the notebook as one HTML file that needs no network: figures inside, no scripts."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", exclude_input_prompt=True)
    body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)  # they load others from the network
    with replacing(path) as temporary:
        temporary.write_text(body)


def write_index(profile) -> Path:
    """Write `reports/index.html` from all profiles that have results, `profile` first, and return its path.

    Raises ValueError where none has."""
    reports, first = paths.reports_folder(), profile_name(profile)
    names = sorted((file.parent.name for file in reports.glob("*/results.csv")), key=lambda name: (name != first, name))
    if not names:
        raise ValueError(f"no results under {reports}: run the notebooks first (make all)")
    sections = [*(_section(reports, name) for name in names), _speed(reports)]
    page = _PAGE.format(sections="\n".join(sections))
    with replacing(reports / "index.html") as temporary:
        temporary.write_text(page)
    return reports / "index.html"


def _section(reports, profile):
    from nbconvert.filters import markdown2html

    from kdlib.report import tables, words

    table = read_results(profile)
    figures = [
        f'<figure><a href="{profile}/figures/{file.stem}.svg"><img src="{profile}/figures/{file.name}" '
        f'alt="{file.stem.replace("_", " ")}"></a></figure>'
        for file in sorted((reports / profile / "figures").glob("*.png"), key=_headline_first)
        if file.stem in INDEX_FIGURES
    ]
    links = "".join(
        f'<li><a href="{profile}/{file.name}">{html.escape(file.stem.replace("_", " "))}</a></li>'
        for file in sorted((reports / profile).glob("*.html"))
    )
    about = (
        f"{len(table)} runs, {table['seed'].nunique()} seeds, data {', '.join(table['data'].unique())}; trained on "
        f"{', '.join(table['device'].unique())} in {table['seconds'].sum():.0f} s of training; "
        f"code {', '.join(sorted(str(commit)[:12] for commit in table['commit'].unique()))}."
    )
    return _SECTION.format(
        profile=html.escape(profile),
        about=html.escape(about),
        floor=html.escape(tables.floor_note(table)),
        headline=figures[0] if figures else "",
        words=markdown2html(words.in_words(table)),
        figures="\n".join(figures[1:]),
        table=tables.readable(table).to_html(index=False, border=0),
        links=links,
    )


def _speed(reports):
    """Return the benchmark's figures, where `make bench` has drawn them, with links to the numbers."""
    figures = [
        f'<figure><a href="bench/{file.stem}.svg"><img src="bench/{file.name}" alt="speed on {file.stem}"></a></figure>'
        f'<p class="note">All figures: <a href="bench/{file.stem}.json">bench/{file.stem}.json</a></p>'
        for file in sorted((reports / "bench").glob("*.png"))
    ]
    return "\n".join(['<section id="speed"><h2>Speed</h2>', *figures, "</section>"]) if figures else ""


INDEX_FIGURES = (
    "bias_against_accuracy", "debiasers", "disparity_by_class", "disparity_map", "recall_by_group", "inheritance", "inflation",
    "strengths", "calibration", "leakage",
)  # fmt: skip


def _headline_first(file):
    return INDEX_FIGURES.index(file.stem) if file.stem in INDEX_FIGURES else len(INDEX_FIGURES)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Fair distillation: results</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 80rem; margin: 2rem auto; padding: 0 1rem }}
h1, h2 {{ line-height: 1.2 }} figure {{ margin: 1rem 0 }} img {{ max-width: 100%; height: auto }}
.scroll {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: .8rem; white-space: nowrap }}
th, td {{ padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child, td:first-child {{ text-align: left }} tr:hover td {{ background: #f4f4f4 }}
.note {{ color: #555; font-size: .9rem }}
</style></head><body>
<h1>Fair distillation</h1>
<p>How well knowledge distillation compresses a classifier, what it does to bias, and what removing the bias costs.</p>
{sections}
</body></html>
"""

_SECTION = """<section id="{profile}"><h2>Profile {profile}</h2>
<p class="note">{about}</p>
{headline}
{words}
<h3>Notebooks, as they ran</h3><ol>{links}</ol>
<h3>Results</h3>
<p class="note">Test split. Mean over n seeds, ± half-width of Student's 95 % interval. MAD: mean over classes of the absolute
difference in recall between the groups. {floor} «p &lt; .01»: seeds whose MAD exceeds the floor at that level.
Flip rate: share of pairs of the same image whose prediction changes with the group. Worst cell: the lowest accuracy of a class
in a group. ms / image: median of single images, one thread. Figures link to SVG; the whole table is
<a href="{profile}/results.csv">results.csv</a>.</p>
<div class="scroll">{table}</div>
{figures}
</section>"""
