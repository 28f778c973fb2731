"""A run, from settings to a record. Nothing is trained twice: a run that is in the store is read from it."""

import contextlib
import dataclasses
import os

import numpy as np
import torch

from kdlib import bias, data, evaluate, files, methods, models, paths
from kdlib.runs import machine, store
from kdlib.runs.checks import check_given, check_run
from kdlib.runs.networks import build_debiaser, build_network, class_means, group_share, on_device, teacher_bank
from kdlib.runs.settings import as_run, fingerprint, precision_line
from kdlib.runs.table import metrics_of, predicted_classes
from kdlib.train import train

COMPILE_FROM = 20_000  # steps of a run on a GPU from which a minute of compiling is expected to pay: 26 epochs of CIFAR


def run(settings, *, log=print, checkpoint_seconds=None, on_epoch=None) -> dict:
    """Return the record of a run: at once if it is in the store, else after training, from its last checkpoint if it has one.

    A second process that asks for the same run waits for the first.

    Parameters
    ----------
    settings : Run or dict
        A dict holds fields of `Run`.
    log : callable
        Takes each line of progress.
    checkpoint_seconds : float, optional
        Least seconds between checkpoints; default: KDLIB_CHECKPOINT_SECONDS, or 5.
    on_epoch : callable, optional
        Takes each epoch's row of history, a dict, as it is trained: not of epochs before a checkpoint, of a stored run, or of
        the teacher. It is no setting, so the run's key does not depend on it.

    Returns
    -------
    dict
        What `record.json` holds: key, settings, metrics of val and test, cost, data, versions, commit, device, seconds, files.

    Raises
    ------
    ValueError
        For settings that cannot be used, and where the data changed since this process first read them.
    """
    if checkpoint_seconds is None:
        checkpoint_seconds = float(os.environ.get("KDLIB_CHECKPOINT_SECONDS", 5))
    requested = as_run(settings)
    resolved = requested.resolved()
    checkpoint = resolved.folder / "checkpoint.pt"
    if record := store.stored(resolved):
        checkpoint.unlink(missing_ok=True)  # of a process that was killed between its record and this
        return record
    if line := precision_line(requested):
        log(line)
    check_run(resolved, resolved.load_data())
    teacher = resolved.teacher_run()
    if teacher is not None:
        run(teacher, log=log, checkpoint_seconds=checkpoint_seconds)
        store.predictions(teacher)  # needed at the end: what is wrong with them is said before training
    files.make_folder(resolved.folder)
    machine.keep_memory()
    with files.only_writer(resolved.folder), _threads(resolved.threads):
        record = store.stored(resolved) or _train(resolved, checkpoint, log, checkpoint_seconds, on_epoch)
        checkpoint.unlink(missing_ok=True)
        return record


