"""What cannot work is said in one sentence before anything is trained: by `new`, by `run` and by `sweep` alike."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kdlib import debias, models, paths
from kdlib.__main__ import main
from kdlib.bias import resolution
from kdlib.runs import checks, run, training
from kdlib.sweep import sweep

STUDY = """pairs = ["{teacher}->{student}"]
methods = ["ckd"]
seeds = [0]
[data]
name = "table"
{options}
[training]
epochs = 1
lr = 0.1
batch_size = 16
device = "cpu"
[teacher]
weights = "{weights}"
[debias]
resample = []
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data folder of its own, which is the working folder."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    checks._look.cache_clear()
    return tmp_path


def draw(place, rows):
    """Write a picture and a row of people.csv for each (class, group)."""
    (place / "faces").mkdir()
    frame = pd.DataFrame(rows, columns=["job", "gender"])
    frame.insert(0, "file", [f"{number}.png" for number in range(len(frame))])
    for name in frame.file:
        Image.new("RGB", (8, 8)).save(place / "faces" / name)
    frame.to_csv(place / "people.csv", index=False)


CELLS = [(job, gender) for job in ("nurse", "pilot") for gender in "fm"]
# what is wrong: (rows, changes of the options, changes of the networks, what the sentence says)
WRONG = {
    "path": (CELLS * 15, {"path": "face"}, {}, r"there is no .*/face "),
    "table": (CELLS * 15, {"table": "persons.csv"}, {}, r"there is no .*persons\.csv"),
    "label": (CELLS * 15, {"label": "jobs"}, {}, r"no column 'jobs', named as label; it has file, job, gender"),
    "group": (CELLS * 15, {"group": "gender+race"}, {}, r"no column 'race', named as group; it has file, job, gender"),
    "file": (CELLS * 15, {"file": "name"}, {}, r"no column 'name', of the images' paths; it has file, job, gender"),
    "where": (CELLS * 15, {"where": "age > 3"}, {}, r"column of .*people\.csv in where: 'age'.* Known: file, job, gender"),
    "a class of one": ([*CELLS * 15, ("cook", "f")], {}, {}, r"class 'cook' has one image"),
    "a group in one class": (CELLS[:3] * 15, {}, {}, r"group 'm' is in one class only, 'nurse'"),
    "groups that are the classes": (CELLS[::3] * 15, {}, {}, "no class has images of two groups"),
    "too little data": (CELLS * 5, {}, {}, r"too little data for any bias to be seen: the test split has 4 images .*p = 1"),
    "a picture too small": (CELLS * 15, {}, {"student": "alexnet"}, r"alexnet cannot take images of 8 × 8 pixels"),
    "a teacher that needs more": (CELLS * 15, {}, {"teacher": "vit_b_16"}, r"vit_b_16 cannot take images of 8 × 8"),
    "a teacher of other classes": (
        CELLS * 15, {}, {"teacher": "resnet8", "weights": "published"},
        r"other number of classes \(100 in the file, 2 in the model\)",
    ),
}  # fmt: skip


@pytest.fixture(params=WRONG)
def wrong(request, place):
    """(data options, networks, what the sentence says) of a data set and networks that do not go together."""
    rows, changes, networks, words = WRONG[request.param]
    draw(place, rows)
    options = {"path": "faces", "table": "people.csv", "label": "job", "group": "gender", "size": "8"} | changes
    networks = {"teacher": "convnet_8", "student": "convnet_4", "weights": "none"} | networks
    if networks["weights"] == "published":
        folder = place / "cifar_teachers" / "models" / "resnet8_vanilla"
        folder.mkdir(parents=True)
        torch.save({"model": models.build_model("resnet8", 100).state_dict()}, folder / "ckpt_epoch_240.pth")
    return options, networks, words


def study(place, options, networks):
    lines = "\n".join(f"{name} = {value if name == 'size' else repr(value)}" for name, value in options.items())
    (place / "study.toml").write_text(STUDY.format(options=lines, **networks))
    return str(place / "study.toml")


