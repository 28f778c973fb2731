"""The settings of a run: one flat, frozen dataclass that is checked when it is made, and the key that names its result."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass

import torch

from kdlib import data, debias, machine, methods, models, paths
from kdlib.models import published
from kdlib.train import OPTIMIZERS, SCHEDULES

RESULTS = 3  # raise when the same settings would give other results; old records are then no longer found
PRECISIONS = ("auto", "float32", "bfloat16")
WEIGHTS = ("ce", "kd", "nd", "alpha", "beta")
WEIGHTS_FROM = ("none", "imagenet", "published")
ADDED = (
    "data_options",
    "optimizer",
    "alpha",
)  # fields later than the first results: no part of a key at their defaults


@dataclass(frozen=True)
class Run:
    """Settings of one run, checked on creation (ValueError says what is wrong). None means: as the field's comment says."""

    data: str = "digits_s"
    data_options: str = ""  # of the data set's function, as "label=race, size=32"
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
    precision: str = "auto"  # as `choose_precision` says
    device: str = "auto"  # CUDA where there is one
    threads: int = 1  # of a CPU; another number gives other last bits, and a sweep fills the cores with runs instead
    schedule: str = "one_cycle"
    optimizer: str = "sgd"
    momentum: float = 0.9  # Adam's β₁
    weight_decay: float = 5e-4
    nesterov: bool = False  # of the student; teachers train without
    test_every: int = 1  # epochs between looks at test for `test_accuracy_best_epoch`, which nothing else reads
    skew: float | None = None  # of a planted attribute; None: the data set's own
    ramp: int | None = None  # epochs of KD++'s and DKD's warm-up, of CTKD's curriculum; None: as published
    temperature: float | None = None  # this and the weights below; None: the method's own
    ce: float | None = None  # weight of the cross-entropy
    kd: float | None = None  # of the distillation term
    nd: float | None = None  # of norm and direction
    alpha: float | None = None  # of DKD's part between the label and the rest
    beta: float | None = None  # of DKD's part among the classes that are not the label
    teacher_seed: int | None = None  # None: the student's
    teacher_epochs: int | None = None  # None: the student's
    teacher_lr: float | None = None  # None: the student's
    teacher_batch_size: int | None = None  # None: the student's
    teacher_schedule: str | None = None  # None: the student's
    # "imagenet": training starts from torchvision's weights; "published": the fetched checkpoint as it is, without training
    weights: str = "none"
    teacher_weights: str = "none"

    def __post_init__(self):
        known = {"data": data.SOURCES, "method": methods.METHODS, "schedule": SCHEDULES, "precision": PRECISIONS}
        known |= {"optimizer": OPTIMIZERS}
        known |= {"weights": WEIGHTS_FROM, "teacher_weights": WEIGHTS_FROM, "teacher_schedule": (None, *SCHEDULES)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise paths.near(getattr(self, name), values, {"data": "data set"}.get(name, name))
        debias.check(self.debias, self.lam, distilled=self.method != "scratch")
        debias.check(self.teacher_debias, self.teacher_lam, distilled=False)
        if "skew" in data.parse_options(self.data, self.data_options) and self.skew is not None:
            raise ValueError(f"the skew is given twice: {self.skew} and in data_options, {self.data_options!r}")
        if self.optimizer != "sgd" and self.nesterov:
            raise ValueError("nesterov is for the optimizer sgd")
        _check_network(self.student, self.weights)
        if self.method != "scratch":
            _check_network(self.teacher, self.teacher_weights)
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
        if self.temperature is not None and self.method != "scratch" and "temperature" not in known:
            raise ValueError(f"method {self.method} takes no temperature: it softens nothing, or learns how much")
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
            if weights == "published" and (method, debias_) != ("scratch", "none"):
                raise ValueError("published weights are taken as they are: use method scratch and no debiaser for them")
        if self.device != "auto":
            torch.device(self.device)

    def resolved(self):
        """This run with `auto` decided, and without the settings that its method does not read."""
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        precision = choose_precision(device, self.data)[0] if self.precision == "auto" else self.precision
        known = methods.method_options(self.method)
        usual = {name: None for name in WEIGHTS if name in known and getattr(self, name) == known[name]}
        options = data.option_text(self.data, self.data_options)
        run = dataclasses.replace(self, device=device, precision=precision, data_options=options, **usual)
        if self.weights == "published":  # nothing is trained, so nothing that trains matters
            trained = (
                "seed",
                "epochs",
                "batch_size",
                "lr",
                "schedule",
                "optimizer",
                "momentum",
                "weight_decay",
                "nesterov",
                "test_every",
            )
            run = dataclasses.replace(run, **{name: _defaults()[name] for name in trained})
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
        return load_data(self.data, self.skew, self.data_options)

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


def choose_precision(device, data) -> tuple:
    """(precision, why): what `auto` stands for on this device and machine, for this data set.

    It is the same for a teacher and its student. Measured on a CPU with avx512_bf16, bfloat16 takes .5 to .7 of float32's
    time for ResNets, WRNs and VGGs at CIFAR's 32 pixels, but 1.2 to 1.4 for networks of depthwise convolutions (MobileNetV2,
    ShuffleV2, EfficientNet-B0), and as much for `quick`'s small ones: hence CIFAR alone."""
    if device.startswith("cuda"):
        if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
            return "float32", "this GPU has no bfloat16 arithmetic"
        return "bfloat16", "the device is a GPU"
    if not machine.cpu_has_bfloat16():
        return "float32", "this CPU has no bfloat16 arithmetic (avx512_bf16 or amx_bf16)"
    if data.startswith("cifar"):
        return "bfloat16", "this CPU has bfloat16 arithmetic, and the pictures are CIFAR's"
    return "float32", "on a CPU bfloat16 is known to pay for CIFAR alone"


def precision_line(run) -> str:
    """The precision of a run and why it is that; empty where it was asked for."""
    if run.precision != "auto":
        return ""
    resolved = run.resolved()
    return f"precision {resolved.precision}: {choose_precision(resolved.device, resolved.data)[1]}"


def load_data(name, skew=None, data_options=""):
    """The data set `name` with its own skew (None) or another, and other options as a run's `data_options` give them."""
    options = data.parse_options(name, data_options)
    return data.load(name, **options) if skew is None else data.load(name, skew=skew, **options)


def published_checkpoint(architecture):
    """The path of the published checkpoint; FileNotFoundError, with what to do, where it was not fetched."""
    path = published.published_teacher(architecture)
    if path is None:
        raise FileNotFoundError(
            f"no published checkpoint of {architecture} under {paths.data_folder() / 'cifar_teachers'}: "
            "run python -m kdlib fetch cifar_teachers, or train the teacher here (weights none)"
        )
    return path


def _weights(known):
    return [name for name in WEIGHTS if name in known] or ["none"]


@functools.cache
def _defaults():
    return {field.name: field.default for field in dataclasses.fields(Run)}


@functools.cache
def _check_network(name, weights):
    with torch.device("meta"):  # shapes only, no memory
        models.build_model(name, 2)
    if weights == "imagenet":
        models.imagenet_file(name)


@functools.cache
def fingerprint(name, skew, data_options, data_folder):
    """The fingerprint of a data set as this process first saw it: where it is thousands of files, a look takes long."""
    return load_data(name, skew, data_options).fingerprint


@functools.cache
def _key(run, data_folder):
    teacher = run.teacher_run()
    settings = {
        name: value
        for name, value in dataclasses.asdict(run).items()
        if name not in ADDED or value != _defaults()[name]
    }
    content = {
        "results": RESULTS,
        "settings": settings,
        "data": fingerprint(run.data, run.skew, run.data_options, data_folder),
        "teacher": teacher and teacher.key,
    }
    if run.precision == "bfloat16":
        content["bfloat16"] = 1  # of teachers' outputs and of the looks at val too
    if run.debias in debias.REVISIONS:
        content["debiaser"] = debias.REVISIONS[run.debias]
    if run.weights == "published":
        content["weights"] = paths.sha256(published_checkpoint(run.student))
    if run.weights == "imagenet":
        content["weights"] = models.imagenet_file(run.student)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
