"""Engines: who executes the runs of a sweep, the cores of this machine or a Ray cluster.

An engine takes runs that do not depend on each other and reports to `progress` as each ends. Runs that share a teacher go to
the same worker, one after the other, so that they share its bank of outputs."""

import itertools
import multiprocessing
import os
import queue
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import torch

from kdlib import methods, names, paths, runs

EPOCH_LINE_SECONDS = 10  # an epoch's line is printed when nothing else was for this long


def local(todo, workers, address, progress):
    """Execute runs in processes of this machine.

    Parameters
    ----------
    todo : list of Run
    workers : int or None
        Number of processes; None: as many as the cores allow, one where a run uses a GPU.
    address : None
        Not used; for Ray.
    progress : Progress
    """
    cores = os.cpu_count() or 1
    possible = 1 if any(run.device != "cpu" for run in todo) else max(1, cores // max(run.threads for run in todo))
    workers = min(workers or possible, len(todo))
    if workers == 1:
        for run in itertools.chain(*_chunks(todo, 1)):
            progress.finished(run, _attempt(run, progress.line))
        return
    context = multiprocessing.get_context("spawn")
    lines = context.Queue()
    with ProcessPoolExecutor(workers, context, _start_worker, (lines,)) as pool:
        pending = {pool.submit(_work, chunk) for chunk in _chunks(todo, 8 * workers)}
        while pending:
            progress.drain(lines)
            done = {future for future in pending if future.done()}
            pending -= done
            for future in done:
                future.result()  # a worker that died raises here
        progress.drain(lines)


def ray_cluster(todo, workers, address, progress):
    """Execute runs as tasks of the Ray cluster at `address`, whose nodes share the run store; otherwise as `local`."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('engine "ray" needs the extra: pip install -e ".[ray]"') from error
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    folders = {name: str(folder()) for name, folder in _FOLDERS.items()}
    remote = ray.remote(max_retries=2, num_gpus=int(any(run.device != "cpu" for run in todo)))(_work_remotely)
    waiting = {remote.remote(chunk, folders) for chunk in _chunks(todo, 8 * int(ray.cluster_resources().get("CPU", 1)))}
    while waiting:
        done, waiting = ray.wait(list(waiting))
        waiting = set(waiting)
        for reference in done:
            for run, failure in ray.get(reference):
                progress.finished(run, failure)


_FOLDERS = {"KDLIB_DATA": paths.data_folder, "KDLIB_RUNS": paths.runs_folder}


def _chunks(todo, parts):
    """Return the runs in lists that share the same teacher outputs, so that a worker computes these once.

    No list is much longer than a fair part. The first lists of all groups precede their second ones, so that workers start on
    different groups. Methods that read the teacher's embedding come first: the bank then holds all that the others need."""
    longest = max(-(-len(todo) // parts), 3)
    groups = {}
    for run in sorted(todo, key=lambda run: not methods.needs_embedding(run.method)):
        alone = run if run.method == "scratch" else None  # nothing to share
        groups.setdefault((run.teacher_run(), run.seed, alone), []).append(run)
    rounds = range(0, max(map(len, groups.values())), longest)
    return [group[i : i + longest] for i in rounds for group in groups.values() if group[i:]]


def _attempt(run, log):
    """Execute a run; return None, or what went wrong."""
    try:
        runs.run(run, log=log)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


_lines = None  # in a worker: the queue to the process that prints


def _start_worker(lines):
    global _lines
    _lines = lines
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """End this worker when its sweep is killed; its run resumes from the last checkpoint."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(chunk):
    for run in chunk:
        _lines.put((run, _attempt(run, lambda line, run=run: _lines.put((run, line, "line"))), "finished"))


def _work_remotely(chunk, folders):
    os.environ.update(folders)
    return [(run, _attempt(run, lambda line: None)) for run in chunk]


class Progress:
    """Reports a sweep: a line per finished run, and an epoch's line after a while without one; a bar in interactive sessions.

    Parameters
    ----------
    total : int
        Number of runs.
    log : callable
        Takes each line.
    """

    def __init__(self, total, log):
        self.total, self.done, self.log, self.failures = total, 0, log, []
        self.began = self.last = time.monotonic()
        self.bar = None
        if log is print and paths.interactive():
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, unit="run", desc="training")

    def line(self, text, run=None):
        """Report an epoch of a run, unless something was reported a moment ago."""
        if time.monotonic() - self.last > EPOCH_LINE_SECONDS:
            self._say(f"    {names.run_name(run)}: {text}" if run else f"    {text}")

    def finished(self, run, failure):
        """Report the end of a run; `failure`: what went wrong, or None."""
        self.done += 1
        if failure:
            self.failures.append(f"{names.run_name(run)} ({run.key}): {failure}")
            return self._say(f"[{self.done}/{self.total}] {names.run_name(run)} FAILED: {failure}")
        test = runs.stored(run)["metrics"]["test"]
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        mad = "undefined" if test["mad"] is None else f"{test['mad']:.3f}"
        figures = f"accuracy {test['accuracy']:.3f}  MAD {mad}"
        if self.bar:
            self.bar.update()
            self.bar.set_postfix_str(f"{names.run_name(run)}: {figures}")
        else:
            self._say(f"[{self.done}/{self.total}] {names.run_name(run)}  {figures}  {left:.0f} s left")

    def drain(self, lines):
        """Report what the workers sent, waiting up to a fifth of a second."""
        try:
            while True:
                run, text, kind = lines.get(timeout=0.2)
                self.finished(run, text) if kind == "finished" else self.line(text, run)
        except queue.Empty:
            pass

    def close(self):
        """End the report. Raises RuntimeError with the runs that failed."""
        if self.bar:
            self.bar.close()
        if self.failures:
            raise RuntimeError(f"{len(self.failures)} of {self.total} runs failed:\n  " + "\n  ".join(self.failures))

    def _say(self, text):
        self.last = time.monotonic()
        self.log(text)


ENGINES = {"local": local, "ray": ray_cluster}
