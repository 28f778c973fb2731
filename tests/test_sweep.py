"""How a sweep is cut into pieces of work; that it runs, resumes and fails well is tested with the run store."""

import signal
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
    chunks = engines._chunks(grid(), 5)
    assert [len(chunk) for chunk in chunks] == [3, 3, 3, 3, 3, 3, 1, 1, 1]
    assert [chunk[0].seed for chunk in chunks[:3]] == [0, 1, 2]


def test_slots_that_outnumber_runs_get_one_each():
    assert [len(chunk) for chunk in engines._chunks(grid(), 256)] == [1] * 21


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


DYING = """
import os, sys
from kdlib import runs
from kdlib.sweep import sweep

original = runs.run

def run(settings, **options):
    if settings.seed == 1:
        if settings.method == "scratch" and settings.student == "convnet_8":
            raise ValueError("no teacher today")
        os._exit(137)
    return original(settings, **options)

runs.run = run  # in the workers too: they import this file

if __name__ == "__main__":
    base = {"student": "convnet_4", "method": "scratch", "epochs": 1, "device": "cpu"}
    taught = {"student": "convnet_4", "teacher": "convnet_8", "epochs": 1, "device": "cpu", "teacher_seed": 1}
    alone = [base | {"seed": seed} for seed in range(4)]
    sweep(alone + [taught | {"method": method, "seed": 0} for method in ("ckd", "rkd")], workers=2)
"""


def test_a_run_that_kills_its_process_is_named_and_all_others_finish(digits, tmp_path):
    (tmp_path / "script.py").write_text(DYING)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    said = done.stderr
    assert "4 of 7 runs failed" in said
    assert said.count("its process died 3 times, with exit code 137") == 1
    assert said.count("no teacher today") == 1
    teacher = next(line for line in said.splitlines() if "no teacher today" in line)
    assert sum("failed" in line and "teacher " in line for line in said.splitlines()) == 2
    assert teacher.split("(")[1].split(")")[0] in said.replace(teacher, "")
    assert len(list(paths.runs_folder().rglob("record.json"))) == 3


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_sweep_and_its_workers(number, digits, monkeypatch):
    monkeypatch.setenv("KDLIB_CHECKPOINT_SECONDS", "0")
    command = [
        "sweep",
        "--profile",
        "quick",
        "--epochs",
        "100000",
        "--teacher-epochs",
        "100000",
        "--workers",
        "2",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen([sys.executable, "-m", "kdlib", *command], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(checkpoints()) == 2, "two workers that train")
        workers = children(process.pid)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.count("\n") == 1
    assert "was interrupted" in said
    wait_for(lambda: not any(map(alive, workers)), "the end of all workers", 10)
    assert len(checkpoints()) == 2


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
