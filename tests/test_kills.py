"""Processes killed at file events: run again, each ends with the files of one that was not killed.

KDLIB_KILLS says how many (20; `make faults`: 200). Seeds are numbered from 0, so a failure can be tried again."""

import multiprocessing
import os
import shutil
import signal

import nbformat
import pytest
from kill_examples import left, work

KILLS = int(os.environ.get("KDLIB_KILLS", 20))
SHARES = {"train": 0.6, "report": 0.3, "notebook": 0.1}
CASES = [(task, seed) for task, share in SHARES.items() for seed in range(round(KILLS * share))]
CELL = """import pathlib
name = pathlib.Path("written")
print(number + 1)"""


@pytest.fixture(scope="module")
def processes():
    """Processes are forked from one that has loaded torch, and that no test has touched."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_examples"])

    def finish(task, folder, seed=0, events=0):
        process = context.Process(target=work, args=(task, folder, seed, events))
        process.start()
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode

    return finish


@pytest.fixture(scope="module")
def reference(processes, tmp_path_factory):
    """{task: (folder before it, file events, what it leaves)} of processes that nothing kills."""
    folder, found = tmp_path_factory.mktemp("reference"), {}
    (folder / "before").mkdir()
    cells = [
        nbformat.v4.new_code_cell("number: int = 1", metadata={"tags": ["parameters"]}, id="one"),
        nbformat.v4.new_code_cell(CELL, id="two"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "before" / "small.ipynb")
    before = folder / "before"
    for task in SHARES:
        after = folder / task
        shutil.copytree(before, after)
        assert processes(task, after) == 0
        found[task] = (before, int((after / "events").read_text()), left(after))
        before = after
    return found


@pytest.mark.parametrize(("task", "seed"), CASES)
def test_a_killed_process_loses_nothing(processes, reference, tmp_path, task, seed):
    before, events, expected = reference[task]
    folder = tmp_path / "killed"
    shutil.copytree(before, folder)
    code = processes(task, folder, seed, events)
    assert code in (-signal.SIGKILL, -signal.SIGALRM, 0), "it was killed, or was done before"
    assert processes(task, folder) == 0
    after = left(folder)
    assert {name: value for name, value in after.items() if "partial" not in name} == expected
    if task == "train":
        assert after == expected, "nothing is left over"


def test_kills_hit_something(reference):
    assert reference["train"][1] > 30
    assert min(events for _, events, _ in reference.values()) >= 3
