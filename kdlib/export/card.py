"""The model card beside an exported file: `<file>.json`, and the same in words with Hugging Face's fields as `<file>.md`."""

import json
from pathlib import Path

import numpy as np

import kdlib
from kdlib import bias, data, debias, files, names, runs
from kdlib.export import graphs
from kdlib.runs.table import pairs_of

LICENCES = {  # of the pictures; what a file may be used for follows from them
    "digits_s": "CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits), coloured here",
    "cifar10": "not stated by its authors; used for research", "cifar100": "not stated by its authors; used for research",
    "cifar10s": "not stated by CIFAR's authors; used for research",
    "cifar100s": "not stated by CIFAR's authors; used for research",
    "utkface": "non-commercial research only", "wider": "research only, see its authors' page",
    "celeba": "non-commercial research only", "fairface": "CC BY 4.0",
    "waterbirds": "those of CUB-200-2011 and Places (research)", "table": "that of your own pictures",
}  # fmt: skip
FORMS = {
    "float": "float32", "channel": "int8 weights with a scale for each channel, uint8 activations",
    "tensor": "int8 weights with a scale for each layer, uint8 activations",
}  # fmt: skip
RECIPE = ("epochs", "batch_size", "lr", "optimizer", "schedule", "seed")


def write(file, run, record, dataset, about) -> dict:
    """Write the cards of an exported file from its run's record, the test split, and what the file itself says of that.

    Parameters
    ----------
    file : Path
        The .onnx file.
    run : Run
    record : dict
    dataset : data.Dataset
    about : dict
        form, pixels, check, and the calibration of int8.

    Returns
    -------
    dict
        What the JSON file holds.
    """
    file, test = Path(file), dataset.test
    settings, teacher = record["settings"], run.teacher_run()
    channels, height, width = dataset.train.images.shape[1:]
    described = _first(data.about(dataset.name)) if dataset.name in data.SOURCES else ""
    metadata = {
        "file": file.name,
        "sha256": files.sha256(file),
        "bytes": file.stat().st_size,
        "format": f"ONNX, opset {graphs.OPSET}, {FORMS[about['form']]}",
        "input": {"name": "pixels", "type": about["pixels"], "shape": ["batch", int(channels), int(height), int(width)]},
        "output": {"name": "logits", "classes": len(dataset.classes)},
        "classes": list(dataset.classes),
        "attribute": list(dataset.groups),
        "data": {"name": dataset.name, "options": settings.get("data_options", ""), "fingerprint": dataset.fingerprint,
                 "about": described, "licence": LICENCES.get(dataset.name, "unknown"), "train": len(dataset.train),
                 "test": len(test)},
        "student": settings["student"],
        "run": record["key"],
        "training": {"method": settings["method"], **{name: settings[name] for name in RECIPE}},
        "debiasing": {name: settings[name] for name in names.PLAIN},
        "debiaser": _first(debias.about(settings["debias"])) if settings["debias"] != "none" else "",
        "teacher": _teacher(settings, teacher),
        "trained": _figures(record["metrics"]["test"]),
        "metrics": figures_of(graphs.logits(file, test.images), dataset),
        "check": about["check"],
        "calibration": about.get("calibration"),
        "versions": record["versions"],
        "commit": record["commit"],
        "kdlib": kdlib.__version__,
    }  # fmt: skip
    metadata = files.plain(metadata)
    metadata["limits"] = limits(metadata)
    files.write_json(file.with_suffix(".json"), metadata)
    with files.replacing(file.with_suffix(".md")) as temporary:
        temporary.write_text(render(metadata))
    return metadata


def _first(text):
    """The first paragraph of a docstring, as one line."""
    return " ".join(text.partition("\n\n")[0].split())


def _teacher(settings, teacher):
    if teacher is None:
        return None
    record = runs.stored(teacher)
    figures = {} if record is None else _figures(record["metrics"]["test"])
    return {"network": settings["teacher"], "run": teacher.key, **figures}


def _figures(test):
    return {name: test.get(name) for name in ("accuracy", "mad", "worst_cell", "sqrt_u", "flip_rate")}


