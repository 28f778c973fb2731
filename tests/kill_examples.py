"""What is killed: training with a teacher from a prepared data set on, and the table, figures and page of it.

A process is killed at a file event (a file opened to be written, renamed, removed, a folder made) within its folder: just
before it, or some microseconds later, in the middle of what follows."""

import hashlib
import json
import os
import random
import re
import signal
import sys
from pathlib import Path

import pandas as pd
import torch

from kdlib import profiles, runs  # noqa: F401, loaded before processes are forked
from kdlib.report import figures, pages
from kdlib.runs import networks, table, training  # noqa: F401

torch.set_num_threads(1)
STUDENT = {
    "data": "digits_s", "student": "convnet_4", "teacher": "convnet_4", "method": "kdpp", "epochs": 2, "batch_size": 400,
    "device": "cpu",
}  # fmt: skip
WRITTEN = ("os.rename", "os.remove", "os.mkdir")
LATER = 3e-3  # seconds: at most so much after the event


def train():
    """Data cache, teacher, class means, checkpoints, records."""
    runs.run(STUDENT, log=list, checkpoint_seconds=0)


def report():
    """Metrics, results, a figure, a notebook's page; the runs are finished."""
    results = table.table([STUDENT])
    pages.save_results(results.drop(columns=[name for name in results if "seconds" in name]), "quick")
    drawing, axes = figures.figure()
    axes.plot(results["test_accuracy"], results["test_mad"], "o")
    pages.save(drawing, "quick", "points")


def notebook():
    """A notebook that is executed by papermill, in a kernel of its own, and its page."""
    folder = Path(os.environ["KDLIB_REPORTS"])
    pages.execute(folder.parent / "small.ipynb", folder / "quick" / "small.ipynb", {"number": "2"})


def work(task, folder, seed, events):
    """Do a task in `folder`; with `events`, how many there are, be killed at one that the seed draws. Return by exit alone."""
    for name in ("data", "runs", "reports"):
        os.environ[f"KDLIB_{name.upper()}"] = str(folder / name)
    os.environ["KDLIB_CHECKPOINT_SECONDS"] = "0"
    draw = random.Random(seed)
    at, later = draw.randint(1, events or 1), draw.choice((0, draw.uniform(1e-5, LATER)))
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
                return
        elif event in WRITTEN:
            path = arguments[0]
        else:
            return
        if isinstance(path, int | type(None)) or not os.fsdecode(path).startswith(str(folder)):
            return
        count += 1
        if events and count == at:
            if later:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends a process as it is, like SIGKILL
                signal.setitimer(signal.ITIMER_REAL, later)
            else:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    {"train": train, "report": report, "notebook": notebook}[task]()
    if not events:
        (folder / "events").write_text(str(count))


def left(folder) -> dict:
    """{file: what must be equal after any kill}: all files but locks, without times and paths."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("lock")):
        name, content = str(path.relative_to(folder)), path.read_bytes()
        if path.name in ("events", "results.parquet") or path.suffix == ".ipynb":
            continue
        if path.name == "record.json":
            record = json.loads(content)
            del record["seconds"]
            record["cost"] = {
                key: value for key, value in record["cost"].items() if not re.search("time|ms|second", key)
            }
            del record["files"]["history.csv"]  # it holds seconds
            content = json.dumps(record).encode()
        elif path.name == "history.csv":
            content = pd.read_csv(path).drop(columns="seconds").to_csv().encode()
        elif path.name == "metrics.json":
            content = json.dumps(json.loads(content)["metrics"]).encode()
        elif path.suffix == ".json" and path.parent.name == "data":
            content = json.dumps(json.loads(content)["fingerprint"]).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found
