"""The data notebook on every kind of source: its cells run in this process, on sets made here."""

import ast
import json

import nbformat
import numpy as np
import pytest
from IPython.display import Markdown
from PIL import Image

from kdlib import data, files, paths, profiles
from kdlib.data import table, wider

CELLS = nbformat.read(paths.ROOT / "notebooks" / "01_data.ipynb", as_version=4).cells


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("KDLIB_SMOKE", "1")  # the example's study needs no timing
    return files.make_folder(tmp_path / "data")


def shown(**parameters):
    """All that the cells' last lines are, as text, and the names that they leave."""
    space, texts = {}, []
    for cell in CELLS:
        if cell.cell_type != "code":
            continue
        if "parameters" in cell.metadata.get("tags", ()):
            exec(cell.source, space)
            space |= parameters
            continue
        body = ast.parse(cell.source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), space)
        if last:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            texts.append(value.data if isinstance(value, Markdown) else str(value))
    return "\n".join(texts), space


def test_faces_by_race(own_folder):
    (own_folder / "utkface").mkdir()
    rng = np.random.default_rng(0)
    for number in range(150):
        age, gender, race = (5, 15, 30, 50, 70)[number % 5], number // 5 % 2, number // 10 % 5
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(own_folder / "utkface" / f"{age}_{gender}_{race}_{number:017}.jpg.chip.jpg")
    text, space = shown(profile="faces_short", options="group=race, size=16")
    assert "Options here: group=race, size=16" in text
    assert space["all_counts"].shape == (5, 15)
    assert "†" in text, "cells of one image are tiny"
    assert "5 of 5 classes have test images of two groups" in text


def test_wider_shows_ties_unknown_groups_and_empty_cells(own_folder, capsys):
    entries = []
    for number in range(240):
        split, scene = ("train", "val", "test")[number % 3], number // 3 % 2 * 25
        folder = f"{list(wider.EVENTS)[scene]}--{'x'}"
        males = [(1, 1), (-1, -1), (1, -1), (0,)][number // 6 % 4] if scene == 0 else (1,)
        people = [{"attribute": [male] + [0] * 13, "bbox": [0, 0, 5, 5]} for male in males]
        entries.append({"file_name": f"{split}/{folder}/{number}.jpg", "scene_id": scene, "targets": people})
        file = own_folder / "wider" / "Image" / entries[-1]["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (number, 9, 9)).save(file)
    official = [[e for e in entries if not e["file_name"].startswith("test")], entries[2::3]]
    for name, chosen in zip(wider.OFFICIAL, official, strict=True):
        (own_folder / "wider" / name).write_text(json.dumps({"images": chosen}))
    text, space = shown(profile="wider", options="size=16")
    assert "known group: Team Sports, Waiter or Waitress," in capsys.readouterr().out
    assert "0 ∅" in text, "no female image of the second class"
    assert "1 of 16 classes have test images of two groups" in text
    test = space["dataset"].test
    assert np.isnan(test.group_share).sum() == (test.group_share == 0.5).sum() == 10


def test_a_folder_without_groups_and_the_example(own_folder, capsys):
    for number in range(40):
        file = own_folder / "mine" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    text, space = shown(source="folder", options="path=mine, size=8")
    assert "can show no disparity" in text
    assert "known group: cat, dog\n" in capsys.readouterr().out
    assert space["own"].groups == ("dark", "light")
    before = sorted(own_folder.iterdir())
    again, _ = shown(source="folder", options="path=mine, size=8")
    assert again == text
    assert sorted(own_folder.iterdir()) == before, "made once"
    assert list(paths.reports_folder().iterdir()) == [paths.reports_folder() / "data_folder"], (
        "a source has its own figures"
    )
    assert profiles.profile(paths.reports_folder() / "data_folder" / "example_study.toml").settings["data"] == "table"
    assert list(space["others"]) == []


def test_other_options_leave_the_profiles_figures_alone(own_folder):
    shown(profile="quick", options="skew=0.8")
    assert [folder.name for folder in paths.reports_folder().iterdir()] == ["data_digits_s"]


def test_several_attributes_are_counted(own_folder):
    example = data.options.spell(table.example(), dict.fromkeys(table.example()))
    _, space = shown(source="table", options=example)
    assert list(space["others"]) == ["paper", "pen"]
    counts = space["by_attribute"]("table", space["others"], **table.example())
    assert counts.to_numpy().sum() == 2 * 120
    assert list(counts.columns) == [("paper", "dark"), ("paper", "light"), ("pen", "thick"), ("pen", "thin")]
