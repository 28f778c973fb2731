"""What is stored is checked before it is used: a changed file, one of another run, and JSON of any other shape."""

import json
import shutil

import numpy as np
import pytest
import torch

from kdlib import data, models, runs, teachers
from kdlib.runs import networks, store
from kdlib.runs.settings import as_run

STUDENT = {
    "student": "convnet_4",
    "teacher": "convnet_8",
    "method": "kdpp",
    "epochs": 2,
    "batch_size": 60,
    "device": "cpu",
}
SHAPES = {
    "empty": b"", "object": b"{}", "list": b"[]", "text": b'"record"', "number": b"7", "half": b'{"key": "',
    "bytes": b"\xff\xfe\x00",
    "brackets": b"[" * 100_000 + b"]" * 100_000, "objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "huge": b'{"key": ' + b"9" * 5000 + b', "0": [' + b"9" * 400 + b"]}", "null": b"null",
}  # fmt: skip


@pytest.fixture
def finished(tiny):
    """The record of a run with its teacher."""
    record = runs.run(STUDENT, log=list)
    forget()
    return record


def forget():
    """As another process: nothing is remembered of files and teachers."""
    for cache in (store._sha256, networks._bank, networks._plain_outputs):
        cache.cache_clear()


def flip(file, place=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "predictions.npz", "history.csv"])
def test_every_file_of_a_run_is_compared_with_its_record(finished, name):
    folder = as_run(STUDENT).folder
    flip(folder / name)
    forget()
    use = {"model.safetensors": runs.load_model, "predictions.npz": runs.predictions, "history.csv": runs.history}[name]
    with pytest.raises(
        ValueError, match=rf"{name} does not match the SHA-256 in its record; remove the folder .*{folder.name}"
    ):
        use(STUDENT)


@pytest.mark.parametrize("name", ["model.safetensors", "predictions.npz"])
def test_a_teacher_with_a_flipped_bit_teaches_nobody(finished, name):
    flip(as_run(STUDENT).teacher_run().folder / name)
    forget()
    lines = []
    with pytest.raises(ValueError, match=f"{name} does not match the SHA-256"):
        runs.run(STUDENT | {"debias": "gap_penalty", "lam": 1.0}, log=lines.append)
    assert not any("epoch" in line for line in lines), "before training"


def test_changed_class_means_are_computed_again(finished):
    teacher = as_run(STUDENT).teacher_run()
    file = teacher.folder / "class_means.json"
    before = networks.class_means(teacher)
    digit = file.read_text().index(".") + 1
    text = file.read_text()
    file.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    assert not torch.equal(teachers.read_means(file, num_classes=10, dim=before.shape[1]), before)
    assert torch.equal(networks.class_means(teacher), before)
    assert file.read_text() == text
    (teacher.folder / "class_means.sha256").unlink()  # as in stores of before
    assert torch.equal(networks.class_means(teacher), before)


def test_a_record_of_another_run_is_not_returned(finished):
    one, other = as_run(STUDENT), as_run(STUDENT | {"seed": 1})
    shutil.copytree(one.folder, other.folder)
    with pytest.raises(
        ValueError, match=f"it is that of the run {one.key}, copied here. Remove the folder .*{other.key}"
    ):
        runs.run(other, log=list)


def test_changed_metrics_are_computed_again(finished):
    table = runs.table.table([STUDENT])
    file = as_run(STUDENT).folder / "metrics.json"
    content = json.loads(file.read_text())
    content["metrics"]["test"]["accuracy"] = 0.999
    file.write_text(json.dumps(content))
    assert runs.table.table([STUDENT]).equals(table)
    assert json.loads(file.read_text())["metrics"]["test"]["accuracy"] != 0.999


def test_records_of_before_go_on_being_read(finished):
    """Stores of before have no sums of files."""
    file = as_run(STUDENT).folder / "record.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in record.items() if key != "files"}))
    assert runs.run(STUDENT, log=list)["key"] == record["key"]


