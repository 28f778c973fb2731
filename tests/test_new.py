"""`new`: from pictures to the profile of a study, and from that to its page."""

import itertools
import re

import pandas as pd
import pytest
import set_examples
from PIL import Image

from kdlib import data, paths, profiles
from kdlib.__main__ import main
from kdlib.runs import checks, new, timing
from kdlib.runs.settings import as_run

FAST = timing.Times(teacher=1e-5, alone=1e-5, distilled=1e-5, evaluation=0, figures=0)
BASE = """pairs = ["convnet_8->convnet_4"]
methods = ["ckd"]
seeds = [0, 1, 2]
[data]
name = "digits_s"
[training]
epochs = 3
lr = 0.1
batch_size = 64
device = "cpu"
[debias]
critic = [1, 10, 50]
resample = []
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data folder with 120 pictures of two jobs, by gender and race, and a base of the study; another working folder."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "faces").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cells = list(itertools.product(("nurse", "pilot"), "fm", "xyz")) * 10
    frame = pd.DataFrame(cells, columns=["job", "gender", "race"])
    frame.insert(0, "file", [f"{number}.png" for number in range(len(frame))])
    for number, name in enumerate(frame.file):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "data" / "faces" / name)
    frame.to_csv(tmp_path / "data" / "people.csv", index=False)
    (tmp_path / "base.toml").write_text(BASE)
    monkeypatch.setattr(timing, "time_steps", lambda runs, dataset: FAST)
    checks._look.cache_clear()
    return tmp_path


def written(place, *more, group="gender", path="faces"):
    """Run `new`, and return the study that it wrote."""
    given = ["--path", path, "--table", "people.csv", "--label", "job", "--group", group, "--size", "16", *more]
    assert main(["new", "mine.toml", "--from", str(place / "base.toml"), *given]) == 0
    return profiles.profile("mine.toml")


def test_a_study_of_ones_own_pictures_is_written(place, capsys):
    study = written(place, "--where", "race != z", "--label-values", "pilot=pilot", "*=nurse")
    assert study.settings["data"] == "table"
    options = data.parse_options("table", study.settings["data_options"])
    assert options == {
        "path": "faces", "table": "people.csv", "label": "job", "group": "gender", "where": "race != z", "size": 16,
        "label_values": "pilot=pilot *=nurse",
    }  # fmt: skip
    assert (study.methods, study.seeds) == (("ckd",), (0, 1, 2))
    assert study.debias == {"critic": (1.0, 10.0, 50.0), "resample": (0.0,)}
    assert study.settings["test_every"] == study.settings["epochs"] == study.settings["teacher_epochs"]
    said = capsys.readouterr().out
    assert "mine.toml: 33 runs of convnet_32->convnet_8; 2 classes, 2 groups; images of 16 pixels: " in said
    assert "cannot resolve changes of MAD below" in said
    assert "make all PROFILE=mine.toml" in said
    text = (place / "here" / "mine.toml").read_text()
    assert text.count("# ") > 8, "it is commented"
    assert "pilot, nurse; groups f, m" in study.about


def test_a_file_is_replaced_only_when_told(place, capsys):
    written(place)
    before = (place / "here" / "mine.toml").read_text()
    assert main(["new", "mine.toml", "--path", "faces"]) == 1
    assert "mine.toml is there already: take another name, or add --overwrite" in capsys.readouterr().err
    assert (place / "here" / "mine.toml").read_text() == before
    written(place, "--overwrite", "--minutes", "0.01")
    assert (place / "here" / "mine.toml").read_text() != before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("quick.toml", "quick is a study or folder of this project"),
        ("published.toml", "published is a study or folder of this project"),
        ("my pictures.toml", "letters, digits"),
        ("mine.json", "a profile is a .toml file"),
        ("elsewhere.toml", "elsewhere, the report of another profile of that name, is there already"),
    ],
)
def test_names_that_others_have_are_refused(name, words, place, capsys):
    (paths.reports_folder() / "elsewhere").mkdir(parents=True)
    assert main(["new", name, "--path", "faces"]) == 1
    assert words in capsys.readouterr().err
    assert not (place / "here" / name).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labl", "job"], "unknown option of data set table: '--labl'. Did you mean '--label'"),
        (["--data", "fairfaces"], "Did you mean 'fairface'"),
        (["--from", "quik"], "Did you mean 'quick'"),
        (["--minutes", "0"], "minutes is the time for all training"),
        (["--size", "big"], "option size of data set table cannot be 'big'"),
    ],
)
def test_wrong_flags_are_named(arguments, words, place, capsys):
    assert main(["new", "mine.toml", "--path", "faces", "--table", "people.csv", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_paths_start_at_the_data_folder_or_here(place):
    (place / "data" / "faces").rename(place / "here" / "pictures")
    study = written(place, path="pictures")
    assert data.parse_options("table", study.settings["data_options"])["path"] == str(place / "here" / "pictures")


def test_debiasers_that_the_groups_do_not_allow_are_left_out(place, capsys):
    study = written(
        place,
        group="gender+race",
    )
    assert study.debias == {"resample": (0.0,)}
    assert (
        "left out: debiaser 'critic' regresses a difference, so it needs two groups; got 6" in capsys.readouterr().out
    )
    assert written(place, "--overwrite", group="none").debias == {}
    assert "No groups, so no bias is measured." in capsys.readouterr().out


def test_epochs_networks_and_strengths_follow_from_the_time(place, monkeypatch):
    """6 steps an epoch, so 50 epochs are the least; 33 runs of 86 images, 21 with one λ, 14 with two seeds, on 2 cores."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    study = written(place)
    assert (study.settings["epochs"], study.settings["batch_size"]) == (100, 16)
    plans = []
    for seconds in (1e-3, 2e-3, 3e-3, 1e-1):
        slow = timing.Times(seconds, seconds, seconds, 0, 0)
        monkeypatch.setattr(timing, "time_steps", lambda runs, dataset, slow=slow: slow)
        study = written(place, "--overwrite", "--minutes", "2")
        plans.append((study.debias["critic"], len(study.seeds), study.settings["epochs"] >= 50))
    whole, one = (1.0, 10.0, 50.0), (10.0,)
    assert plans == [(whole, 3, True), (one, 3, True), (one, 2, True), (one, 2, False)]