@pytest.mark.parametrize("command", ["new", "run", "sweep"])
def test_what_cannot_work_is_said_in_a_sentence_before_training(command, wrong, place, capsys, monkeypatch):
    options, networks, words = wrong
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained"))
    pair = ["--teacher", networks["teacher"], "--student", networks["student"]]
    line = {
        "new": ["new", "mine.toml", "--from", study(place, options, networks), *pair],
        "run": ["run", "--data", "table", "--teacher-weights", networks["weights"], *pair, "--data-options"],
        "sweep": ["sweep", "--profile", study(place, options, networks)],
    }[command]
    if command == "new":
        line += [part for name, value in options.items() for part in (f"--{name}", value)]
    if command == "run":
        line.append(", ".join(f"{name}={value}" for name, value in options.items()))
    assert main(line) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert said.err.startswith("kdlib: ")
    assert re.search(words, said.err), said.err
    assert not (place / "mine.toml").exists()
    assert not list(place.glob("*.images.npy")), "nothing was decoded"


LOADED = """
import sys
import kdlib.__main__ as m

for line in (
    ["new", "mine.toml", "--path", "nowhere"],
    ["run", "--data", "table", "--data-options", "path=nowhere"],
    ["sweep", "--profile", "quick", "--data", "table", "--data-options", "path=nowhere"],
):
    assert m.main(line) == 1
print("torch" in sys.modules)
"""


def test_what_is_wrong_with_data_is_said_without_torch(place):
    """Importing torch takes two of the three seconds in which an error should come."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.stdout == "False\n", done.stderr
    assert done.stderr.count("nowhere") == 3


def test_a_run_and_a_sweep_in_python_check_networks_too(tiny, monkeypatch):
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained"))
    settings = {"student": "alexnet", "teacher": "convnet_4", "device": "cpu"}
    for train in (run, lambda settings: sweep([settings])):
        with pytest.raises(ValueError, match="alexnet cannot take images of 16 × 16"):
            train(settings)


def test_a_debiaser_without_groups_is_refused_before_its_teacher_is_trained(tiny, monkeypatch):
    group = np.zeros_like(tiny.train.group)
    blind = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, group=group))
    monkeypatch.setattr("kdlib.data.load", lambda name, **options: blind)
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained"))
    with pytest.raises(ValueError, match="'resample' needs two known groups"):
        run({"student": "convnet_4", "debias": "resample", "device": "cpu"})
    debias.check_groups("none", group, None)


def test_a_network_that_needs_values_is_tried_in_earnest(monkeypatch):
    class Picky(torch.nn.Module):
        def forward(self, images):
            return images.mean().item()  # a tensor without memory has none

    monkeypatch.setattr(models, "build_model", lambda *_: Picky())
    checks.check_images.__wrapped__("picky", 8)


@pytest.mark.parametrize(
    ("cells", "p_value"),
    [([[1, 1], [1, 1]], 1), ([[2, 2], [2, 2]], 1 / 9), ([[3, 3], [3, 3]], 1 / 100), ([[9, 0], [0, 9]], np.nan)],
)
def test_the_largest_bias_that_cells_can_show_has_a_p_value(cells, p_value):
    """With n images in each of two groups, one permutation in (2n choose n) has the groups as they are, one exchanged."""
    assert resolution.least_p_value(np.array(cells), n=4000) == pytest.approx(p_value, abs=0.01, nan_ok=True)


def test_too_little_data_is_said_but_not_refused_in_the_smoke_size(place, capsys, monkeypatch):
    draw(place, CELLS * 5)
    settings = {"data": "table", "data_options": "path=faces, table=people.csv, label=job, group=gender"}
    with monkeypatch.context() as patch:
        patch.setenv("KDLIB_SMOKE", "1")
        checks.look(settings)
    assert "too little data for any bias" in capsys.readouterr().err
    checks._look.cache_clear()
    more = settings | {"data_options": settings["data_options"] + ", test_share=0.4"}
    checks.look(more)
    assert "too little data for much bias" in capsys.readouterr().err
    with pytest.raises(ValueError, match="too little data for any bias"):
        checks.look(settings)
