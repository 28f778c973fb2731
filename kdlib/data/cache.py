"""The cache of prepared data sets: `<name>.npz` with a manifest `<name>.json` beside it (options, counts, SHA-256).

A cache that does not match its manifest is rebuilt, never half-read. Memory-mapped images stay in the file that `pictures.py`
wrote."""

import functools
import hashlib
import json
import os
from dataclasses import fields
from typing import Any

import numpy as np

from kdlib import files
from kdlib.data.splits import Dataset, Split, class_by_group

FORMAT = 2  # raise when the cache's form, or what a source prepares, changes


def digest(content) -> str:
    """Return the hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def _settings(dataset):
    """What a Dataset holds beside its splits and fingerprint; `merged` and `left_out` only if they are not empty."""
    unused = {name for name in ("merged", "left_out") if not getattr(dataset, name)}
    skipped = {*dataset.splits, "fingerprint"} | unused
    return {f.name: getattr(dataset, f.name) for f in fields(Dataset) if f.name not in skipped}


def _arrays(dataset):
    """{"train_images": …}: all arrays of the splits."""
    return {
        f"{name}_{field.name}": getattr(split, field.name)
        for name, split in dataset.splits.items()
        for field in fields(Split)
        if getattr(split, field.name) is not None
    }


def fingerprint(dataset) -> str:
    """Return the SHA-256 of everything in a data set."""
    digest = hashlib.sha256(json.dumps(files.plain(_settings(dataset)), sort_keys=True).encode())
    for name, array in sorted(_arrays(dataset).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def write(dataset, options, file, manifest_file):
    """Write a data set and its manifest."""
    arrays, mapped = _arrays(dataset), None
    if isinstance(dataset.train.images, np.memmap):
        mapped = os.path.basename(str(dataset.train.images.filename))
        arrays = {name: array for name, array in arrays.items() if not name.endswith("_images")}
    with files.only_writer(file.parent, file.stem):
        _write(dataset, options, file, manifest_file, arrays, {"mapped": mapped} if mapped else {})


def _write(dataset, options, file, manifest_file, arrays, mapped):
    with files.replacing(file, ".npz") as temporary:
        np.savez(temporary, **arrays)
        checksum = files.sha256(temporary)
    counts = {name: class_by_group(split, dataset) for name, split in dataset.splits.items()}
    manifest = {"format": FORMAT, "options": options, "dataset": _settings(dataset), "counts": counts}
    files.write_sealed(manifest_file, manifest | mapped | {"fingerprint": dataset.fingerprint, "sha256": checksum})


def stamp(file):
    """Return what changes when a file does; None if there is none."""
    try:
        status = file.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
    except OSError:
        return None


def noted_stamp(manifest_file) -> dict:
    """Return {"stamp": that of the cached data set}, or {} if the manifest has none."""
    try:
        options = files.read_json(manifest_file)["options"]
        return {"stamp": options["stamp"]} if "stamp" in options else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@functools.lru_cache(maxsize=2)
def cached(file, manifest_file, options, *stamps) -> Dataset | str:
    """Return the cached data set, or why it cannot be trusted.

    It is kept in memory, because every run's key needs it."""
    problem = _check(file, manifest_file, json.loads(options))
    return problem or _read(file, files.read_json(manifest_file))


def _check(file, manifest_file, options) -> str | None:
    """What is wrong with the cache, or None if it can be trusted."""
    try:
        manifest = files.read_json(manifest_file)
        if (manifest["format"], manifest["options"]) != (FORMAT, options):
            return "was prepared by another version or with other options"
        if not file.exists():
            return "is missing"
        if files.sha256(file) != manifest["sha256"]:
            return "does not match the SHA-256 in its manifest"
        return _check_mapped(manifest_file.with_name(manifest["mapped"])) if "mapped" in manifest else None
    except (FileNotFoundError, NotADirectoryError):
        return "has no manifest"
    except (ValueError, KeyError, TypeError):
        return "has an unreadable manifest"


def _check_mapped(file) -> str | None:
    from kdlib.data import pictures

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
    splits: dict[str, Any] = {
        name: Split(**{f.name: arrays[key] for f in fields(Split) if (key := f"{name}_{f.name}") in arrays})
        for name in ("train", "val", "test")
    }
    settings: dict[str, Any] = {
        key: tuple(item) if isinstance(item, list) else item for key, item in manifest["dataset"].items()
    }
    return Dataset(**settings, **splits, fingerprint=manifest["fingerprint"])
