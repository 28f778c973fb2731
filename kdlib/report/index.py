"""The index page: question, verdict and headline; a section for each study; glossary; provenance. It opens from disk, offline.

Everything on it comes from tables. What a reader plays with has a static twin for browsers without JavaScript."""

import json
import re
from datetime import date
from pathlib import Path

from markupsafe import Markup

from kdlib import paths, profiles
from kdlib.files import replacing
from kdlib.report import claims, interactive, publish, tables, verdicts
from kdlib.report.pages import TEMPLATES, read_results

FIGURES = (
    "bias_against_accuracy", "debiasers", "disparity_by_class", "disparity_map", "recall_by_group", "inheritance", "inflation",
    "strengths", "temperatures", "calibration", "leakage", "bias_on_device", "calibration_pictures",
)  # fmt: skip


def write(profile) -> Path:
    """Write `reports/index.html`: the studies that were run, `profile` first, then the published ones; return its path.

    Raises
    ------
    ValueError
        Where no profile has results.
    """
    reports, first = paths.reports_folder(), profiles.profile_name(profile)
    names = sorted((file.parent.name for file in reports.glob("*/results.csv")), key=lambda name: (name != first, name))
    if not names:
        raise ValueError(f"no results under {reports}: run the notebooks first (make all)")
    studies = claims.published()
    ran = {name: claims.with_part(read_results(name)) for name in names}
    sections = [_of_run(reports, name, table) for name, table in ran.items()]
    sections += [_of_published(reports, name, table) for name, table in studies.items()]
    page = (
        environment()
        .get_template("index.html.j2")
        .render(
            sections=sections,
            verdict=verdicts.verdict(studies)
            if studies
            else [(text, names[0]) for text, _ in sections[0]["brief"][:3]],
            unknown=verdicts.unknown(ran | studies),
            glossary=glossary(),
            speed=_speed(reports),
            bundles=interactive.bundles(),
            today=str(date.today()),
        )
    )
    with replacing(reports / "index.html") as temporary:
        temporary.write_text(page)
    return reports / "index.html"


def environment():
    """Return the Jinja environment of the pages."""
    import jinja2

    result = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    result.filters["markdown"] = _inline
    result.filters["as_json"] = interactive.as_json
    result.globals["text_of"] = lambda name: Markup((TEMPLATES / name).read_text())
    return result


def _inline(text):
    """A line of Markdown as HTML, without a paragraph around it."""
    from nbconvert.filters import markdown2html

    return Markup(re.sub(r"^<p>(.*)</p>\s*$", r"\1", markdown2html(text).strip(), flags=re.DOTALL))


def glossary() -> list:
    """Return (term, meaning) of each row of the glossary in docs/metrics.md; empty where the documentation is not at hand."""
    file = paths.ROOT / "docs" / "metrics.md"
    if not file.exists():
        return []
    part = file.read_text().partition("## Glossary")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|"), maxsplit=1) for line in part.splitlines() if "|" in line]
    return [(term.strip(), meaning.strip().replace("\\|", "|")) for term, meaning in rows[2:]]


def _of_run(reports, name, table):
    folder = reports / name
    figures = _figures(folder / "figures", f"{name}/figures", "svg", made_by=cells(folder))
    return _section(table, _study(folder), figures, reports, id=name, title=name, kind="run here", folder=name)


def _of_published(reports, name, table):
    folder = publish.published_folder(name)
    place = f"published/{name}"
    text = (folder / "README.md").read_text()
    described = {figure: alt for alt, figure in re.findall(r"!\[(.*?)\]\((\w+)\.png\)", text)}
    figures = _figures(folder, place, "png", described=described)
    study = _study(folder) | {"said": text.split("\n\n")[1]}
    return _section(table, study, figures, reports, id=f"published-{name}", title=name, kind="published", folder=place)


