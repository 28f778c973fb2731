"""Data sets: `load(name, **options) -> Dataset`, one file per source.

A prepared set is cached in the data folder as `<name>.npz` with a manifest `<name>.json` beside it (options, counts,
SHA-256); a cache that does not match its manifest is rebuilt, never half-read. Images that are memory-mapped stay in
the file that `pictures.py` wrote. To add a source, write one file with a function(**options) -> Dataset, whose docstring
says what the data are, and name both in SOURCES; where its module has a function `stamp(**options)`, the set is
prepared again when what it returns (JSON-able) changes; None says that the originals are gone, and that what was
prepared from them stands."""

import csv
import functools
import hashlib
import importlib
import inspect
import json
import os
import sys
from dataclasses import dataclass, fields, replace

import numpy as np

from kdlib import paths

# name -> module of kdlib.data, and the function in it that prepares the set
SOURCES = {
    "digits_s": ("digits_s", "prepare"),
    "cifar10": ("cifar", "cifar10"),
    "cifar100": ("cifar", "cifar100"),
    "cifar10s": ("cifar", "cifar10s"),
    "cifar100s": ("cifar", "cifar100s"),
    "utkface": ("utkface", "prepare"),
    "wider": ("wider", "prepare"),
    "folder": ("folder", "prepare"),
}
DOWNLOADS = ("cifar10", "cifar100", "utkface")  # <name>.npz is the user's own file, so the cache is <name>-prepared.npz

FORMAT = 1  # raise when the cache's form, or what a source prepares, changes


@dataclass(frozen=True)
class Split:
    """N samples. `images` uint8 (N, C, H, W); `labels` int64 (N,); `group` int64 (N,), −1 where unknown;
    `group_share` float32 (N,) in [0, 1], NaN where unknown, or None where the attribute is not fractional;
    `source` int64 (N,): which original picture a sample shows, so that splits can be checked to be disjoint."""

    images: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    group_share: np.ndarray | None = None
    source: np.ndarray | None = None

    def __len__(self):
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A classification problem with a protected attribute. Class and group numbers index `classes` and `groups`.

    `val` is cut from the training data; the test split stays whole, and nothing is ever selected on it.
    `padding` and `flip` say which augmentation suits these pictures (a mirrored digit is no digit)."""

    name: str
    classes: tuple
    groups: tuple
    train: Split
    val: Split
    test: Split
    mean: tuple = (0.5, 0.5, 0.5)  # per channel, of pixels scaled to [0, 1]
    std: tuple = (0.25, 0.25, 0.25)
    padding: int = 4
    flip: bool = True
    # class number -> class number for the bias analysis, where the attribute is part of a class; empty: the classes themselves
    merged: tuple = ()
    left_out: tuple = ()  # pictures that could not be used, each as "name: why"
    fingerprint: str = ""  # SHA-256 of everything above: what a run's key depends on

    @property
    def splits(self):
        return {"train": self.train, "val": self.val, "test": self.test}


def load(name, **options) -> Dataset:
    """The data set `name`; options are those of its function (for `digits_s`: skew, size, seed).

    While its files do not change, this is one and the same object, so do not write into its arrays. Raises ValueError
    for an unknown name or option."""
    prepare, defaults = _function(name), _defaults(name)
    for option in options:
        if option not in defaults:
            raise paths.near(option, defaults, f"option of data set {name}:")
    options = {key: os.fspath(o) if isinstance(o, os.PathLike) else o for key, o in (defaults | options).items()}
    text = json.dumps(paths.plain(options), sort_keys=True)
    if options != defaults:
        stem = f"{name}-{_digest(text.encode())[:8]}"
    else:
        stem = f"{name}-prepared" if name in DOWNLOADS else name
    file, manifest_file = paths.data_folder() / f"{stem}.npz", paths.data_folder() / f"{stem}.json"
    seen = options
    if stamp := getattr(sys.modules[prepare.__module__], "stamp", None):
        now = stamp(**options)
        seen = options | (_noted_stamp(manifest_file) if now is None else {"stamp": now})
        text = json.dumps(paths.plain(seen), sort_keys=True)
    cached = _cached(file, manifest_file, text, _stamp(file), _stamp(manifest_file))
    if isinstance(cached, Dataset):
        return cached
    if file.exists():
        print(f"kdlib: {file} {cached}; preparing it again", file=sys.stderr)
    dataset = prepare(**options)
    dataset = replace(dataset, fingerprint=_fingerprint(dataset))
    _write(dataset, seen, file, manifest_file)
    return dataset


def parse_options(name, text) -> dict:
    """The options in `text`, as "label=race, size=32", in the types that they have by default in the data set `name`.

    Several numbers are parted by blanks ("bands=20 40"); a comma within a value needs quotes ('"path=faces, old"'). Raises
    ValueError for an unknown option, one that is there twice and a value of another type."""
    defaults, options = _defaults(name), {}
    try:
        items = next(csv.reader([text.strip()], skipinitialspace=True), ())
    except csv.Error as error:
        raise ValueError(
            f"options of data set {name} are on one line, with commas between them; got {text!r}"
        ) from error
    for item in items:
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"options of data set {name} are as option=value, with commas between them; got {item!r}")
        if option not in defaults:
            raise paths.near(option, defaults, f"option of data set {name}:")
        if option in options:
            raise ValueError(f"option {option} of data set {name} is given twice, in {text!r}")
        try:
            options[option] = _typed(value, defaults[option])
        except (ValueError, KeyError):
            raise ValueError(
                f"option {option} of data set {name} cannot be {value!r}: its default is {defaults[option]!r}"
            ) from None
    return options


def option_text(name, text) -> str:
    """`text` in the one spelling of all that say the same: in order, and without what is the default anyway."""
    defaults, items = _defaults(name), []
    for option, value in sorted(parse_options(name, text).items()):
        if value != defaults[option]:
            item = f"{option}={_as_text(value)}"
            items.append('"' + item.replace('"', '""') + '"' if set(item) & set(',"') else item)
    return ", ".join(items)


def about(name) -> str:
    """What the data set `name` is, in a few sentences: its function's docstring as far as the options."""
    return inspect.getdoc(_function(name)).split("\n\nOptions: ")[0]


