"""A network in int8: calibration pictures, and onnxruntime's static quantisation."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np

from kdlib.export.graphs import quiet, stripped
from kdlib.names import unknown_name

OBSERVERS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
OPERATORS = ["Conv", "Gemm", "MatMul"]
PICTURES = 512


def calibration_rows(dataset, composition="balanced", *, count=PICTURES, seed=0):
    """Return the rows of the training split with which the ranges of activations are measured.

    Parameters
    ----------
    dataset : data.Dataset
    composition : str
        "balanced": as many of each class in each group, about `count` in all, a rare cell's pictures several times;
        "training": drawn as they come; or the name of a group: of that group alone, as many of each class.
    count, seed : int

    Raises
    ------
    ValueError
        For an unknown composition, and where a class has no picture in a group that is to be balanced.
    """
    train, rng = dataset.train, np.random.default_rng(seed)
    if composition not in ("balanced", "training", *dataset.groups):
        raise unknown_name(
            composition, ("balanced", "training", *dataset.groups), "composition of calibration pictures"
        )
    if composition == "training":
        return np.sort(rng.permutation(len(train))[:count])
    wanted = range(len(dataset.groups)) if composition == "balanced" else [dataset.groups.index(composition)]
    if len(dataset.groups) < 2:
        cells = {(label, None): train.labels == label for label in range(len(dataset.classes))}
    else:
        cells = {(k, g): (train.labels == k) & (train.group == g) for k in range(len(dataset.classes)) for g in wanted}
    each, rows = max(1, count // len(cells)), []
    for (label, group), inside in cells.items():
        found = np.flatnonzero(inside)
        if not len(found):
            where = "" if group is None else f" in group {dataset.groups[group]!r}"
            raise ValueError(
                f"{dataset.name}: no training picture of class {dataset.classes[label]!r}{where} to calibrate with; "
                "calibrate with pictures as they come (calibration training)"
            )
        rows.append(np.resize(rng.permutation(found), each))
    return np.sort(np.concatenate(rows))


def quantised(model, images, *, per_channel=True, observer="percentile"):
    """Return an ONNX model with int8 weights and uint8 activations, in QDQ form, which many runtimes read.

    Parameters
    ----------
    model : onnx.ModelProto
        Of `graphs.graph`.
    images : ndarray of uint8, (N, 3, H, W)
        Calibration pictures.
    per_channel : bool
        Whether each output channel has a scale of its own, or a layer one.
    observer : {"minmax", "percentile", "entropy"}
        How ranges follow from what was observed: the smallest and largest, all but one in 100,000, or the least loss of
        information. The smallest and largest follow a single outlier, so they cost most where activations have some.
    """
    import onnx
    from onnxruntime import quantization

    if observer not in OBSERVERS:
        raise unknown_name(observer, OBSERVERS, "observer")
    if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        images = images.astype(np.float32) / np.float32(255)

    size = min(64, len(images))
    batches = images[
        np.resize(np.arange(len(images)), (-(-len(images) // size), size))
    ]  # of one size, as histograms need

    class Reader(quantization.CalibrationDataReader):
        """Hands over the batches."""

        def __init__(self):
            self.left = iter(batches)

        def get_next(self):
            batch = next(self.left, None)
            return None if batch is None else {"pixels": batch}

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), quiet("root"):
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(
            source, target, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=per_channel,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            calibrate_method=getattr(quantization.CalibrationMethod, OBSERVERS[observer]), op_types_to_quantize=OPERATORS,
        )  # fmt: skip
        return stripped(onnx.load(target))
