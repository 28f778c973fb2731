"""CONTRIBUTING's worked examples, put into a copy of the repository, do what it says."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from kdlib import paths

BLOCK = re.compile(r"```(?:python|toml)\n# (\S+)\n(.*?)```", re.DOTALL)
NEW = ("kdlib/data/stripes.py", "profiles/stripes.toml")
TRAIN = """
from kdlib.profiles import profile
from kdlib.sweep import sweep
from kdlib.report import tables
study = profile("stripes")
table = sweep(study.grid(), workers=1, log=lambda line: None)
shown = tables.readable(table)
print(*shown["model"], sep="\\n")
assert set(table["method"]) == {"scratch", "pkt"}
assert set(table["debias"]) == {"none", "mean_match"}
assert table["test_accuracy"].between(0, 1).all()
from kdlib import paths
key = table[(table["debias"] == "mean_match") & (table["method"] == "pkt")]["key"].iloc[0]
print((paths.runs_folder() / key / "history.csv").read_text().splitlines()[0])
"""
MEASURE = """
from kdlib.profiles import profile
from kdlib.runs.table import table
rows = table(profile("stripes").grid()).drop_duplicates("key")  # of the store; it trains nothing
print("recall_ratio", *rows["test_recall_ratio"])
"""


def blocks(text):
    """Return [(file, content)] of the code blocks whose first line names a file."""
    return BLOCK.findall(text)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what runs need, and a function that runs a script in it."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("kdlib", "profiles"):
        shutil.copytree(paths.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))

    def python(script):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KDLIB_")}
        environment = inherited | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return root, python


def put(root, file, content):
    """Put a block where CONTRIBUTING says: at the end of a file that exists, else into a new one."""
    assert (root / file).exists() or file in NEW, f"CONTRIBUTING names {file}, which does not exist"
    with (root / file).open("a") as stream:
        stream.write("\n\n" + content)


def test_examples_show_up_in_the_results(copy):
    root, python = copy
    examples = blocks((paths.ROOT / "CONTRIBUTING.md").read_text())
    metric = [block for block in examples if block[0].startswith("kdlib/bias/")]
    others = [block for block in examples if block not in metric]
    assert metric
    touched = {file for file, _ in others}
    assert {"kdlib/methods.py", "kdlib/debias/__init__.py", *NEW} <= touched
    for file, content in others:
        put(root, file, content)
    printed = python(TRAIN)
    models = {line.partition(" (")[0] for line in printed.splitlines()}  # without "(collapsed)"
    assert {"pkt", "pkt + mean-match λ 1"} <= models  # under their own names
    terms = printed.splitlines()[-1].split(",")
    assert {"ce", "pkt", "mean_match"} <= set(terms)
    for file, content in metric:  # after the runs, which have it all the same
        put(root, file, content)
    values = [float(value) for value in python(MEASURE).split()[1:]]
    assert len(values) == 5
    assert all(0 < value <= 1 for value in values)
