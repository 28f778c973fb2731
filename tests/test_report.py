"""Notebooks as they are kept, executed and shown; the Makefile; the command line."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest

import kdlib as kdlib_package
from kdlib import paths, profiles, runs
from kdlib.__main__ import main
from kdlib.names import literal
from kdlib.report import figures, pages

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))
MAKEFILE = (paths.ROOT / "Makefile").read_text()


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_ten_notebooks_are_there():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02d}" for number in range(1, 11)]


def test_notebooks_are_stripped_and_run_on_python3(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_one_parameters_cell_typed_and_commented(notebook):
    cells = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    for line, statement in zip(cells[0].source.splitlines(), ast.parse(cells[0].source).body, strict=True):
        assert isinstance(statement, ast.AnnAssign)
        assert "# " in line


def test_prose_first_and_cells_of_a_few_lines(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= 16, cell.source
        assert not re.search(r"^\s*(class |!|%)", cell.source, re.M), "no classes, shell escapes or magics"
        assert not re.search(r"[\"'][^\"']*\.(csv|json|npz|png|pt)[\"']", cell.source), "no file paths"
        assert "open(" not in cell.source
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10


def test_every_parameter_that_make_passes_is_one_of_the_notebook():
    import papermill

    passed = set(re.findall(r"(?<!\S)-[pr]\s+([a-z_]\w*)", MAKEFILE))
    assert passed == {"profile"}
    for path in NOTEBOOKS:
        assert passed <= set(papermill.inspect_notebook(str(path)))


@pytest.mark.parametrize(
    ("parameters", "folder"), [("", "reports"), ("-p source table", "reports/other"), ("-p pair a->b", "reports/other")]
)
def test_make_with_parameters_writes_no_page_of_a_profile(parameters, folder):
    for target in ("notebooks/01_data", "all"):
        command = ["make", "--dry-run", target, f"PARAMS={parameters}", "KDLIB_REPORTS=", "PROFILE=my/own.toml"]
        shown = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True).stdout
        assert set(re.findall(r"--out (\S+)/own/\w+.ipynb", shown)) == {folder}, shown


def test_make_knows_its_targets_and_alone_prints_them():
    shown = subprocess.run(["make"], cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "all", "test", "lab", "clean", "notebooks/NAME"):
        assert re.search(rf"^{target}\s", shown, re.M), shown
    continuous = (paths.ROOT / ".ci" / "run").read_text()
    assert "make test" in continuous


def make_notebook(folder, *cells):
    path = folder / "note.ipynb"
    parameters = nbformat.v4.new_code_cell(
        'name: str = "x"  # a word\ncount: int = 3  # how many\nrate: float = 0.5  # how fast',
        metadata={"tags": ["parameters"]},
    )
    body = [nbformat.v4.new_code_cell(cell) for cell in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, *body], metadata=kernel), path)
    return path


def test_execute_writes_notebook_and_page_under_their_final_names_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_notebook(tmp_path, "print(name * 2, count + 1, rate)")
    pages.execute(path, tmp_path / "out" / "note.ipynb", {"name": "007", "count": "4", "rate": "1e-3"})
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["note.html", "note.ipynb"]
    done = (tmp_path / "out" / "note.ipynb").read_text()
    assert "007007 5 0.001" in done
    assert str(tmp_path) not in done, "no absolute path in what is shown"
    page = (tmp_path / "out" / "note.html").read_text()
    assert "007007 5 0.001" in page
    assert not re.findall(r"""(?:src|href)=["']https?://""", page), "the page needs no network"
    assert "<script" not in page


def test_a_failed_notebook_is_set_aside_and_named(tmp_path):
    path = make_notebook(tmp_path, "print('before')", "raise KeyError('gone')")
    with pytest.raises(RuntimeError, match="KeyError"):
        pages.execute(path, tmp_path / "out" / "note.ipynb", {})
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["failed"]
    assert "before" in (tmp_path / "out" / "failed" / "note.ipynb").read_text()


