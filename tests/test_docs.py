"""The documentation as a site: it builds, its links hold, it needs no network, and its code runs."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlparse

import numpy as np
import pytest
from browser_examples import opened, serious

from kdlib import bias, losses, paths, runs

SOURCES = [paths.ROOT / "README.md", *sorted((paths.ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` builds it: a warning fails."""
    build = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("docs") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build.build(load_config(str(paths.ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


class Page(HTMLParser):
    """The targets, the places that a link can name, and what the page loads."""

    def __init__(self, file):
        super().__init__()
        self.links, self.places, self.loaded = [], set(), []
        self.feed(file.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places |= {attributes.get("id"), attributes.get("name")} - {None}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") in ("stylesheet", "preconnect", "preload"):
            self.loaded.append(attributes["href"])
        elif "src" in attributes:
            self.loaded.append(attributes["src"])


def test_every_link_of_the_site_leads_somewhere(site):
    pages = {file: Page(file) for file in site.rglob("*.html") if file.name != "404.html"}
    assert {"methods.html", "comparison.html", "bias.html"} <= {file.name for file in pages}
    wrong, followed = [], 0
    for file, page in pages.items():
        for link in page.links:
            address, place = urldefrag(link)
            if urlparse(address).scheme:
                assert urlparse(address).scheme in ("https", "mailto"), link
                continue
            target = (file.parent / unquote(address)).resolve() if address else file
            followed += 1
            if not target.is_file() or (place and target in pages and unquote(place) not in pages[target].places):
                wrong.append((file.relative_to(site).as_posix(), link))
    assert wrong == []
    assert followed > 1000


def test_the_site_loads_nothing_from_elsewhere(site):
    for file in site.rglob("*.html"):
        assert [one for one in Page(file).loaded if urlparse(one).scheme not in ("", "data")] == [], file


def test_each_public_function_has_its_entry(site):
    for module in (bias, losses):
        name = module.__name__.removeprefix("kdlib.")
        places = Page(site / "library" / f"{name}.html").places
        entries = {place.rsplit(".", 1)[1] for place in places if place.startswith(f"kdlib.{name}.")}
        functions = {entry for entry in module.__all__ if callable(getattr(module, entry))}
        assert functions <= entries, functions - entries


@pytest.mark.parametrize("name", ["methods", "metrics"])
def test_every_formula_became_mathml(site, name):
    source, page = (paths.ROOT / "docs" / f"{name}.md").read_text(), (site / f"{name}.html").read_text()
    blocks = re.findall(r"\$\$(.+?)\$\$", source, re.DOTALL)
    inline = re.findall(r"\$([^$]+)\$", re.sub(r"\$\$.+?\$\$", "", source, flags=re.DOTALL))
    assert len(blocks) + len(inline) > 5
    assert len(re.findall(r"<math [^>]*display=.block", page)) == len(blocks)
    assert len(re.findall(r"<math [^>]*display=.inline", page)) == len(inline)
    assert "arithmatex" not in page


def test_the_site_from_disk_in_a_browser(site, chromium):
    wrong = []
    page = opened(chromium, site / "index.html", (1400, "light"), wrong)
    page.fill("[data-md-component=search-query]", "unbiased estimate")
    page.wait_for_selector(".md-search-result__item")
    assert "bias" in page.inner_text(".md-search-result__list")
    narrow = opened(chromium, site / "methods.html", (390, "dark"), wrong)
    assert wrong == []
    assert serious(narrow) == []


@pytest.mark.parametrize("document", ["README.md", "docs/metrics.md"])
def test_code_of_metrics_runs(document, tmp_path, monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (paths.ROOT / document).read_text(), re.DOTALL)
    rng = np.random.default_rng(0)
    source = np.repeat(np.arange(40), 2)
    names = {"y_true": source % 2, "group": np.tile([0, 1], 40), "source": source}
    names |= {name: np.where(rng.random(80) < 0.8, names["y_true"], 1 - names["y_true"]) for name in
              ("y_pred", "teacher_pred", "student_pred")}  # fmt: skip
    rows = zip(names["y_true"], names["y_pred"], names["group"], strict=True)
    (tmp_path / "predictions.csv").write_text(
        "label,prediction,group\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bias, "summary", seen := _Seen(bias.summary))
    exec(block, names)
    assert seen.results[0]["mad"] == pytest.approx(
        bias.mean_absolute_disparity(*[names[n] for n in ("y_true", "y_pred", "group")])
    )
    assert seen.results[-1]["mad"] == seen.results[0]["mad"], "a file gives the figures of its arrays"


class _Seen:
    def __init__(self, function):
        self.function, self.results = function, []

    def __call__(self, *args, **kwargs):
        self.results.append(self.function(*args, **kwargs))
        return self.results[-1]


def test_code_of_running_names_a_run_that_can_be(monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (paths.ROOT / "docs" / "running.md").read_text(), re.DOTALL)
    monkeypatch.setattr(runs, "load_model", runs.as_run)
    names = {}
    exec(block, names)
    assert names["model"].epochs == 2


def test_no_block_of_python_is_left_out():
    """Those of docs/extending.md are executed in test_extending, the others here."""
    found = {file.name: file.read_text().count("```python") for file in SOURCES if "```python" in file.read_text()}
    assert found == {"README.md": 1, "extending.md": 4, "metrics.md": 1, "running.md": 1}
