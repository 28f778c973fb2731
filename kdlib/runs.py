"""A run: one trained network, from settings to a record; and the run store, in which nothing is trained twice.

A finished run leaves `runs/<key>/`: `record.json` (it exists, so the run is done), `history.csv`, `model.safetensors`,
`predictions.npz` (logits, labels, groups of val and test). Metrics and figures are computed from the predictions."""

import contextlib
import dataclasses
import functools
import json
import os
import platform
import subprocess

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from kdlib import bias, data, debias, evaluate, machine, methods, models, paths, teachers
from kdlib.augment import Images, number_of_views
from kdlib.settings import WEIGHTS, Run, as_run, fingerprint, load_data, precision_line, published_checkpoint
from kdlib.train import train

__all__ = ["Run", "as_run", "class_means", "history", "load_model", "on_device", "predictions", "run", "stored",
           "stored_predictions", "stored_record"]  # fmt: skip


COMPILE_FROM = 20_000  # steps of a run on a GPU from which a minute of compiling is thought to pay: 26 epochs of CIFAR


def run(settings, *, log=print, checkpoint_seconds=None) -> dict:
    """The record of the run: at once if it is in the store, else after training, from its last checkpoint if there is one.

    settings: a Run, or a dict of its fields. A second process that asks for the same run waits for the first.
    checkpoint_seconds: least time between checkpoints (default: KDLIB_CHECKPOINT_SECONDS, or 5)."""
    if checkpoint_seconds is None:
        checkpoint_seconds = float(os.environ.get("KDLIB_CHECKPOINT_SECONDS", 5))
    asked = as_run(settings)
    this = asked.resolved()
    if record := stored(this):
        return record
    if line := precision_line(asked):
        log(line)
    teacher = this.teacher_run()
    if teacher is not None:
        run(teacher, log=log, checkpoint_seconds=checkpoint_seconds)
    paths.make_folder(this.folder)
    machine.keep_memory()
    with paths.only_process(this.folder / "lock"), _threads(this.threads):
        return stored(this) or _train(this, log, checkpoint_seconds)


def stored(settings) -> dict | None:
    """The record of a finished run, or None. Raises ValueError for a record that cannot be read."""
    return stored_record(as_run(settings).key)


def stored_record(key) -> dict | None:
    """As `stored`, for a run's key."""
    file = paths.runs_folder() / key / "record.json"
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{file} is not a record ({error}); remove its folder to train that run again") from error


def predictions(settings) -> dict:
    """Arrays of a finished run: val_logits (N, K) float32, val_labels, val_group (N,) int64, and the same for test."""
    return stored_predictions(as_run(settings).key)


def stored_predictions(key) -> dict:
    """As `predictions`, for a run's key."""
    with np.load(paths.runs_folder() / key / "predictions.npz") as arrays:
        return dict(arrays)


def history(settings) -> pd.DataFrame:
    """A row per epoch of a finished run."""
    return pd.read_csv(as_run(settings).folder / "history.csv")


def load_model(settings):
    """The trained network of a finished run, in eval mode, on the CPU."""
    this = as_run(settings).resolved()
    dataset = this.load_data()
    model = models.build_model(this.student, len(dataset.classes))
    # what needs a teacher has no head of its own
    debiaser = None if debias.needs_teacher(this.debias) else _debiaser(this, dataset, model)
    if debiaser and debiaser.head:
        models.set_head(model, debiaser.head)
    return models.load_checkpoint(model, this.folder / "model.safetensors").eval()


def class_means(settings) -> torch.Tensor:
    """(classes, d): the mean embedding of each class of un-augmented training images under a finished run's network.

    Kept beside the run as `class_means.json`, in the form of KD++'s files."""
    this = as_run(settings).resolved()
    file, dataset = this.folder / "class_means.json", this.load_data()
    if not file.exists():
        embedding = evaluate.predict(load_model(this).to(this.device), on_device(this, "train")).embedding
        teachers.write_means(file, teachers.class_means(embedding, dataset.train.labels, len(dataset.classes)))
    return teachers.read_means(file, num_classes=len(dataset.classes), dim=len(json.loads(file.read_text())["0"]))


def on_device(settings, split, *, device=None) -> Images:
    """The images of a split of the run's data, on its device, with its augmentation; kept for the next run."""
    this = as_run(settings).resolved()
    of = this.data, this.skew, this.data_options
    return _images(of, split, device or this.device, paths.data_folder())


