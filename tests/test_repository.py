"""What people expect of a repository: files beside the code that agree with it, and documents whose links and commands work."""

import argparse
import re
import socket
import subprocess
import sys
import tomllib
from unittest import mock

import numpy as np
import pytest
import yaml

import kdlib.__main__
from kdlib import bias, data, debias, methods, paths

PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())
DOCUMENTS = sorted(
    file for place in (paths.ROOT, paths.ROOT / "docs") for file in place.glob("*.md") if file.name != "LOG.md"
)
CODE = re.compile(r"```(?:\w+)?\n(.*?)```|`([^`\n]+)`", re.DOTALL)


def requirement_name(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def test_environment_installs_what_pyproject_names():
    environment = yaml.safe_load((paths.ROOT / "environment.yml").read_text())["dependencies"]
    python = next(item for item in environment if str(item).startswith("python="))
    pip = next(item["pip"] for item in environment if isinstance(item, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[dev]"]
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.removeprefix("python=").split("."))) >= tuple(map(int, lowest.split(".")))
    versions = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    assert python.removeprefix("python=") in versions
    assert versions[0] == lowest


def test_constraints_hold_every_dependency():
    pinned = {requirement_name(line) for line in (paths.ROOT / "constraints.txt").read_text().split()}
    extras = PROJECT["project"]["optional-dependencies"]
    needed = PROJECT["project"]["dependencies"] + extras["dev"] + extras["edge"] + extras["timm"]
    assert {requirement_name(requirement) for requirement in needed} - {"kdlib"} <= pinned


def test_versions_and_licences_agree():
    citation = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert citation["version"] == kdlib.__version__
    assert citation["license"] == PROJECT["project"]["license"] == "MIT"
    assert "MIT License" in (paths.ROOT / "LICENSE").read_text()
    changelog = (paths.ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([^]]+)\]", changelog, re.MULTILINE)
    assert versions[:2] == ["Unreleased", kdlib.__version__]
    assert f"[{kdlib.__version__}] - {citation['date-released']}" in changelog


def test_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((paths.ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    versions = [c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    assert job["strategy"]["matrix"]["python"] == versions
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]


def test_console_script_is_the_module():
    module, function = PROJECT["project"]["scripts"]["kdlib"].split(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


@pytest.mark.parametrize("name", [".venv", ".venv/bin/python", "data/x", "runs/x", "reports/quick/x", ".env"])
def test_git_ignores(name):
    """A pattern that ends in a slash would miss a `.venv` that is a link."""
    rules = (paths.ROOT / ".gitignore").read_text().split()
    assert ".venv" in rules
    top = name.split("/")[0]
    assert {top, f"/{top}/", f"/{top}/*"} & set(rules)


def sections(text):
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.name)
def test_links_lead_somewhere(document):
    text = document.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name}: no file {link}"
        if anchor:
            assert anchor in sections(target.read_text()), f"{document.name}: no section {link}"


def shell_lines(document):
    """Yield the lines of code in a document, in blocks and in the running text."""
    for block, inline in CODE.findall(document.read_text()):
        yield from (block or inline).replace("\\\n", " ").splitlines()


def words_after(command):
    """Return what the documents write after a command, a list of words each time."""
    found = []
    for document in DOCUMENTS:
        for line in shell_lines(document):
            code = line.split("#")[0]
            found += [
                (document.name, match.split()) for match in re.findall(rf"(?:^|&& |; )\s*{command}(?=\s|$)(.*)", code)
            ]
    return found


def test_make_targets_exist():
    makefile = (paths.ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    used = words_after("make")
    assert len(used) > 10
    for document, words in used:
        for word in words:
            if word.startswith("PARAMS="):
                break  # what follows are a notebook's parameters, in quotes
            if word.startswith("notebooks/"):
                assert (paths.ROOT / f"{word}.ipynb").exists() or word.isupper() or "NAME" in word, (document, word)
            elif "=" not in word and '"' not in word:
                assert word in targets, f"{document}: make {word}"
            elif word.startswith("PROFILE=") and ".toml" not in word and word != "PROFILE=NAME":
                assert (paths.ROOT / "profiles" / f"{word.removeprefix('PROFILE=')}.toml").exists(), (document, word)


@pytest.mark.parametrize("profile", ["mine", "studies/mine.toml", "/elsewhere/mine.toml"])
def test_make_takes_names_and_files(profile):
    command = ["make", "--dry-run", "clean", f"PROFILE={profile}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=paths.ROOT)
    assert f"{paths.reports_folder()}/mine " in done.stdout


def commands():
    """Return {command: its flags}, as `python -m kdlib --help` tells."""
    parsers, original = [], argparse.ArgumentParser.parse_known_args

    def stop(parser, *arguments):
        if parser.prog != "python -m kdlib":
            return original(parser, *arguments)  # which data set's options `new` has
        sys.exit(parsers.append(parser))

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", stop), pytest.raises(SystemExit):
        kdlib.__main__.main(["new", "mine.toml"])
    choices = next(a for a in parsers[0]._actions if isinstance(a, argparse._SubParsersAction)).choices
    return {name: {flag for a in parser._actions for flag in a.option_strings} for name, parser in choices.items()}


def test_commands_and_flags_exist():
    known = commands()
    used = words_after(r"(?:python -m )?kdlib")
    assert len(used) > 10
    for document, words in used:
        if not words:
            continue
        name = words[0]
        assert name in known or name.startswith("-") or name in ("·", "…"), f"{document}: python -m kdlib {name}"
        for word in words[1:]:
            if word.startswith("-") and not word.strip("-")[:1].isdigit():
                assert word.strip('[]"').split("=")[0] in known[name], f"{document}: {name} {word}"


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ("methods.md", [*methods.METHODS, *debias.DEBIASERS]),
        ("data.md", list(data.SOURCES)),
        ("metrics.md", list(bias.summary(np.arange(8) % 2, np.arange(8) % 2, np.arange(8) // 4, n=10))),
    ],
)
def test_documents_name_everything(document, names):
    described = set(re.findall(r"`(\w+)`", (paths.ROOT / "docs" / document).read_text()))
    assert set(names) <= described


def test_profiles_are_all_described():
    """README's table of profiles has a row for each study, and no other."""
    rows = re.findall(r"^\| `([\w]+)` \|", (paths.ROOT / "README.md").read_text(), re.MULTILINE)
    built_in = {file.stem for file in (paths.ROOT / "profiles").glob("*.toml")}
    assert set(rows) >= built_in


def test_every_published_study_says_what_was_chosen():
    results = (paths.ROOT / "docs" / "results.md").read_text()
    table = results[results.index("## What was chosen") :]
    for folder in sorted((paths.ROOT / "reports" / "published").glob("*/results.csv")):
        name = folder.parent.name
        assert f"| `{name}` |" in table, name
        assert f"<!-- {name} -->" in results, name


def test_readme_is_short():
    lines = (paths.ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 400


def test_types_are_shipped():
    assert (paths.ROOT / "kdlib" / "py.typed").exists()
    assert PROJECT["tool"]["setuptools"]["package-data"]["kdlib"][0] == "py.typed"


def test_help_is_quick_to_import():
    """`python -m kdlib --help` and a misspelt name need no torch."""
    code = "import sys, kdlib.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=paths.ROOT)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_no_test_connects_to_another_machine(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_STREAM) as connection,
        pytest.raises(AssertionError, match=f"connects to {host}"),
    ):
        connection.connect((host, 80))
