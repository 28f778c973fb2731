"""Data sets: `load(name, **options) -> Dataset`, one file per data set.

To add one, write a file `kdlib/data/<name>.py` with a function `prepare(*, option=default, …) -> Dataset` whose docstring
says what the data are; nothing else changes. A file with several data sets names them in `SETS = {name: function}`.

A function `attributes(**options)` names what its option `group` can be.

If the file also has a function `stamp(**options)`, the data set is prepared again when its result (JSON-able) changes; None
means that the original files are missing, and the cache is then trusted. `LATER`, a tuple of options, are those added after
data sets had been prepared: at their default they do not appear in the cache."""

import ast
import contextlib
import importlib
import inspect
import io
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

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
    undecoded,
)  # fmt: skip

__all__ = ["SOURCES", "Dataset", "Split", "about", "attributes", "bias_classes", "bias_labels", "check_skew", "class_by_group",
           "cut_together", "defaults", "load", "look", "option_text", "parse_options", "plant", "stratified_cut"]  # fmt: skip


def _sources() -> dict:
    """{data set: (module of kdlib.data, its function)}, read from the files' text: importing them would load pandas."""
    sources = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if several := re.search(r"^SETS = (\{[^}]*\})", text, re.MULTILINE):
            sources |= {name: (file.stem, function) for name, function in ast.literal_eval(several[1]).items()}
        elif re.search(r"^def prepare\(", text, re.MULTILINE):
            sources[file.stem] = (file.stem, "prepare")
    return sources


SOURCES = _sources()
DOWNLOADS = ("cifar10", "cifar100", "utkface")  # <name>.npz is the user's own file, so the cache is <name>-prepared.npz


def load(name, **options) -> Dataset:
    """Return a data set, prepared once and cached in the data folder.

    While its files do not change, this is the same object every time, so do not write into its arrays.

    Parameters
    ----------
    name : str
        One of `SOURCES`.
    **options
        Those of the data set: see `defaults`.

    Raises
    ------
    ValueError
        For an unknown name or option, and for data that are not as they should be.
    OSError
        If there are no data.

    Examples
    --------
    >>> load("digits_s", skew=0.9).classes  # doctest: +SKIP
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    return _load(name, options, _prepared)


def look(name, **options) -> Dataset:
    """Return a data set as `load` does, in about a second: images that were not decoded before are all of zeros.

    Whatever is wrong with folder, table and options is raised at once. Parameters as of `load`."""
    return _load(name, options, _without_images)


def _prepared(prepare, options):
    return prepare(**options), True


def _without_images(prepare, options):
    """(the data set, whether its images are real)."""
    with contextlib.redirect_stderr(io.StringIO()), undecoded() as skipped:  # `load` tells what is left out
        return prepare(**options), not skipped


def _load(name, options, prepared):
    prepare, known = _function(name), defaults(name)
    for option in options:
        if option not in known:
            raise names.unknown_name(option, known, f"option of data set {name}:")
    options = {key: os.fspath(o) if isinstance(o, os.PathLike) else o for key, o in (known | options).items()}
    module = sys.modules[prepare.__module__]
    later = [option for option in getattr(module, "LATER", ()) if options[option] == known[option]]
    noted = {option: value for option, value in options.items() if option not in later}
    text = json.dumps(files.plain(noted), sort_keys=True)
    if options != known:
        stem = f"{name}-{cache.digest(text.encode())[:8]}"
    else:
        stem = f"{name}-prepared" if name in DOWNLOADS else name
    file, manifest_file = paths.data_folder() / f"{stem}.npz", paths.data_folder() / f"{stem}.json"
    if stamp := getattr(module, "stamp", None):
        current = stamp(**options)
        noted |= cache.noted_stamp(manifest_file) if current is None else {"stamp": current}
        text = json.dumps(files.plain(noted), sort_keys=True)
    cached = cache.cached(file, manifest_file, text, cache.stamp(file), cache.stamp(manifest_file))
    if isinstance(cached, Dataset):
        return cached
    if file.exists():
        print(f"kdlib: {file} {cached}; preparing it again", file=sys.stderr)
    dataset, whole = prepared(prepare, options)
    dataset = replace(dataset, name=name)
    if not whole:
        return dataset
    dataset = replace(dataset, fingerprint=cache.fingerprint(dataset))
    cache.write(dataset, noted, file, manifest_file)
    return dataset


def parse_options(name, text) -> dict:
    """Return the options in `text` in the types that they have in the data set `name`: see `options.parse`."""
    return _options.parse(text, defaults(name), f"data set {name}")


def option_text(name, text) -> str:
    """Return `text` in the one spelling of all that say the same: see `options.spell`."""
    return _options.spell(parse_options(name, text), defaults(name))


def about(name) -> str:
    """Return what the data set `name` is, in a few sentences: its function's docstring up to the options."""
    return re.split(r"\n\n(?:Parameters\n|Options: )", inspect.getdoc(_function(name)) or "")[0]


def attributes(name, **options) -> tuple:
    """Return the values that the option `group` of the data set `name` can have, where there are several attributes; or ()."""
    of_module = getattr(sys.modules[_function(name).__module__], "attributes", None)
    return tuple(of_module(**defaults(name) | options)) if of_module else ()


def defaults(name) -> dict:
    """Return {option: default} of the data set `name`."""
    return {key: parameter.default for key, parameter in inspect.signature(_function(name)).parameters.items()}


def _function(name):
    """The function that prepares the data set `name`; ValueError if unknown."""
    if name not in SOURCES:
        raise names.unknown_name(name, SOURCES, "data set")
    module, function = SOURCES[name]
    return getattr(importlib.import_module(f"kdlib.data.{module}"), function)
