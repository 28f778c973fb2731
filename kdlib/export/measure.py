"""What becomes of a network's figures on its way to a device: torch, ONNX, int8; and what its files cost there.

The classes that each form predicts on the test split are kept beside the run, in `edge.npz`, and its figures are computed from
them, so that they can be computed again without a network."""

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kdlib import bias, data, evaluate, files, models, names, paths, runs
from kdlib.export import graphs, quantise
from kdlib.runs.settings import from_record
from kdlib.runs.table import pairs_of

FORMS = ("torch", "onnx", "int8_channel", "int8_tensor")
BATCHES = {1: 200, 32: 40}  # size of a batch: how often it is timed
WARM_UP = 10
FIGURES = (
    "accuracy", "mad", "mad_floor", "mad_floor_low", "mad_floor_high", "mad_p_value", "flip_rate", "flip_rate_low",
    "flip_rate_high", "worst_cell", "sqrt_u", "degenerate", "paired",
)  # fmt: skip
CHANGES = {"mad_change": "inflation", "sqrt_u_change": "sqrt_u_inflation"}  # name here: name in `bias.compare`


def forms_of(dataset) -> list:
    """Return (form, composition of its calibration pictures) of all that is measured; int8's first is the one that is shipped.

    Where a class has no picture in some group, nothing can be balanced, and pictures come as they are in training."""
    groups = dataset.groups if len(dataset.groups) > 1 else ()
    possible = [each for each in ("balanced", "training", *groups) if _has_pictures(dataset, each)]
    first, *others = possible
    return [("torch", ""), ("onnx", ""), ("int8_channel", first), ("int8_tensor", first),
            *(("int8_channel", each) for each in others)]  # fmt: skip


def _has_pictures(dataset, composition):
    try:
        return len(quantise.calibration_rows(dataset, composition)) > 0
    except ValueError:
        return False


