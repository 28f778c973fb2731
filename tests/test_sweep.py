"""How a sweep is cut into pieces of work; that it runs, resumes and fails well is tested with the run store."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdlib import engines, names, paths, profiles, runs


def grid(**changes):
    base = {"student": "convnet_4", "teacher": "convnet_8", "teacher_seed": 0, "device": "cpu"} | changes
    methods = ("ckd", "rkd", "ctkd", "kdpp", "dkd", "rkd_author", "ctkd_instance")
    return [runs.Run(**base, method=method, seed=seed).resolved() for method in methods for seed in range(3)]


def test_runs_that_read_the_same_teacher_outputs_stay_together():
    todo = grid() + grid(teacher="convnet_9")
    chunks = engines._chunks(todo, 4)
    assert sorted((run for chunk in chunks for run in chunk), key=repr) == sorted(todo, key=repr)
    assert all(len({(run.teacher_run(), run.seed) for run in chunk}) == 1 for chunk in chunks)
    assert max(map(len, chunks)) <= -(-len(todo) // 4)


def test_workers_start_on_different_groups_and_get_more_than_a_run_each():
    chunks = engines._chunks(grid(), 100)
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3, 3, 3, 1, 1, 1]
    assert [chunk[0].seed for chunk in chunks[:3]] == [0, 1, 2]


def test_students_alone_are_work_of_their_own():
    todo = [runs.Run(student="convnet_4", method="scratch", seed=seed).resolved() for seed in range(5)]
    assert [len(chunk) for chunk in engines._chunks(todo, 1)] == [1] * 5


def test_a_name_says_what_tells_runs_apart():
    run = runs.as_run(profiles.profile("quick").students("ckd", "critic", 10.0)[1])
    assert names.run_name(run) == "ckd + critic λ 10, seed 1"
    run = runs.Run(method="kdpp", method_options="kd=3.5, nd=0", nesterov=True)
    assert names.run_name(run) == "kdpp, kd=3.5, nd=0, nesterov, seed 0"


SWEEP = """
from kdlib.sweep import sweep

if __name__ == "__main__":
    common = {"student": "convnet_4", "method": "scratch", "epochs": 100_000, "device": "cpu"}
    sweep([common | {"seed": seed} for seed in range(2)], workers=2)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_a_killed_sweep_leaves_no_worker_behind(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CHECKPOINT_SECONDS", "0")
    (tmp_path / "script.py").write_text(SWEEP)
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path)
    try:
        wait_for(lambda: len(checkpoints()) == 2, "two workers that train")
        workers = children(process.pid)
        assert len(workers) >= 2
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(alive(worker) for worker in workers), "the workers to end")
    for checkpoint in checkpoints():
        assert torch.load(checkpoint, weights_only=True)["history"], "what a worker was at can be resumed"


def wait_for(condition, what, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


def checkpoints():
    return list(paths.runs_folder().rglob("checkpoint.pt"))


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def alive(pid):
    """Whether the process runs: one that nobody waits for may stay as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
