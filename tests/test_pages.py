"""The index page and a notebook's page: what they hold, and what a reader finds in a browser."""

import re
import shutil
from urllib.parse import unquote

import nbformat
import pandas as pd
import pytest
from browser_examples import opened, serious

from kdlib.names import DEBIASERS
from kdlib.report import alternatives, figures, index, interactive, pages, publish, verdicts

WIDTHS = [(1400, "light"), (390, "dark")]
LARGEST = 3_000_000  # bytes of a page
KEPT = ("digits_controls", "faces_debiasing")  # published studies in the copy: what the verdict reads


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A reports folder with a study that was run, its notebook's page, two published studies, and the index."""
    reports = tmp_path_factory.mktemp("site") / "reports"
    source = publish.published_folder()
    for name in KEPT:
        shutil.copytree(source / name, reports / "published" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_REPORTS", str(reports))
        patch.setattr(publish, "published_folder", lambda name="": reports / "published" / name)
        table = pd.read_csv(source / "quick" / "results.csv").query("part == 'grid'")
        pages.save_results(table, "quick")
        drawing, axis = figures.figure()
        axis.plot([0.1, 0.2], [0.3, 0.5], label="CKD")
        axis.set(xlabel="accuracy", ylabel="MAD")
        axis.legend()
        image = pages.save(drawing, "quick", "bias_against_accuracy")
        data, metadata = image._repr_mimebundle_()
        output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
        cell = nbformat.v4.new_code_cell('pages.save(drawing, profile, "bias_against_accuracy")', outputs=[output])
        table = nbformat.v4.new_output(
            "display_data",
            data={
                "text/html": pd.DataFrame(1, index=[0], columns=[f"a long heading {n}" for n in range(30)]).to_html()
            },
        )
        further = nbformat.v4.new_code_cell("table", outputs=[table])
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# 9 · Bias"), cell, further])
        nbformat.write(notebook, pages.folder("quick") / "09_bias_analysis.ipynb")
        pages._write_page(notebook, pages.folder("quick") / "09_bias_analysis.html", ["09_bias_analysis"])
        pages.write_index("quick")
    return reports


def test_index_has_question_verdict_and_each_study(site):
    page = (site / "index.html").read_text()
    assert "How well does knowledge distillation" in page
    assert len(re.findall(r"<li>", page.partition('class="verdict"')[2].partition("</ol>")[0])) == 3
    for study in ("quick", *(f"published-{name}" for name in KEPT)):
        section = page.partition(f'<section id="{study}"')[2].partition("</section>")[0]
        assert "Every model" in section
        assert "make all PROFILE=" in section
    cell = nbformat.read(site / "quick" / "09_bias_analysis.ipynb", 4).cells[1]
    assert f'href="quick/09_bias_analysis.html#cell-id={cell.id}"' in page
    assert "Not run yet" in page
    assert "noise floor" in page
    assert len(index.glossary()) > 8


def test_pages_are_small_and_whole(site):
    for page in [site / "index.html", *site.glob("quick/*.html")]:
        text = page.read_text()
        assert len(text.encode()) <= LARGEST
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)
        for link in re.findall(r"""<(?:a|img)\b[^>]*?(?:src|href)=["']([^"']+)""", text):
            if not link.startswith("data:"):
                file, _, anchor = unquote(link).partition("#")
                target = page if not file else (page.parent / file)
                assert target.exists(), link
                assert not anchor or f'id="{anchor}"' in target.read_text(), link
        assert all(re.search(r'\balt="[^"]{5,}"', image) for image in re.findall(r"<img\b[^>]*>", text))


def test_notebook_page_folds_code_and_knows_its_figures(site):
    page = (site / "quick" / "09_bias_analysis.html").read_text()
    assert "<script" not in page
    assert '<details class="code">' in page
    assert 'href="../index.html"' in page
    assert "accuracy 0.10 to 0.20, MAD 0.30 to 0.50" in page
    assert "Shown are CKD" in page


def test_neighbours_are_linked(tmp_path):
    page = tmp_path / "05_rkd.html"
    pages._write_page(nbformat.v4.new_notebook(), page, ["06_ctkd", "04_ckd", "05_rkd", "01_data"])
    assert re.findall(r'href="([^"]+\.html)"', page.read_text()) == ["../index.html", "04_ckd.html", "06_ctkd.html"]


