"""Teachers that are taken as they are, not trained: published checkpoints, files of yours, functions, and arrays of outputs."""

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np

from kdlib import files, paths

WORDS = ("none", "imagenet", "published")  # where weights come from, if not from a file
OUTPUTS = ("train", "val", "test")


def is_given(network, weights) -> bool:
    """Return whether a network with these weights is evaluated and not trained."""
    return weights not in ("none", "imagenet") or is_function(network) or is_arrays(network)


def is_function(network) -> bool:
    """Return whether the name is that of a function, "package.module:function"."""
    return ":" in network and not is_arrays(network)


def is_arrays(network) -> bool:
    """Return whether the name is that of a file of outputs."""
    return network.endswith(".npz")


def check_names(network, weights):
    """Raise ValueError for weights that are no word and no file, FileNotFoundError for arrays that are not there."""
    if is_arrays(network):
        own_file(network)
    if weights in WORDS:
        return
    try:
        own_file(weights)
    except FileNotFoundError as error:
        raise ValueError(f"weights are {', '.join(WORDS)}, or a file: {error}") from None


def own_file(text) -> tuple[Path, str | None]:
    """Return (path, place) of "file" or "file#place": from the working folder on, or from the data folder on.

    Raises
    ------
    FileNotFoundError
        Where there is none.
    """
    name, _, place = text.partition("#")
    path = Path(name).expanduser()
    places = dict.fromkeys((path.absolute(), paths.ROOT / path, paths.data_folder() / path))
    found = next((each for each in places if each.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"there is no file {' or '.join(map(str, places))}")
    return found, place or None


def anywhere(run):
    """Return a run whose files are found from every working folder."""
    own = {name: getattr(run, name) for name in ("weights", "teacher_weights") if getattr(run, name) not in WORDS}
    own |= {name: getattr(run, name) for name in ("student", "teacher") if is_arrays(getattr(run, name))}
    found = {name: own_file(text) for name, text in own.items()}
    texts = {name: f"{path}#{place}" if place else str(path) for name, (path, place) in found.items()}
    return dataclasses.replace(run, **texts)


def published_checkpoint(architecture):
    """Return the path of the published checkpoint. Raises FileNotFoundError, with what to do, where it was not fetched."""
    from kdlib.models import published

    path = published.published_teacher(architecture)
    if path is None:
        raise FileNotFoundError(
            f"no published checkpoint of {architecture} under {paths.data_folder() / 'cifar_teachers'}: "
            "run python -m kdlib fetch cifar_teachers, or train the teacher here (weights none)"
        )
    return path


def weights_file(network, weights):
    """Return (path, place in it) of the checkpoint that a given network is read from, or None where it needs none."""
    if weights == "published":
        return published_checkpoint(network), None
    return None if weights in WORDS else own_file(weights)


def marks(network, weights) -> dict:
    """Return what the key of a run says of a given network, in place of paths: digests of its weights and outputs."""
    found = {}
    if file := weights_file(network, weights):
        found["weights"] = files.sha256(file[0]) + (f"#{file[1]}" if file[1] else "")
    if is_arrays(network):
        found["outputs"] = files.sha256(own_file(network)[0])
    if is_function(network):
        found["function"] = _digest(network)
    return found


@functools.cache
def _digest(network):
    """SHA-256 of the weights that a function returns."""
    from kdlib import models

    digest = hashlib.sha256()
    for name, tensor in sorted(models.returned(network).state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return digest.hexdigest()


def outputs(network, dataset) -> dict:
    """Read a teacher's outputs from an .npz file: {"train_logits": Tensor (N, K), "train_embedding": Tensor (N, d), …}.

    The file holds `files` (M,), the names of images as the data set's table has them; `logits` (M, K); and optionally
    `embedding` (M, d), and `classes` (K,), the names of the columns of logits, in any order. Rows may be in any order, and
    more than the data set has.

    Raises
    ------
    ValueError
        For a file that is no such file, images that it lacks or has twice, and other classes.
    """
    import torch

    path, _ = own_file(network)
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("files", "logits", "embedding", "classes") if name in stored}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npz file of arrays: {error}") from error
    if missing := {"files", "logits"} - set(arrays):
        raise ValueError(
            f"{path} lacks the arrays {', '.join(sorted(missing))}: it needs files (images' names) and logits"
        )
    names, logits = arrays["files"].astype(str), np.asarray(arrays["logits"], np.float32)
    embedding = np.asarray(arrays.get("embedding", np.empty((len(names), 0))), np.float32)
    for name, values in (("logits", logits), ("embedding", embedding)):
        if values.ndim != 2 or len(values) != len(names):
            raise ValueError(
                f"{path}: {name} must have a row for each of the {len(names)} files; its shape is {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {name} holds NaN or infinite numbers")
    logits = logits[:, _order(arrays.get("classes"), logits.shape[1], dataset, path)]
    rows = {name: row for row, name in enumerate(names)}
    if len(rows) < len(names):
        raise ValueError(f"{path} names {len(names) - len(rows)} images twice")
    found = {}
    for part in OUTPUTS:
        wanted = dataset.splits[part].names
        if wanted is None:
            raise ValueError(
                f"data set {dataset.name} does not name its images, so arrays cannot be aligned; use table"
            )
        if lacking := [name for name in wanted if name not in rows]:
            raise ValueError(
                f"{path} lacks {len(lacking)} of the {len(wanted)} images of {part}, as {str(lacking[0])!r}"
            )
        chosen = [rows[name] for name in wanted]
        found[f"{part}_logits"] = torch.from_numpy(logits[chosen])
        found[f"{part}_embedding"] = torch.from_numpy(embedding[chosen])
    return found


def _order(classes, count, dataset, path):
    """The columns of logits in the order of the data set's classes."""
    known = dataset.classes
    if count != len(known):
        raise ValueError(f"{path} has logits of {count} classes; the data have {len(known)}: {', '.join(known[:10])}")
    if classes is None:
        return list(range(count))
    classes = classes.astype(str).tolist()
    if sorted(classes) != sorted(known):
        raise ValueError(f"{path} has the classes {', '.join(classes[:10])}; the data have {', '.join(known[:10])}")
    return [classes.index(name) for name in known]
