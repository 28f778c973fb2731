"""WIDER Attribute: annotations in every form, gender by both rules, splits, and images kept in a memory-mapped file."""

import functools
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_DATA, damage_file
from PIL import Image

from kdlib import data, files, paths, runs
from kdlib.data import pictures, wider

EXCERPT = Path(__file__).parent / "wider_excerpt.json"  # real annotations, in the plain list form
# of the 3,453 annotations of the earlier study, by its rule: male and female images of each of the 16 classes
MALE = [540, 176, 154, 68, 148, 52, 11, 153, 153, 26, 166, 24, 98, 141, 128, 134]
FEMALE = [126, 123, 117, 56, 228, 22, 39, 48, 40, 147, 32, 35, 31, 57, 91, 89]


EXPECTED_SCENES = [0, 1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 3, 23, 29]
EXPECTED_PEOPLE = [2, 2, 4, 3, 2, 4, 1, 4, 2, 3, 2, 3, 2, 2, 2, 1, 3, 2, 3, 4, 4]
EXPECTED_GROUP = [0, -1, 0, 0, 1, 1, 1, 1, -1, 1, -1, 1, 1, -1, 1, -1, 1, -1, -1, -1, -1]
EXPECTED_EARLIER = [0, 1, 0, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]


def person(male, box=(1.0, 2.0, 30.0, 60.0)):
    return {"attribute": [male] + [0] * 13, "bbox": list(box)}


def entry(scene=0, males=(1,), number=0, split="test"):
    event, (name, _) = list(wider.EVENTS.items())[scene]
    folder = f"{event}--{name.replace(' ', '_')}"
    return {
        "scene_id": scene,
        "file_name": f"{split}/{folder}/{folder}_{number}.jpg",
        "targets": [person(male) for male in males],
    }


@pytest.fixture
def write(tmp_path):
    """Write entries as a plain list; the file's path."""

    def write(entries, name="annotations.json"):
        file = tmp_path / name
        file.write_text(json.dumps(entries))
        return file

    return write


def test_the_share_of_males_is_that_among_people_whose_gender_is_specified(write):
    genders = [(1, 1, -1), (1, 0, 0), (-1, 0, 0), (1, -1), (1, -1, 0), (0, 0), ()]
    file = write([entry(males=males, number=number) for number, males in enumerate(genders)])
    table = wider.annotations(file)
    assert table.columns.tolist() == ["file", "scene", "label", "share", "group", "people"]
    assert table.share.to_numpy() == pytest.approx([2 / 3, 1, 0, 0.5, 0.5, np.nan, np.nan], nan_ok=True)
    assert table.group.tolist() == [1, 1, 0, -1, -1, -1, -1], "a tie is neither male nor female"
    assert table.people.tolist() == [3, 3, 3, 2, 3, 2, 0]
    earlier = wider.annotations(file, rule="earlier")
    assert earlier.share.to_numpy() == pytest.approx([2 / 3, 1 / 3, 0, 0.5, 1 / 3, 0, np.nan], nan_ok=True)
    assert earlier.group.tolist() == [1, 0, 0, 1, 0, 0, -1], "ties become male, unspecified people female"
    with pytest.raises(ValueError, match="specified"):
        wider.annotations(file, rule="specifed")


def test_scenes_are_numbered_by_the_rank_of_their_event_and_merged_as_in_the_study(write):
    events = "0 1 3 4 6 7 11 15 17 18 19 20 22 25 27 28 30 31 33 35 36 37 39 43 44 50 51 54 57 58"
    merged = "2 8 7 14 1 13 8 8 1 14 15 15 11 7 6 13 5 3 4 0 0 0 4 10 4 1 9 12 10 0"
    table = wider.annotations(write([entry(scene) for scene in range(30)]))
    assert [name.split("/")[1].split("--")[0] for name in table.file] == events.split()
    assert table.scene.tolist() == list(range(30))
    assert table.label.tolist() == [int(label) for label in merged.split()]
    assert len(wider.CLASSES) == 16
    assert [wider.CLASSES[table.label[scene]] for scene in (0, 14, 26)] == ["Parade", "Spa", "Dresses"]


