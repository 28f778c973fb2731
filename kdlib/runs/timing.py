"""How long a study will take on this machine, from a short timing of its training steps."""

import os
import time
from typing import NamedTuple

from kdlib.runs import machine


class Times(NamedTuple):
    """Seconds an image of training (teacher, student alone, distilled student) and evaluation, and of a run's figures."""

    teacher: float
    alone: float
    distilled: float
    evaluation: float
    figures: float


def time_steps(runs, dataset) -> Times:
    """Time a training step of each kind of run on this machine: some batches, in one thread as in a sweep.

    On a CPU it is the processor's time, so that what else runs does not count.

    Parameters
    ----------
    runs : list of Run
        Of the teacher, of the student alone and of a distilled student.
    dataset : data.Dataset
    """
    import torch

    from kdlib import evaluate, methods, models, teachers
    from kdlib.data.augment import Images, number_of_views
    from kdlib.runs.networks import build_network
    from kdlib.runs.table import metrics_of
    from kdlib.train import train

    device, rows = machine.resolve_device("auto"), slice(0, 3 * runs[0].batch_size)
    clock = time.process_time if device == "cpu" else time.monotonic
    look = {"mean": dataset.mean, "std": dataset.std, "device": device}
    images = Images(dataset.train.images[rows], padding=dataset.padding, flip=dataset.flip, **look)
    labels, group = (torch.from_numpy(part[rows]).to(device) for part in (dataset.train.labels, dataset.train.group))
    threads, seconds, network = torch.get_num_threads(), [], None
    torch.set_num_threads(1)  # as in a sweep, which fills the cores with runs
    try:
        for run in runs:
            model = models.fast_layout(
                build_network(run.student, dataset, run.weights if run.is_given else "none").to(device)
            )
            network, bank = network or model, None  # the teacher is first
            if run.is_given:
                seconds.append(0.0)
                continue
            if run.method != "scratch":
                bank = teachers.TeacherBank(network, images, number_of_views(images.padding, images.flip))
            ends = []
            train(
                model, images, labels, group, methods.build_method(run.method), epochs=2, batch_size=run.batch_size, lr=0.01,
                seed=0, bank=bank, precision=run.resolved().precision, log=lambda line, ends=ends: ends.append(clock()),
            )  # fmt: skip
            seconds.append((ends[1] - ends[0]) / len(images))  # the first epoch warms up
        began = clock()
        evaluate.predict(model, images)
        seconds.append((clock() - began) / len(images))
    finally:
        torch.set_num_threads(threads)
    began = clock()
    splits = {"val": dataset.val, "test": dataset.test}
    classes = {
        f"{part}_{field}": getattr(split, field) for part, split in splits.items() for field in ("labels", "group")
    }
    classes |= {f"{part}_predicted": split.labels[::-1] for part, split in splits.items()}
    metrics_of(dataset, classes, classes)
    teacher, alone, distilled, evaluation = seconds
    return Times(teacher, alone, distilled, evaluation, figures=clock() - began)


def cost(runs, teacher, dataset, times) -> tuple[float, float]:
    """Return the seconds that all runs take beside their epochs, and those that one epoch of each takes, on all cores.

    teacher: the name of its network; times: a `Times`."""
    kinds = [
        "distilled" if run.method != "scratch" else "teacher" if run.student == teacher else "alone" for run in runs
    ]
    workers = 1 if machine.resolve_device("auto") != "cpu" else os.cpu_count() or 1
    ends = times.figures + times.evaluation * (len(dataset.val) + len(dataset.test))
    training = sum(getattr(times, kind) for kind in kinds) * len(dataset.train)
    return len(runs) * ends / workers, (training + len(runs) * times.evaluation * len(dataset.val)) / workers
