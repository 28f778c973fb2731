"""The hook that sees each epoch, and the code in docs/extending.md, executed."""

import re
import sys
import types
from unittest import mock

import pytest
import torch

from kdlib import paths, runs
from kdlib.runs.settings import Run

SMALL = {"student": "convnet_4", "teacher": "convnet_8", "epochs": 3}
BLOCKS = re.findall(r"```python\n(.*?)```", (paths.ROOT / "docs" / "extending.md").read_text(), re.DOTALL)
LOOP, *TRACKERS = BLOCKS


def test_the_hook_sees_each_row_of_the_run_that_was_asked_for(tiny):
    rows = []
    record = runs.run(SMALL, log=list, on_epoch=rows.append)
    assert record["key"] == Run(**SMALL).key
    assert [row["epoch"] for row in rows] == [1, 2, 3]  # the teacher's three epochs are not among them
    history = runs.history(SMALL)
    assert list(rows[0]) == list(history)
    assert [row["val_mad"] for row in rows] == pytest.approx(list(history["val_mad"]))
    assert runs.run(SMALL, log=list, on_epoch=pytest.fail) == record  # in the store: nothing is trained


def test_a_hook_that_fails_or_writes_into_the_row_harms_no_checkpoint(tiny, tmp_path, monkeypatch):
    plain = runs.run(SMALL, log=list)
    expected = runs.predictions(SMALL)["test_logits"]
    monkeypatch.setenv("KDLIB_RUNS", str(tmp_path / "other"))

    def fails(row):
        row["epoch"] = row.pop("val_accuracy") and None
        raise RuntimeError("the tracker is away")

    for _ in range(2):  # each try trains one more epoch
        with pytest.raises(RuntimeError, match="the tracker is away"):
            runs.run(SMALL, log=list, checkpoint_seconds=0, on_epoch=fails)
    rows, lines = [], []
    resumed = runs.run(SMALL, log=lines.append, on_epoch=rows.append)
    assert any("resuming after epoch 2" in line for line in lines)
    assert [row["epoch"] for row in rows] == [3]
    assert resumed["key"] == plain["key"]
    assert (runs.predictions(SMALL)["test_logits"] == expected).all()
    assert runs.history(SMALL)["epoch"].tolist() == [1, 2, 3]
    assert runs.history(SMALL)["val_accuracy"].notna().all()


def test_a_loop_of_ones_own(capsys):
    torch.manual_seed(0)
    labels, group = torch.arange(400) % 2, (torch.rand(400) < 0.5).long()
    images = torch.randn(400, 3) + torch.stack([labels, group, labels], 1) * 3.0
    linear = {name: torch.nn.Linear(3, 2) for name in ("teacher", "student")}
    with torch.no_grad():  # the teacher reads the class, and a little of the group
        linear["teacher"].weight.copy_(torch.tensor([[-2.0, -0.5, -2.0], [2.0, 0.5, 2.0]]))
        linear["teacher"].bias.copy_(torch.tensor([7.0, -7.0]))
    test = {"test_images": images, "test_labels": labels, "test_group": group}
    names = {"images": images, "labels": labels, "group": group} | linear | test
    before = [value.clone() for value in linear["student"].parameters()]
    exec(LOOP, names)
    assert not any(torch.equal(one, other) for one, other in zip(before, linear["student"].parameters(), strict=True))
    assert (names["after"] == labels).float().mean() > 0.9
    one, two = capsys.readouterr().out.splitlines()
    assert "'mad_floor'" in one
    assert "'sqrt_u_inflation'" in two
    assert 15 < len([line for line in LOOP.splitlines() if line.strip()]) < 30


@pytest.mark.parametrize("number", range(len(TRACKERS)))
def test_trackers_get_every_row(tiny, number):
    """With stand-ins of the packages, which record what they are given."""
    assert len(TRACKERS) == 3
    seen, entered = {}, mock.MagicMock()
    entered.__enter__.return_value = stand_in = types.SimpleNamespace(
        add_scalar=lambda name, value, step: seen.setdefault(step, {}).update({name: value}),
        log_metrics=lambda row, step: seen.update({step: row}),
        log=lambda row, step: seen.update({step: row}),
    )
    stand_in.SummaryWriter, stand_in.start_run = lambda folder: stand_in, lambda: entered
    stand_in.init = lambda project: entered
    packages = dict.fromkeys(("torch.utils.tensorboard", "mlflow", "wandb"), stand_in)
    with mock.patch.dict(sys.modules, packages):
        exec(TRACKERS[number], {"settings": SMALL, "runs": runs})
    assert sorted(seen) == [1, 2, 3]
    assert all({"epoch", "ce", "kd", "val_accuracy", "val_mad"} <= set(row) for row in seen.values())
