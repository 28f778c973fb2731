"""Data sets: `load(name, **options) -> Dataset`, one file per source.

To add a source, write one file with a function(**options) -> Dataset, whose docstring says what the data are, and name both
in SOURCES. Where its module has a function `stamp(**options)`, the set is prepared again when what it returns (JSON-able)
changes; None says that the originals are gone, and that what was prepared from them stands."""

import importlib
import inspect
import json
import os
import sys
from dataclasses import replace

from kdlib import files, names, paths
from kdlib.data import cache
from kdlib.data import options as _options
from kdlib.data.splits import (
    Dataset,
    Split,
    bias_classes,
    bias_labels,
    check_skew,
    class_by_group,
    cut_together,
    plant,
    stratified_cut,
)  # fmt: skip

__all__ = ["SOURCES", "Dataset", "Split", "about", "bias_classes", "bias_labels", "check_skew", "class_by_group",
           "cut_together", "defaults", "load", "option_text", "parse_options", "plant", "stratified_cut"]  # fmt: skip

# name -> module of kdlib.data, and the function in it that prepares the set
SOURCES = {
    "digits_s": ("digits_s", "prepare"),
    "cifar10": ("cifar", "cifar10"),
    "cifar100": ("cifar", "cifar100"),
    "cifar10s": ("cifar", "cifar10s"),
    "cifar100s": ("cifar", "cifar100s"),
    "utkface": ("utkface", "prepare"),
    "wider": ("wider", "prepare"),
    "table": ("table", "prepare"),
    "folder": ("table", "prepare"),  # the name that `table` had before
}
DOWNLOADS = ("cifar10", "cifar100", "utkface")  # <name>.npz is the user's own file, so the cache is <name>-prepared.npz


def load(name, **options) -> Dataset:
    """The data set `name`; options are those of its function (for `digits_s`: skew, size, seed).

    While its files do not change, this is one and the same object, so do not write into its arrays. Raises ValueError
    for an unknown name or option."""
    prepare, known = _function(name), defaults(name)
    for option in options:
        if option not in known:
            raise names.unknown_name(option, known, f"option of data set {name}:")
    options = {key: os.fspath(o) if isinstance(o, os.PathLike) else o for key, o in (known | options).items()}
    text = json.dumps(files.plain(options), sort_keys=True)
    if options != known:
        stem = f"{name}-{cache.digest(text.encode())[:8]}"
    else:
        stem = f"{name}-prepared" if name in DOWNLOADS else name
    file, manifest_file = paths.data_folder() / f"{stem}.npz", paths.data_folder() / f"{stem}.json"
    seen = options
    if stamp := getattr(sys.modules[prepare.__module__], "stamp", None):
        now = stamp(**options)
        seen = options | (cache.noted_stamp(manifest_file) if now is None else {"stamp": now})
        text = json.dumps(files.plain(seen), sort_keys=True)
    found = cache.cached(file, manifest_file, text, cache.stamp(file), cache.stamp(manifest_file))
    if isinstance(found, Dataset):
        return found
    if file.exists():
        print(f"kdlib: {file} {found}; preparing it again", file=sys.stderr)
    dataset = prepare(**options)
    dataset = replace(dataset, fingerprint=cache.fingerprint(dataset))
    cache.write(dataset, seen, file, manifest_file)
    return dataset


def parse_options(name, text) -> dict:
    """Return the options in `text` in the types that they have in the data set `name`: see `options.parse`."""
    return _options.parse(text, defaults(name), f"data set {name}")


def option_text(name, text) -> str:
    """Return `text` in the one spelling of all that say the same: see `options.spell`."""
    return _options.spell(parse_options(name, text), defaults(name))


def about(name) -> str:
    """What the data set `name` is, in a few sentences: its function's docstring as far as the options."""
    return inspect.getdoc(_function(name)).split("\n\nOptions: ")[0]


def _function(name):
    """The function that prepares the data set `name`; ValueError if unknown."""
    if name not in SOURCES:
        raise names.unknown_name(name, SOURCES, "data set")
    module, function = SOURCES[name]
    return getattr(importlib.import_module(f"kdlib.data.{module}"), function)


def defaults(name):
    """{option: default} of the data set `name`."""
    return {key: parameter.default for key, parameter in inspect.signature(_function(name)).parameters.items()}
