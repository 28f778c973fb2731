"""A run: one trained network, from flat settings to a record; and the run store, in which nothing is trained twice.

A finished run leaves `runs/<key>/`: `record.json` (it exists, so the run is done), `history.csv`, `model.safetensors`,
`predictions.npz` (logits, labels, groups of val and test). Metrics and figures are computed from the predictions."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from kdlib import bias, data, debias, evaluate, methods, models, paths, teachers
from kdlib.augment import Images, number_of_views
from kdlib.models import published
from kdlib.train import SCHEDULES, train

RESULTS = 2  # raise when the same settings would give other results; old records are then no longer found
PRECISIONS = ("auto", "float32", "bfloat16")
WEIGHTS = ("ce", "kd", "nd", "beta")
WEIGHTS_FROM = ("none", "published")


@dataclass(frozen=True)
class Run:
    """Settings of one run, checked on creation (ValueError says what is wrong). None means: as the field's comment says."""

    data: str = "digits_s"
    student: str = "convnet_8"  # the network that is trained
    teacher: str = "convnet_32"  # trained first, as a run of its own; unused by method scratch
    method: str = "ckd"
    debias: str = "none"
    lam: float = 0.0  # strength of the debiaser
    teacher_debias: str = "none"
    teacher_lam: float = 0.0
    seed: int = 0  # of initial weights, order and augmentation
    epochs: int = 30
    batch_size: int = 64
    lr: float = 0.1  # the highest
    precision: str = "auto"  # float32 on a CPU, bfloat16 on CUDA
    device: str = "auto"  # CUDA where there is one
    threads: int = 1  # of a CPU; another number gives other last bits, and a sweep fills the cores with runs instead
    schedule: str = "one_cycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False  # of the student; teachers train without
    test_every: int = 1  # epochs between looks at test for `test_accuracy_best_epoch`, which nothing else reads
    skew: float | None = None  # of a planted attribute; None: the data set's own
    ramp: int | None = None  # epochs of KD++'s and DKD's warm-up, of CTKD's curriculum; None: as published
    temperature: float | None = None  # this and the weights below; None: the method's own
    ce: float | None = None  # weight of the cross-entropy
    kd: float | None = None  # of the distillation term
    nd: float | None = None  # of norm and direction
    beta: float | None = None  # of DKD's part among the classes that are not the label
    teacher_seed: int | None = None  # None: the student's
    teacher_epochs: int | None = None  # None: the student's
    teacher_lr: float | None = None  # None: the student's
    teacher_batch_size: int | None = None  # None: the student's
    teacher_schedule: str | None = None  # None: the student's
    weights: str = "none"  # "published": the fetched checkpoint as it is, without training
    teacher_weights: str = "none"

    def __post_init__(self):
        known = {"data": data.SOURCES, "method": methods.METHODS, "schedule": SCHEDULES, "precision": PRECISIONS}
        known |= {"weights": WEIGHTS_FROM, "teacher_weights": WEIGHTS_FROM, "teacher_schedule": (None, *SCHEDULES)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise paths.near(getattr(self, name), values, {"data": "data set"}.get(name, name))
        debias.check(self.debias, self.lam)
        debias.check(self.teacher_debias, self.teacher_lam)
        _check_network(self.student)
        if self.method != "scratch":
            _check_network(self.teacher)
        least = {
            "seed": 0,
            "epochs": 1,
            "batch_size": 2,
            "threads": 1,
            "ramp": 1,
            "teacher_epochs": 1,
            "teacher_batch_size": 2,
            "teacher_seed": 0,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < minimum):
                raise ValueError(f"{name} must be a whole number, {minimum} or more; got {value}")
        for name in ("lr", "teacher_lr", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive; got {value}")
        known = methods.method_options(self.method)
        for name in WEIGHTS:
            value = getattr(self, name)
            if value is not None and name not in known:
                raise ValueError(f"method {self.method} has no weight {name}; it has {', '.join(_weights(known))}")
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"weight {name} must be 0 or more; got {value}")
        for method, debias_, weights in (
            (self.method, self.debias, self.weights),
            ("scratch", self.teacher_debias, self.teacher_weights),
        ):
            if weights != "none" and (method, debias_) != ("scratch", "none"):
                raise ValueError("published weights are taken as they are: use method scratch and no debiaser for them")
        if self.device != "auto":
            torch.device(self.device)

    def resolved(self):
        """This run with `auto` decided, and without the settings that its method does not read."""
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        precision = self.precision
        if precision == "auto":
            precision = "bfloat16" if device.startswith("cuda") else "float32"
        known = methods.method_options(self.method)
        usual = {name: None for name in WEIGHTS if name in known and getattr(self, name) == known[name]}
        run = dataclasses.replace(self, device=device, precision=precision, **usual)
        if self.weights == "published":  # nothing is trained, so nothing that trains matters
            trained = ("seed", "epochs", "batch_size", "lr", "schedule", "momentum", "weight_decay", "nesterov")
            run = dataclasses.replace(run, **{name: _defaults()[name] for name in trained}, test_every=1)
        if self.method == "scratch":
            unread = [name for name, default in _defaults().items() if name.startswith("teacher_") and default is None]
            none = dict.fromkeys(("ramp", "temperature", *WEIGHTS, *unread))
            teacher = dict(teacher="", teacher_debias="none", teacher_lam=0.0, teacher_weights="none")
            run = dataclasses.replace(run, **teacher, **none)
        return run

    def teacher_run(self):
        """The run that trains this run's teacher, or None."""
        if self.method == "scratch":
            return None
        return dataclasses.replace(
            self,
            student=self.teacher,
            method="scratch",
            debias=self.teacher_debias,
            lam=self.teacher_lam,
            seed=self.seed if self.teacher_seed is None else self.teacher_seed,
            epochs=self.teacher_epochs or self.epochs,
            lr=self.teacher_lr or self.lr,
            batch_size=self.teacher_batch_size or self.batch_size,
            schedule=self.teacher_schedule or self.schedule,
            nesterov=False,
            weights=self.teacher_weights,
            **dict.fromkeys(WEIGHTS),
        ).resolved()

    def load_data(self):
        return data.load(self.data) if self.skew is None else data.load(self.data, skew=self.skew)

    @property
    def key(self) -> str:
        """16 hexadecimal digits: a hash of everything that changes the result."""
        return _key(self.resolved(), paths.data_folder())

    @property
    def folder(self):
        return paths.runs_folder() / self.key


def as_run(settings) -> Run:
    """A Run from a Run or from a dict of its fields. Raises ValueError for an unknown field."""
    if isinstance(settings, Run):
        return settings
    known = [field.name for field in dataclasses.fields(Run)]
    for name in settings:
        if name not in known:
            raise paths.near(name, known, "setting")
    return Run(**settings)


def run(settings, *, log=print, checkpoint_seconds=None) -> dict:
    """The record of the run: at once if it is in the store, else after training, from its last checkpoint if there is one.

    settings: a Run, or a dict of its fields. A second process that asks for the same run waits for the first.
    checkpoint_seconds: least time between checkpoints (default: KDLIB_CHECKPOINT_SECONDS, or 5)."""
    if checkpoint_seconds is None:
        checkpoint_seconds = float(os.environ.get("KDLIB_CHECKPOINT_SECONDS", 5))
    this = as_run(settings).resolved()
    if record := stored(this):
        return record
    teacher = this.teacher_run()
    if teacher is not None:
        run(teacher, log=log, checkpoint_seconds=checkpoint_seconds)
    paths.make_folder(this.folder)
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
    with np.load(as_run(settings).folder / "predictions.npz") as arrays:
        return dict(arrays)


def history(settings) -> pd.DataFrame:
    """A row per epoch of a finished run."""
    return pd.read_csv(as_run(settings).folder / "history.csv")


def load_model(settings):
    """The trained network of a finished run, in eval mode, on the CPU."""
    this = as_run(settings).resolved()
    dataset = this.load_data()
    model = models.build_model(this.student, len(dataset.classes))
    debiaser = _debiaser(this, dataset, model)
    if debiaser and debiaser.head:
        models.set_head(model, debiaser.head)
    return models.load_checkpoint(model, this.folder / "model.safetensors").eval()


def class_means(settings) -> torch.Tensor:
    """(classes, d): the mean embedding of each class of un-augmented training images under a finished run's network.

    Kept beside the run as `class_means.json`, in the form of KD++'s files."""
    this = as_run(settings).resolved()
    file, dataset = this.folder / "class_means.json", this.load_data()
    if not file.exists():
        embedding = evaluate.predict(load_model(this), on_device(this, "train", device="cpu")).embedding
        teachers.write_means(file, teachers.class_means(embedding, dataset.train.labels, len(dataset.classes)))
    return teachers.read_means(file, num_classes=len(dataset.classes), dim=len(json.loads(file.read_text())["0"]))


def on_device(settings, split, *, device=None) -> Images:
    """The images of a split of the run's data, on its device, with its augmentation; kept for the next run."""
    this = as_run(settings).resolved()
    return _images(this.data, this.skew, split, device or this.device, paths.data_folder())


def _train(this, log, checkpoint_seconds):
    dataset, teacher = this.load_data(), this.teacher_run()
    classes = len(dataset.classes)
    images = {name: on_device(this, name) for name in dataset.splits}
    labels = {name: torch.from_numpy(split.labels).to(this.device) for name, split in dataset.splits.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(this.seed)
        model = models.fast_layout(models.build_model(this.student, classes).to(this.device))
        torch.manual_seed(this.seed + 1)  # whatever the network drew, method and debiaser start alike
        bank, means = None, None
        if teacher is not None:
            bank = _bank(teacher, paths.runs_folder())
            means = class_means(teacher).to(this.device) if this.method in ("kdpp", "dkdpp") else None
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
        debiaser = _debiaser(this, dataset, model)
        if debiaser and debiaser.head:
            models.set_head(model, debiaser.head)

        def accuracy(name):
            return evaluate.accuracy(evaluate.predict(model, images[name]).logits, labels[name])

        def validate(epoch):
            look = epoch % this.test_every == 0 or epoch == this.epochs
            return {"val_accuracy": accuracy("val"), "test_accuracy": accuracy("test") if look else float("nan")}

        checkpoint = this.folder / "checkpoint.pt"
        if this.weights == "published":
            models.load_checkpoint(model, _published(this.student))
            return _finish(this, dataset, model, images, [{"epoch": 0, **validate(this.epochs), "seconds": 0.0}])
        rows = train(
            model,
            images["train"],
            labels["train"],
            torch.from_numpy(dataset.train.group).to(this.device),
            method,
            debiaser=debiaser,
            bank=bank,
            epochs=this.epochs,
            batch_size=this.batch_size,
            lr=this.lr,
            seed=this.seed,
            momentum=this.momentum,
            weight_decay=this.weight_decay,
            nesterov=this.nesterov,
            schedule=this.schedule,
            precision=this.precision,
            validate=validate,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            log=log,
        )
    record = _finish(this, dataset, model, images, rows)
    checkpoint.unlink(missing_ok=True)
    return record


def _finish(this, dataset, model, images, rows):
    """Write everything that a finished run leaves, its record last."""
    classes, arrays, metrics = len(dataset.classes), {}, {}
    for name in ("val", "test"):
        split = dataset.splits[name]
        logits = evaluate.predict(model, images[name]).logits.cpu().numpy()
        predicted = logits.argmax(1)
        arrays |= {f"{name}_logits": logits, f"{name}_labels": split.labels, f"{name}_group": split.group}
        performance = evaluate.performance(split.labels, predicted, classes)
        labels, guesses = (data.bias_labels(dataset, numbers) for numbers in (split.labels, predicted))
        figures = bias.summary(labels, guesses, split.group, num_classes=len(data.bias_classes(dataset)))
        metrics[name] = performance | figures | performance  # accuracy is that on the classes as they are
    # as papers report it, to be set beside theirs; never used here
    metrics["test_accuracy_best_epoch"] = float(np.nanmax([row["test_accuracy"] for row in rows]))
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
        "data": {"fingerprint": dataset.fingerprint, **{name: len(split) for name, split in dataset.splits.items()}},
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


def _method_options(this):
    """The run's settings that its method has an option for."""
    settings = {name: getattr(this, name) for name in ("temperature", *WEIGHTS)} | {
        "loops": this.ramp,
        "warmup": this.ramp,
    }
    known = methods.method_options(this.method)
    return {name: value for name, value in settings.items() if value is not None and name in known}


def _weights(known):
    return [name for name in WEIGHTS if name in known] or ["none"]


def _debiaser(this, dataset, model):
    return debias.build_debiaser(
        this.debias,
        lam=this.lam,
        labels=torch.from_numpy(dataset.train.labels),
        group=torch.from_numpy(dataset.train.group),
        num_classes=len(dataset.classes),
        num_groups=len(dataset.groups),
        embedding_dim=model.embedding_dim,
        device=next(model.parameters()).device,
    )


def _published(architecture):
    """The path of the published checkpoint; FileNotFoundError, with what to do, where it was not fetched."""
    path = published.published_teacher(architecture)
    if path is None:
        raise FileNotFoundError(
            f"no published checkpoint of {architecture} under {paths.data_folder() / 'cifar_teachers'}: "
            "run python -m kdlib fetch cifar_teachers, or train the teacher here (weights none)"
        )
    return path


@functools.cache
def _defaults():
    return {field.name: field.default for field in dataclasses.fields(Run)}


@functools.cache
def _check_network(name):
    with torch.device("meta"):  # shapes only, no memory
        models.build_model(name, 2)


@functools.cache
def _key(run, data_folder):
    teacher = run.teacher_run()
    content = {
        "results": RESULTS,
        "settings": dataclasses.asdict(run),
        "data": run.load_data().fingerprint,
        "teacher": teacher and teacher.key,
    }
    if run.weights == "published":
        content["weights"] = paths.sha256(_published(run.student))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=8)
def _images(name, skew, split, device, data_folder):
    dataset = data.load(name) if skew is None else data.load(name, skew=skew)
    options = {"padding": dataset.padding, "flip": dataset.flip} if split == "train" else {}
    return Images(dataset.splits[split].images, dataset.mean, dataset.std, device=device, **options)


@functools.lru_cache(maxsize=2)
def _bank(teacher, runs_folder):
    images = on_device(teacher, "train")
    model = models.fast_layout(load_model(teacher).to(teacher.device)).requires_grad_(False)
    if teacher.device.startswith("cuda"):
        budget = torch.cuda.mem_get_info(teacher.device)[0] // 2
    else:  # two banks are kept in each of a few processes
        budget = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8
    return teachers.TeacherBank(model, images, number_of_views(images.padding, images.flip), budget=budget)


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
    """The commit of the code, with + where files differ from it; None outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments):
    command = ["git", "-C", str(paths.ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _device_name(device):
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu, {platform.machine()}, {os.cpu_count()} cores"
