"""WIDER Attribute: photographs of 30 kinds of event, with the gender of the people in them.

Everything is read from `wider/` (or `WIDER/`) in the data folder: the official `wider_attribute_trainval.json` and
`wider_attribute_test.json`, anywhere in it, and the images under `Image/train`, `Image/val` and `Image/test`, as the official
archives unpack them. The earlier study's plain list, [{"scene_id", "file_name", "targets"}, …], works too."""

import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import paths
from kdlib.data import folders, pictures
from kdlib.data.splits import Dataset, stratified_cut
from kdlib.names import unknown_name

# official number of the event, which precedes `--` in folder names -> (its name, its class among the study's 16);
# the rank of the number is the official scene_id
EVENTS = {
    0: ("Parade", 2), 1: ("Handshaking", 8), 3: ("Riot", 7), 4: ("Dancing", 14), 6: ("Funeral", 1), 7: ("Cheering", 13),
    11: ("Meeting", 8), 15: ("Stock Market", 8), 17: ("Ceremony", 1), 18: ("Concerts", 14), 19: ("Couple", 15),
    20: ("Family Group", 15), 22: ("Picnic", 11), 25: ("Soldier Patrol", 7), 27: ("Spa", 6), 28: ("Sports Fan", 13),
    30: ("Surgeons", 5), 31: ("Waiter or Waitress", 3), 33: ("Running", 4), 35: ("Basketball", 0), 36: ("Football", 0),
    37: ("Soccer", 0), 39: ("Ice Skating", 4), 43: ("Row Boat", 10), 44: ("Aerobics", 4), 50: ("Celebration or Party", 1),
    51: ("Dresses", 9), 54: ("Rescue", 12), 57: ("Angler", 10), 58: ("Hockey", 0),
}  # fmt: skip
SCENES = tuple(name for name, _ in EVENTS.values())
CLASSES = (
    "Team Sports", "Celebration", "Parade", "Waiter or Waitress", "Individual Sports", "Surgeons", "Spa", "Law Enforcement",
    "Business", "Dresses", "Water Activities", "Picnic", "Rescue", "Cheering", "Performance and Entertainment", "Family",
)  # fmt: skip
ATTRIBUTES = 14  # of a person: 1 yes, −1 no, 0 unspecified
MALE = 0  # which of them says so
RULES = ("specified", "earlier")
OFFICIAL = ("wider_attribute_trainval.json", "wider_attribute_test.json")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepare(*, classes=16, rule="specified", size=226, val_share=0.2, seed=0, leave_out=0.01) -> Dataset:
    """`wider`: 13,789 photographs of events with 57,524 annotated people (WIDER Attribute; Li et al., ECCV 2016).

    The class is the kind of event, merged to 16 as in the earlier study, or all 30. The attribute of a photograph is the share
    of males among the people in it whose gender is specified: above one half it counts as male (group 1), below as female
    (0), and as unknown (−1) at a tie or if nobody's gender is specified; the share itself is kept. The official test split
    stays whole; val, about as large as the official one, is cut from the official trainval, stratified by the 30 scenes and
    gender, and is the same for both rules and numbers of classes. Images are resized to 226 × 226 without augmentation,
    with ImageNet's mean and standard deviation. Research use only.

    Parameters
    ----------
    classes : int
        16 or 30.
    rule : str
        "specified" or "earlier": see `annotations`.
    size : int
        Pixels per side.
    val_share : float
        Part of trainval.
    seed : int
        Of that cut.
    leave_out : float
        Largest share of images that may be missing or broken.

    Raises
    ------
    ValueError
        For options outside these ranges, annotations that are not as they should be, and more missing images.
    OSError
        If there are no annotations or images.
    """
    if classes not in (16, 30):
        raise ValueError(f"classes is 16, as merged by the earlier study, or 30, the scenes; got {classes}")
    pictures.check_size(size)
    folder = _place()
    table, strata = annotations(folder, rule=rule), annotations(folder)
    root = _image_root(folder)
    official = table.file.str.split("/").str[0].to_numpy()
    for part in ("train", "test"):
        if part not in official:
            raise ValueError(
                f"the annotations in {folder} have no images of {part}/: put both {' and '.join(OFFICIAL)} there"
            )
    test, pool = np.flatnonzero(official == "test"), np.flatnonzero(official != "test")
    cells = strata.scene.to_numpy()[pool], strata.group.to_numpy()[pool]
    train, val = (pool[part] for part in stratified_cut(*cells, val_share, seed))
    columns = {
        "labels": table[{16: "label", 30: "scene"}[classes]].to_numpy(np.int64),
        "group": table.group.to_numpy(np.int64),
        "group_share": table.share.to_numpy(np.float32),
        "source": np.arange(len(table), dtype=np.int64),
    }
    files = {name: root / name for name in table.file}
    parts = {"train": train, "val": val, "test": test}
    splits, left_out = pictures.split_pictures("wider", files, columns, parts, size, leave_out)
    mean, std = IMAGENET
    names = {16: CLASSES, 30: SCENES}[classes]
    groups = ("female", "male")
    return Dataset("wider", names, groups, **splits, mean=mean, std=std, padding=0, flip=False, left_out=left_out)


