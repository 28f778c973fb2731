"""The two loops, each in its own process, which trains a segment on request: they share neither memory nor threads."""

import contextlib
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.plain import PlainLoop, endless
from benchmarks.setting import LR, Setup, clock, wait
from kdlib import evaluate, models
from kdlib.runs import machine
from kdlib.train import batches

AHEAD = 4  # batches that the plain loop's two workers prepare while it rests


class Side:
    """A process with a Plain or an Ours; `ask(name, …)` calls its method and returns the answer."""

    def __init__(self, kind, pair, device, steps, threads):
        context, self.kind = multiprocessing.get_context("spawn"), kind.__name__
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(other_end, kind, pair, device, steps, threads))
        self.process.start()
        other_end.close()

    def ask(self, name, *arguments):
        """Return the answer. Raises RuntimeError if the process has ended, for example for lack of memory."""
        try:
            self.connection.send((name, arguments))
            return self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(10)
            message = f"{self.kind} ended while it computed {name}, exit code {self.process.exitcode}"
            raise RuntimeError(message) from error

    @staticmethod
    def ask_all(sides, name):
        """Return the answers of all sides, which work at the same time."""
        with ThreadPoolExecutor(len(sides)) as threads:
            return list(threads.map(lambda side: side.ask(name), sides))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(10)
        self.process.terminate()


def _serve(connection, kind, pair, device, steps, threads):
    torch.set_num_threads(threads)
    side = kind(Setup(pair, device, steps))
    while request := connection.recv():
        name, arguments = request
        connection.send(getattr(side, name)(*arguments))


class Plain:
    """The plain loop on a pair."""

    def __init__(self, setup):
        self.setup = setup
        self.feed = endless(setup.arrays, setup.labels, padding=setup.padding, batch_size=setup.batch_size)

    def prepare(self, method):
        setup = self.setup
        networks = setup.network(setup.student_name), setup.network(setup.teacher_name)
        self.loop = PlainLoop(*networks, method, self.feed, num_classes=setup.classes, lr=LR, device=setup.device)

    def plain_ms(self):
        for _ in range(AHEAD):
            self.loop.step()
        return clock(self.loop.step, self.setup.device, self.setup.steps)

    def parts(self):
        """Return the milliseconds per step of each part, waiting for the device after each."""
        spent, last = {}, 0.0

        def mark(name):
            nonlocal last
            wait(self.setup.device)
            now = time.perf_counter()
            spent[name] = spent.get(name, 0) + 1000 * (now - last) / self.setup.steps
            last = now

        self.plain_ms()
        time.sleep(0.3)
        for _ in range(AHEAD):
            self.loop.step()
        self.loop.mark, last = mark, time.perf_counter()
        for _ in range(self.setup.steps):
            self.loop.step()
        self.loop.mark = lambda name: None
        return spent

    def memory(self):
        return memory(self.setup.device)


class Ours:
    """The study's loop on a pair."""

    def __init__(self, setup):
        machine.keep_memory()
        self.setup, self.filled_bank, self.forward = setup, setup.bank(), None

    def prepare(self, method):
        setup = self.setup
        self.student = setup.student()
        self.method = setup.method(method, self.student, self.filled_bank)
        if setup.device != "cpu":
            batch = setup.images.plain(0, setup.batch_size)
            self.forward = models.compiled_if_it_works(self.student, batch, precision=setup.precision)
        self.bare = _bare_step(setup)

    def ours_ms(self):
        return self._epoch(self.filled_bank, self.forward)

    def first_epoch_ms(self):
        return self._epoch(self.setup.bank(), self.forward)

    def eager_ms(self):
        return self._epoch(self.filled_bank, None)

    def limit_ms(self):
        self.bare()
        return clock(self.bare, self.setup.device, self.setup.steps)

    def _epoch(self, bank, forward):
        return self.setup.ours(self.student, self.method, bank, forward=forward)

    def conditions(self):
        setup = self.setup
        precision = {"precision": setup.precision, "why": setup.precision_reason}
        return {"batch_size": setup.batch_size, **precision, "images": setup.source}

    def compiled(self):
        return self.forward is not None

    def evaluation_ms(self):
        """Return the milliseconds per image of an evaluation."""

        def work():
            evaluate.predict(self.student, self.setup.images, precision=self.setup.precision)

        work()
        return statistics.median(clock(work, self.setup.device) for _ in range(5)) / len(self.setup.images)

    def parts(self, whole):
        """Return the milliseconds per step of each part, timed alone; the student's, with its loss, is the rest of `whole`."""
        images, steps = self.setup.images, self.setup.steps
        pieces = batches(torch.arange(len(images)), self.setup.batch_size)
        view = torch.zeros(len(images), dtype=torch.int64)
        optimizer = torch.optim.SGD(self.student.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4, fused=True)
        for parameter in self.student.parameters():
            parameter.grad = torch.zeros_like(parameter)
        bank, embedding = self.setup.bank(), self.method.needs_embedding
        work = {
            "data": (lambda: list(images.batches(pieces, view)), steps),
            "teacher": (lambda: bank.batches(pieces, view, embedding=embedding), steps),
            "optimiser": (optimizer.step, 1),
        }
        parts = {}
        for name, (call, count) in work.items():
            first = clock(call, self.setup.device) / count
            parts[name] = statistics.median(clock(call, self.setup.device) for _ in range(5)) / count
            if name == "teacher":
                parts["teacher, bank empty"] = first
        return parts | {"student": whole - sum(parts[name] for name in work)}

    def memory(self):
        return memory(self.setup.device) | {"bank_mb": self.filled_bank.bytes / 2**20}


def _bare_step(setup):
    """Return a function: forward and backward pass of the student alone on one random batch, in our layout and precision."""
    model = setup.student().train()
    images = torch.randn(setup.batch_size, 3, setup.pixels, setup.pixels, device=setup.device)
    labels = torch.zeros(setup.batch_size, dtype=torch.int64, device=setup.device)

    def step():
        model.zero_grad(set_to_none=True)
        with models.in_precision(setup.precision, setup.device):
            logits = model(images).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()

    return step


def memory(device) -> dict:
    """Return the megabytes of this process and its workers, shared pages counted once, and the peak on a GPU."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    host = {"mb": sum(_share(process) for process in (os.getpid(), *children)) / 1024}
    return host if device == "cpu" else host | {"device_mb": torch.cuda.max_memory_allocated() / 2**20}


def _share(process):
    """Return the kilobytes of a process's pages, shared ones divided by the number of sharers."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
