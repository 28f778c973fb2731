"""UTKFace: faces with age, gender and race in their file names.

The images are read from `utkface/` (or `UTKFace/`, its name in the official archive) in the data folder, with the official
names `[age]_[gender]_[race]_[date].jpg.chip.jpg`, in any folders; or from `utkface.npz` or `utkface64.npz` there, which holds
the same files: name (N,), jpeg, their bytes one after the other, and offset (N + 1,)."""

import hashlib
import re
from pathlib import Path

import numpy as np

from kdlib import paths
from kdlib.data import folders, pictures
from kdlib.data.splits import Dataset, check_skew, cut_together, mean_std
from kdlib.names import unknown_name

# a few of the official names have a blank before the point, or no point
NAME = re.compile(r"\d{1,3}_[01]_[0-4]_\d+ ?\.?(jpg\.chip\.)?(jpg|jpeg|png)", re.ASCII)
OLDEST = 120  # years
RACES = ("White", "Black", "Asian", "Indian", "Others")
GENDERS = ("female", "male")  # the files number them the other way round
VARIABLES = ("age", "gender", "race")
BANDS = (10, 20, 40, 60)


def prepare(
    *,
    label="age",
    group="gender",
    bands=BANDS,
    skew=None,
    size=64,
    test_share=0.2,
    val_share=0.1,
    seed=0,
    leave_out=0.01,
) -> Dataset:
    """`utkface`: 23,705 faces of 1 to 116 years, aligned and cropped (Zhang, Song and Qi, CVPR 2017); research use only.

    The class is the age band, 0–9, 10–19, 20–39, 40–59 or 60 and over, and the group is gender as annotated (0 female,
    1 male); any two of age, gender and race can be chosen. There is no official split: test is cut first, stratified by class
    and group, then val. Some hundred images occur several times, often with different annotations; all copies of an image are
    in one split. Files whose name lacks a part, and second copies under the same name, are counted, listed and left out.

    Parameters
    ----------
    label, group : str
        Two different ones of age, gender, race.
    bands : tuple of int
        First year of each age band but the first.
    skew : float, optional
        Share of a class in one group in training and val, .5 to 1, planted by leaving images out, never by relabelling. Of K
        classes and G groups, class k is skewed to group k·G // K: the age bands under 40 to female, the others to male. Test
        stays whole, the same for every skew.
    size : int
        Pixels per side.
    test_share, val_share : float
        Part of each class and group, and part of the rest.
    seed : int
        Of the splits and of what the skew leaves out.
    leave_out : float
        Largest share of images that may be unusable.

    Raises
    ------
    ValueError
        For options outside these ranges, two images of one name, and more unusable images.
    OSError
        If there are no images.
    """
    for option, value in (("label", label), ("group", group)):
        if value not in VARIABLES:
            raise unknown_name(value, VARIABLES, f"{option} of utkface:")
    if label == group:
        raise ValueError(f"label and group must differ; both are {label!r}")
    if skew is not None:
        check_skew(skew)
    pictures.check_size(size)
    sources, place = _find()
    values = {name: parsed for name in sources if (parsed := parse(Path(name).name))}
    wrong = tuple(f"{name}: its name is not age_gender_race_date" for name in sources if name not in values)
    pictures.refuse(f"utkface, {place}", wrong, len(sources), leave_out)
    digests = {name: _digest(sources[name]) for name in values}
    copies = _copies(digests, place)
    wrong += tuple(f"{name}: is {kept} again" for name, kept in copies.items())
    values = {name: parsed for name, parsed in values.items() if name not in copies}
    pictures.tell(f"utkface, {place}", wrong)
    table = np.array(list(values.values()))
    columns, names = _variables(table, bands)
    labels, groups = columns[label], columns[group]
    _check_classes(labels, names[label], place)
    chosen = {name: sources[name] for name in values}
    same = np.array([digests[name] for name in chosen])
    pool, test = cut_together(labels, groups, same, test_share, seed)
    if skew is not None:
        kept = subsample(labels[pool], groups[pool], skew, len(names[label]), len(names[group]), seed + 2)
        pool = pool[kept]
    train, val = (pool[part] for part in cut_together(labels[pool], groups[pool], same[pool], val_share, seed + 1))
    source = np.unique(same, return_inverse=True)[1].astype(np.int64)
    fields = {"labels": labels, "group": groups, "source": source}
    parts = {"train": train, "val": val, "test": test}
    splits, broken = pictures.split_pictures("utkface", chosen, fields, parts, size, leave_out)
    mean, std = mean_std(splits["train"].images)
    return Dataset("utkface", names[label], names[group], **splits, mean=mean, std=std, left_out=wrong + broken)


def attributes(*, label, **_):
    """What a face is known by, beside the class."""
    return [name for name in VARIABLES if name != label]


def parse(name):
    """Return (age in years, gender, race) from an official file name, None from others; gender is 0 female, 1 male."""
    if not NAME.fullmatch(name):
        return None
    age, gender, race = (int(part) for part in name.split("_")[:3])
    return (age, 1 - gender, race) if age <= OLDEST else None


