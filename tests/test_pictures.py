"""Pictures as cameras, archives and other people leave them: turned, huge, and twice."""

import itertools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdlib import data
from kdlib.data import copies, decoding, pictures

TURNS = {  # how a camera stores an upright picture, by the orientation that it notes
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def noise(seed, height=24, width=40):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["jpg", "png", "tiff", "webp"])
def test_pictures_are_upright(orientation, form, tmp_path):
    upright = noise(0)
    stored = upright if TURNS[orientation] is None else upright.transpose(TURNS[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    stored.save(tmp_path / f"held.{form}", exif=exif, **options.get(form, {}))
    upright.save(tmp_path / f"upright.{form}", **options.get(form, {}))
    held, straight = (decoding.one(tmp_path / f"{name}.{form}", 16).astype(int) for name in ("held", "upright"))
    assert np.abs(held - straight).max() <= (4 if form == "jpg" else 0)
    assert np.abs(straight - straight[:, ::-1]).max() > 50, "turning it would show"


def test_a_note_that_is_none_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    noise(0).save(tmp_path / "odd.jpg", exif=exif)
    noise(0).save(tmp_path / "plain.jpg")
    assert (decoding.one(tmp_path / "odd.jpg", 16) == decoding.one(tmp_path / "plain.jpg", 16)).all()


@pytest.mark.parametrize("shape", [(1, 49_999_999), (49_999_999, 1), (7_100, 7_100), (1, 65_501)])
def test_large_pictures_are_refused_before_they_are_read(shape, tmp_path):
    """A PNG whose header alone says how large it is: decoding it would fail in another way."""
    Image.new("L", (8, 8)).save(tmp_path / "large.png")
    content = bytearray((tmp_path / "large.png").read_bytes())
    content[16:24] = shape[0].to_bytes(4, "big") + shape[1].to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    with pytest.raises(ValueError, match=r"decompression bomb.*KDLIB_MAX_PIXELS"):
        decoding.one(bytes(content), 16)


def test_the_limit_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 500)
    noise(0).save(tmp_path / "honest.png")
    with pytest.raises(ValueError, match="40 × 24 pixels, more than 500"):
        decoding.one(tmp_path / "honest.png", 16)
    monkeypatch.setenv("KDLIB_MAX_PIXELS", "1_000")
    assert decoding.one(tmp_path / "honest.png", 16).shape == (3, 16, 16)
    monkeypatch.setenv("KDLIB_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="KDLIB_MAX_PIXELS is a number of pixels"):
        decoding.one(tmp_path / "honest.png", 16)


def test_pillows_own_limit_does_not_stand_in_the_way(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with decoding.own_limit():
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.fixture
def place(tmp_path, monkeypatch):
    """train/ and test/ with 40 and 20 pictures of two classes, and a table of their groups."""
    monkeypatch.setenv("KDLIB_DATA", str(tmp_path / "data"))
    rows = []
    for part, count in (("train", 40), ("test", 20)):
        for number, (label, group) in zip(range(count), itertools.cycle(itertools.product("ab", "fm")), strict=False):
            file = tmp_path / "data" / "mine" / part / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise(1000 * (part == "test") + number).save(file)
            rows.append((f"{part}/{number}.png", label, group, part))
    frame = pd.DataFrame(rows, columns=["file", "label", "group", "split"])
    frame.to_csv(tmp_path / "data" / "mine.csv", index=False)
    return tmp_path / "data" / "mine"


OPTIONS = {"path": "mine", "table": "mine.csv", "size": 16}


def test_copies_across_splits_stop_by_name(place, capsys):
    data.load("table", **OPTIONS)
    assert "look like" not in capsys.readouterr().err
    (place / "test" / "3.png").write_bytes((place / "train" / "7.png").read_bytes())
    with pytest.raises(
        ValueError, match=r"1 images are in two splits.*'train/7.png' in (train|val) is 'test/3.png' in test"
    ):
        data.load("table", **OPTIONS)


def test_copies_in_class_folders_of_splits_stop_too(place):
    for part in ("train", "test"):
        for number in range(10):
            file = place.with_name("folders") / part / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise(number if number < 2 or part == "train" else 50 + number).save(file)
    with pytest.raises(ValueError, match="2 images are in two splits"):
        data.load("table", path="folders", size=16)


def test_copies_stay_together_where_the_splits_are_cut(place):
    for number in range(20):
        (place / "test" / f"{number}.png").write_bytes((place / "train" / f"{number}.png").read_bytes())
    dataset = data.load("table", split="none", **OPTIONS)
    of = {name: part for part, split in dataset.splits.items() for name in split.names}
    assert all(of[f"train/{number}.png"] == of[f"test/{number}.png"] for number in range(20))
    sources = np.concatenate([split.source for split in dataset.splits.values()])
    assert len(set(sources)) == 40


def test_without_copies_nothing_changes():
    persons = np.array(["x", "y", "x"])
    assert copies.joined(persons, np.arange(3)) is persons
    linked = copies.joined(np.array(["x", "y", "y", "z"]), np.array([0, 0, 1, 2]))
    assert len(set(linked[:3])) == 1
    assert linked[3] not in linked[:3]


def test_what_a_mac_leaves_is_skipped_and_counted(place, capsys):
    plain = data.load("table", **OPTIONS)
    for file in [*place.rglob("*.png"), place.with_name("mine.csv")]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\26\7" + b"Mac OS X" * 20)
        twin = place / "__MACOSX" / "mine" / f"._{file.name}"
        twin.parent.mkdir(parents=True, exist_ok=True)
        twin.write_bytes(b"\0\5\26\7")
    (place / ".DS_Store").write_bytes(b"x")
    for prepared in place.parent.glob("table-*"):
        prepared.unlink()
    capsys.readouterr()
    dataset = data.load("table", **OPTIONS)
    assert dataset.fingerprint == plain.fingerprint
    assert "62 files or folders of macOS skipped" in capsys.readouterr().err, "60 pictures' twins, a folder, .DS_Store"


def test_a_macs_folder_is_no_class(place):
    for label in ("a", "b", "__MACOSX"):
        for number in range(10):
            file = place.with_name("classes") / label / f"{'._' * (label == '__MACOSX')}{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise(100 * ord(label[0]) + number).save(file)
    assert data.load("table", path="classes", size=16).classes == ("a", "b")


def test_near_copies_are_counted_and_told(place, capsys):
    for number in range(3):
        with Image.open(place / "train" / f"{number}.png") as image:
            image.resize((80, 48)).save(place / "test" / f"{number}.png")  # saved anew, larger
    data.load("table", **OPTIONS)
    assert "3 of 20 test images look like a training image" in capsys.readouterr().err


def test_equal_bytes_are_found_by_a_slow_loop_too(tmp_path):
    rng, sources = np.random.default_rng(0), {}
    for number in range(30):
        sources[f"{number}"] = tmp_path / f"{number}.png"
        noise(int(rng.integers(0, 12))).save(sources[f"{number}"])
    Image.new("RGB", (8, 8)).save(tmp_path / "blank.png")
    sources |= {"blank": tmp_path / "blank.png", "blank again": tmp_path / "blank.png", "gone": tmp_path / "gone.png"}
    found, names = copies.numbers(sources), list(sources)
    for one, other in itertools.combinations(range(len(names)), 2):
        same = one < 30 and other < 30 and sources[names[one]].read_bytes() == sources[names[other]].read_bytes()
        assert (found[one] == found[other]) == same, (names[one], names[other])
    pixels = np.stack([np.full((3, 4, 4), 7), *np.random.default_rng(1).integers(0, 9, (2, 3, 4, 4))])
    assert copies.numbers(pixels[[0, 1, 2, 1, 0]]).tolist() == [0, 1, 2, 1, 3]


def test_thumbnails_are_means_of_blocks():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 40, 33)).astype(np.uint8)
    found = copies._thumbnails(images)
    rows, columns = (np.linspace(0, side, 17).astype(int) for side in (40, 33))
    slow = [
        [image[:, a:b, c:d].mean() for a, b in itertools.pairwise(rows) for c, d in itertools.pairwise(columns)]
        for image in images
    ]
    np.testing.assert_allclose(found, slow, rtol=1e-5)
    assert copies._thumbnails(images[:, :, :8, :8]).shape == (3, 64)
    assert pictures.FORMAT == 2, "pictures that were decoded before orientation was read are decoded again"
