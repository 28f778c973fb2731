"""The run store: what a finished run leaves in `runs/<key>/`.

`record.json` is written last: it exists, so the run is done. Beside it: `history.csv`, `model.safetensors`, `predictions.npz`
(logits, labels, groups of val and test). The record holds the SHA-256 of each; a file that does not fit is refused by name."""

import functools
import os
import platform
import subprocess
import sys

import numpy as np
import pandas as pd

from kdlib import files, paths
from kdlib.runs.settings import as_run


def stored(settings) -> dict | None:
    """Return the record of a finished run, or None. Raises ValueError for a record that cannot be read."""
    return stored_record(as_run(settings).key)


def stored_record(key) -> dict | None:
    """Return the record of the run with this key, as `stored` does."""
    file = paths.runs_folder() / key / "record.json"
    try:
        record = files.read_json(file)
        if missing := [name for name in ("key", "settings", "metrics") if name not in record]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if record["key"] != key:
            raise ValueError(f"it is that of the run {record['key']}, copied here")
        return record
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(
            f"{file} is not a record of this run: {error}. Remove the folder {file.parent} to train that run again"
        ) from error


def predictions(settings) -> dict:
    """Return the arrays of a finished run.

    Returns
    -------
    dict
        val_logits float32 (N, K), val_labels and val_group int64 (N,), and the same for test.
    """
    return stored_predictions(as_run(settings).key)


def stored_predictions(key) -> dict:
    """Return the arrays of the run with this key, as `predictions` does."""
    file = checked_file(key, "predictions.npz")
    with np.load(file) as arrays:
        return dict(arrays)


def history(settings) -> pd.DataFrame:
    """Return a row per epoch of a finished run."""
    return pd.read_csv(checked_file(as_run(settings).key, "history.csv"))


def checked_file(key, name):
    """Return the path of a file of a run, once its SHA-256 was compared with the record's.

    Raises
    ------
    ValueError
        Where the file was changed, or is missing, after the record was written.
    """
    file = paths.runs_folder() / key / name
    expected = (stored_record(key) or {}).get("files", {}).get(name)  # earlier records have none
    if not file.exists():
        problem = "is missing"
    elif not expected:
        _warn_unchecked(paths.runs_folder())
        return file
    elif _sha256(file, file.stat().st_mtime_ns, file.stat().st_size) != expected:
        problem = "does not match the SHA-256 in its record"
    else:
        return file
    raise ValueError(f"{file} {problem}; remove the folder {file.parent} to train that run again")


@functools.cache
def _warn_unchecked(folder):
    """Say once of a store that some of its runs cannot be checked."""
    print(
        f"kdlib: {folder} has runs of an earlier version, whose records hold no SHA-256: their weights, predictions and "
        "history are used unchecked; remove a run's folder to train it again",
        file=sys.stderr,
    )


@functools.lru_cache(maxsize=4096)
def _sha256(file, modified, size):
    return files.sha256(file)


def write(folder, record, *, model, arrays, history):
    """Write what a finished run leaves, its record last, and return the record as it reads from the file.

    Parameters
    ----------
    folder : Path
    record : dict
    model : dict
        {name: tensor}, the network's state.
    arrays : dict
        Of `predictions`.
    history : list of dict
        A row per epoch.
    """
    from safetensors import torch as tensors

    with files.replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(tensors.save({name: tensor.contiguous() for name, tensor in model.items()}))
    with files.replacing(folder / "predictions.npz", ".npz") as temporary:
        np.savez(temporary, **arrays)
    with files.replacing(folder / "history.csv") as temporary:
        pd.DataFrame(history).to_csv(temporary, index=False)
    names = ("model.safetensors", "predictions.npz", "history.csv")
    record = record | {"files": {name: files.sha256(folder / name) for name in names}}
    files.write_json(folder / "record.json", record)
    return files.plain(record)


def versions() -> dict:
    """Return the versions of Python and of the libraries that a result depends on."""
    import torch

    import kdlib

    libraries = {"torch": torch.__version__, "numpy": np.__version__, "kdlib": kdlib.__version__}
    return {"python": platform.python_version(), **libraries}


@functools.cache
def commit() -> str | None:
    """Return the commit of the code, with + where kdlib's files differ from it; None outside git."""
    if not paths.CHECKOUT:
        return None
    try:
        head = _git("rev-parse", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", "kdlib") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments):
    command = ["git", "-C", str(paths.ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def device_name(device) -> str:
    """Return what a device is called in a record."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"cpu, {platform.machine()}, {os.cpu_count()} cores"