def stamp(**_) -> str | None:
    """Return what changes when the annotations or the images do; None if either are missing."""
    folder = _place()
    try:
        return folders.stamp(*_files(folder), _image_root(folder))
    except FileNotFoundError:
        return None


def annotations(path, *, rule="specified") -> pd.DataFrame:
    """Read annotations into a table.

    Parameters
    ----------
    path : path-like
        An official JSON file or one in the plain list form, either also compressed (.json.gz), or a folder with such files
        (trainval before test; only the official ones, if there are any).
    rule : str
        "specified": the share is that of males among the people whose gender is specified; group is 1 above .5, 0 below, and
        −1 at .5 and if nobody's is specified. "earlier", of the earlier study: the share is that of males among all people;
        group is 1 from .5 on, else 0 (−1 only without people): ties become male, unspecified people count as female.

    Returns
    -------
    DataFrame
        A row per image, in the order of the files: file (such as `test/0--Parade/….jpg`), scene (0–29, official), label
        (0–15, the study's), share (of males, NaN where unknown), group (1 male, 0 female, −1 unknown), people (their number).

    Raises
    ------
    ValueError
        With file and entry: for a field that is missing or out of range, a scene that is unknown or not that of the file's
        name, a box without area, and a file annotated twice.
    FileNotFoundError
        Without annotations.
    """
    if rule not in RULES:
        raise unknown_name(rule, RULES, "rule")
    rows, wrong, place_of = [], [], {}
    for file in _files(Path(path)):
        for number, entry in enumerate(_entries(file)):
            place = f"{file}, image {number}"
            try:
                name, scene, male = _parse(entry)
                if name in place_of:
                    raise ValueError(f"is annotated already, by {place_of[name]}")
                place_of[name] = place
                rows.append((name, scene, (male == 1).sum(), (male == -1).sum(), len(male)))
            except (ValueError, OverflowError) as error:
                named = entry.get("file_name") if isinstance(entry, dict) else None
                wrong.append(f"{place} ({named!r}): {error}")
    if wrong:
        more = f"\nand {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{len(wrong)} annotations are not as they should be:\n" + "\n".join(wrong[:5]) + more)
    if not rows:
        raise ValueError(f"{path} has no annotations of images")
    names, *numbers = zip(*rows, strict=True)
    scene, males, females, people = np.array(numbers, dtype=np.int64)
    total = males + females if rule == "specified" else people
    share = np.divide(males, total, out=np.full(len(total), np.nan), where=total > 0)
    if rule == "specified":
        group = np.select([2 * males > total, 2 * males < total], [1, 0], -1)
    else:
        group = np.select([total == 0, 2 * males >= total], [-1, 1], 0)
    label = np.array([merged for _, merged in EVENTS.values()])[scene]
    columns = {"file": names, "scene": scene, "label": label, "share": share, "group": group, "people": people}
    return pd.DataFrame(columns)


def _place() -> Path:
    """The folder of the data set: the first with annotations, or else the first that exists."""
    places = [paths.data_folder() / name for name in ("wider", "WIDER")]
    existing = [place for place in places if place.is_dir()]
    return next((place for place in existing if _json_files(place)), (existing or places)[0])


