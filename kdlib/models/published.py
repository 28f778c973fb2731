"""Published checkpoints: downloaded into the data folder, checked, and found by their architecture."""

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
    """Download and unpack an archive of checkpoints unless that is done, and return those that load.

    Parameters
    ----------
    name : str
        One of ARCHIVES, and the folder of the data folder that the checkpoints go to.
    url : str, optional
        Another address of the archive.
    log : callable
        Takes a line per checkpoint.
    **options
        See `storage.download`.

    Returns
    -------
    list of Path

    Raises
    ------
    ValueError
        For an unknown name, and if no checkpoint loads.
    OSError
        Without a network.
    """
    if name not in ARCHIVES:
        raise names.unknown_name(name, ARCHIVES, "archive of checkpoints")
    folder, archive = paths.data_folder() / name, paths.data_folder() / f"{name}.tar"
    if folder.exists():
        log(f"{folder} exists; remove it to unpack the archive again")
    else:
        storage.download(url or ARCHIVES[name], archive, log=log, **options)
        storage.unpack(archive, folder, max_bytes=MAX_BYTES, max_files=MAX_FILES)
    checkpoints = _checkpoints(folder)
    loaded = []
    for path in checkpoints:
        loads, line = _check(path)
        log(f"{path.relative_to(folder)}  {line}")
        if loads:
            loaded.append(path)
    if not loaded:
        raise ValueError(
            f"none of {len(checkpoints)} checkpoints in {folder} loads; remove it and {archive}, and fetch again"
        )
    log(f"{len(loaded)} of {len(checkpoints)} checkpoints load, in {folder}")
    return loaded


def published_teacher(name):
    """Return the path of the downloaded CIFAR-100 checkpoint of an architecture (the last epoch's), or None."""
    folder = paths.data_folder() / "cifar_teachers"
    return max((path for path in _checkpoints(folder) if _architecture(path) == name), key=_numbers, default=None)


def published_means(name):
    """Return the path of KD++'s class means beside the checkpoint of an architecture, or None."""
    checkpoint = published_teacher(name)
    path = checkpoint and checkpoint.parent / "center_emb_train.json"
    return path if path and path.exists() else None


def _checkpoints(folder):
    """Return every checkpoint below the folder; hidden files are other systems' by-products."""
    return sorted(path for path in folder.rglob("*.pth") if not path.name.startswith("."))


def _architecture(path):
    return path.parent.name.removesuffix("_vanilla")


def _numbers(path):
    return [int(digits) for digits in re.findall(r"\d+", path.stem)]


def _check(path):
    """Return whether the checkpoint loads into the network that its folder names, and a line about it."""
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