def bias_labels(dataset, labels) -> np.ndarray:
    """Class numbers, labelled or predicted, as the bias analysis counts them: those of `bias_classes`."""
    return np.array(dataset.merged)[labels] if dataset.merged else labels


def bias_classes(dataset) -> tuple:
    """Names of the classes that bias is measured on: the data set's own, or merged ones, as "boy + girl"."""
    names = {}
    for name, number in zip(dataset.classes, dataset.merged or range(len(dataset.classes)), strict=True):
        names.setdefault(number, []).append(name)
    return tuple(" + ".join(names[number]) for number in sorted(names))


def class_by_group(split, dataset, *, merged=False) -> np.ndarray:
    """Number of samples per class (rows; with `merged`, those of `bias_classes`) and group (columns), unknown groups left
    out."""
    classes, labels = dataset.classes, split.labels
    if merged:
        classes, labels = bias_classes(dataset), bias_labels(dataset, labels)
    counts = np.zeros((len(classes), len(dataset.groups)), dtype=int)
    known = split.group >= 0
    np.add.at(counts, (labels[known], split.group[known]), 1)
    return counts


def stratified_cut(labels, group, share, seed):
    """Indices (rest, cut): `cut` holds about `share` of each class × group cell, at least one of a cell that has two.

    The same (labels, group, share, seed) give the same cut. Raises ValueError for a share outside (0, 1)."""
    if not 0 < share < 1:
        raise ValueError(f"share is the part to cut, between 0 and 1; got {share}")
    generator = np.random.default_rng(seed)
    cut = np.zeros(len(labels), dtype=bool)
    for cell in np.unique(np.stack([labels, group]), axis=1).T:
        members = generator.permutation(np.flatnonzero((labels == cell[0]) & (group == cell[1])))
        count = round(share * len(members))
        cut[members[: max(count, 1) if len(members) > 1 else 0]] = True
    return np.flatnonzero(~cut), np.flatnonzero(cut)


def cut_together(labels, group, together, share, seed):
    """As `stratified_cut`, but samples with the same `together` (N,) stay on one side: `share` is one of those numbers or
    names (of persons, say), each of which counts in the cell of its first sample."""
    _, first, which = np.unique(together, return_index=True, return_inverse=True)
    _, cut = stratified_cut(labels[first], group[first], share, seed)
    chosen = np.isin(which, cut)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def check_skew(skew):
    """Raise ValueError unless `skew` can be the share of a class in its own domain."""
    if not 0.5 <= skew <= 1:
        raise ValueError(f"skew is the share of a class in its own domain, from 0.5 (balanced) to 1; got {skew}")


def plant(labels, own, skew, generator) -> np.ndarray:
    """The domain of each sample, int64 (N,): `own` (N,) 0 or 1 for `skew` of each class, the other one for the rest."""
    group = own.copy()
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        others = members[: round((1 - skew) * len(members))]
        group[others] = 1 - own[others]
    return group


def _function(name):
    """The function that prepares the data set `name`; ValueError if unknown."""
    if name not in SOURCES:
        raise paths.near(name, SOURCES, "data set")
    module, function = SOURCES[name]
    return getattr(importlib.import_module(f"kdlib.data.{module}"), function)


