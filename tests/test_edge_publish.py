"""What a study ships is published with the classes behind it, and verified from these."""

import shutil

import numpy as np
import pytest

from kdlib.report import edge_publish, pages, publish


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A published study with four of quick's networks, one of CKD without debiasing, and its page."""
    source = publish.published_folder("quick")
    copy = tmp_path / "published" / "quick"
    shutil.copytree(source, copy)
    rows = edge_publish.read(source)
    kept = list(dict.fromkeys(rows.loc[rows["method"].isin(["ckd", "teacher"]) & (rows["seed"] < 2), "key"]))[:6]
    with np.load(source / "edge.npz") as arrays:
        chosen = np.isin(arrays["keys"], kept)
        np.savez(copy / "edge.npz", keys=arrays["keys"][chosen], predicted=arrays["predicted"][chosen])
    rows = rows[rows["key"].isin(kept)]
    rows.to_csv(copy / "edge.csv", index=False)
    (copy / "edge.md").write_text(edge_publish.render("quick", edge_publish.read(copy)))
    monkeypatch.setattr(publish, "published_folder", lambda name="": copy.parent / name)
    return copy


def problems(folder):
    return edge_publish.problems(folder, map, 2)


def test_what_is_published_follows_from_its_classes(folder):
    assert problems(folder) == []
    rows = edge_publish.read(folder)
    rows.loc[3, "mad"] += 0.001
    rows.to_csv(folder / "edge.csv", index=False)
    found = problems(folder)
    assert any("quick/edge.csv, mad of run" in line for line in found)
    assert any("quick/edge.md differs" in line for line in found)


def test_a_page_that_was_edited_differs(folder):
    page = folder / "edge.md"
    page.write_text(page.read_text().replace("What quick ships", "What quick sells"))
    assert len(problems(folder)) == 1


def test_networks_that_the_study_no_longer_has_are_refused(folder):
    rows = edge_publish.read(folder)
    rows["key"] = rows["key"].replace({rows["key"].iloc[0]: "0" * 16})
    rows.to_csv(folder / "edge.csv", index=False)
    assert "1 networks that results.csv lacks: publish it again" in problems(folder)[0]
    pages.folder("quick").mkdir(parents=True)
    with pytest.raises(ValueError, match="run notebook 10_edge"):
        edge_publish.publish_edge("quick")
    rows.to_csv(pages.folder("quick") / "edge.csv", index=False)
    with pytest.raises(ValueError, match="not in the published results"):
        edge_publish.publish_edge("quick")
    (folder / "predictions.npz").unlink()
    with pytest.raises(ValueError, match="publish the study first"):
        edge_publish.publish_edge("quick")
