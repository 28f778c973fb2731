"""The settings of a run (`Run`): one flat, frozen dataclass, checked when it is made, and the key that names its result."""

import dataclasses
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from kdlib import data, names, paths
from kdlib.data import options
from kdlib.recipes import Recipe
from kdlib.runs import given as as_given
from kdlib.runs import machine

RESULTS = 3  # raise when the same settings would give other results; old records are then no longer found
MOST_THREADS = 256  # far more than are of use; torch dies of millions
PRECISIONS = ("auto", "float32", "bfloat16")
KEY_WEIGHTS = ("ce", "kd", "nd", "beta")  # options that are entries of their own in the key, as in the first stores
# no part of a key at their defaults: they were added after the first results were stored
ADDED = {"data_options": "", "optimizer": "sgd", "alpha": None, "method_options": ""}
LEAST = {
    "seed": 0, "epochs": 1, "batch_size": 2, "test_every": 1, "threads": 1, "ramp": 1, "teacher_epochs": 1,
    "teacher_batch_size": 2, "teacher_seed": 0,
}  # fmt: skip
# what a run that only evaluates a given network does not use
TRAINED = (
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


@dataclass(frozen=True)
class Run(Recipe):
    """Settings of one run (the fields of `recipes.Recipe`), checked on creation.

    Raises
    ------
    ValueError
        For a name that is unknown, a number out of range, and settings that do not go together.
    """

    def __post_init__(self):
        if self.data not in data.SOURCES:  # first, since the other checks load torch
            raise names.unknown_name(self.data, data.SOURCES, "data set")
        given = data.parse_options(self.data, self.data_options)
        if "skew" in given and self.skew is not None:
            raise ValueError(f"the skew is given twice: {self.skew} and in data_options, {self.data_options!r}")
        self._check_numbers()
        self._check_names()
        self._check_method()
        self._check_networks()

    def _check_numbers(self):
        for name, minimum in LEAST.items():
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < minimum):
                raise ValueError(f"{name} must be a whole number, {minimum} or more; got {value}")
        if self.threads > (most := max(MOST_THREADS, os.cpu_count() or 1)):
            raise ValueError(f"threads must be at most {most}; got {self.threads}")
        for name in ("lr", "teacher_lr", "temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive; got {value}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be 0 or more, and less than 1; got {self.momentum}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay must be 0 or more, and finite; got {self.weight_decay}")

    def _check_names(self):
        from kdlib import debias, methods
        from kdlib.train import OPTIMIZERS, SCHEDULES

        known: dict[str, Any] = {"method": methods.METHODS, "schedule": SCHEDULES, "precision": PRECISIONS}
        known |= {"optimizer": OPTIMIZERS, "teacher_schedule": (None, *SCHEDULES)}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise names.unknown_name(getattr(self, name), values, name)
        debias.check(self.debias, self.lam, distilled=self.method != "scratch")
        debias.check(self.teacher_debias, self.teacher_lam, distilled=False)
        if self.optimizer != "sgd" and self.nesterov:
            raise ValueError("nesterov is for the optimizer sgd")

    def _check_method(self):
        known = published_options(self.method)
        if self.temperature is not None and self.method != "scratch" and "temperature" not in known:
            raise ValueError(f"method {self.method} takes no temperature: it softens nothing, or learns how much")
        given = options.parse(self.method_options, known, f"method {self.method}")
        for name, value in given.items():
            if not isinstance(value, bool) and not 0 <= value < float("inf"):
                raise ValueError(f"option {name} of method {self.method} must be 0 or more; got {value}")
        twice = {"temperature": self.temperature, "loops": self.ramp, "warmup": self.ramp}
        for name, value in twice.items():
            if value is not None and name in given:
                raise ValueError(f"{name} is given twice: {value} and in method_options, {self.method_options!r}")

    def _check_networks(self):
        import torch

        if self.device != "auto":
            torch.device(self.device)
        check_network(self.student, self.weights)
        if self.is_given and (self.method, self.debias) != ("scratch", "none"):
            raise ValueError(f"{self._given()} is taken as it is: use method scratch and no debiaser for it")
        if self.method == "scratch":
            return
        check_network(self.teacher, self.teacher_weights)
        if as_given.is_given(self.teacher, self.teacher_weights) and self.teacher_debias != "none":
            raise ValueError(
                f"teacher {self.teacher} is taken as it is, so it cannot be debiased: take teacher_debias none"
            )

    @property
    def is_given(self) -> bool:
        """Whether the network is evaluated and not trained."""
        return as_given.is_given(self.student, self.weights)

    def _given(self):
        return self.student if self.weights == "none" else f"{self.student} with weights {self.weights}"

    def resolved(self) -> "Run":
        """Return this run with `auto` decided, and without the settings that its method does not read."""
        device = machine.resolve_device(self.device)
        precision = machine.choose_precision(device, self.data)[0] if self.precision == "auto" else self.precision
        given = self.options()
        temperature = given.pop("temperature", self.temperature)
        run = dataclasses.replace(
            self,
            device=device,
            precision=precision,
            data_options=data.option_text(self.data, self.data_options),
            method_options=options.spell(given, published_options(self.method)),
            temperature=temperature,
        )
        if self.is_given:
            untrained: dict[str, Any] = {name: defaults()[name] for name in TRAINED}
            run = dataclasses.replace(run, **untrained)
        run = as_given.anywhere(run)
        if self.method == "scratch":
            unread = [name for name, default in defaults().items() if name.startswith("teacher_") and default is None]
            unused: dict[str, Any] = dict.fromkeys(("ramp", "temperature", *unread))
            unused |= {"teacher": "", "teacher_debias": "none", "teacher_lam": 0.0, "teacher_weights": "none"}
            run = dataclasses.replace(run, **unused)
        return run

    def options(self) -> dict:
        """Return the method's options that `method_options` gives, {name: value}."""
        return options.parse(self.method_options, published_options(self.method), f"method {self.method}")

    def teacher_run(self) -> "Run | None":
        """Return the run that trains this run's teacher, or None."""
        if self.method == "scratch":
            return None
        return dataclasses.replace(
            self,
            student=self.teacher,
            method="scratch",
            method_options="",
            debias=self.teacher_debias,
            lam=self.teacher_lam,
            seed=self.seed if self.teacher_seed is None else self.teacher_seed,
            epochs=self.teacher_epochs or self.epochs,
            lr=self.teacher_lr or self.lr,
            batch_size=self.teacher_batch_size or self.batch_size,
            schedule=self.teacher_schedule or self.schedule,
            nesterov=False,
            weights=self.teacher_weights,
        ).resolved()

    def load_data(self):
        """Return the data set of this run."""
        return load_data(self.data, self.skew, self.data_options)

    @property
    def key(self) -> str:
        """16 hexadecimal digits: a hash of everything that changes the result."""
        return _key(self.resolved(), paths.data_folder())

    @property
    def folder(self):
        """Where the run's files are."""
        return paths.runs_folder() / self.key


