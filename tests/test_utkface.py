"""UTKFace: labels from file names, gender numbered as in this project, planted skew, copies of a picture on one side."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA
from PIL import Image

from kdlib import data, files, paths, runs
from kdlib.data import utkface


def picture(number):
    """Bytes of a small picture, all of whose pixels are (number, 0, 128)."""
    stream = io.BytesIO()
    Image.new("RGB", (12, 12), (number, 0, 128)).save(stream, "PNG")  # whose pixels stay as they are
    return stream.getvalue()


def names(per_cell=6):
    """Official file names: `per_cell` people of each of 5 ages, 2 genders and 2 races."""
    ages = (1, 15, 30, 59, 60)
    cells = [(age, gender, race) for age in ages for gender in (0, 1) for race in (0, 3)]
    return [
        f"{age}_{gender}_{race}_{20170109142408000 + number}.jpg.chip.jpg"
        for number, (age, gender, race) in enumerate(cells * per_cell)
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    return files.make_folder(tmp_path / "data" / "utkface")


@pytest.fixture
def faces(folder):
    """`folder` with 120 faces in the official form; their names in order."""
    for number, name in enumerate(names()):
        (folder / name).write_bytes(picture(number))
    return sorted(names())


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("25_0_2_20170116174525125.jpg.chip.jpg", (25, 1, 2)),  # 0 is male in the files, 1 here
        ("110_1_4_20170116174525125.jpg.chip.jpg", (110, 0, 4)),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", (24, 1, 1)),
        ("55_0_0_20170116232725357jpg.chip.jpg", (55, 1, 0)),
        ("25_0_2_20170116174525125.png", (25, 1, 2)),
        ("61_1_20170109142408075.jpg.chip.jpg", None),
        ("61_3_20170109150557335.jpg.chip.jpg", None),
        ("39_1__20170116174525125.jpg.chip.jpg", None),
        ("39_1_5_20170116174525125.jpg.chip.jpg", None),
        ("239_1_1_20170116174525125.jpg.chip.jpg", None),
        ("Thumbs.db", None),
    ],
)
def test_age_gender_and_race_are_those_of_the_file_name(name, parsed):
    assert utkface.parse(name) == parsed


def test_class_and_attribute_are_as_asked_for(faces):
    dataset = data.load("utkface", size=8)
    assert dataset.classes == ("0–9", "10–19", "20–39", "40–59", "60+")
    assert dataset.groups == ("female", "male")
    assert (dataset.padding, dataset.flip) == (4, True)
    everything = sum(data.class_by_group(split, dataset) for split in dataset.splits.values())
    assert (everything == 12).all()
    assert [len(split) for split in dataset.splits.values()] == [90, 10, 20]
    pixels = dataset.train.images.mean((0, 2, 3)) / 255
    assert dataset.mean == pytest.approx(pixels, abs=1e-4)
    assert dataset.std == pytest.approx(dataset.train.images.std((0, 2, 3)) / 255, abs=1e-4)


def test_every_picture_keeps_its_own_label(faces):
    dataset = data.load("utkface", size=8)
    for split in dataset.splits.values():
        parsed = [utkface.parse(names()[number]) for number in split.images[:, 0, 0, 0]]
        assert split.labels.tolist() == [(1, 15, 30, 59, 60).index(age) for age, _, _ in parsed]
        assert split.group.tolist() == [gender for _, gender, _ in parsed]


@pytest.fixture
def five_races(folder):
    """`folder` with 100 faces of five races."""
    for number in range(100):
        name = f"{20 + number}_{number % 2}_{number // 2 % 5}_{number}.jpg"
        (folder / name).write_bytes(picture(number))


def test_race_is_a_many_valued_attribute_and_gender_can_be_the_class(five_races):
    race = data.load("utkface", label="gender", group="race", size=8)
    assert race.classes == ("female", "male")
    assert race.groups == ("White", "Black", "Asian", "Indian", "Others")
    assert (sum(data.class_by_group(split, race) for split in race.splits.values()) == 10).all()
    age = data.load("utkface", label="race", bands=(50,), group="age", size=8)
    assert age.groups == ("0–49", "50+")
    assert sum(data.class_by_group(split, age) for split in age.splits.values()).sum(0).tolist() == [30, 70]


def test_a_skew_is_planted_by_leaving_out_and_test_stays_whole(faces):
    plain, skewed = data.load("utkface", size=8), data.load("utkface", size=8, skew=0.75)
    assert np.array_equal(skewed.test.source, plain.test.source)
    assert np.array_equal(skewed.test.images, plain.test.images)
    cells = data.class_by_group(skewed.train, skewed) + data.class_by_group(skewed.val, skewed)
    assert cells.tolist() == [[10, 3]] * 3 + [[3, 10]] * 2, "under 40 female, over 40 male, 3 of 4"
    gender = dict(zip(plain.train.source, plain.train.group, strict=True))
    gender |= dict(zip(plain.val.source, plain.val.group, strict=True))
    for split in (skewed.train, skewed.val):
        assert [gender[source] for source in split.source] == split.group.tolist(), "nobody is relabelled"
    alone = data.load("utkface", size=8, skew=1.0)
    assert data.class_by_group(alone.train, alone).min(1).tolist() == [0] * 5


def test_subsample_keeps_as_many_as_it_can():
    labels, group = np.repeat([0, 1], 40), np.tile([0] * 30 + [1] * 10, 2)
    kept = utkface.subsample(labels, group, 0.75, 2, 2, seed=0)
    counts = [[((labels[kept] == k) & (group[kept] == g)).sum() for g in (0, 1)] for k in (0, 1)]
    assert counts == [[30, 10], [3, 10]]
    with pytest.raises(ValueError, match="class 1 has 0 of group 1"):
        utkface.subsample(labels[:70], group[:70], 0.8, 2, 2, seed=0)


def test_all_copies_of_a_picture_are_in_one_split(folder):
    for number, name in enumerate(names()):
        (folder / name).write_bytes(picture(number // 3))
    dataset = data.load("utkface", size=8)
    sources = [set(split.source.tolist()) for split in dataset.splits.values()]
    assert len(set.union(*sources)) == 40
    assert sum(map(len, sources)) == 40
    contents = [{image.tobytes() for image in split.images} for split in dataset.splits.values()]
    assert not contents[0] & contents[1] | contents[0] & contents[2] | contents[1] & contents[2]


def test_the_same_seed_gives_the_same_splits_and_another_seed_others(faces):
    first, other = data.load("utkface", size=8), data.load("utkface", size=8, seed=1)
    assert set(other.test.source) != set(first.test.source)
    assert data.cache.fingerprint(utkface.prepare(size=8)) == first.fingerprint


def test_the_npz_form_gives_the_same_data(faces, folder):
    by_files = data.load("utkface", size=8)
    contents = [(folder / name).read_bytes() for name in names()]
    offset = np.cumsum([0, *map(len, contents)])
    arrays = {"name": np.array(names()), "jpeg": np.frombuffer(b"".join(contents), np.uint8), "offset": offset}
    folder.rename(folder.parent / "elsewhere")
    np.savez(folder.parent / "utkface.npz", **arrays)
    assert utkface.prepare(size=8).left_out == ()
    assert data.cache.fingerprint(utkface.prepare(size=8)) == by_files.fingerprint
    before = (folder.parent / "utkface.npz").read_bytes()
    data.load("utkface", size=64)  # all defaults, whose cache must not be called utkface.npz
    assert (folder.parent / "utkface.npz").read_bytes() == before
    np.savez(folder.parent / "utkface.npz", **arrays | {"offset": offset[:-1]})
    with pytest.raises(ValueError, match=r"utkface\.npz should hold name"):
        utkface.prepare()
    (folder.parent / "utkface.npz").write_bytes(before[:-100])
    with pytest.raises(ValueError, match=r"utkface\.npz cannot be read"):
        utkface.prepare()


def test_a_changed_picture_is_noticed_and_a_cache_without_a_stamp_gives_the_same_set(faces, folder):
    first = data.load("utkface", size=8)
    (manifest,) = [file for file in paths.data_folder().glob("utkface-*.json") if ".images" not in file.name]
    noted = json.loads(manifest.read_text())
    del noted["options"]["stamp"]
    manifest.write_text(json.dumps(noted))
    assert data.load("utkface", size=8).fingerprint == first.fingerprint
    assert "stamp" in json.loads(manifest.read_text())["options"], "prepared again"
    (folder / faces[0]).write_bytes(picture(250))
    changed = data.load("utkface", size=8)
    assert any((split.images[:, 0] == 250).any() for split in changed.splits.values())
    folder.rename(folder.parent / "elsewhere")
    data.cache.cached.cache_clear()
    assert data.load("utkface", size=8).fingerprint == changed.fingerprint, "prepared once, the originals may go"


def test_linked_folders_are_followed(faces, folder):
    before = data.load("utkface", size=8).fingerprint
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")
    assert data.load("utkface", size=8).fingerprint == before
    folder.unlink()
    folder.mkdir()
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    assert sum(len(split) for split in utkface.prepare(size=8).splits.values()) == len(faces)


def test_a_file_in_two_folders_counts_once_and_two_pictures_of_one_name_are_refused(faces, folder):
    before = utkface.prepare(size=8)
    (folder / "crop_part1").mkdir()
    (folder / "crop_part1" / faces[5]).write_bytes((folder / faces[5]).read_bytes())
    dataset = utkface.prepare(size=8)
    assert dataset.left_out == (f"crop_part1/{faces[5]}: is {faces[5]} again",)
    assert all(np.array_equal(dataset.splits[part].images, before.splits[part].images) for part in before.splits)
    (folder / "crop_part1" / faces[5]).write_bytes(picture(250))
    with pytest.raises(ValueError, match=f"'{faces[5]}' and 'crop_part1/{faces[5]}': the same name"):
        utkface.prepare(size=8)


def test_broken_names_and_pictures_are_counted_listed_and_left_out(faces, folder, capsys):
    (folder / "61_1_20170109142408075.jpg.chip.jpg").write_bytes(picture(200))
    with pytest.raises(ValueError, match=r"1 of 121 images cannot be used.*61_1_20170109142408075"):
        data.load("utkface", size=8, leave_out=0.0)
    (folder / "30_1_2_20170109142408075 ü'\n.jpg").write_bytes(picture(200))
    (folder / "30_1_2_1.jpg").write_bytes(b"no picture")
    (folder / "30_1_2_2.jpg").write_bytes(b"")
    (folder / "30_1_2_3.jpg").symlink_to("nowhere")
    dataset = data.load("utkface", size=8, leave_out=0.05)
    assert sum(len(split) for split in dataset.splits.values()) == 120
    reasons = dict(text.split(": ", 1) for text in dataset.left_out)
    odd = "30_1_2_20170109142408075 ü'\n.jpg"
    short = [f"30_1_2_{number}.jpg" for number in (1, 2, 3)]
    assert set(reasons) == {"61_1_20170109142408075.jpg.chip.jpg", odd, *short}
    assert reasons["30_1_2_3.jpg"] == "is missing"
    assert "cannot identify" in reasons["30_1_2_1.jpg"]
    assert "left out" in capsys.readouterr().err


def test_a_decompression_bomb_is_refused_before_it_is_decoded(faces, folder, monkeypatch):
    Image.new("1", (12000, 9000)).save(folder / "30_1_2_1.png")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"30_1_2_1\.png: .*12000 × 9000 pixels.*bomb"):
        data.load("utkface", size=8, leave_out=0.0)


def test_wrong_options_and_a_missing_folder_are_named(faces, tmp_path, monkeypatch):
    for options, message in (
        ({"label": "ages"}, "age"),
        ({"label": "gender"}, "must differ"),
        ({"skew": 0.2}, "0.5"),
        ({"size": 2}, "pixels"),
        ({"bands": (40, 20)}, "rising"),
        ({"test_share": 1.0}, "between 0 and 1"),
        ({"leave_out": 2}, "leave_out"),
        ({"label": "race"}, "0 images of class 'Black'"),
    ):
        with pytest.raises(ValueError, match=message):
            utkface.prepare(**options)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"utkface\.npz"):
        data.load("utkface")


def test_a_run_trains_on_faces_and_measures_their_bias(faces):
    settings = runs.Run(data="utkface", skew=0.75, method="scratch", student="convnet_4", epochs=1, device="cpu")
    record = runs.run(settings, log=list)
    assert record["data"]["fingerprint"] == data.load("utkface", skew=0.75).fingerprint
    assert record["metrics"]["test"]["classes_counted"] == 5
    assert record["metrics"]["test"]["unknown"] == 0


def test_a_run_carries_an_attribute_of_many_values(five_races):
    settings = runs.Run(data="utkface", data_options="label=gender, group=race", student="convnet_4", teacher="convnet_8",
                        debias="domain_independent", epochs=1, device="cpu")  # fmt: skip
    record = runs.run(settings, log=list)
    groups = data.load("utkface", label="gender", group="race").test.group
    assert set(groups) == {0, 1, 2, 3, 4}
    assert record["metrics"]["test"]["mad"] is not None
    assert all(record["metrics"]["vs_teacher"][f"churn_group_{group}"] is not None for group in range(5))
    assert runs.history(settings)["val_mad"].notna().all()
    assert runs.load_model(settings).fc.num_groups == len(utkface.RACES)


@pytest.mark.skipif(
    not list(Path(REAL_DATA or "/nowhere").glob("U[Tt][Kk]*ace*")) and not (Path(REAL_DATA or "") / "utkface").is_dir(),
    reason="KDLIB_DATA names no folder with utkface/ or UTKFace/",
)
def test_the_real_faces_have_the_known_counts():
    place = next(each for each in map(Path(REAL_DATA).joinpath, ("utkface", "UTKFace")) if each.is_dir())
    values = np.array([parsed for file in place.iterdir() if (parsed := utkface.parse(file.name))])
    assert len(values) >= 23702
    columns, _ = utkface._variables(values, utkface.BANDS)
    cells = [[((columns["age"] == k) & (columns["gender"] == g)).sum() for g in (0, 1)] for k in range(5)]
    known = [[1615, 1446], [850, 681], [6341, 5538], [1366, 3177], [1142, 1546]]
    assert np.abs(np.array(cells) - known).max() <= 6, "the official 23,705, some copies a little fewer"