def test_a_real_excerpt_counts_as_counted_by_hand():
    table, earlier = wider.annotations(EXCERPT), wider.annotations(EXCERPT, rule="earlier")
    assert table.scene.tolist() == EXPECTED_SCENES
    assert table.people.tolist() == EXPECTED_PEOPLE
    assert table.group.tolist() == EXPECTED_GROUP
    assert earlier.group.tolist() == EXPECTED_EARLIER


def test_official_list_and_compressed_files_and_a_folder_of_them_agree(write, tmp_path):
    trainval = [entry(scene, number=1, split="train") for scene in (0, 3)] + [entry(4, number=2, split="val")]
    test = [entry(scene, (1, -1), number=3) for scene in (2, 29)]
    whole = wider.annotations(write(trainval + test))
    assert wider.annotations(tmp_path).equals(whole)
    folder = tmp_path / "official" / "Annotations"
    folder.mkdir(parents=True)
    for name, entries in zip(wider.OFFICIAL, (trainval, test), strict=True):
        tree = {"images": entries, "attribute_id_map": {"0": "Male"}, "scene_id_map": {"0": "Parade"}}
        (folder / name).write_text(json.dumps(tree))
    (folder / "notes.json").write_text("{}")
    assert wider.annotations(tmp_path / "official").equals(whole), "trainval before test, and nothing else"
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(trainval + test).encode()))
    assert wider.annotations(packed).equals(whole)


def broken(**changes):
    return entry(number=1) | changes


