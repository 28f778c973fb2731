"""What `make docs` adds to MkDocs: files from outside docs/, pages of the library, and mathematics without a script."""

import html
import importlib
import inspect
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File
from mkdocs.structure.nav import Section
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff")
LIBRARY = ("losses", "methods", "bias", "debias", "models", "teachers", "data", "storage", "profiles", "runs", "sweep")
GROUPS = {"Library": "library/", "Published studies": "reports/published/"}
SHIM = "https://unpkg.com/iframe-worker/shim"  # Material's own way to search from disk needs a network
READABLE = {
    'data-md-component="search" role="dialog"': 'data-md-component="search" role="dialog" aria-label="Search"',
    'class="md-sidebar__scrollwrap"': 'class="md-sidebar__scrollwrap" tabindex="0"',
}
FORMULA = re.compile(r'<(div|span) class="arithmatex">(?:\\\[(.*?)\\\]|\\\((.*?)\\\))</\1>', flags=re.DOTALL)


def on_files(files, config):
    """Add the documents beside docs/, the published studies, and the pages of the library."""
    published = [file for file in (ROOT / "reports" / "published").rglob("*") if file.suffix in {".md", ".png"}]
    for file in [*(ROOT / name for name in PAGES), *published]:
        files.append(File.generated(config, file.relative_to(ROOT).as_posix(), abs_src_path=str(file)))
    for name in LIBRARY:
        files.append(File.generated(config, f"library/{name}.md", content=library_page(name)))
    return files


def library_page(name):
    """Return the Markdown of a module: its docstring, and an entry for each public function and class of its own."""
    module = importlib.import_module(f"kdlib.{name}")
    public = [getattr(module, entry) for entry in getattr(module, "__all__", vars(module)) if not entry.startswith("_")]
    own = [item for item in public if callable(item) and getattr(item, "__module__", "").startswith(module.__name__)]
    paths = sorted(
        {f"{item.__module__}.{item.__qualname__}" for item in own}, key=lambda path: path.rsplit(".", 1)[1].lower()
    )
    about = "\n\n".join(
        f"```pycon\n{paragraph}\n```" if paragraph.startswith(">>>") else paragraph
        for paragraph in inspect.getdoc(module).split("\n\n")
    )
    return "\n\n".join([f"# kdlib.{name}", about, *(f"::: {path}" for path in paths)]) + "\n"


def on_nav(nav, config, files):
    """Put the pages of the library, and those of the published studies, at the end of the navigation."""
    for title, folder in GROUPS.items():
        pages = [file.page for file in files.documentation_pages() if file.src_uri.startswith(folder) and file.page]
        nav.items.append(Section(title, pages))
    return nav


def on_page_markdown(markdown, page, config, files):
    """Let links between documents hold: docs/ is the top folder here, and README.md lies in it."""
    if page.file.src_uri in PAGES:
        return re.sub(r"\]\(docs/", "](", markdown)
    if "/" not in page.file.src_uri:
        return re.sub(r"\]\(\.\./", "](", markdown)
    return markdown


def on_page_content(content, page, config, files):
    """Write mathematics as MathML, which browsers show without a script."""

    def mathml(match):
        _, block, inline = match.groups()
        return convert(html.unescape(block or inline), display="block" if block else "inline")

    return FORMULA.sub(mathml, content)


def on_post_page(output, page, config):
    """Let search work from disk by this site's own script; name and reach by keyboard what the theme leaves without."""
    for found, better in READABLE.items():
        output = output.replace(found, better)
    return output.replace(SHIM, get_relative_url("assets/site.js", page.url if page else ""))


def on_post_template(output, template_name, config):
    """Do the same for the page of what is not found."""
    return on_post_page(output, None, config)