def figures_of(logits, dataset) -> dict:
    """Return what a file's logits on the test split come to: figures by group, with 95 % intervals."""
    test, options = dataset.test, {"num_classes": len(data.bias_classes(dataset))}
    labels, guesses = (data.bias_labels(dataset, numbers) for numbers in (test.labels, logits.argmax(1)))
    pair, right = pairs_of(test), test.labels == logits.argmax(1)
    summary = bias.summary(labels, guesses, test.group, pair=pair, **options)
    result = {"images": len(test), "accuracy": _share(right), "by_group": {}}
    for number, name in enumerate(dataset.groups):
        if (test.group == number).any():
            result["by_group"][name] = {
                "images": int((test.group == number).sum()),
                **_share(right[test.group == number]),
            }
    kept = (
        "mad_floor",
        "mad_floor_low",
        "mad_floor_high",
        "mad_p_value",
        "worst_cell",
        "sqrt_u",
        "paired",
        "degenerate",
    )
    result |= {name: summary[name] for name in kept}
    if len(result["by_group"]) > 1:
        interval = bias.bootstrap(bias.mean_absolute_disparity, labels, guesses, test.group, pair=pair, **options)
        result["mad"] = {"value": summary["mad"], "low": interval.low, "high": interval.high}
    if summary["paired"]:
        result["flip_rate"] = {end: summary[f"flip_rate{name}"] for end, name in
                               (("value", ""), ("low", "_low"), ("high", "_high"))}  # fmt: skip
    return result


def _share(right):
    low, high = bias.wilson(int(right.sum()), len(right))
    return {"value": float(np.mean(right)), "low": float(low), "high": float(high)}


def read(file) -> dict:
    """Return the metadata beside an exported file. Raises ValueError where the file is not the one that it describes."""
    metadata = json.loads(Path(file).with_suffix(".json").read_text())
    if files.sha256(file) != metadata["sha256"]:
        raise ValueError(f"{file} is not the file that its card describes: its SHA-256 differs")
    return metadata


def render(card) -> str:
    """Return the model card in Markdown, from the metadata alone."""
    debiased = names.kind_name({"method": card["training"]["method"]} | card["debiasing"])
    figures = card["metrics"]
    front = {
        "license": "other",
        "license_name": "follows-the-training-data",
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "tags": ["knowledge-distillation", "fairness", "onnx", *(["int8"] if card["calibration"] else [])],
        "datasets": [card["data"]["name"]],
        "metrics": ["accuracy"],
        "model-index": [{"name": card["file"], "results": [{
            "task": {"type": "image-classification"},
            "dataset": {"name": card["data"]["name"], "type": card["data"]["name"], "split": "test"},
            "metrics": [{"type": "accuracy", "value": figures["accuracy"]["value"]},
                        *([{"type": "mean_absolute_disparity", "value": figures["mad"]["value"]}] if "mad" in figures else [])],
        }]}],
    }  # fmt: skip
    heading = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in front.items())
    recipe = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in card["training"].items() if name != "method"
    )
    parts = [
        f"---\n{heading}\n---",
        f"# {card['file']}: {card['student']}, {debiased}",
        f"{card['format']}. {card['bytes']:,} bytes, SHA-256 `{card['sha256']}`.",
        "## Data and attribute",
        f"{card['data']['about']} Data set `{card['data']['name']}`"
        + (f" ({card['data']['options']})" if card["data"]["options"] else "")
        + f": {card['data']['train']} training and {card['data']['test']} test pictures. "
        f"Licence of the pictures: {card['data']['licence']}. Classes: {', '.join(card['classes'])}. "
        + (
            f"The attribute has the groups {', '.join(card['attribute'])}."
            if card["attribute"]
            else "No attribute is known."
        ),
        "## Training and debiasing",
        f"{debiased}; {recipe}. Run `{card['run']}`. {card['debiaser']} {_teacher_in_words(card['teacher'])}".strip(),
        *([_calibrated(card["calibration"])] if card["calibration"] else []),
        "## Figures of this file",
        _table(figures),
        _before(card),
        "## Intended use",
        "Research on distillation, compression and bias, and demonstrations on pictures like those above.",
        "## Limits",
        *(f"- {limit}" for limit in card["limits"]),
        "## How to run it",
        f"```python\n{five_lines(card)}\n```",
    ]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("## Limits\n- ", "## Limits\n\n- ") + "\n"