BAD = {
    "no scene": ({"file_name": "test/0--Parade/a.jpg", "targets": []}, "scene_id is missing"),
    "half a character": (broken(file_name="test/0--Parade/\ud800.jpg"), "half a character"),
    "no name": ({"scene_id": 0, "targets": []}, "file_name is missing"),
    "no people": ({"file_name": "test/0--Parade/a.jpg", "scene_id": 0}, "targets is missing"),
    "no box": (broken(targets=[{"attribute": [0] * 14}]), "person 0: bbox is missing"),
    "no attribute": (broken(targets=[person(1), {"bbox": [0, 0, 1, 1]}]), "person 1: attribute is missing"),
    "unknown scene": (broken(scene_id=30), "scene_id 30 is unknown"),
    "scene as text": (broken(scene_id="0"), "scene_id should be of type int"),
    "another scene": (broken(scene_id=1), "scene_id 1 is event 1 .Handshaking., but the folder is that of event 0"),
    "flat box": (broken(targets=[person(1, (0, 0, 5, 0))]), "no area: width 5, height 0"),
    "endless box": (broken(targets=[person(1, (0, 0, 5, float("inf")))]), "bbox should be"),
    "other gender": (broken(targets=[person(2)]), "each −1, 0 or 1"),
    "13 attributes": (broken(targets=[{"attribute": [1] * 13, "bbox": [0, 0, 1, 1]}]), "14 numbers"),
    "other split": (broken(file_name="extra/0--Parade/a.jpg"), "under train/, val/ or test/"),
    "outside": (broken(file_name="test/0--Parade/.."), "under train/, val/ or test/"),
    "twice": (entry(number=0), "annotated already, by .*image 0"),
    "a number": (3, "file_name is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_annotation_is_named_with_its_file_and_entry(case, write):
    wrong, message = BAD[case]
    file = write([entry(number=0), wrong])
    with pytest.raises(ValueError, match=message) as caught:
        wider.annotations(file)
    assert f"{file}, image 1" in str(caught.value)


def test_what_is_no_annotation_file_is_named(write, tmp_path):
    for content in ("{", '{"scenes": []}', "3"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=r"bad\.json"):
            wider.annotations(tmp_path / "bad.json")
    (tmp_path / "bad.json.gz").write_bytes(gzip.compress(b"[]")[:-4])
    with pytest.raises(ValueError, match="gzip"):
        wider.annotations(tmp_path / "bad.json.gz")
    with pytest.raises(ValueError, match="no annotations of images"):
        wider.annotations(write([]))
    with pytest.raises(FileNotFoundError, match="wider_attribute_trainval"):
        wider.annotations(tmp_path / "nowhere")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A data folder with 96 images in two scenes, 64 of them of trainval; the folder of the images."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "wider"
    (folder / "Annotations").mkdir(parents=True)
    for name, splits in zip(wider.OFFICIAL, (("train", "val"), ("test",)), strict=True):
        entries = []
        for number in range(32 * len(splits)):
            split = splits[number % len(splits)]
            entries.append(
                entry((0, 1)[number // 2 % 2], [(1, 1, -1), (-1,), (1, -1), (0,)][number // 8 % 4], number, split)
            )
        (folder / "Annotations" / name).write_text(json.dumps({"images": entries}))
        for number, each in enumerate(entries):
            file = folder / "Image" / each["file_name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            colour = (4 * number, 255 * (each["scene_id"] == 1), 90)
            Image.new("RGB", (40, 30), colour).save(file.with_suffix(".png"))
            file.with_suffix(".png").rename(file)
    return folder / "Image"


def test_the_official_test_split_stays_whole_and_val_is_cut_from_trainval(tree):
    dataset, thirty = data.load("wider", size=16), data.load("wider", size=16, classes=30, rule="earlier")
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (50, 14, 32)
    assert dataset.classes == wider.CLASSES
    assert dataset.groups == ("female", "male")
    assert (dataset.padding, dataset.flip, dataset.mean) == (0, False, (0.485, 0.456, 0.406))
    table = wider.annotations(tree.parent)
    for name, split in dataset.splits.items():
        rows = table.iloc[split.source]
        assert (rows.file.str.startswith("test") == (name == "test")).all()
        assert np.array_equal(split.labels, rows.label)
        assert np.array_equal(split.group, rows.group)
        assert np.array_equal(split.group_share, rows.share.astype(np.float32), equal_nan=True)
        assert (split.images[:, 1] == 255 * (rows.scene == 1).to_numpy()[:, None, None]).all(), "each its own picture"
        assert split.images.shape == (len(split), 3, 16, 16)
        assert split.labels.dtype == split.group.dtype == np.int64
    assert [np.unique(split.group).tolist() for split in (dataset.train, dataset.val)] == [[-1, 0, 1]] * 2
    assert not set(dataset.train.source) & set(dataset.val.source)
    for name, split in thirty.splits.items():
        assert np.array_equal(split.source, dataset.splits[name].source), "splits do not depend on the rule"
        assert np.array_equal(split.labels, table.scene.iloc[split.source])
    assert len(thirty.classes) == 30
    assert len(list(paths.data_folder().glob("*.images.npy"))) == 1, "images are decoded once for all rules and classes"


def test_images_are_resized_as_torchvision_does(tree, monkeypatch):
    from torchvision.transforms.v2.functional import resize

    file = tree / "odd.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)).save(file)
    expected = np.asarray(resize(Image.open(file), [16, 16])).transpose(2, 0, 1)
    assert np.array_equal(pictures.one(file, 16), expected)


def test_a_prepared_set_is_opened_without_decoding_and_is_the_same(tree, monkeypatch):
    first = data.load("wider", size=16)
    data.cache.cached.cache_clear()
    again = functools.wraps(wider.prepare)(lambda **options: pytest.fail("prepared again"))
    monkeypatch.setattr(wider, "prepare", again)
    again = data.load("wider", size=16)
    assert again.fingerprint == first.fingerprint == data.cache.fingerprint(again)
    assert isinstance(again.test.images, np.memmap)
    again.train.images[0] = 7  # in memory only
    data.cache.cached.cache_clear()
    assert np.array_equal(data.load("wider", size=16).train.images, first.train.images)


def test_a_rewritten_annotation_or_picture_is_noticed(tree):
    first = data.load("wider", size=16)
    file = tree.parent / "Annotations" / wider.OFFICIAL[1]
    content = json.loads(file.read_text())
    content["images"][0] |= {"targets": [person(-1)]}
    file.write_text(json.dumps(content))
    second = data.load("wider", size=16)
    assert second.test.group[0] == 0 != first.test.group[0]
    Image.new("RGB", (40, 30), (0, 0, 7)).save(tree / content["images"][0]["file_name"], "PNG")
    assert data.load("wider", size=16).test.images[0, 2, 0, 0] == 7
    assert second.test.images[0, 2, 0, 0] == 90


def test_what_an_interrupted_fetch_left_is_not_taken_for_the_set(tree):
    first = data.load("wider", size=16)
    left = tree.parent / ".wider_attribute_annotation.zip.unpacked"
    left.mkdir()
    for name in wider.OFFICIAL:
        (left / name).write_bytes((tree.parent / "Annotations" / name).read_bytes())
    (left / "Image" / "test").mkdir(parents=True)
    assert wider._image_root(tree.parent) == tree
    assert data.cache.fingerprint(wider.prepare(size=16)) == first.fingerprint
    tree.parent.rename(tree.parent.with_name("WIDER"))
    (tree.parent / "Image").mkdir(parents=True)
    assert data.cache.fingerprint(wider.prepare(size=16)) == first.fingerprint, "wider/ has no annotations"


def test_photographs_in_the_official_tree_are_prepared_as_in_the_protocol(tmp_path, monkeypatch, capsys):
    """Real JPEGs of odd sizes, one grey and one in CMYK, with everything as it is by default: 226 × 226, 16 classes."""
    from torchvision.transforms.v2.functional import resize

    monkeypatch.setenv("KDLIB_DATA", str(tmp_path))
    monkeypatch.setenv("KDLIB_HEADLESS", "1")
    generator, entries = np.random.default_rng(0), {name: [] for name in wider.OFFICIAL}
    for number in range(24):
        split, scene = ("train", "val", "test")[number % 3], (0, 17, 29)[number // 3 % 3]
        each = entry(scene, [(1, -1, 1), (-1, 0)][number % 2], number, split)
        entries[wider.OFFICIAL[split == "test"]].append(each)
        file = tmp_path / "WIDER" / "Image" / each["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        photograph = Image.fromarray(coarse).resize((300 + 11 * number, 400 - 7 * number), Image.Resampling.BICUBIC)
        photograph.convert({5: "L", 9: "CMYK"}.get(number, "RGB")).save(file, "JPEG", quality=90)
    (tmp_path / "WIDER" / "Annotations").mkdir()
    for name, chosen in entries.items():
        content = {"images": chosen, "attribute_id_map": {"0": "Male"}, "scene_id_map": {"0": "Parade"}}
        (tmp_path / "WIDER" / "Annotations" / name).write_text(json.dumps(content))
    dataset = data.load("wider")
    assert {name: split.images.shape[1:] for name, split in dataset.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), (3, 226, 226)
    )
    assert isinstance(dataset.train.images, np.memmap)
    assert (dataset.mean, dataset.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    table = wider.annotations(tmp_path / "WIDER")
    for split in dataset.splits.values():
        for row, shown in zip(split.source, split.images, strict=True):
            with Image.open(tmp_path / "WIDER" / "Image" / table.file[row]) as photograph:
                expected = np.asarray(resize(photograph.convert("RGB"), [226, 226])).transpose(2, 0, 1)
            assert np.array_equal(shown, expected), table.file[row]
        assert np.array_equal(split.labels, table.label[split.source])
    assert "decoding 24 images" in capsys.readouterr().err
    data.cache.cached.cache_clear()
    monkeypatch.setattr(pictures, "one", None)
    assert data.load("wider").fingerprint == dataset.fingerprint
    assert data.load("wider", classes=30).classes == wider.SCENES, "the same pictures, not decoded again"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["truncated", "flipped byte", "no manifest", "bad manifest", "missing"])
def test_damaged_images_are_decoded_again_with_a_word(damage, tree, capsys):
    first = data.load("wider", size=16)
    (file,) = paths.data_folder().glob("*.images.npy")
    if damage == "missing":
        file.unlink()
    else:
        damage_file(damage, file, file.with_suffix(".json"))
    data.cache.cached.cache_clear()
    capsys.readouterr()
    again = data.load("wider", size=16)
    assert again.fingerprint == first.fingerprint == data.cache.fingerprint(again)
    assert "preparing it again" in capsys.readouterr().err
    assert pictures.problem(file) is None


def test_a_copied_file_is_verified_once_and_then_trusted_by_its_stamp(tree, monkeypatch):
    data.load("wider", size=16)
    (file,) = paths.data_folder().glob("*.images.npy")
    os.utime(file, (1, 1))
    assert pictures.problem(file) is None
    monkeypatch.setattr(files, "sha256", lambda _: "another")
    assert pictures.problem(file) is None, "the new time is known now"
    os.utime(file, (2, 2))
    assert "SHA-256" in pictures.problem(file)


def test_missing_and_broken_images_are_listed_and_refused_above_a_share(tree, capsys):
    files = sorted((tree / "test" / "0--Parade").glob("*"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1 of 96 .* leave_out=0\.01: test/0--Parade/.*_0.jpg: is missing\. Repair"):
        data.load("wider", size=16)
    with pytest.raises(ValueError, match=r"2 of 96 .* leave_out=0\.015: "):
        data.load("wider", size=16, leave_out=0.015)
    assert not list(paths.data_folder().glob("*.npy")), "nothing half-made stays"
    dataset = data.load("wider", size=16, leave_out=0.05)
    assert len(dataset.test) == 30
    assert sorted(dataset.left_out)[0] == f"test/0--Parade/{files[0].name}: is missing"
    assert sorted(dataset.left_out)[1].startswith(f"test/0--Parade/{files[1].name}: ")
    assert "2 left out" in capsys.readouterr().err
    table = wider.annotations(tree.parent)
    left = set(range(96)) - {row for split in dataset.splits.values() for row in split.source}
    assert {Path(table.file[row]).name for row in left} == {files[0].name, files[1].name}
    for split in dataset.splits.values():
        assert (split.images[:, 1] == 255 * (table.scene.iloc[split.source] == 1).to_numpy()[:, None, None]).all()
    data.cache.cached.cache_clear()
    assert data.load("wider", size=16, leave_out=0.05).left_out == dataset.left_out


def test_a_run_trains_as_in_the_protocol_and_leaves_ties_out_of_its_bias(tree):
    settings = runs.Run(
        data="wider",
        data_options="size=16",
        student="convnet_4",
        teacher="convnet_8",
        optimizer="adam",
        lr=1e-3,
        epochs=1,
    )
    record = runs.run(settings, log=list)
    test = data.load("wider", size=16).test
    assert record["metrics"]["test"]["unknown"] == (test.group == -1).sum() == 16, "eight ties, eight without a gender"
    assert runs.on_device(settings, "train").padding == 0, "no augmentation"
    assert runs.stored(settings.teacher_run())["settings"]["optimizer"] == "adam"


def test_what_is_needed_is_said_where_it_is_missing(tree, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="16, as merged"):
        data.load("wider", classes=10)
    with pytest.raises(ValueError, match="specified"):
        data.load("wider", rule="late")
    (tree.parent / "Annotations" / wider.OFFICIAL[0]).unlink()
    with pytest.raises(ValueError, match="no images of train/"):
        data.load("wider", size=16)
    tree.rename(tree.parent / "Picture")
    with pytest.raises(FileNotFoundError, match="Image/train"):
        data.load("wider", size=16)
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match="wider_attribute_trainval"):
        data.load("wider", size=16)


def test_many_images_are_decoded_by_several_processes_to_the_same_pixels(tree, monkeypatch):
    alone = data.load("wider", size=16)
    assert len(alone.train) + len(alone.val) + len(alone.test) > pictures.CHUNK, "several chunks"
    for file in paths.data_folder().glob("*.images.*"):
        file.unlink()
    data.cache.cached.cache_clear()
    monkeypatch.setattr(pictures, "CHUNK", 1000)
    assert data.load("wider", size=16).fingerprint == alone.fingerprint


@pytest.mark.skipif(
    not list(Path(REAL_DATA or "/nowhere").glob("WIDER/**/wider_attribute_part.json")),
    reason="KDLIB_DATA names no folder with WIDER/…/wider_attribute_part.json",
)
def test_all_annotations_at_hand_give_the_known_table():
    (file,) = Path(REAL_DATA).glob("WIDER/**/wider_attribute_part.json")
    table, earlier = wider.annotations(file), wider.annotations(file, rule="earlier")
    for group, counts in ((1, MALE), (0, FEMALE)):
        assert np.bincount(earlier.label[earlier.group == group]).tolist() == counts
    assert len(table) == 3453
    assert table.people.sum() == 14801
    assert (earlier.share == 0.5).sum() == 440
    assert table.share.isna().sum() == 81
    assert (table.share == 0.5).sum() == 404
    assert (table.group == -1).sum() == 81 + 404
