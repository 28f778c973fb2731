"""Engines: who executes the runs of a sweep, the cores of this machine or a Ray cluster.

An engine takes runs that do not depend on each other and reports to `progress` as each ends. Runs that share a teacher go to
the same worker, one after the other, so that they share its bank of outputs."""

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import connection

import torch

from kdlib import methods, names, paths, runs

EPOCH_LINE_SECONDS = 10  # an epoch's line is printed when nothing else was for this long
RETRIES = 2  # how often a run whose process died is tried again, with nothing else in its process


def local(todo, workers, address, progress):
    """Execute runs in processes of this machine. A student starts when its own teacher is done.

    A run whose process dies is tried RETRIES times more, last and alone in a process; then it has failed. Whatever ends
    this function, Ctrl-C above all, ends its workers; their runs resume from the last checkpoint.

    Parameters
    ----------
    todo : list of Run
        With the teachers that are not in the store.
    workers : int or None
        Number of processes; None: as many as the cores allow, one where a run uses a GPU.
    address : None
        Not used; for Ray.
    progress : Progress
    """
    cores = os.cpu_count() or 1
    possible = 1 if any(run.device != "cpu" for run in todo) else max(1, cores // max(run.threads for run in todo))
    workers = min(workers or possible, len(todo))
    teachers = {run.teacher_run() for run in todo} & set(todo)
    chunks = [[run] for run in todo if run in teachers] + _chunks([run for run in todo if run not in teachers], workers)
    if workers == 1:
        lost = set()
        for run in (run for chunk in chunks for run in chunk):
            failure = _attempt(run, progress.line) if run.teacher_run() not in lost else _lost(run)
            if failure and run in teachers:
                lost.add(run)
            progress.finished(run, failure)
        return
    waiting, pool, deaths = collections.deque(chunks), [], collections.Counter()
    undone, lost = set(teachers), set()

    def finished(run, failure):
        undone.discard(run)
        if failure and run in teachers:
            lost.add(run)
        progress.finished(run, failure)

    def next_chunk():
        for chunk in list(waiting):
            teacher = chunk[0].teacher_run()
            if teacher not in undone:
                waiting.remove(chunk)
                if teacher not in lost:
                    return chunk
                for run in chunk:
                    finished(run, _lost(run))

    try:
        while True:
            for worker in [worker for worker in pool if not worker.chunk]:
                if chunk := next_chunk():
                    worker.give(chunk)
            while len(pool) < workers and (chunk := next_chunk()):
                pool.append(_Worker())
                pool[-1].give(chunk)
            busy = {worker.pipe: worker for worker in pool if worker.chunk}
            if not busy:
                return
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]
                try:
                    run, text, kind = pipe.recv()
                except (EOFError, OSError):  # the process died: its first run may be why, the others go on without it
                    pool.remove(worker)
                    run, *others = worker.chunk
                    deaths[run] += 1
                    if others:
                        waiting.appendleft(others)
                    if deaths[run] > RETRIES:
                        finished(run, f"its process died {deaths[run]} times, {worker.end()}")
                    else:
                        progress.died(run, worker.end())
                        waiting.append([run])
                    continue
                if kind == "line":
                    progress.line(text, run)
                else:
                    worker.chunk.pop(0)
                    finished(run, text)
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.end()


class _Worker:
    """A process, the pipe to it, and what it has to do: the first run of `chunk` is the one that it is at."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.chunk = []
        self.process = context.Process(target=_serve, args=(end,), daemon=True)
        # a terminal's Ctrl-C is for the parent alone
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end.close()

    def give(self, chunk):
        self.chunk = list(chunk)
        with contextlib.suppress(OSError):  # it died while idle: reading from the pipe says so
            self.pipe.send(chunk)

    def end(self):
        """Wait for the end of the process, force it after 5 s, and return in words how it ended."""
        self.process.join(5)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _lost(run):
    return f"teacher {run.teacher_run().key} failed"


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
    teachers = {run.teacher_run() for run in todo} & set(todo)
    alone = [run for run in todo if run in teachers or run.method == "scratch"]
    for stage in (alone, [run for run in todo if run not in alone]):
        chunks = _chunks(stage, int(ray.cluster_resources().get("CPU", 1))) if stage else []
        waiting = {remote.remote(chunk, folders) for chunk in chunks}
        while waiting:
            done, waiting = ray.wait(list(waiting))
            waiting = set(waiting)
            for reference in done:
                for run, failure in ray.get(reference):
                    progress.finished(run, failure)


_FOLDERS = {"KDLIB_DATA": paths.data_folder, "KDLIB_RUNS": paths.runs_folder}


def _chunks(todo, slots):
    """Return the runs in lists that share the same teacher outputs, so that a worker computes these once.

    A list is about an eighth of a slot's part, but three runs where every slot gets as many, and one where slots outnumber
    runs. The first lists of all groups precede their second ones, so that workers start on different groups. Methods that
    read the teacher's embedding come first: the bank then holds all that the others need."""
    longest = max(-(-len(todo) // (8 * slots)), min(3, -(-len(todo) // slots)), 1)
    groups = {}
    for run in sorted(todo, key=lambda run: not methods.needs_embedding(run.method)):
        alone = run if run.method == "scratch" else None  # nothing to share
        groups.setdefault((run.teacher_run(), run.seed, alone), []).append(run)
    rounds = range(0, max(map(len, groups.values()), default=0), longest)
    return [group[i : i + longest] for i in rounds for group in groups.values() if group[i:]]


def _attempt(run, log):
    """Execute a run; return None, or what went wrong."""
    try:
        runs.run(run, log=log)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _serve(pipe):
    """What a worker does: execute the chunks that come through the pipe, and send what happens."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            chunk = pipe.recv()
        except EOFError:
            return
        for run in chunk:
            failure = _attempt(run, lambda line, run=run: pipe.send((run, line, "line")))
            pipe.send((run, failure, "finished"))


def _end_with_parent():
    """End this worker when its sweep is killed; its run resumes from the last checkpoint."""
    multiprocessing.parent_process().join()
    os._exit(1)


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

    def died(self, run, how):
        """Report that the process of a run ended before the run, which is tried again."""
        self._say(f"    {names.run_name(run)} ({run.key}): its process ended {how}; tried again later, alone")

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