def subsample(labels, group, skew, classes, groups, seed) -> np.ndarray:
    """Choose as many samples as possible so that in each class k the share `skew` is of group k·groups // classes.

    The other groups keep their proportions.

    Parameters
    ----------
    labels, group : ndarray of int64, (N,)
    skew : float
    classes, groups : int
        Their numbers.
    seed : int

    Returns
    -------
    ndarray of int64
        Indices, in order.

    Raises
    ------
    ValueError
        If a class has no sample of a group that it needs.
    """
    generator, kept = np.random.default_rng(seed), []
    for label in range(classes):
        favoured = label * groups // classes
        inside = np.flatnonzero((labels == label) & (group == favoured))
        outside = np.flatnonzero((labels == label) & (group != favoured))
        if len(inside) == 0 or (len(outside) == 0 and skew < 1):
            raise ValueError(
                f"skew {skew} cannot be planted: class {label} has {len(inside)} of group {favoured}, {len(outside)} others"
            )
        total = min(len(inside) / skew, len(outside) / (1 - skew) if skew < 1 else np.inf)
        kept.append(generator.permutation(inside)[: round(skew * total)])
        kept.append(generator.permutation(outside)[: round((1 - skew) * total)])
    return np.sort(np.concatenate(kept))


def _variables(table, bands):
    """({"age": numbers of the bands, …}, {"age": their names, …}) of (N, 3) ages, genders and races."""
    bands = tuple(bands)
    if not bands or list(bands) != sorted(set(bands)) or bands[0] < 1 or any(first != int(first) for first in bands):
        raise ValueError(
            f"bands are the first years of the age bands but the first, rising, such as {BANDS}; got {bands}"
        )
    starts = (0, *bands)
    ages = [f"{first}–{after - 1}" for first, after in zip(starts, bands, strict=False)] + [f"{bands[-1]}+"]
    columns = {"age": np.digitize(table[:, 0], bands), "gender": table[:, 1], "race": table[:, 2]}
    return {key: column.astype(np.int64) for key, column in columns.items()}, {
        "age": tuple(ages),
        "gender": GENDERS,
        "race": RACES,
    }


def _check_classes(labels, names, place):
    for number, count in enumerate(np.bincount(labels, minlength=len(names))):
        if count < 3:
            raise ValueError(f"{place} has {count} images of class {names[number]!r}: train, val and test need 3")


def stamp(**_) -> str | None:
    """Return what changes when the images or the .npz file do; None if there are none."""
    place = _place()
    return folders.stamp(place) if place else None


def _place() -> Path | None:
    """The folder or .npz file with the images; None if there is neither."""
    folder = paths.data_folder()
    for place in (folder / "utkface", folder / "UTKFace"):
        if place.is_dir() and next(folders.walk(place), None):
            return place
    return next((place for name in ("utkface.npz", "utkface64.npz") if (place := folder / name).exists()), None)


def _find():
    """({name: path or bytes} in the order of the names, folder or file)."""
    folder, place = paths.data_folder(), _place()
    if place and place.is_dir():
        junk: list = []
        files = sorted(Path(entry.path) for entry in folders.walk(place, junk))
        folders.tell_junk(f"utkface, {place}", junk)
        return {str(file.relative_to(place)): file for file in files}, place
    if place:
        return _from_npz(place), place
    raise FileNotFoundError(
        f"no UTKFace in {folder}: unpack the official aligned and cropped faces, with their names, into "
        f"{folder / 'utkface'}; or put utkface.npz there, with name, jpeg and offset"
    )


def _from_npz(file):
    try:
        with np.load(file) as stored:
            names, content, offset = stored["name"].tolist(), stored["jpeg"], stored["offset"].astype(np.int64)
    except Exception as error:  # a damaged file raises many kinds, of zipfile, zlib and numpy
        raise ValueError(
            f"{file} cannot be read ({error}): it should hold name, jpeg and offset; write it again"
        ) from error
    if content.dtype != np.uint8 or len(offset) != len(names) + 1 or offset[0] != 0 or offset[-1] != len(content):
        raise ValueError(f"{file} should hold name (N,), jpeg, uint8, and offset (N + 1,) from 0 to the length of jpeg")
    if len(set(names)) != len(names) or (np.diff(offset) < 0).any():
        raise ValueError(f"{file} has a name twice, or an offset that falls")
    spans = sorted(zip(names, offset, offset[1:], strict=False))
    return {name: content[start:stop].tobytes() for name, start, stop in spans}


def _copies(digests, place) -> dict:
    """{file: the one that is kept} for those with the name and bytes of another folder's file, nearer to the top.

    digests: {path: digest of its bytes}. ValueError if the bytes under one name differ."""
    kept, copies = {}, {}
    for name in sorted(digests, key=lambda name: (name.count("/"), name)):
        first = kept.setdefault(name.rsplit("/", 1)[-1], name)
        if digests[first] != digests[name]:
            raise ValueError(
                f"{place} holds {first!r} and {name!r}: the same name, and different images; remove one of them"
            )
        if first != name:
            copies[name] = first
    return copies


def _digest(source):
    """SHA-256 of an image's bytes, or of its path if it cannot be read, which decoding reports."""
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError:
        content = str(source).encode(errors="surrogateescape")
    return hashlib.sha256(content).hexdigest()
