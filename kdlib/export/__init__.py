"""A finished run as files for a device: ONNX in float, ONNX in int8, and a model card beside each.

Nothing gets its name before it was checked on the validation split against torch's own outputs."""

from pathlib import Path

import numpy as np

from kdlib import bias, data, evaluate, files, names, profiles, runs
from kdlib.export import card, graphs, quantise
from kdlib.names import unknown_name

__all__ = ["card_text", "export", "run_of_profile", "same", "torch_logits", "useful"]

TOLERANCE = 1e-4  # of logits, between ONNX in float and torch
MOST_LOST = 0.02  # of validation accuracy, by int8
FILES = {"float": "student.onnx", "channel": "student_int8.onnx", "tensor": "student_int8_tensor.onnx"}


def export(settings, folder, *, int8=True, pixels="uint8", calibration="balanced", observer="percentile",
           most_lost=MOST_LOST, degenerate=False) -> dict:  # fmt: skip
    """Write a finished run's bare network into `folder`, with a model card (Markdown and JSON) beside each file.

    What an earlier export left there is replaced.

    Parameters
    ----------
    settings : Run or dict
        Of a run that is in the store.
    folder : str or Path
    int8 : bool or {"channel", "tensor", "both"}
        Whether an int8 file is written, too: True and "channel" with a scale for each output channel of the weights, "tensor"
        with one for each layer.
    pixels : {"uint8", "float"}
        What the files take: bytes, or float32 in [0, 1]. They normalise by themselves.
    calibration, observer : str
        Of `quantise.calibration_rows` and `quantise.quantised`.
    most_lost : float
        What int8 may lose of validation accuracy.
    degenerate : bool
        Whether an int8 file that loses more, or is useless, is written all the same.

    Returns
    -------
    dict
        key; files: {name: sha256, bytes, and what the check on validation found}.

    Raises
    ------
    ValueError
        For a run that is not in the store, an architecture that torch cannot export, float outputs that are not torch's, a
        class without calibration pictures, and an int8 file that is degenerate.
    ImportError
        Without the extra `edge`.
    OSError
        For a folder that cannot be written.
    """
    graphs.check_extra()
    import onnx

    forms = {
        True: ("channel",),
        False: (),
        "both": ("channel", "tensor"),
        "channel": ("channel",),
        "tensor": ("tensor",),
    }
    if int8 not in forms:
        raise unknown_name(int8, forms, "form of int8")
    if not 0 <= most_lost <= 1:
        raise ValueError(f"what int8 may lose of validation accuracy lies in 0 to 1; got {most_lost}")
    if pixels not in graphs.PIXELS:
        raise unknown_name(pixels, graphs.PIXELS, "kind of pixels")
    run = runs.as_run(settings).resolved()
    record = runs.stored(run)
    if record is None:
        raise ValueError(
            f"run {run.key} ({names.run_name(run)}, {run.data}) is not in the store, so there is nothing to "
            "export: train it first (python -m kdlib sweep, or run)"
        )
    folder, dataset = files.make_folder(folder), run.load_data()
    rows = quantise.calibration_rows(dataset, calibration) if forms[int8] else []
    model, reference, written = graphs.graph(run, pixels=pixels), torch_logits(run, "val"), {}
    checks = {"float": same, "channel": useful, "tensor": useful}
    for name in FILES.values():  # of another run, perhaps
        for suffix in (".onnx", ".json", ".md"):
            (folder / name).with_suffix(suffix).unlink(missing_ok=True)
    for form in ("float", *forms[int8]):
        shipped = model
        if form != "float":
            images = dataset.train.images[rows]
            shipped = quantise.quantised(model, images, per_channel=form == "channel", observer=observer)
        with files.replacing(folder / FILES[form]) as temporary:
            onnx.save(shipped, temporary)
            found = graphs.logits(temporary, dataset.val.images)
            check = checks[form](reference, found, dataset, most_lost)
            if check["problem"] and not (degenerate and form != "float"):
                raise ValueError(f"{FILES[form]} of {run.student} is not written: {check['problem']}")
        about = {"form": form, "pixels": pixels, "check": check}
        if form != "float":
            about |= {"calibration": {"pictures": len(rows), "composition": calibration, "observer": observer}}
        metadata = card.write(folder / FILES[form], run, record, dataset, about)
        written[FILES[form]] = {name: metadata[name] for name in ("sha256", "bytes")} | check
    return {"key": run.key, "files": written}