def test_a_map_is_described_by_its_values():
    drawing, axis = figures.figure()
    axis.pcolormesh([[0.25, -0.5]])
    assert "values -0.50 to 0.25" in alternatives.text(drawing, "map")


@pytest.mark.parametrize(
    ("text", "number"), [("-0.045 ± 0.018", -0.045), ("272,149", 272149), ("5 of 12", 5), ("CKD", None)]
)
def test_tables_sort_by_the_number_that_a_cell_begins_with(text, number):
    assert interactive.sortable(pd.DataFrame({"x": [text]}))["rows"] == [[(text, number)]]


def test_figure_holds_every_kind_with_its_figures():
    table = pd.read_csv(publish.published_folder("quick") / "results.csv").query("part == 'grid'")
    figure = interactive.trade_off(table, "quick/09.html#cell-id=c06")
    assert [one["name"] for one in figure["methods"]][:2] == ["teacher", "scratch"]
    point = next(point for point in figure["points"] if point["model"] == "CKD")
    assert point["seeds"] == 3
    assert point["MAD ± 95 %"].count("±") == 1
    assert point["link"] == "quick/09.html#cell-id=c06"
    assert set(DEBIASERS) >= {one["name"] for one in figure["debiasers"] if one["label"] == "no debiasing"}


def test_verdict_follows_the_numbers(monkeypatch):
    table = pd.read_csv(publish.published_folder("digits_controls") / "results.csv").query("part == 'grid'")
    before = verdicts._planted(table)
    changed = table.assign(test_mad=table["test_mad"].where(table["debias"] != "balanced_teacher", 0.2))
    assert verdicts._planted(changed) != before
    assert "to 0.200" in verdicts._planted(changed)
    assert "2 of its 2 fair controls" in verdicts._planted(changed)


@pytest.fixture(params=WIDTHS, ids=lambda look: f"{look[0]}-{look[1]}")
def look(request):
    return request.param


CLIPPED = """() => [document.documentElement.scrollWidth - innerWidth, ...[...document.querySelectorAll('main *')]
    .filter((e) => !e.closest('.scroll, .wide, .code, svg') && e.getBoundingClientRect().right > innerWidth + 1)
    .map((e) => e.outerHTML.slice(0, 120))].filter((x) => x !== 0)"""


def test_index_in_a_browser(site, chromium, look):
    wrong = []
    page = opened(chromium, site / "index.html", look, wrong)
    page.wait_for_selector("#headline fieldset")
    page.wait_for_selector("table.dataTable")
    assert page.evaluate(CLIPPED) == []
    marks = "#headline .mark-symbol path"
    before = page.locator(marks).count()
    page.get_by_label("CKD", exact=True).first.uncheck()
    page.wait_for_function(f"document.querySelectorAll('{marks}').length < {before}")
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true })")
    table = page.locator("#quick table.dataTable").last
    heading = table.locator("thead th", has_text="MAD").first
    heading.click()
    numbers = """() => {
        const table = document.querySelector('#quick details table');
        const place = [...table.tHead.rows[0].cells].findIndex((cell) => cell.innerText.trim() == 'MAD');
        return [...table.tBodies[0].rows].map((row) => +row.cells[place].dataset.order) }"""
    page.wait_for_function(f"() => {{ const all = ({numbers})(); return all.every((x, i) => !i || all[i - 1] <= x) }}")
    values = page.evaluate(numbers)
    assert len(values) > 20
    page.locator("#quick details input[type=search]").fill("KD++ critic")
    rows = table.locator("tbody tr").all_inner_texts()
    assert rows
    assert all("KD++" in row and "critic" in row for row in rows)
    assert serious(page) == []
    assert wrong == []
    page.close()


def test_notebook_page_in_a_browser(site, chromium, look):
    wrong = []
    page = opened(chromium, site / "quick" / "09_bias_analysis.html", look, wrong)
    assert page.evaluate(CLIPPED) == []
    assert page.get_by_text("pages.save").is_hidden()
    page.get_by_text("Code").first.click()
    assert page.get_by_text("pages.save").is_visible()
    assert serious(page) == []
    assert wrong == []
    page.close()


def test_without_javascript_figure_and_table_remain(site, chromium):
    page = chromium.new_page(java_script_enabled=False)
    page.goto((site / "index.html").as_uri())
    assert page.locator("#headline img").first.is_visible()
    assert page.locator("#quick table").first.is_visible()
    page.close()