def as_run(settings) -> Run:
    """Return a Run from a Run or from a dict of its fields. Raises ValueError for an unknown field."""
    if isinstance(settings, Run):
        return settings
    for name in settings:
        if name not in defaults():
            raise names.unknown_name(name, defaults(), "setting")
    return Run(**settings)


def from_record(settings) -> dict:
    """Return the settings in a record as fields of `Run`; records of earlier versions hold the method's weights one by one."""
    weights = {name: settings[name] for name in (*KEY_WEIGHTS, "alpha") if settings.get(name) is not None}
    kept = {name: value for name, value in settings.items() if name in defaults()}
    if weights:
        kept["method_options"] = options.spell(weights, published_options(settings["method"]))
    return {"method_options": ""} | kept


def precision_line(run) -> str:
    """Return the precision of a run with the reason; empty where the run asks for one."""
    if run.precision != "auto":
        return ""
    resolved = run.resolved()
    return f"precision {resolved.precision}: {machine.choose_precision(resolved.device, resolved.data)[1]}"


def load_data(name, skew=None, data_options="", *, look=False):
    """Return the data set `name` with the skew given (None: its default) and the options of a run's `data_options`.

    With `look`, as `data.look` does."""
    given = data.parse_options(name, data_options) | ({} if skew is None else {"skew": skew})
    return data.look(name, **given) if look else data.load(name, **given)


def published_options(method) -> dict:
    """Return the options of a method and their published values."""
    from kdlib import methods

    return methods.method_options(method)


@functools.cache
def defaults() -> dict:
    """Return {field of Run: its default}."""
    return {field.name: field.default for field in dataclasses.fields(Run)}


@functools.cache
def check_network(name, weights):
    """Raise ValueError unless `name` is a network, with these weights; functions and arrays are checked with their data."""
    import torch

    from kdlib import models

    as_given.check_names(name, weights)
    if as_given.is_arrays(name) or as_given.is_function(name):
        if weights == "imagenet":
            raise ValueError(f"{name} is taken as it is; ImageNet weights are for networks of torchvision and timm")
        return
    if not models.is_own(name):
        with torch.device("meta"):  # shapes only, no memory
            models.build_model(name, 2)
    if weights == "imagenet":
        models.imagenet_file(name)


@functools.cache
def fingerprint(name, skew, data_options, data_folder) -> str:
    """Return the fingerprint of a data set as this process first saw it. Cached: hashing thousands of files is slow."""
    return load_data(name, skew, data_options).fingerprint


@functools.cache
def _key(run, data_folder):
    from kdlib import debias, models

    teacher, given = run.teacher_run(), run.options()
    settings = dataclasses.asdict(run) | {name: given.pop(name, None) for name in KEY_WEIGHTS}
    settings |= {
        "alpha": given.pop("alpha", None),
        "method_options": options.spell(given, published_options(run.method)),
    }
    for network, weights in (
        ("student", "weights"),
        ("teacher", "teacher_weights"),
    ):  # what is in a file, not where it is
        if settings[weights] not in as_given.WORDS:
            settings[weights] = "file"
        if as_given.is_arrays(settings[network]):
            settings[network] = "arrays"
    content = {
        "results": RESULTS,
        "settings": {name: value for name, value in settings.items() if name not in ADDED or value != ADDED[name]},
        "data": fingerprint(run.data, run.skew, run.data_options, data_folder),
        "teacher": teacher and teacher.key,
    }
    if run.precision == "bfloat16":
        content["bfloat16"] = 1  # of teachers' outputs and of evaluation too
    if run.debias in debias.REVISIONS:
        content["debiaser"] = debias.REVISIONS[run.debias]
    if run.is_given:
        content |= as_given.marks(run.student, run.weights)
    if run.weights == "imagenet":
        content["weights"] = models.imagenet_file(run.student)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