def _figures(folder, place, kind, described=None, made_by=None):
    """The figures that are there, with their alternative texts and the cells that drew them."""
    return [
        {
            "name": name,
            "image": f"{place}/{name}.{kind}",
            "alt": (described or {}).get(name, name.replace("_", " ")),
            "cell": (made_by or {}).get(name),
        }
        for name in FIGURES
        if (folder / f"{name}.{kind}").exists()
    ]


def _study(folder):
    """What study.json beside a table says of the study; {} where there is none."""
    file = folder / "study.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _section(table, study, figures, reports, **names):
    pages = sorted((reports / names["title"]).glob("[0-9]*.html"))
    grid = table[table["part"] == "grid"].copy()
    headline = next((figure for figure in figures if figure["name"] == FIGURES[0]), None)
    link = (headline or {}).get(
        "cell"
    ) or f"{names['folder']}/{'README.md' if names['kind'] == 'published' else 'results.csv'}"
    brief = verdicts.in_brief(table)
    readable = tables.readable(grid)
    if all(part is None for _, part in brief):
        brief = [*brief[:-1], (brief[-1][0], readable[[column for column in publish.SHORT if column in readable]])]
    return names | {
        "about": study.get("about") or _about(names["title"]),
        "classes": _listed(study.get("dataset", {}).get("classes")),
        "groups": _listed(study.get("dataset", {}).get("groups")),
        "brief": [(text, None if part is None else interactive.sortable(part)) for text, part in brief],
        "note": tables.floor_note(grid),
        "headline": headline,
        "chart": interactive.trade_off(grid, link),
        "figures": [figure for figure in figures if figure is not headline],
        "table": interactive.sortable(readable),
        "pages": [
            {"link": page.relative_to(reports).as_posix(), "name": page.stem.replace("_", " ")} for page in pages
        ],
        "provenance": _provenance(table, study, names["title"]),
    }


def _about(name):
    """What a built-in study says of itself."""
    return profiles.profile(name, "all").about if name in profiles.built_in() else ""


def _listed(names):
    return ", ".join(names or ())


def _provenance(table, study, name):
    """How the study was made, as {what: text}; published before there was a study.json, as its page says it."""
    given, once = study.get("provenance", {}), table.drop_duplicates("key")
    if not given and "said" in study:
        command, _, rest = study["said"].partition(". ")
        return {"command": command.removeprefix("Command: ").strip("`"), "as published": rest}
    taught = once[once["teacher_key"].notna()]
    seeds = sorted(int(seed) for seed in once["seed"].unique())
    return {
        "command": given.get("command", f"make all PROFILE={name}"),
        "date": given.get("date", ""),
        "code": ", ".join(sorted(str(commit)[:12] for commit in once["commit"].unique())),
        "versions": " · ".join(f"{package} {version}" for package, version in given.get("versions", {}).items()),
        "device": ", ".join(once["device"].unique()),
        "runs": f"{len(once)}, {once['seconds'].sum():.0f} s of training",
        "seeds": ", ".join(map(str, seeds)),
        "networks": ", ".join(dict.fromkeys((taught["teacher"] + " → " + taught["student"]).astype(str))),
    }


def cells(folder) -> dict:
    """Return {figure: link to the cell of the executed notebook that drew it}, of the notebooks in the folder of a report."""
    links = {}
    for file in sorted(Path(folder).glob("[0-9]*.ipynb")):
        for cell in json.loads(file.read_text())["cells"]:
            source = "".join(cell["source"])
            for figure in re.findall(r'pages\.save\(.*"(\w+)"\)', source):
                links[figure] = f"{Path(folder).name}/{file.stem}.html#cell-id={cell.get('id', '')}"
    return links


def _speed(reports):
    """The benchmark's figures, where `make bench` has drawn them, or else those that are published."""
    places = (reports / "bench", publish.published_folder("bench"))
    folder = next((place for place in places if any(place.glob("*.png"))), None)
    if folder is None:
        return []
    place = "bench" if folder == places[0] else "published/bench"
    return [
        {"name": file.stem, "image": f"{place}/{file.name}", "numbers": f"{place}/{file.stem}.json"}
        for file in sorted(folder.glob("*.png"))
    ]