def test_larger_pictures_and_more_of_them_get_larger_networks(place):
    dataset, content = data.load("digits_s"), {"training": {"lr": 0.1, "batch_size": 64}, "teacher": {}, "debias": {}}
    content |= {"seeds": [0], "pairs": ["resnet56->resnet20"]}

    def first(size, count):
        images = dataset.train.images[:1, :, :1, :1].repeat(size, 3).repeat(count, 0)
        train = data.Split(images, dataset.train.labels[:1].repeat(count), dataset.train.group[:1].repeat(count))
        blank = type(dataset)("x", ("a", "b"), (), train, train, train)
        return new._plans(content, blank, None, None)[0]["pairs"][0]

    assert first(8, 100) == "convnet_32->convnet_8"
    assert first(32, 30_000) == "resnet56->resnet20"
    assert first(64, 30_000) == "resnet20->resnet8"
    assert first(224, 600) == "convnet_64->convnet_16"
    assert first(224, 6000) == "resnet34->resnet18"


def test_the_time_is_the_sum_over_runs(digits, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("kdlib.runs.machine.resolve_device", lambda device: "cpu")
    common = {"teacher": "convnet_8", "student": "convnet_4", "device": "cpu"}
    runs = [as_run(common | {"method": method}) for method in ("scratch", "ckd", "rkd")]
    runs.append(as_run(common | {"student": "convnet_8", "method": "scratch"}))
    times = timing.Times(teacher=7, alone=2, distilled=3, evaluation=0.5, figures=11)
    start, epoch = timing.cost(runs, "convnet_8", digits, times)
    assert start == 4 * (11 + 0.5 * (len(digits.val) + len(digits.test))) / 2
    assert epoch == ((7 + 2 + 3 + 3) * len(digits.train) + 4 * 0.5 * len(digits.val)) / 2


def test_steps_are_timed(tiny):
    runs = [as_run({"student": name, "teacher": "convnet_5", "method": method, "device": "cpu"}) for name, method in
            (("convnet_5", "scratch"), ("convnet_4", "scratch"), ("convnet_4", "ckd"))]  # fmt: skip
    assert min(timing.time_steps(runs, tiny)) > 0


@pytest.mark.notebook
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fairface", ("more than 70", "20-29", "Female", "Male")),
        ("celeba", ("not Blond_Hair", "female", "male")),
        ("waterbirds", ("landbird", "waterbird", "water")),
    ],
)
def test_from_a_tree_to_its_page(name, words, place, monkeypatch):
    """What `make all` does with a profile that `new` wrote, in the smoke size and with two of the notebooks."""
    monkeypatch.setenv("KDLIB_SMOKE", "1")
    monkeypatch.setenv("PYTHONPATH", str(paths.ROOT))
    getattr(set_examples, name)(place / "data")
    assert main(["new", "mine.toml", "--from", str(place / "base.toml"), "--data", name, "--size", "16"]) == 0
    assert main(["sweep", "--profile", "mine.toml", "--workers", "1"]) == 0
    for notebook in ("01_data", "09_bias_analysis"):
        out = paths.reports_folder() / "mine" / f"{notebook}.ipynb"
        arguments = [
            "notebook",
            str(paths.ROOT / "notebooks" / out.name),
            "--out",
            str(out),
            "-p",
            "profile",
            "mine.toml",
        ]
        assert main(arguments) == 0
        page = out.with_suffix(".html").read_text()
        # the classes that page 09 names depend on what the smallest of trainings finds; its groups do not
        expected = words if notebook == "01_data" else words[-2:]
        assert [word for word in expected if word not in page] == [], notebook
    assert main(["report", "--profile", "mine.toml"]) == 0
    index = (paths.reports_folder() / "index.html").read_text()
    assert re.search(r'<section id="mine" .*href="mine/09_bias_analysis\.html"', index, re.DOTALL)
    assert {folder.name for folder in paths.reports_folder().iterdir()} == {"mine", "index.html"}