def test_wrong_parameters_are_refused_before_anything_runs(tmp_path):
    path = make_notebook(tmp_path)
    with pytest.raises(ValueError, match="name"):
        pages.execute(path, tmp_path / "out.ipynb", {"nme": "x"})
    with pytest.raises(ValueError, match=r"count .* is int, got 'three'"):
        pages.execute(path, tmp_path / "out.ipynb", {"count": "three"})
    with pytest.raises(ValueError, match="09_bias_analysis"):
        pages.execute(tmp_path / "09_bias_analysi.ipynb", tmp_path / "out.ipynb", {})


def test_the_index_needs_results_and_then_lists_them(tmp_path):
    with pytest.raises(ValueError, match="make all"):
        pages.write_index("quick")
    table = pd.read_csv(paths.ROOT / "reports" / "published" / "quick" / "results.csv").query("part == 'grid'")
    pages.save_results(table, "quick")
    (pages.folder("quick") / "01_data.html").write_text("<html></html>")
    page = Path(pages.write_index("quick")).read_text()
    assert 'href="quick/01_data.html"' in page
    assert "CKD + domain-independent" in page
    assert not re.findall(r"""(?:src|href)=["']https?://""", page)
    again = pd.read_parquet(pages.folder("quick") / "results.parquet")
    assert len(again) == len(table)


def test_a_profile_in_a_file_has_its_report_under_the_name_of_the_file(tmp_path):
    file = tmp_path / "elsewhere" / "mine.toml"
    table = pd.DataFrame({"key": ["a"], "seed": [0]})
    pages.save_results(table, file)
    assert pages.folder(str(file)) == pages.folder("mine") == paths.reports_folder() / "mine"
    pd.testing.assert_frame_equal(pages.read_results("mine"), table)
    drawing, _ = figures.figure()
    pages.save(drawing, file, "empty")
    assert (pages.folder("mine") / "figures" / "empty.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sweep", "--profile", "quik"), "quick"),
        (("run", "--method", "ckdd"), "ckd"),
        (("run", "--data", "digits"), "digits_s"),
        (("run", "--student", "resnet21"), "resnet20"),
        (("run", "--debias", "critic", "--lam", "-1"), "λ"),
        (("notebook", "notebooks/05_rkd.ipynb", "--out", "x.ipynb", "-p", "profil", "quick"), "profile"),
        (("notebook", "notebooks/05_rdk.ipynb", "--out", "x.ipynb"), "05_rkd"),
    ],
)
def test_wrong_input_gets_one_sentence_and_a_status(arguments, words, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("kdlib: ")


def test_the_command_line_has_a_status():
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", "sweep", "--profile", "quik"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "quick" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_given_to_a_sweep_take_the_place_of_the_profiles(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr("kdlib.runs.checks.look", lambda settings: None)  # the data are not here
    monkeypatch.setattr("kdlib.runs.checks.checked", lambda every: list(map(runs.as_run, every)))
    monkeypatch.setattr(
        "kdlib.sweep.sweep", lambda runs, engine, **options: seen.update(runs=runs, engine=engine) or runs
    )
    line = "sweep --profile wider --weights none --epochs 2 --seeds 3 4 --data-options size=64,classes=30"
    assert main(line.split()) == 0
    study = profiles.profile("wider", "all")
    changed = study.changed((3, 4), weights="none", epochs=2, data_options="size=64,classes=30")
    assert set(map(runs.as_run, seen["runs"])) == set(map(runs.as_run, changed.grid()))
    assert {run.weights for run in map(runs.as_run, seen["runs"])} == {"none"}
    assert main(["sweep", "--profile", "wider"]) == 0
    assert {run.weights for run in map(runs.as_run, seen["runs"])} == {"imagenet"}
    with pytest.raises(SystemExit):
        main(["sweep", "--method", "ckd"])
    assert "--method" in capsys.readouterr().err


def test_the_last_line_of_a_run_is_its_record(tiny, capsys):
    line = "run --student convnet_4 --method scratch --epochs 2 --no-nesterov --device cpu"
    assert main(line.split()) == 0
    precision, first, *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["settings"]["epochs"] == 2
    assert re.match(r"precision float32: \w+", precision)
    assert re.match(r"epoch +1/2 .*ce .*val_accuracy .* left", first)


def test_a_profile_in_its_smoke_size_is_small(monkeypatch):
    full = profiles.profile("quick").grid()
    monkeypatch.setenv("KDLIB_SMOKE", "1")
    small = profiles.profile("quick").grid()
    assert len(small) < len(full)
    assert {run["seed"] for run in small} == {0, 1}
    assert {run["epochs"] for run in small} == {1}


def test_the_quick_study_is_whole():
    study = profiles.profile("quick")
    assert len(study.seeds) >= 3
    assert study.methods == ("ckd", "rkd", "ctkd", "kdpp")
    assert len(study.debias["critic"]) >= 2
    assert "domain_independent" in study.debias
    assert len(study.two_by_two("ckd")) == 4 * len(study.seeds)


def test_importing_kdlib_or_the_pages_loads_no_torch():
    code = (
        "import sys, kdlib; import kdlib.report.pages, kdlib.profiles; assert 'torch' not in sys.modules; "
        "kdlib.losses.kd_loss; kdlib.bias.class_disparity"
    )
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=True)
    with pytest.raises(AttributeError, match="losses"):
        _ = kdlib_package.losess


