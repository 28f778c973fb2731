"""A finished run's network as one ONNX graph, from pixels to logits, and how onnxruntime runs it."""

import copy
import importlib.util
import logging
import re
import warnings

import numpy as np
import torch

from kdlib import evaluate, models, runs
from kdlib.debias.heads import as_linear

OPSET = 18
PIXELS = {"uint8": 255.0, "float": 1.0}  # what the file takes: {its name: the value of a white pixel}


def check_extra():
    """Raise ImportError, in a sentence, where the extra `edge` is not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'export needs {", ".join(missing)}, of the extra edge: pip install -e ".[edge]"')


def graph(run, *, pixels="uint8"):
    """Return the bare network of a finished run as an ONNX model.

    Its input `pixels` is (N, 3, H, W), uint8, or float32 in [0, 1] for pixels="float"; normalisation is part of the graph. Its
    output `logits` is float32 (N, K). A debiaser's head is folded to the one linear layer that makes its decisions. All weights
    are inside, the batch is free, and nothing of the machine is in it.

    Parameters
    ----------
    run : Run
    pixels : {"uint8", "float"}

    Raises
    ------
    ValueError
        Where torch cannot export the architecture: the message names the operator.
    """
    from onnx import numpy_helper
    from onnxscript import optimizer

    dataset, model = run.load_data(), runs.load_model(run)
    if isinstance(model, evaluate.StoredOutputs):
        raise ValueError(f"{run.student} is a file of outputs: there is no network to export")
    models.set_head(model, as_linear(models.get_head(model), model.embedding_dim, run.debias))
    bare = _Bare(model, dataset, PIXELS[pixels]).eval()
    shape = tuple(dataset.train.images.shape[1:])
    key = (run.student, len(dataset.classes), shape, pixels)
    if key not in _TEMPLATES:
        _TEMPLATES[key] = _exported(bare, shape, pixels, run.student)
    result, weights = copy.deepcopy(_TEMPLATES[key]), bare.state_dict()
    for tensor in result.graph.initializer:  # by name, those of another run of this architecture
        if tensor.name in weights:
            values = np.ascontiguousarray(weights[tensor.name].numpy())
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return stripped(optimizer.optimize(result))


# The graph of an architecture: exporting takes a second or more, filling in other weights a few milliseconds
_TEMPLATES: dict = {}


class _Bare(torch.nn.Module):
    """From pixels to logits."""

    def __init__(self, model, dataset, white):
        super().__init__()
        self.net = model
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (dataset.mean, dataset.std))
        self.register_buffer("scale", 1 / (white * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, pixels):
        return self.net(pixels.float() * self.scale + self.shift).logits


def _exported(bare, shape, pixels, network):
    example = torch.zeros(2, *shape, dtype=torch.uint8 if pixels == "uint8" else torch.float32)
    with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                bare, (example,), dynamo=True, external_data=False, opset_version=OPSET, optimize=False,
                input_names=["pixels"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )  # fmt: skip
        except Exception as error:
            raise ValueError(_refusal(network, error)) from error
    return program.model_proto


def _refusal(network, error):
    """What the exporter's long message comes to: its first line that says something, and the operator."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    text = "\n".join(str(each) for each in chain)
    operator = re.search(r"\b(?:aten|prims|torchvision|quantized)(?:\.|::)\w+", text)
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()] or [type(chain[-1]).__name__]
    named = f" (operator {operator[0].replace('::', '.')})" if operator else ""
    return f"torch cannot export {network} to ONNX{named}: {lines[0][:200]}"


def stripped(model):
    """Return the model without the notes of the exporter: it writes paths of the machine's source files to every node."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.name = "student"
    return model


class quiet:
    """Loggers that say nothing below an error within the block."""

    def __init__(self, *names):
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self):
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_):
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)


def session(file, *, threads=1):
    """Return the onnxruntime session of a file, or of its bytes, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    file = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def logits(file, images, *, threads=1, batch_size=256):
    """Return what a file says of images.

    Parameters
    ----------
    file : Path or bytes
    images : ndarray of uint8, (N, 3, H, W)

    Returns
    -------
    ndarray of float32, (N, K)
    """
    opened = session(file, threads=threads)
    given = opened.get_inputs()[0]
    parts = (np.ascontiguousarray(images[start : start + batch_size]) for start in range(0, len(images), batch_size))
    if given.type == "tensor(float)":
        parts = (part.astype(np.float32) / np.float32(255) for part in parts)
    return np.concatenate([opened.run(None, {given.name: part})[0] for part in parts])