def _defaults(name):
    """{option: default} of the data set `name`."""
    return {key: parameter.default for key, parameter in inspect.signature(_function(name)).parameters.items()}


def _typed(text, default):
    """`text` in the type of `default`; where that is None, a number or "none". ValueError or KeyError where it is none."""
    if isinstance(default, bool):
        return {"true": True, "false": False}[text.lower()]
    if isinstance(default, tuple):
        return tuple(int(part) for part in text.split())
    if default is None:
        return None if text.lower() == "none" else int(text) if text.isdecimal() else float(text)
    return type(default)(text)


def _as_text(value) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _digest(content) -> str:
    return hashlib.sha256(content).hexdigest()


def _settings(dataset):
    """What a Dataset holds beside its splits and fingerprint; `merged` and `left_out` only where they are not empty."""
    unused = {name for name in ("merged", "left_out") if not getattr(dataset, name)}
    skipped = {*dataset.splits, "fingerprint"} | unused
    return {f.name: getattr(dataset, f.name) for f in fields(Dataset) if f.name not in skipped}


def _arrays(dataset):
    """{"train_images": …}: all arrays that are there."""
    return {
        f"{name}_{field.name}": getattr(split, field.name)
        for name, split in dataset.splits.items()
        for field in fields(Split)
        if getattr(split, field.name) is not None
    }


def _fingerprint(dataset) -> str:
    digest = hashlib.sha256(json.dumps(paths.plain(_settings(dataset)), sort_keys=True).encode())
    for name, array in sorted(_arrays(dataset).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _write(dataset, options, file, manifest_file):
    arrays, mapped = _arrays(dataset), None
    if isinstance(dataset.train.images, np.memmap):
        mapped = os.path.basename(dataset.train.images.filename)
        arrays = {name: array for name, array in arrays.items() if not name.endswith("_images")}
    with paths.replacing(file, ".npz") as temporary:
        np.savez(temporary, **arrays)
        checksum = paths.sha256(temporary)
    counts = {name: class_by_group(split, dataset) for name, split in dataset.splits.items()}
    manifest = {"format": FORMAT, "options": options, "dataset": _settings(dataset), "counts": counts}
    manifest |= {"mapped": mapped} if mapped else {}
    paths.write_json(manifest_file, manifest | {"fingerprint": dataset.fingerprint, "sha256": checksum})


def _stamp(file):
    """What changes when a file does; None where there is none."""
    try:
        status = file.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
    except OSError:
        return None


def _noted_stamp(manifest_file) -> dict:
    """{"stamp": that of the cached set}, or {} where none is noted."""
    try:
        options = json.loads(manifest_file.read_text())["options"]
        return {"stamp": options["stamp"]} if "stamp" in options else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@functools.lru_cache(maxsize=2)
def _cached(file, manifest_file, options, *stamps) -> Dataset | str:
    """The cached data set, or why it cannot be trusted; kept in memory, since every run's key asks for it."""
    problem = _check(file, manifest_file, json.loads(options))
    return problem or _read(file, json.loads(manifest_file.read_text()))


def _check(file, manifest_file, options) -> str | None:
    """None when the cache can be trusted, else what is wrong with it."""
    try:
        manifest = json.loads(manifest_file.read_text())
        if (manifest["format"], manifest["options"]) != (FORMAT, options):
            return "was prepared by another version or with other options"
        if not file.exists():
            return "is missing"
        if paths.sha256(file) != manifest["sha256"]:
            return "does not match the SHA-256 in its manifest"
        return _check_mapped(manifest_file.with_name(manifest["mapped"])) if "mapped" in manifest else None
    except (FileNotFoundError, NotADirectoryError):
        return "has no manifest"
    except (ValueError, KeyError, TypeError):
        return "has an unreadable manifest"


def _check_mapped(file) -> str | None:
    from kdlib.data import pictures  # imports from this module

    problem = pictures.problem(file)
    return problem and f"belongs to {file.name}, which {problem}"


def _read(file, manifest) -> Dataset:
    with np.load(file) as stored:
        arrays = dict(stored)
    if "mapped" in manifest:
        from kdlib.data import pictures

        images, start = pictures.open_mapped(file.with_name(manifest["mapped"])), 0
        for name in ("train", "val", "test"):  # one after the other, as `pictures.split_pictures` decodes them
            stop = start + len(arrays[f"{name}_labels"])
            arrays[f"{name}_images"], start = images[start:stop], stop
    splits = {
        name: Split(**{f.name: arrays[key] for f in fields(Split) if (key := f"{name}_{f.name}") in arrays})
        for name in ("train", "val", "test")
    }
    settings = {key: tuple(item) if isinstance(item, list) else item for key, item in manifest["dataset"].items()}
    return Dataset(**settings, **splits, fingerprint=manifest["fingerprint"])