def _json_files(folder):
    """The JSON files in a folder, without hidden ones, which an interrupted `fetch` left."""
    entries = folders.walk(folder) if folder.is_dir() else ()
    names = (entry for entry in entries if entry.name.endswith((".json", ".json.gz")))
    return sorted(Path(entry.path) for entry in names if not entry.name.startswith("."))


def _files(path):
    """The annotation files that `path` is or holds, trainval before test."""
    if path.is_file():
        return [path]
    found = _json_files(path)
    official = [file for name in OFFICIAL for file in found if file.name.removesuffix(".gz") == name]
    named = [file for file in found if file.name.startswith("wider_")]
    if not found:
        raise FileNotFoundError(f"no annotations in {path}: put {' and '.join(OFFICIAL)} there")
    return official or named or found


def _entries(file):
    try:
        content = file.read_bytes()
        tree = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (ValueError, EOFError, gzip.BadGzipFile, RecursionError) as error:
        raise ValueError(f"{file} is not JSON, plain or compressed by gzip ({error})") from error
    entries = tree.get("images") if isinstance(tree, dict) else tree
    if not isinstance(entries, list):
        raise ValueError(f'{file} holds neither {{"images": […]}}, the official form, nor a list of images')
    return entries


def _parse(entry):
    """(file name, scene, the attribute male of each person) from an image's annotation; ValueError says what is wrong."""
    name, scene, targets = (_field(entry, field, kind) for field, kind in _KINDS.items())
    match = re.fullmatch(r"(train|val|test)/(\d+)--[^/\\\0]+/[^/\\\0]+", name)
    if not match or ".." in name.split("/"):
        raise ValueError("file_name should be as train/0--Parade/….jpg, under train/, val/ or test/")
    if name != name.encode(errors="replace").decode():
        raise ValueError("file_name holds half a character, which no file's name can")
    if not 0 <= scene < len(EVENTS):
        raise ValueError(f"scene_id {scene} is unknown: it should be 0 to {len(EVENTS) - 1}")
    event = int(match[2])
    if event != (expected := list(EVENTS)[scene]):
        raise ValueError(
            f"scene_id {scene} is event {expected} ({SCENES[scene]}), but the folder is that of event {event}"
        )
    return name, scene, np.array([_male(target, number) for number, target in enumerate(targets)], dtype=np.int64)


def _male(target, number):
    place = f"person {number}: "
    attribute, box = (_field(target, field, list, place) for field in ("attribute", "bbox"))
    if len(attribute) != ATTRIBUTES or any(type(value) is not int or value not in (-1, 0, 1) for value in attribute):
        raise ValueError(f"{place}attribute should be {ATTRIBUTES} numbers, each −1, 0 or 1; got {attribute}")
    if len(box) != 4 or not all(type(side) in (int, float) and math.isfinite(side) for side in box):
        raise ValueError(f"{place}bbox should be [x, y, width, height]; got {box}")
    if min(box[2:]) <= 0:
        raise ValueError(f"{place}bbox has no area: width {box[2]}, height {box[3]}")
    return attribute[MALE]


_KINDS = {"file_name": str, "scene_id": int, "targets": list}


def _field(entry, field, kind, place=""):
    if not isinstance(entry, dict) or field not in entry:
        raise ValueError(f"{place}{field} is missing")
    if type(entry[field]) is not kind:
        raise ValueError(f"{place}{field} should be of type {kind.__name__}; got {entry[field]!r}")
    return entry[field]


def _image_root(folder):
    """The folder that holds train/, val/ and test/."""
    for root in (folder, *sorted(place for place in folder.rglob("Image") if place.is_dir())):
        hidden = any(part.startswith(".") or folders.is_junk(part) for part in root.relative_to(folder).parts)
        if not hidden and (root / "test").is_dir():
            return root
    raise FileNotFoundError(
        f"no images of WIDER Attribute in {folder}: unpack wider_attribute_image.tgz there, so that it holds Image/train, "
        "Image/val and Image/test"
    )
