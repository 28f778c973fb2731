"""Checkpoints that others published: fetched into the data folder, checked, and found by their architecture."""

import re

from kdlib import files, names, paths, storage

from . import build_model, load_checkpoint

CLASSES = 100  # CIFAR-100
ARCHIVES = {
    "cifar_teachers": "https://github.com/megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar"
}
MAX_BYTES, MAX_FILES = 4 << 30, 1000  # of an archive; the teachers' has some 364 MB

# The authors publish no SHA-256; this one was recorded by users of the archive and of the first publication alike.
RECORDED = {"resnet32x4": "22aa12e2b632b19ddde155ccf2388671842ddd304824b3095e0a7fff364beb4f"}


def fetch(name, url=None, *, log=print, **options) -> list:
    """Download and unpack the archive `name` where that was not done, `log` what it holds, and return what loads.

    url: another address of the archive; options: those of `storage.download`. The checkpoints land in a folder `name` of
    the data folder. Raises ValueError for an unknown name and where no checkpoint loads, and OSError without a network."""
    if name not in ARCHIVES:
        raise names.unknown_name(name, ARCHIVES, "archive of checkpoints")
    folder, archive = paths.data_folder() / name, paths.data_folder() / f"{name}.tar"
    if folder.exists():
        log(f"{folder} is there already; remove it to unpack the archive again")
    else:
        storage.download(url or ARCHIVES[name], archive, log=log, **options)
        storage.unpack(archive, folder, max_bytes=MAX_BYTES, max_files=MAX_FILES)
    found = _checkpoints(folder)
    good = []
    for path in found:
        loads, line = _check(path)
        log(f"{path.relative_to(folder)}  {line}")
        if loads:
            good.append(path)
    if not good:
        raise ValueError(
            f"none of {len(found)} checkpoints in {folder} loads; remove it and {archive}, and fetch again"
        )
    log(f"{len(good)} of {len(found)} checkpoints load, in {folder}")
    return good


def published_teacher(name):
    """The fetched checkpoint of the architecture `name` for CIFAR-100 (that of the last epoch), or None if there is none."""
    folder = paths.data_folder() / "cifar_teachers"
    return max((path for path in _checkpoints(folder) if _architecture(path) == name), key=_numbers, default=None)


def published_means(name):
    """KD++'s file of class means for the architecture `name`, laid beside its checkpoint, or None if there is none."""
    checkpoint = published_teacher(name)
    path = checkpoint and checkpoint.parent / "center_emb_train.json"
    return path if path and path.exists() else None


def _checkpoints(folder):
    """Every checkpoint below the folder; hidden files are other systems' by-products."""
    return sorted(path for path in folder.rglob("*.pth") if not path.name.startswith("."))


def _architecture(path):
    return path.parent.name.removesuffix("_vanilla")


def _numbers(path):
    return [int(digits) for digits in re.findall(r"\d+", path.stem)]


def _check(path):
    """(whether the checkpoint loads into the network that its folder names, a line on it)."""
    architecture, checksum = _architecture(path), files.sha256(path)
    origin = f"SHA-256 {checksum[:12]}"
    if recorded := RECORDED.get(architecture):
        origin += " as recorded" if checksum == recorded else f", another file than the recorded {recorded[:12]}"
    try:
        model = load_checkpoint(build_model(architecture, CLASSES), path)
    except ValueError as error:
        reason = str(error).splitlines()[0].removeprefix(f"{path} ")
        return False, f"{architecture}  does not load ({reason})  {origin}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return True, f"{architecture}  loads, {parameters:,} parameters  {origin}"