def measured(keys, *, workers=None) -> pd.DataFrame:
    """Return a row per finished run and form.

    Parameters
    ----------
    keys : sequence of str
        Of runs in the store.
    workers : int, optional
        Processes; default: one per core.

    Returns
    -------
    DataFrame
        Settings that make the kind, seed, key; form and calibration; bytes of the file; the figures of `figures`; and what a
        file costs: median and 95 % of milliseconds for batches of 1 and 32 in one thread after a warm-up, and MiB of memory,
        of one run of each architecture.
    """
    graphs.check_extra()
    keys, workers = list(dict.fromkeys(keys)), workers or os.cpu_count() or 1
    todo = [key for key in keys if _cached(key) is None]
    todo = sorted(todo, key=_network)  # a process exports an architecture once
    if min(workers, len(todo) // 16) > 1:
        with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
            rows = list(pool.map(rows_of, todo, chunksize=4))
    else:
        rows = [rows_of(key) for key in todo]
    by_key = dict(zip(todo, rows, strict=True))
    table = pd.DataFrame([row for key in keys for row in by_key.get(key) or rows_of(key)])
    costs = [cost(group["key"].iloc[0]) for _, group in table.groupby(["student", "data"], sort=False)]
    return table.merge(pd.concat(costs), on=["student", "data", "form"], how="left")


def _one_thread():
    torch.set_num_threads(1)


def _network(key):
    return runs.stored_record(key)["settings"]["student"]


def rows_of(key) -> list:
    """Return a run's rows of `measured`, without what files cost, as dicts."""
    record = runs.stored_record(key)
    if record is None:
        raise ValueError(f"run {key} is not in the store: train it first")
    settings = from_record(record["settings"])
    run = runs.as_run(settings)
    stored = _cached(key)
    if stored is None:
        stored = _predicted(run, key)
    about = {name: settings[name] for name in ("data", "student", "method", *names.PLAIN, "seed")}
    about |= {"key": key, "teacher_key": record["teacher_key"]}
    before = stored["predicted"][0]
    rows, known = [], {}
    described = zip(stored["forms"], stored["bytes"], stored["difference"], stored["predicted"], strict=True)
    for (form, calibration), size, difference, predicted in described:
        content = predicted.tobytes()
        known[content] = known.get(content) or figures(predicted, before, run.load_data())
        rows.append(about | {"form": form, "calibration": calibration, "bytes": int(size),
                             "largest_difference": float(difference), **known[content]})  # fmt: skip
    return rows


def classes_of(key) -> np.ndarray:
    """Return the classes that each form of a measured run predicts on the test split, (forms, N), in the order of its rows."""
    with np.load(paths.runs_folder() / key / "edge.npz") as arrays:
        return arrays["predicted"]


def _predicted(run, key):
    """Make every form of a run, and keep the classes that they predict on the test split."""
    dataset = run.load_data()
    model, images = graphs.graph(run), dataset.test.images
    logits = evaluate.predict(runs.load_model(run), runs.on_device(run, "test", device="cpu")).logits.numpy()
    size = (paths.runs_folder() / key / "model.safetensors").stat().st_size
    made = {"forms": [], "bytes": [], "difference": [], "predicted": []}
    for form, calibration in forms_of(dataset):
        found = logits
        if form != "torch":
            shipped = model if form == "onnx" else _int8(model, dataset, form, calibration)
            content = shipped.SerializeToString()
            size, found = len(content), graphs.logits(content, images)
        off = float(np.abs(found - logits).max())
        for name, value in (
            ("forms", (form, calibration)),
            ("bytes", size),
            ("difference", off),
            ("predicted", found.argmax(1)),
        ):
            made[name].append(value)
    made["predicted"] = np.stack(made["predicted"]).astype(np.min_scalar_type(len(dataset.classes)))
    arrays = {name: np.array(values) for name, values in made.items()}
    with files.replacing(paths.runs_folder() / key / "edge.npz", ".npz") as temporary:
        np.savez_compressed(temporary, version=_version(key), **arrays)
    return made


def _int8(model, dataset, form, calibration):
    images = dataset.train.images[quantise.calibration_rows(dataset, calibration)]
    return quantise.quantised(model, images, per_channel=form == "int8_channel")


def _cached(key):
    file = paths.runs_folder() / key / "edge.npz"
    try:
        with np.load(file) as arrays:
            stored = dict(arrays)
    except (OSError, ValueError, KeyError):
        return None
    return stored | {"forms": stored["forms"].tolist()} if str(stored["version"]) == _version(key) else None


def _version(key):
    """A hash of the code and the packages that make the forms, and of the run's weights."""
    record = runs.stored_record(key)
    digest = hashlib.sha256(f"{_of_code()} {record.get('files')} {record['data']['fingerprint']}".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _of_code():
    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in ("graphs.py", "quantise.py"))
    packages = " ".join(version(name) for name in ("onnx", "onnxscript", "onnxruntime", "torch"))
    return hashlib.sha256(sources + packages.encode()).hexdigest() + " ".join(FORMS)


def figures(predicted, before, dataset) -> dict:
    """Return the figures of predicted classes on the test split, and what changed from those before, with 95 % intervals.

    Parameters
    ----------
    predicted, before : int (N,)
        Of a form, and of the network in torch.
    dataset : data.Dataset
        Its images are not read.
    """
    test, classes = dataset.test, len(data.bias_classes(dataset))
    labels, guesses, of_torch = (
        data.bias_labels(dataset, np.asarray(each, np.int64)) for each in (test.labels, predicted, before)
    )
    pair, options = pairs_of(test), {"num_classes": classes}
    summary = bias.summary(labels, guesses, test.group, pair=pair, **options)
    change = bias.compare(labels, of_torch, guesses, test.group, pair=pair, **options)
    result = {name: summary.get(name, np.nan) for name in FIGURES}
    for name, source in CHANGES.items():
        result |= {name + end: change[source + end] for end in ("", "_low", "_high")}
    changed = {"churn": of_torch != guesses, "negative_flips": (of_torch == labels) & (guesses != labels)}
    groups = {f"_group_{number}": test.group == number for number in range(len(dataset.groups))}
    for name, flag in changed.items():
        for suffix, inside in ({"": np.ones(len(labels), bool)} | groups).items():
            low, high = bias.wilson(int(flag[inside].sum()), int(inside.sum()))
            share = float(flag[inside].mean()) if inside.any() else np.nan
            result |= {name + suffix: share, f"{name}{suffix}_low": float(low), f"{name}{suffix}_high": float(high)}
    return result


# ---- what a file costs


def cost(key) -> pd.DataFrame:
    """Return a row per form of one run's network: milliseconds of batches of 1 and 32, median and 95 %, and MiB of memory."""
    run = runs.as_run(from_record(runs.stored_record(key)["settings"]))
    dataset = run.load_data()
    shape, rows = tuple(dataset.train.images.shape[1:]), []
    model = graphs.graph(run)
    first = {form: calibration for form, calibration in reversed(forms_of(dataset))}
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            if form == "torch":
                values = _torch_cost(models.fast_layout(runs.load_model(run)), shape)
            else:
                shipped = model if form == "onnx" else _int8(model, dataset, form, first[form])
                file = Path(folder) / f"{form}.onnx"
                file.write_bytes(shipped.SerializeToString())
                values = file_cost(file)
            rows.append({"student": run.student, "data": run.data, "form": form, **values})
    return pd.DataFrame(rows)


def file_cost(file) -> dict:
    """Return what an exported file costs in a process of its own that has onnxruntime alone, with one thread."""
    script = [sys.executable, "-c", _SCRIPT, str(file), json.dumps(list(BATCHES.items())), str(WARM_UP)]
    return json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout)


_SCRIPT = """
import json, sys, time
import numpy as np, onnxruntime

def memory():  # the most so far; what getrusage says includes the process that started this one
    try:
        lines = open("/proc/self/status").read().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

before, result = memory(), {}
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
for size, repeats in json.loads(sys.argv[2]):
    images = np.random.default_rng(0).integers(0, 256, (size, *given.shape[1:])).astype(np.uint8)
    seconds = []
    for _ in range(int(sys.argv[3]) + repeats):
        began = time.perf_counter()
        session.run(None, {given.name: images})
        seconds.append(1000 * (time.perf_counter() - began))
    kept = seconds[int(sys.argv[3]):]
    result[f"ms_{size}"], result[f"ms_{size}_95"] = (float(np.percentile(kept, p)) for p in (50, 95))
result["memory_mib"] = memory() - before
print(json.dumps(result))
"""


@torch.no_grad()
def _torch_cost(model, shape):
    threads, result = torch.get_num_threads(), {"memory_mib": np.nan}  # torch's own memory would hide the network's
    torch.set_num_threads(1)
    try:
        for size, repeats in BATCHES.items():
            images, seconds = torch.zeros(size, *shape), []
            for _ in range(WARM_UP + repeats):
                began = time.perf_counter()
                model(images)
                seconds.append(1000 * (time.perf_counter() - began))
            kept = seconds[WARM_UP:]
            result |= {f"ms_{size}": float(np.median(kept)), f"ms_{size}_95": float(np.percentile(kept, 95))}
    finally:
        torch.set_num_threads(threads)
    return result
