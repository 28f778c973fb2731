"""kdlib as a wheel, installed outside the repository, where there is no torch."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from kdlib import paths

NO_TORCH = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
TABLE = "label,prediction,group\n" + "".join(
    f"{'cat' if i % 2 else 'dog'},{'cat' if i % 2 or i % 8 == 4 else 'dog'},{'f' if i % 4 < 2 else 'm'}\n"
    for i in range(400)
)
SUMMARY = """
import sys
from kdlib import bias, paths
found = bias.read_csv("predictions.csv")
print(bias.summary(*found[:3])["mad"], paths.CHECKOUT, paths.ROOT)
print(bias.compare(found.y_true, found.y_true, found.y_pred, found.group)["mad_student"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs Python with the installed wheel and without torch, in a folder with predictions.csv."""
    root = tmp_path_factory.mktemp("wheel")
    source, target, work = root / "source", root / "target", root / "work"
    shutil.copytree(paths.ROOT / "kdlib", source / "kdlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(root), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = root.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-index", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
    )
    blocked = root / "blocked"
    blocked.mkdir()
    work.mkdir()
    (blocked / "torch.py").write_text(NO_TORCH)
    (work / "predictions.csv").write_text(TABLE)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KDLIB_")}
    environment = inherited | {"PYTHONPATH": f"{blocked}{os.pathsep}{target}"}

    def python(*arguments):
        command = [sys.executable, *(str(target / "bin" / "kdlib") if part == "kdlib" else part for part in arguments)]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    located = python("-c", "import kdlib; print(kdlib.__file__)").stdout
    assert located.startswith(str(target))
    return work, python


def test_bias_needs_neither_torch_nor_the_repository(installed):
    work, python = installed
    done = python("-c", SUMMARY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.25", "False", str(work), "0.25"]


def test_audit_needs_neither_torch_nor_the_repository(installed):
    work, python = installed
    done = python("kdlib", "audit", "predictions.csv", "--teacher", "predictions.csv", "--out", "pages/audit.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Biased. The mean difference in recall between groups (MAD) is 0.250.")
    assert (work / "pages" / "audit.html").read_text("utf-8").endswith("</html>\n")
    assert sorted(file.name for file in work.iterdir()) == ["pages", "predictions.csv"]  # no data, runs or reports


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--method", "scratch"], "needs the package torch, which is not installed"),
        (["sweep", "--profile", "quick"], "profile 'quick' is part of the project's repository"),
        (["sweep", "--profile", "mine.toml"], "no profile mine.toml"),
        (["notebook", "notebooks/01_data.ipynb", "--out", "x.ipynb"], "notebook '01_data' is part of the project's"),
        (["report"], "no results under|needs the package torch"),
        (["publish", "--profile", "quick"], "is part of the project's repository"),
        (["verify"], "what is published is part of the project's repository"),
        (["fetch", "cifar_teachers"], "needs the package torch"),
        (["audit", "nowhere.csv"], "there is no file nowhere.csv"),
    ],
)
def test_other_commands_say_what_they_lack(installed, arguments, words):
    _, python = installed
    done = python("kdlib", *arguments)
    assert done.returncode == 1
    assert re.search(words, done.stderr)
    assert len(done.stderr.splitlines()) == 1