def _teacher_in_words(teacher):
    if teacher is None:
        return "Trained without a teacher."
    if teacher.get("accuracy") is None:
        return f"Teacher: {teacher['network']}."
    mad = "" if teacher["mad"] is None else f", MAD {teacher['mad']:.3f}"
    return f"Teacher: {teacher['network']}, test accuracy {teacher['accuracy']:.3f}{mad}."


def _calibrated(calibration):
    return (
        f"Quantised after training: {calibration['pictures']} training pictures ({calibration['composition']}), "
        f"observer {calibration['observer']}."
    )


def _table(figures):
    rows = [("accuracy", figures["accuracy"])]
    rows += [(f"accuracy, {name} ({part['images']} pictures)", part) for name, part in figures["by_group"].items()]
    rows += [(title, figures[name]) for name, title in (("mad", "mean absolute disparity (MAD)"), ("flip_rate", "flip rate"))
             if name in figures]  # fmt: skip
    lines = ["| on the test split | value | 95 % interval |", "| --- | --- | --- |"]
    lines += [f"| {title} | {row['value']:.3f} | {row['low']:.3f} to {row['high']:.3f} |" for title, row in rows]
    for name, title in (("worst_cell", "worst cell (class and group)"), ("sqrt_u", "√U")):
        if figures[name] is not None:
            lines.append(f"| {title} | {figures[name]:.3f} | |")
    return "\n".join(lines)


def _before(card):
    figures, trained = card["metrics"], card["trained"]
    text = ""
    if "mad" in figures:
        text = (
            f"A model blind to the group would show a MAD of {figures['mad_floor_low']:.3f} to {figures['mad_floor_high']:.3f} "
            f"(p = {figures['mad_p_value']:.3g}). "
        )
    mad = "" if trained["mad"] is None else f" and a MAD of {trained['mad']:.3f}"
    return f"{text}The network as trained has an accuracy of {trained['accuracy']:.3f}{mad}."


def limits(card) -> list:
    """Return what the file is not good for, as sentences, from its metadata."""
    figures = card["metrics"]
    said = [
        "Not for decisions about people. The figures hold for the test split above; other pictures, cameras and groups were "
        "not tested.",
        f"Pictures must be RGB, {card['input']['shape'][2]} × {card['input']['shape'][3]} pixels, prepared as in the data set.",
        f"The licence of the training pictures ({card['data']['licence']}) limits what the file may be used for.",
    ]
    if "mad" in figures:
        biased = figures["mad_p_value"] < 0.05
        low, high = figures["mad"]["low"], figures["mad"]["high"]
        said.append(
            f"It is more biased between the groups than chance allows: MAD {low:.3f} to {high:.3f}." if biased else
            f"No bias between the groups is shown, but a MAD of up to {high:.3f} is within the interval."
        )  # fmt: skip
    if card["check"]["problem"]:
        said.append(f"The check on validation failed; {card['check']['problem']}.")
    if figures["degenerate"]:
        said.append("It is degenerate on the test split: of no use, so its bias means nothing.")
    return said


def five_lines(card) -> str:
    """Return the Python code that runs the file with onnxruntime."""
    _, height, width = card["input"]["shape"][1:]
    scaled = "" if card["input"]["type"] == "uint8" else " / np.float32(255)"
    return "\n".join(
        [
            "import json, numpy as np, onnxruntime, PIL.Image",
            f'classes = json.load(open("{Path(card["file"]).with_suffix(".json")}"))["classes"]',
            f'picture = np.asarray(PIL.Image.open("picture.png").convert("RGB").resize(({width}, {height}))){scaled}',
            f'session = onnxruntime.InferenceSession("{card["file"]}")',
            'print(classes[session.run(None, {"pixels": picture.transpose(2, 0, 1)[None]})[0][0].argmax()])',
        ]
    )