@pytest.mark.parametrize("shape", SHAPES)
def test_records_of_other_shapes_are_named(finished, shape):
    file = as_run(STUDENT).folder / "record.json"
    file.write_bytes(SHAPES[shape])
    with pytest.raises(ValueError, match=r"record.json is not a record of this run: .*Remove the folder"):
        runs.run(STUDENT, log=list)


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_metrics_of_other_shapes_are_computed_again(finished, shape):
    table = runs.table.table([STUDENT])
    (as_run(STUDENT).folder / "metrics.json").write_bytes(SHAPES[shape])
    assert runs.table.table([STUDENT]).equals(table)


@pytest.mark.parametrize("shape", SHAPES)
def test_class_means_of_other_shapes_are_refused(shape, tmp_path):
    (tmp_path / "means.json").write_bytes(SHAPES[shape])
    with pytest.raises(ValueError, match=r"means.json (is not a file of class means|holds class means of shape)"):
        teachers.read_means(tmp_path / "means.json", num_classes=2, dim=3)


@pytest.mark.parametrize("row", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_class_means_without_a_direction_are_named(row, tmp_path):
    (tmp_path / "means.json").write_text(json.dumps({"0": [1.0, 2.0], "1": row}))
    with pytest.raises(ValueError, match="the mean embedding of class 1 is zero or not finite"):
        teachers.read_means(tmp_path / "means.json", num_classes=2, dim=2)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The manifest of a prepared data set."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    data.load("digits_s")
    (file,) = (tmp_path / "data").glob("digits_s*.json")
    return file


@pytest.mark.parametrize(
    ("old", "new"), [('"mean": [\n', '"mean": [\n      0.9,\n'), ('"grey"', '"gray"'), ('"padding": ', '"padding": 1')]
)
def test_settings_of_prepared_data_are_under_a_checksum(prepared, old, new, capsys):
    before, text = data.load("digits_s"), prepared.read_text()
    assert old in text
    prepared.write_text(text.replace(old, new, 1))
    after = data.load("digits_s")
    assert (after.mean, after.groups, after.padding) == (before.mean, before.groups, before.padding)
    assert prepared.read_text() == text, "it was prepared again"


@pytest.mark.parametrize("shape", SHAPES)
def test_manifests_of_other_shapes_are_prepared_again(prepared, shape):
    text = prepared.read_text()
    prepared.write_bytes(SHAPES[shape])
    assert data.load("digits_s").groups == ("grey", "colour")
    assert prepared.read_text() == text


HISTORIES = {
    "more epochs than the run": [{"epoch": number + 1} for number in range(5)], "as many": [{"epoch": 1}, {"epoch": 2}],
    "a gap": [{"epoch": 2}], "none": [], "a text": "history", "numbers": [1], "a dict": {"epoch": 1}, "nothing": None,
}  # fmt: skip


def interrupted(monkeypatch):
    """Train until the first checkpoint; return its path."""

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run(STUDENT, log=list, checkpoint_seconds=0, on_epoch=stop)
    return as_run(STUDENT).folder / "checkpoint.pt"


@pytest.mark.parametrize("case", [*HISTORIES, "another run's", "another network's", "half"])
def test_checkpoints_that_do_not_fit_are_set_aside_once(tiny, monkeypatch, case):
    runs.run(STUDENT, log=list)
    expected = runs.predictions(STUDENT)["test_logits"]
    shutil.rmtree(as_run(STUDENT).folder)
    file = interrupted(monkeypatch)
    if case == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        content = torch.load(file, weights_only=True)
        if case == "another run's":
            content["of"] = "0123456789abcdef"
        elif case == "another network's":
            content["parts"]["model"] = models.build_model("convnet_8", 10).state_dict()
        else:
            content["history"] = HISTORIES[case]
        torch.save(content, file)
    lines = []
    runs.run(STUDENT, log=lines.append)
    assert [line for line in lines if "cannot resume" in line and "training starts over" in line]
    assert file.with_suffix(".damaged").exists()
    assert np.array_equal(runs.predictions(STUDENT)["test_logits"], expected), "as if there had been none"
    assert len(runs.history(STUDENT)) == 2