def card_text(folder, form="float") -> str:
    """Return the model card of a file in a folder that `export` wrote, without its header of fields; form: of FILES."""
    return card.render(card.read(Path(folder) / FILES[form])).split("---\n", 2)[2].strip()


def run_of_profile(profile, given) -> dict:
    """Return the settings of the one student of a study that has these; debiasing that is not given is none.

    Raises
    ------
    ValueError
        Where no student, or more than one, has them.
    """
    study = profiles.profile(profile, "all")
    wanted = names.PLAIN | given
    every = [
        run
        for run in study.grid() + study.extras()
        if all(run.get(key, value) == value for key, value in wanted.items())
    ]
    found = list({runs.as_run(run).key: run for run in every}.values())
    if len(found) == 1:
        return found[0]
    text = ", ".join(f"{name} {value}" for name, value in wanted.items())
    if not found:
        raise ValueError(f"profile {study.name} has no run with {text}")
    open_fields = [
        key for key in ("method", "seed", "student", *found[0]) if len({str(run.get(key)) for run in found}) > 1
    ]
    differs = ", ".join(f"--{name.replace('_', '-')}" for name in dict.fromkeys(open_fields))
    raise ValueError(f"{len(found)} runs of profile {study.name} have {text}; give {differs}, too")


def torch_logits(run, split) -> np.ndarray:
    """Return the logits, float32 (N, K), of a finished run's network on a split, in torch on the CPU."""
    return evaluate.predict(runs.load_model(run), runs.on_device(run, split, device="cpu")).logits.numpy()


def same(reference, found, dataset, _):
    """Compare the logits of ONNX in float with torch's: each within TOLERANCE, and the same decisions.

    A decision may differ where torch's own two largest logits are nearer than the tolerance."""
    off = float(np.abs(reference - found).max())
    differs = reference.argmax(1) != found.argmax(1)
    largest = np.sort(reference, axis=1)
    clear = largest[:, -1] - largest[:, -2] > 2 * TOLERANCE
    changed = int((differs & clear).sum())
    problem = ""
    if not off <= TOLERANCE or changed:
        problem = (
            f"its logits on validation differ from torch's by up to {off:.2g} ({TOLERANCE:g} is allowed), and {changed} of "
            f"{len(found)} decisions differ"
        )
    return {"largest_difference": off, "decisions_changed": int(differs.sum()), "problem": problem}


def useful(reference, found, dataset, most_lost):
    """Compare the decisions of int8 with torch's on validation: what accuracy is lost, and whether the file is useless."""
    val = dataset.val
    before, after = reference.argmax(1), found.argmax(1)
    accuracy = {name: float((classes == val.labels).mean()) for name, classes in (("float", before), ("int8", after))}
    lost, problem = accuracy["float"] - accuracy["int8"], ""
    labels, guesses = (data.bias_labels(dataset, numbers) for numbers in (val.labels, after))
    useless = bias.summary(labels, guesses, val.group, n=1, num_classes=len(data.bias_classes(dataset)))["degenerate"]
    if lost > most_lost:
        problem = (
            f"degenerate: its validation accuracy is {accuracy['int8']:.3f}, float has {accuracy['float']:.3f}, and "
            f"{most_lost:g} may be lost"
        )
    elif useless:
        problem = f"degenerate: with a validation accuracy of {accuracy['int8']:.3f} it is of no use"
    return {
        "accuracy": accuracy["int8"], "accuracy_float": accuracy["float"], "decisions_changed": int((before != after).sum()),
        "problem": problem,
    }  # fmt: skip
