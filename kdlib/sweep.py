"""A grid of runs: those that are not in the store are trained, teachers first, and the results returned as a table."""

import contextlib
import signal
import threading

import pandas as pd

from kdlib import files, models, names, paths, runs
from kdlib.engines import ENGINES, Progress
from kdlib.runs.checks import check_run
from kdlib.runs.settings import precision_line
from kdlib.runs.table import table

__all__ = ["sweep", "table"]


def sweep(settings, engine="local", *, workers=None, address=None, log=print) -> pd.DataFrame:
    """Finish every run and return the table of them, in the order given.

    Parameters
    ----------
    settings : iterable of Run or dict
    engine : {"local", "ray"}
    workers : int, optional
        Processes of the local engine; default: one per core, one in all where a run uses a GPU.
    address : str, optional
        Of a Ray cluster whose nodes share the run store.
    log : callable
        Takes each line of progress.

    Returns
    -------
    DataFrame
        See `runs.table.table`.

    Raises
    ------
    ValueError
        For settings that no run can have, and an unknown engine.
    KeyboardInterrupt
        On Ctrl-C and SIGTERM, once the workers have ended; what they were at resumes from its checkpoint.
    RuntimeError
        At the end, with the names of the runs that failed; the others are finished.
    """
    if engine not in ENGINES:
        raise names.unknown_name(engine, ENGINES, "engine")
    requested = [runs.as_run(item) for item in settings]
    resolved = list(dict.fromkeys(run.resolved() for run in requested))
    todo = [run for run in resolved if runs.stored(run) is None]
    if todo:
        files.make_folder(paths.runs_folder())
        for run in todo:
            check_run(run, run.load_data())
        for line in sorted({precision_line(run) for run in requested} - {""}):
            log(line)
        for network in {run.student for run in resolved if run.weights == "imagenet"}:
            models.build_model(network, 2, weights="DEFAULT")  # once: without the weights, nothing is trained
        teachers = {run.teacher_run() for run in todo} - {None}
        missing = sorted((run for run in teachers if runs.stored(run) is None), key=lambda run: run.key)
        others = [run for run in todo if run not in teachers]
        progress = Progress(len(missing) + len(others), log)
        with _terminable():
            ENGINES[engine](missing + others, workers, address, progress)
        progress.close()
    return table(resolved)


@contextlib.contextmanager
def _terminable():
    """Make SIGTERM end a sweep as Ctrl-C does, with its workers. Only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