def _train(run, checkpoint, log, checkpoint_seconds, on_epoch):
    dataset, teacher = run.load_data(), run.teacher_run()
    if dataset.fingerprint != fingerprint(run.data, run.skew, run.data_options, paths.data_folder()):
        raise ValueError(
            f"data set {run.data} has changed since this process first read it, and its runs are named after what it "
            "was: restart the process, or the notebook's kernel"
        )
    images = {name: on_device(run, name) for name in dataset.splits}
    labels = {name: torch.from_numpy(split.labels).to(run.device) for name, split in dataset.splits.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        model = models.fast_layout(build_network(run.student, dataset, run.weights).to(run.device))
        bank = None if teacher is None else teacher_bank(teacher)
        torch.manual_seed(run.seed + 1)  # whatever network and bank drew, method and debiaser start alike
        method = _method(run, model, bank, len(dataset.classes))
        debiaser = None if run.is_given else build_debiaser(run, dataset, model, bank)
        if debiaser and debiaser.head:
            models.set_head(model, debiaser.head)

        def validate(epoch):
            with_test = epoch % run.test_every == 0 or epoch == run.epochs
            splits = ("val", "test") if with_test else ("val",)
            logits = {name: evaluate.predict(model, images[name], precision=run.precision).logits for name in splits}
            figures = {f"{name}_accuracy": evaluate.accuracy(logits[name], labels[name]) for name in splits}
            mad = _mad(dataset, dataset.val, logits["val"].argmax(1).cpu().numpy())
            return {"test_accuracy": float("nan")} | figures | {"val_mad": mad}

        if run.is_given:
            row = {"epoch": 0, **validate(run.epochs), "seconds": 0.0}
            check_given(run, row["val_accuracy"], dataset.val.labels)
            return _finish(run, dataset, model, images, [row])
        rows = train(
            model,
            images["train"],
            labels["train"],
            torch.from_numpy(dataset.train.group).to(run.device),
            method,
            debiaser=debiaser,
            share=group_share(dataset.train, run.device),
            bank=bank,
            forward=_forward(run, model, images["train"], log),
            epochs=run.epochs,
            batch_size=run.batch_size,
            lr=run.lr,
            seed=run.seed,
            momentum=run.momentum,
            weight_decay=run.weight_decay,
            nesterov=run.nesterov,
            optimizer=run.optimizer,
            schedule=run.schedule,
            precision=run.precision,
            validate=validate,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            log=log,
            on_epoch=on_epoch,
        )
    return _finish(run, dataset, model, images, rows, _refit(debiaser, model, images, dataset))


def _method(run, model, bank, num_classes):
    known = methods.method_options(run.method)
    settings = {"temperature": run.temperature, "loops": run.ramp, "warmup": run.ramp}
    settings = {name: value for name, value in settings.items() if value is not None and name in known}
    method = methods.build_method(
        run.method,
        student_dim=model.embedding_dim,
        teacher_dim=bank and bank.teacher.embedding_dim,
        class_means=lambda: class_means(run.teacher_run()).to(run.device),
        num_classes=num_classes,
        **settings | run.options(),
    )
    if method.module is not None:
        method.module.to(run.device)
    return method


def _forward(run, model, images, log):
    """Return the compiled forward pass where that pays: in long runs on a GPU, unless KDLIB_COMPILE is 0. Else None."""
    steps = run.epochs * len(images) // run.batch_size
    if not run.device.startswith("cuda") or steps < COMPILE_FROM or os.environ.get("KDLIB_COMPILE") == "0":
        return None
    batch = images.plain(0, run.batch_size)
    return models.compiled_if_it_works(model, batch, precision=run.precision, log=log)


def _refit(debiaser, model, images, dataset):
    """Let a debiaser refit the head on a part of the validation split; return the rows that remain unseen, or None."""
    if debiaser is None or debiaser.finish is None:
        return None
    embedding, val = evaluate.predict(model, images["val"]).embedding, dataset.val
    arrays = (torch.from_numpy(numbers).to(embedding.device) for numbers in (val.labels, val.group))
    head, used = debiaser.finish(models.get_head(model), embedding, *arrays, group_share(val, embedding.device))
    models.set_head(model, head)
    return ~used.cpu().numpy()


def _finish(run, dataset, model, images, rows, unseen=None):
    """Write everything that a finished run leaves. `unseen`: the rows of val that count as val."""
    arrays = {}
    for name in ("val", "test"):
        split, counted = dataset.splits[name], slice(None) if unseen is None or name == "test" else unseen
        logits = evaluate.predict(model, images[name]).logits.cpu().numpy()[counted]
        arrays |= {
            f"{name}_logits": logits,
            f"{name}_labels": split.labels[counted],
            f"{name}_group": split.group[counted],
        }
    teacher = run.teacher_run()
    teacher_classes = None if teacher is None else predicted_classes(store.predictions(teacher))
    metrics = metrics_of(dataset, predicted_classes(arrays), teacher_classes)
    # as papers report it, to be set beside theirs; never used here
    tested = [row["test_accuracy"] for row in rows] + [metrics["test"]["accuracy"]]
    record = {
        "key": run.key,
        "settings": dataclasses.asdict(run),
        "seed": run.seed,
        "teacher_key": teacher and teacher.key,
        "metrics": metrics | {"test_accuracy_best_epoch": float(np.nanmax(tested))},
        "cost": evaluate.cost(model, dataset.train.images.shape[1:]),
        "data": {
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            **{name: len(arrays[f"{name}_labels"]) for name in ("val", "test")},
        },
        "versions": store.versions(),
        "commit": store.commit(),
        "device": store.device_name(run.device),
        "seconds": sum(row["seconds"] for row in rows),
    }
    return store.write(run.folder, record, model=model.state_dict(), arrays=arrays, history=rows)


def _mad(dataset, split, predicted):
    """Return MAD on a split, to be watched over epochs; NaN where the attribute has no two groups."""
    if len(set(np.unique(split.group)) - {-1}) < 2:
        return float("nan")
    pair = (data.bias_labels(dataset, numbers) for numbers in (split.labels, predicted))
    return bias.mean_absolute_disparity(*pair, split.group, num_classes=len(data.bias_classes(dataset)))


@contextlib.contextmanager
def _threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
