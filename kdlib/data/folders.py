"""The files in a folder, and the images among them: in any layout, or in a folder for each class."""

import hashlib
import os
import stat
import sys
from pathlib import Path

from PIL import Image

from kdlib.data import decoding, pictures

PARTS = ("train", "val", "test")
# what may lie beside images without being one that cannot be read
NOT_IMAGES = (".txt", ".json", ".csv", ".tsv", ".md", ".parquet", ".xml", ".yaml", ".yml", ".ini", ".log")


def walk(place, junk=None):
    """Yield an os.DirEntry for each file below a folder: its own by name, then those of the folders in it.

    Hidden folders are left out, and what other systems left (`is_junk`), whose paths are appended to the list `junk`; links are
    followed. Raises OSError for a folder that cannot be read, and ValueError for a link
    that leads back to a folder above it."""

    def below(folder, above):
        status = os.stat(folder)
        if (identity := (status.st_dev, status.st_ino)) in above:
            raise ValueError(f"{folder} is a link that leads back to a folder above it: remove it")
        with os.scandir(folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
        left = [] if junk is None else junk
        left += [entry.path for entry in entries if is_junk(entry.name)]
        entries = [entry for entry in entries if not is_junk(entry.name)]
        folders = {entry.path for entry in entries if _is_folder(entry)}
        yield from (entry for entry in entries if entry.path not in folders)
        for entry in entries:
            if entry.path in folders and not entry.name.startswith("."):
                yield from below(entry.path, above | {identity})

    yield from below(os.fspath(place), frozenset())


def is_junk(name) -> bool:
    """Return whether a file or folder is one that macOS puts beside others, in archives above all."""
    return name.startswith("._") or name in ("__MACOSX", ".DS_Store")


def tell_junk(what, junk):
    """Say on stderr how many files and folders were skipped because `is_junk` knows them."""
    if junk:
        print(
            f"kdlib: {what}: {len(junk)} files or folders of macOS skipped (._*, __MACOSX, .DS_Store)", file=sys.stderr
        )


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: decoding says what is wrong with it
        return False


def stamp(*places) -> str:
    """Return what changes when one of these files does, or a file below one of these folders.

    It is the SHA-256 of names, lengths and times."""
    digest = hashlib.sha256()
    for place in map(os.fspath, places):
        entries = walk(place) if os.path.isdir(place) else ()
        for path in (place, *(entry.path for entry in entries)):
            try:
                status = os.stat(path)
                version = () if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
            except OSError:
                version = None
            digest.update(os.fsencode(f"{path[len(place) :]}\0{version}\0"))
    return digest.hexdigest()


def images(place, leave_out, *, by_class, beside=(), meanings=None):
    """Find the images below a folder.

    Parameters
    ----------
    place : Path
    leave_out : float
        Largest share of files that look like images and cannot be used.
    by_class : bool
        Whether the class is an image's folder; otherwise any layout will do.
    beside : list of Path
        Files that may lie there, such as the table.
    meanings : dict, optional
        {name of a folder: train, val or test}; None where the folders' split does not count.

    Returns
    -------
    found : dict
        {path within the folder: Path}, in the order of `walk`.
    labels : list of str, or None
        The class of each, with `by_class`.
    splits : list of str, or None
        train, val or test, if the folders at the top are these.
    left_out : tuple of str
        "path: reason" of the other files.

    Raises
    ------
    ValueError
        If there are no images, a class has none, or the folders are neither splits nor classes.
    """
    folders = _folders(place)
    parts_of = {(meanings or {}).get(name, name) for name in folders}
    complete = parts_of <= set(PARTS) and ({"train", "test"} <= parts_of or (meanings is None and bool(parts_of)))
    split = complete or (by_class and _half_split(place, folders))
    depth = by_class + split
    known = {ending for ending, form in Image.registered_extensions().items() if form in decoding.FORMATS}
    found, parts, left_out, unusable, junk = {}, [], [], [], []
    for entry in walk(place, junk):
        path = Path(entry.path)
        name = path.relative_to(place)
        if path in beside:
            continue
        if len(name.parts) <= depth:
            left_out.append(f"{name}: is in no {'class folder' if by_class else 'split'}")
        elif path.suffix.lower() not in known and not _starts_as_image(path):
            left_out.append(f"{name}: has no picture's extension")
            if not (path.name.startswith(".") or path.name == "Thumbs.db" or path.suffix.lower() in NOT_IMAGES):
                unusable.append(left_out[-1])
        else:
            found[str(name)] = path
            parts.append(name.parts[:depth])
    pictures.refuse(f"table, {place}", unusable, len(found) + len(unusable), leave_out)
    if not found:
        form = (
            "it should hold a folder for each class, with images in it, or beside a table with a column of labels images alone"
            if by_class
            else "it should hold those of the table"
        )
        raise ValueError(f"{place} has no images: {form}")
    labels = [part[-1] for part in parts] if by_class else None
    if labels is not None:
        classes = {name for folder in folders for name in _folders(place / folder)} if split else set(folders)
        if empty := sorted(classes - set(labels)):
            raise ValueError(f"{place} has no image of class {empty[0]!r}: put some there, or remove the folder")
    pictures.tell(f"table, {place}", left_out)
    tell_junk(f"table, {place}", junk)
    return found, labels, [part[0] for part in parts] if split else None, tuple(left_out)


def _folders(place) -> list:
    return sorted(
        each.name for each in place.iterdir() if each.is_dir() and not (each.name.startswith(".") or is_junk(each.name))
    )


def _starts_as_image(path) -> bool:
    """Whether a file without a known extension starts as an image does."""
    if path.name.startswith(".") or path.suffix.lower() in NOT_IMAGES:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(12).startswith((b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF"))
    except OSError:  # such as a link to itself
        return False


def _half_split(place, folders) -> bool:
    """False if none of the folders is a split; ValueError if some are and the others do not fit."""
    if not {name.lower() for name in folders} & set(PARTS):
        return False
    odd = [name for name in folders if name not in PARTS]
    missing = [part for part in ("train", "test") if part not in folders]
    if odd or missing:
        wrong = f"{odd[0]}/ is none of the splits" if odd else f"{missing[0]}/ is missing"
        raise ValueError(
            f"{place} holds {', '.join(f'{name}/' for name in folders)}, and {wrong}: it should hold train/, test/ and, if "
            'there is one, val/, with a folder for each class in each (or say what they mean: split_values="val=test"); or '
            "only classes, none of them with a split's name"
        )
    return True