NASTY = [
    "<script>alert(1)</script>", "$x$ and $$y$$", "*bold* _em_ `code`", "[a](javascript:b)", "a & b | c", "# ~~x~~ ![y](z)",
    "d_k=1, e",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_what_was_given_is_shown_as_it_is(text):
    from html import unescape

    from nbconvert.filters import markdown2html

    page = markdown2html(f"Options here: {literal(text)}.")
    assert "<script" not in page
    assert "<a" not in page.replace("<a class", "")
    assert unescape(re.sub(r"</?p>", "", page)).strip() == f"Options here: {text}."


@pytest.mark.parametrize("name", ["$$", r"$\frac{$", "cost $10 to $20", "a_b^c", r"\alpha"])
def test_names_are_no_mathematics(name, tmp_path):
    drawing = figures.matrices({name: np.eye(3)}, label=name, low=0, high=1, ticks=[name, "b", "c"])
    axis = drawing.axes[0]
    axis.plot([0, 1], [0, 1], label=name)
    axis.legend(title=name)
    figures.caption(drawing, f"Of {name}.")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        drawing.savefig(tmp_path / "drawn.svg")
    shown = re.findall(r"<text[^>]*>(.*?)</text>", (tmp_path / "drawn.svg").read_text())
    assert len([text for text in shown if text.strip() == name]) >= 4, shown


def test_equal_figures_are_equal_files(tmp_path, monkeypatch):
    files = []
    for folder in ("one", "two"):
        monkeypatch.setenv("KDLIB_REPORTS", str(tmp_path / folder))
        drawing, axis = figures.figure()
        axis.fill_between([0, 1], [0, 1], label="band", hatch="/")
        axis.legend()
        pages.save(drawing, "quick", "drawn")
        files.append(
            [(tmp_path / folder / "quick" / "figures" / f"drawn.{kind}").read_bytes() for kind in ("svg", "png")]
        )
    assert files[0] == files[1]


def test_braces_in_a_path_are_no_parameters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = nbformat.v4.new_code_cell('name: str = "x"', metadata={"tags": ["parameters"]})
    (tmp_path / "a{b}").mkdir()
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "a{b}" / "01_x.ipynb")
    pages.execute("a{b}/01_x.ipynb", "out{name}/{}.ipynb", {"name": "y"})
    assert (tmp_path / "out{name}" / "{}.html").exists()
