"""Full disks, interruptions and what killed writers leave."""

import errno
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from kdlib import files, names, runs
from kdlib.report import figures, pages
from kdlib.runs import store
from kdlib.runs.settings import as_run

STUDENT = {"student": "convnet_4", "method": "scratch", "epochs": 3, "batch_size": 60, "device": "cpu"}


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def small_files():
    """No file can grow beyond 2 kB, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("code", sorted(files.FULL))
def test_a_full_disk_names_the_file_and_keeps_what_was_there(tmp_path, code):
    file = tmp_path / "file"
    file.write_text("before")

    def write():
        with files.replacing(file) as temporary:
            temporary.write_text("half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=f"cannot write {file}: "):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "before"


def test_a_checkpoint_without_room_does_not_end_training(tiny, small_files):
    lines = []
    with pytest.raises(OSError, match=r"cannot write .*model\.safetensors: File too large"):
        runs.run(STUDENT, log=lines.append, checkpoint_seconds=0)
    assert [line for line in lines if "no checkpoint after epoch 2, training goes on: cannot write" in line]
    folder = as_run(STUDENT).folder
    assert not [path for path in folder.iterdir() if "partial" in path.name or path.name == "record.json"]


def test_a_run_goes_on_once_there_is_room(tiny, monkeypatch):
    runs.run(STUDENT | {"seed": 1}, log=list)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match=r"cannot write .*predictions\.npz: No space left"):
            runs.run(STUDENT, log=list, checkpoint_seconds=0)
    lines = []
    runs.run(STUDENT, log=lines.append)
    assert "resuming after epoch 2" in lines


def test_what_killed_writers_left_is_removed_under_the_lock(tiny):
    folder = as_run(STUDENT).folder
    folder.mkdir(parents=True)
    (folder / ".record.json.123.partial").write_text("{")
    (folder / ".predictions.npz.123.partial.npz").write_text("PK")
    runs.run(STUDENT, log=list)
    (folder / "checkpoint.pt").write_text("of a process killed after its record")
    runs.run(STUDENT, log=list)
    names = {"lock", "model.safetensors", "predictions.npz", "history.csv", "record.json"}
    assert {path.name for path in folder.iterdir()} == names
    modes = {(folder / name).stat().st_mode & 0o777 for name in names}
    assert len(modes) == 1, "as the umask says"


def test_only_files_of_that_name_are_removed(tmp_path):
    for name in (".set.npz.1.partial.npz", ".set.json.1.partial", ".set-1.npz.2.partial.npz", "set.npz"):
        (tmp_path / name).touch()
    with files.only_writer(tmp_path, "set"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {".set.lock", ".set-1.npz.2.partial.npz", "set.npz"}


def test_runs_of_before_are_said_to_be_unchecked_once(tiny, capsys):
    record = runs.run(STUDENT, log=list)
    file = as_run(STUDENT).folder / "record.json"
    files.write_json(file, {name: value for name, value in record.items() if name not in ("files", files.SEAL)})
    store._warn_unchecked.cache_clear()
    for _ in range(2):
        runs.predictions(STUDENT)
    assert capsys.readouterr().err.count("used unchecked") == 1


def test_an_interrupted_run_says_one_sentence(tmp_path, shared_data, digits):
    """SIGINT comes at the first epoch's line, wherever the process then is."""
    flags = [
        "--data",
        "digits_s",
        "--student",
        "convnet_4",
        "--method",
        "scratch",
        "--epochs",
        "500",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "kdlib", "run", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert any(line.startswith("epoch") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.count("\n") == 1, error
    assert "run was interrupted; the same command goes on" in error


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["momentum", "weight_decay"])
def test_settings_of_the_optimizer_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be 0 or more"):
        as_run(STUDENT | {name: value})


def test_momentum_is_less_than_one():
    with pytest.raises(ValueError, match="momentum must be 0 or more, and less than 1; got 1"):
        as_run(STUDENT | {"momentum": 1.0})


def test_equal_figures_are_equal_files(tmp_path):
    contents = []
    for name in ("one", "two"):
        drawing, axes = figures.figure()
        axes.plot([0, 1], [0, 1], clip_on=True, marker="o")
        pages.save(drawing, "quick", name)
        contents.append((pages.folder("quick") / "figures" / f"{name}.svg").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a_b*c*", "[x](http://y)", "`code`", "![](z)", "&amp;"])
def test_what_a_person_gave_is_text_on_a_page(text):
    from html import unescape

    from nbconvert.filters import markdown2html

    page = markdown2html(names.literal(text))
    assert unescape(page).strip() == f"<p>{text}</p>"
    assert "<script" not in page


def test_braces_in_a_path_reach_no_template(tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell('name: str = "a"', metadata={"tags": ["parameters"]})
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[cell],
            metadata={
                "kernelspec": {"name": "python3", "display_name": "Python 3"},
                "language_info": {"name": "python"},
            },
        ),
        tmp_path / "{name}.ipynb",
    )
    pages_of = []
    for out in ("{0}", "{name}"):
        pages.execute(tmp_path / "{name}.ipynb", tmp_path / out / "{x}.ipynb", {"name": "b"})
        pages_of.append((tmp_path / out / "{x}.html").read_text())
    assert pages_of[0] == pages_of[1], "the same ids each time"