def _train(this, log, checkpoint_seconds):
    dataset, teacher = this.load_data(), this.teacher_run()
    if dataset.fingerprint != fingerprint(this.data, this.skew, this.data_options, paths.data_folder()):
        raise ValueError(
            f"data set {this.data} has changed since this process first looked at it, and its runs are named after what it "
            "was: start the process, or the notebook's kernel, again"
        )
    classes = len(dataset.classes)
    images = {name: on_device(this, name) for name in dataset.splits}
    labels = {name: torch.from_numpy(split.labels).to(this.device) for name, split in dataset.splits.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(this.seed)
        start = "DEFAULT" if this.weights == "imagenet" else None
        model = models.build_model(this.student, classes, weights=start)
        model = models.fast_layout(model.to(this.device))
        bank, means = None, None
        if teacher is not None:
            bank = _bank(teacher, paths.runs_folder())
            reads_means = "nd" in methods.method_options(this.method)
            means = class_means(teacher).to(this.device) if reads_means else None
        torch.manual_seed(this.seed + 1)  # whatever network and bank drew, method and debiaser start alike
        method = methods.build_method(
            this.method,
            student_dim=model.embedding_dim,
            teacher_dim=bank and bank.teacher.embedding_dim,
            class_means=means,
            num_classes=classes,
            **_method_options(this),
        )
        if method.module is not None:
            method.module.to(this.device)
        debiaser = _debiaser(this, dataset, model, bank)
        if debiaser and debiaser.head:
            models.set_head(model, debiaser.head)

        def validate(epoch):
            look = epoch % this.test_every == 0 or epoch == this.epochs
            names = ("val", "test") if look else ("val",)
            logits = {name: evaluate.predict(model, images[name], precision=this.precision).logits for name in names}
            figures = {f"{name}_accuracy": evaluate.accuracy(logits[name], labels[name]) for name in names}
            seen = {"val_mad": _mad(dataset, dataset.val, logits["val"].argmax(1).cpu().numpy())}
            return {"test_accuracy": float("nan")} | figures | seen

        checkpoint = this.folder / "checkpoint.pt"
        if this.weights == "published":
            models.load_checkpoint(model, published_checkpoint(this.student))
            return _finish(this, dataset, model, images, [{"epoch": 0, **validate(this.epochs), "seconds": 0.0}])
        rows = train(
            model,
            images["train"],
            labels["train"],
            torch.from_numpy(dataset.train.group).to(this.device),
            method,
            debiaser=debiaser,
            share=_share(dataset.train, this.device),
            bank=bank,
            forward=_forward(this, model, images["train"], log),
            epochs=this.epochs,
            batch_size=this.batch_size,
            lr=this.lr,
            seed=this.seed,
            momentum=this.momentum,
            weight_decay=this.weight_decay,
            nesterov=this.nesterov,
            optimizer=this.optimizer,
            schedule=this.schedule,
            precision=this.precision,
            validate=validate,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            log=log,
        )
    record = _finish(this, dataset, model, images, rows, _refit(debiaser, model, images, dataset))
    checkpoint.unlink(missing_ok=True)
    return record


def _forward(this, model, images, log):
    """The compiled forward pass where that pays: in long runs on a GPU, unless KDLIB_COMPILE is 0. Else None."""
    steps = this.epochs * len(images) // this.batch_size
    if not this.device.startswith("cuda") or steps < COMPILE_FROM or os.environ.get("KDLIB_COMPILE") == "0":
        return None
    batch = images.plain(0, this.batch_size)
    return models.compiled_if_it_works(model, batch, precision=this.precision, log=log)


def _refit(debiaser, model, images, dataset):
    """Let a debiaser refit the head on a part of the validation split; the rows of that split that remain unseen, or None."""
    if debiaser is None or debiaser.finish is None:
        return None
    embedding, val = evaluate.predict(model, images["val"]).embedding, dataset.val
    arrays = (torch.from_numpy(numbers).to(embedding.device) for numbers in (val.labels, val.group))
    head, used = debiaser.finish(embedding, *arrays, _share(val, embedding.device))
    models.set_head(model, head)
    return ~used.cpu().numpy()


def _finish(this, dataset, model, images, rows, unseen=None):
    """Write everything that a finished run leaves, its record last. `unseen`: the rows of val that count as val."""
    classes, arrays, metrics = len(dataset.classes), {}, {}
    for name in ("val", "test"):
        split, rows_of = dataset.splits[name], slice(None) if unseen is None or name == "test" else unseen
        logits = evaluate.predict(model, images[name]).logits.cpu().numpy()[rows_of]
        truth, group, predicted = split.labels[rows_of], split.group[rows_of], logits.argmax(1)
        arrays |= {f"{name}_logits": logits, f"{name}_labels": truth, f"{name}_group": group}
        performance = evaluate.performance(truth, predicted, classes)
        labels, guesses = (data.bias_labels(dataset, numbers) for numbers in (truth, predicted))
        figures = bias.summary(labels, guesses, group, num_classes=len(data.bias_classes(dataset)))
        metrics[name] = performance | figures | performance  # accuracy is that on the classes as they are
    counted = {name: len(arrays[f"{name}_labels"]) for name in ("val", "test")}
    # as papers report it, to be set beside theirs; never used here
    looks = [row["test_accuracy"] for row in rows] + [metrics["test"]["accuracy"]]
    metrics["test_accuracy_best_epoch"] = float(np.nanmax(looks))
    teacher = this.teacher_run()
    if teacher is not None:
        teacher_predicted = predictions(teacher)["test_logits"].argmax(1)
        test = dataset.test
        three = test.labels, teacher_predicted, arrays["test_logits"].argmax(1)
        three = (data.bias_labels(dataset, numbers) for numbers in three)
        metrics["vs_teacher"] = bias.compare(*three, test.group, num_classes=len(data.bias_classes(dataset)))
    record = {
        "key": this.key,
        "settings": dataclasses.asdict(this),
        "seed": this.seed,
        "teacher_key": teacher and teacher.key,
        "metrics": metrics,
        "cost": evaluate.cost(model, dataset.train.images.shape[1:]),
        "data": {"fingerprint": dataset.fingerprint, "train": len(dataset.train), **counted},
        "versions": _versions(),
        "commit": _commit(),
        "device": _device_name(this.device),
        "seconds": sum(row["seconds"] for row in rows),
    }
    folder = this.folder
    with paths.replacing(folder / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)
    with paths.replacing(folder / "predictions.npz", ".npz") as temporary:
        np.savez(temporary, **arrays)
    with paths.replacing(folder / "history.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    paths.write_json(folder / "record.json", record)
    return paths.plain(record)


def _mad(dataset, split, predicted):
    """MAD on a split, to be watched over epochs; NaN where the attribute has no two groups."""
    if len(set(np.unique(split.group)) - {-1}) < 2:
        return float("nan")
    pair = (data.bias_labels(dataset, numbers) for numbers in (split.labels, predicted))
    return bias.mean_absolute_disparity(*pair, split.group, num_classes=len(data.bias_classes(dataset)))


def _method_options(this):
    """The run's settings that its method has an option for."""
    settings = {name: getattr(this, name) for name in ("temperature", *WEIGHTS)} | {
        "loops": this.ramp,
        "warmup": this.ramp,
    }
    known = methods.method_options(this.method)
    return {name: value for name, value in settings.items() if value is not None and name in known}


def _debiaser(this, dataset, model, bank=None):
    if bank is not None:
        known = debias.Teacher(
            bank.teacher.embedding_dim, lambda: _plain_outputs(this.teacher_run(), paths.runs_folder())
        )
    return debias.build_debiaser(
        this.debias,
        lam=this.lam,
        labels=torch.from_numpy(dataset.train.labels),
        group=torch.from_numpy(dataset.train.group),
        share=_share(dataset.train, "cpu"),
        num_classes=len(dataset.classes),
        num_groups=len(dataset.groups),
        embedding_dim=model.embedding_dim,
        teacher=None if bank is None else known,
        device=next(model.parameters()).device,
    )


def _share(split, device):
    """The fractional attribute of a split, or None."""
    return None if split.group_share is None else torch.from_numpy(split.group_share).to(device)


@functools.lru_cache(maxsize=8)
def _images(of, split, device, data_folder):
    dataset = load_data(*of)
    options = {"padding": dataset.padding, "flip": dataset.flip} if split == "train" else {}
    return Images(dataset.splits[split].images, dataset.mean, dataset.std, device=device, **options)


@functools.lru_cache(maxsize=2)
def _bank(teacher, runs_folder):
    images = on_device(teacher, "train")
    model = models.fast_layout(load_model(teacher).to(teacher.device)).requires_grad_(False)
    # two banks are kept in each of a few processes
    host = machine.memory() // 8
    memory = {"budget": host, "precision": teacher.precision}
    if teacher.device.startswith("cuda"):
        memory |= {"budget": torch.cuda.mem_get_info(teacher.device)[0] // 8, "spill": host}
        if teacher.precision == "bfloat16":  # eight times finer than the student's own arithmetic
            memory["dtype"] = torch.float16
    return teachers.TeacherBank(model, images, number_of_views(images.padding, images.flip), **memory)


@functools.lru_cache(maxsize=2)
def _plain_outputs(teacher, runs_folder):
    """A finished teacher's Output on its training split as it is, without augmentation."""
    return evaluate.predict(_bank(teacher, runs_folder).teacher, on_device(teacher, "train"))


@contextlib.contextmanager
def _threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _versions():
    import kdlib

    libraries = {"torch": torch.__version__, "numpy": np.__version__, "kdlib": kdlib.__version__}
    return {"python": platform.python_version(), **libraries}


@functools.cache
def _commit():
    """The commit of the code, with + where kdlib's files differ from it; None outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", "kdlib") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments):
    command = ["git", "-C", str(paths.ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _device_name(device):
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu, {platform.machine()}, {os.cpu_count()} cores"
