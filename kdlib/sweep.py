"""A grid of runs, executed here on all cores or on a Ray cluster, and its results as a table.

Runs that are in the store cost nothing. Teachers are trained first; runs that share a teacher go to one worker in turn,
so they share its bank of outputs."""

import pandas as pd

from kdlib import files, models, names, paths, runs
from kdlib.engines import ENGINES, Progress
from kdlib.runs.settings import precision_line
from kdlib.runs.table import table


def sweep(settings, engine="local", *, workers=None, address=None, log=print) -> pd.DataFrame:
    """Finish every run and return `table` of them, in the order given.

    settings: an iterable of Run or dicts of its fields; engine: "local", with `workers` processes (default: one per core,
    or one in all where a run uses CUDA), or "ray", with the cluster at `address` (a shared run store is needed).
    A run that fails does not stop the others; at the end RuntimeError names those that failed."""
    if engine not in ENGINES:
        raise names.unknown_name(engine, ENGINES, "engine")
    asked = [runs.as_run(item) for item in settings]
    every = list(dict.fromkeys(run.resolved() for run in asked))
    todo = [run for run in every if runs.stored(run) is None]
    if todo:
        files.make_folder(paths.runs_folder())
        for line in sorted({precision_line(run) for run in asked} - {""}):
            log(line)
        for network in {run.student for run in every if run.weights == "imagenet"}:
            models.build_model(network, 2, weights="DEFAULT")  # once: where they cannot be had, nothing is trained
        teachers = {run.teacher_run() for run in todo} - {None}
        missing = sorted((run for run in teachers if runs.stored(run) is None), key=lambda run: run.key)
        others = [run for run in todo if run not in teachers]
        alone = [run for run in others if run.method == "scratch"]  # these need not wait for a teacher
        distilled = [run for run in others if run.method != "scratch"]
        progress = Progress(len(missing) + len(others), log)
        for stage in (missing + alone, distilled):
            if stage:
                ENGINES[engine](stage, workers, address, progress)
        progress.close()
    return table(every)
