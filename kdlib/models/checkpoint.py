"""Weights from the common forms of checkpoint, read without running code from a file."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

# Where training scripts put the state dict, and what wrappers (data parallel, torch.compile) put before its keys
PLACES = ("model", "model_state_dict", "state_dict", "net")
PREFIXES = ("module.", "_orig_mod.")
COUNTERS = ("n_averaged", "total_ops", "total_params")  # of averaging and profiling tools, which no network reads

# What published files hold beside the weights (the script's arguments, an accuracy as a numpy number) and torch does not
# know: data alone, which cannot call anything. numpy 2 moved the function that rebuilds a number.
NUMBER = np.float64(0).__reduce__()[0]
HARMLESS = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float32", "float64", "int32", "int64", "bool")),
    (NUMBER, "numpy._core.multiarray.scalar"),
    (NUMBER, "numpy.core.multiarray.scalar"),
]


def load_checkpoint(model, path, place=None, *, finite=True):
    """Load a checkpoint's weights into a model, all or nothing, and return the model.

    Parameters
    ----------
    model : nn.Module
        On any device.
    path : path of a file
        torch's format or .safetensors. It holds a state dict, alone or under any name, as "model" or "state_dict", whose keys
        may have a prefix in common, as "module."; a torchvision network's may have torchvision's own keys.
    place : str, optional
        The name of the state dict to take from a file that holds several.
    finite : bool
        Whether NaN and infinite weights are refused.

    Raises
    ------
    FileNotFoundError
    ValueError
        For a file that is truncated, is no checkpoint, could be read only by running code, holds several state dicts, complex
        or non-finite weights, or does not fit the model, which is then unchanged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    state = _without_common_prefix(_state_dict(_read(path), path, place), model)
    _check_numbers(state, path, finite)
    if hasattr(model, "translate_keys"):
        state = model.translate_keys(state)
    loaded = model.state_dict()
    # Files from before PyTorch 0.4.1 lack these counters, which only a BatchNorm without momentum reads
    for key in loaded.keys() - state.keys():
        if key.endswith(".num_batches_tracked"):
            state[key] = torch.zeros_like(loaded[key])
    _check_fit(loaded, state, path, getattr(model, "head_name", None))
    # The model's dict carries version marks, which some torchvision networks need
    loaded.update(state)
    model.load_state_dict(loaded)
    return model


def _read(path):
    """Return the content of the file. Raises ValueError if it cannot be read safely and completely."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # A damaged file can make the reader fail in any way.
    except Exception as error:
        reason = _reason(error)
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in reason or _is_pickle(path)):
            raise ValueError(
                f"{path} holds more than tensors, and reading it could run code from it, so it was not read ({reason}). "
                "Save the state dict alone: torch.save(model.state_dict(), path)"
            ) from None
        raise ValueError(f"{path} is truncated or not a checkpoint: {reason}") from None


def _reason(error):
    """Return the cause from torch's message, without its advice to read the file anyway."""
    text = str(error).rpartition("WeightsUnpickler error:")[2].partition(" Please use")[0].strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _is_pickle(path):
    """Return whether the file starts like a pickle, not like torch's zip archive."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _state_dict(content, path, place=None):
    """Return the state dict in a file's content, or the one at `place`, its keys without the prefixes of wrappers."""
    found = {name: value for name, value in content.items() if _is_state(value)} if isinstance(content, Mapping) else {}
    if place is None and _is_state(content):
        found = {None: content}
    if place is not None and place not in found:
        raise ValueError(f"{path} holds no state dict {place!r}; it holds {_some(map(str, found)) or 'none'}")
    if len(found) > 1 and place is None:
        raise ValueError(
            f"{path} holds {len(found)} sets of weights, {_some(map(str, found))}: say which, as "
            f"{path.name}#{next(iter(found))}"
        )
    if found:
        state = found[place if place is not None else next(iter(found))]
        state = {_without_prefix(str(key)): value for key, value in state.items()}
        return {key: value for key, value in state.items() if key.rpartition(".")[2] not in COUNTERS}
    description = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        description += f" with the keys {_some(map(str, content)) or '(none)'}"
    raise ValueError(
        f"{path} is no checkpoint: expected a state dict, alone or under {', '.join(PLACES)} or another name; found "
        f"{description}"
    )


def _is_state(value):
    """Return whether a value is a state dict: names of tensors."""
    return isinstance(value, Mapping) and bool(value) and all(map(torch.is_tensor, value.values()))


def _without_prefix(key):
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def _without_common_prefix(state, model):
    """Return the state dict without a prefix of all its keys, as "student.", where no key of the model begins so."""
    own = {key.split(".")[part] for key in model.state_dict() for part in (0, 1)[: key.count(".") + 1]}
    while len(state) > 1 and len({key.partition(".")[0] for key in state}) == 1:
        first = next(iter(state)).partition(".")[0]
        if first in own or not all("." in key for key in state):
            break
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _check_numbers(state, path, finite):
    """Raise ValueError for weights that no network can have."""
    for key, value in state.items():
        if value.is_complex():
            raise ValueError(f"{path}: {key} is complex; weights are real numbers")
        if finite and value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{path}: {key} holds NaN or infinite numbers; take a checkpoint from before training failed"
            )


def _check_fit(expected, state, path, head_name):
    """Raise ValueError, naming every kind of difference, unless `state` has the expected keys and shapes."""
    shapes = {key: (tuple(state[key].shape), tuple(expected[key].shape)) for key in expected if key in state}
    differing = {key: pair for key, pair in shapes.items() if pair[0] != pair[1]}
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if not (missing or unexpected or differing):
        return
    differences = []
    if missing:
        differences.append(f"missing keys: {_some(missing)}")
    if unexpected:
        differences.append(f"unexpected keys: {_some(unexpected)}")
    if differing:
        pairs = [f"{key} {file} in the file, {model} in the model" for key, (file, model) in differing.items()]
        differences.append(f"differing shapes: {_some(pairs)}")
    head = f"{head_name}."
    if not missing and not unexpected and all(key.startswith(head) for key in differing):
        file, model = next(iter(differing.values()))
        differences.append(
            f"only the classifier differs: other number of classes ({file[0]} in the file, {model[0]} in the model)"
        )
    raise ValueError(f"{path} does not fit the model; " + "; ".join(differences))


def _some(items, limit=8):
    """Return the first items as text, with the number of the others."""
    items = list(items)
    rest = f", and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest
