"""Notebooks executed and turned into pages, figures and tables written, and the index page that opens from disk.

A profile is given by its name or by the path of its file; its report is under the name. Importing this loads no torch."""

import os
import re
import time
from pathlib import Path

import pandas as pd

from kdlib import files, paths
from kdlib.files import replacing
from kdlib.names import unknown_name
from kdlib.profiles import profile_name

TEMPLATES = Path(__file__).parent / "templates"


def folder(profile) -> Path:
    """Return where the report of a profile goes; `profile` is its name or the path of its file."""
    return paths.reports_folder() / profile_name(profile)


def save(drawing, profile, name):
    """Write a figure as PNG and SVG under the profile's `figures/`, and return the PNG for a notebook to show."""
    import matplotlib
    from IPython.display import Image

    from kdlib.report import alternatives

    for kind, options in {"png": {"dpi": 2 * drawing.dpi}, "svg": {"metadata": {"Date": None}}}.items():
        same_ids = matplotlib.rc_context({"svg.hashsalt": "kdlib"})
        with replacing(folder(profile) / "figures" / f"{name}.{kind}") as temporary, same_ids:
            drawing.savefig(temporary, format=kind, **options)
    file = folder(profile) / "figures" / f"{name}.png"
    return Image(filename=str(file), retina=True, alt=alternatives.text(drawing, name))


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
            _literal(_relative(path)),
            _literal(_relative(partial)),
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
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", ()):
            cell["id"] = "injected-parameters"  # papermill draws one
    _write_page(notebook, out.with_suffix(".html"), [file.stem for file in path.parent.glob("*.ipynb")])
    import nbformat

    nbformat.write(notebook, partial)
    os.replace(partial, out)
    print(f"{path.stem}: {time.monotonic() - began:.0f} s -> {_relative(out)}", flush=True)


def typed_parameters(path, parameters) -> dict:
    """Return the values of `parameters`, given as text, in the types that the notebook's parameters cell gives them."""
    import papermill

    known = papermill.inspect_notebook(_literal(path))
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


def _literal(path):
    """A path for papermill, which reads braces as places for parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _relative(path):
    return os.path.relpath(path)


def _write_page(notebook, path, names=()):
    """Write the notebook as one HTML file that needs no network: figures inside, code folded, no scripts.

    names: of all notebooks, in their order; the page links to those before and after it, and to the index."""
    from nbconvert import HTMLExporter

    order = sorted(names)
    here = order.index(path.stem) if path.stem in order else 0
    beside = [("← " + name, name) for name in order[:here][-1:]] + [
        (name + " →", name) for name in order[here + 1 :][:1]
    ]
    resources = {
        "title": path.stem.replace("_", " "),
        "style": (TEMPLATES / "style.css").read_text(),
        "neighbours": [
            ("index", "../index.html"),
            *((text.replace("_", " "), f"{name}.html") for text, name in beside),
        ],
    }
    exporter = HTMLExporter(
        template_name="notebook", extra_template_basedirs=[str(TEMPLATES)], exclude_anchor_links=True
    )
    body, _ = exporter.from_notebook_node(notebook, resources)
    body = re.sub(r"<script\b.*?</script>", "", body, flags=re.DOTALL)  # they load others from the network
    with replacing(path) as temporary:
        temporary.write_text(body)


def write_index(profile) -> Path:
    """Write `reports/index.html`, as `index.write` does, and return its path."""
    from kdlib.report import index

    return index.write(profile)
