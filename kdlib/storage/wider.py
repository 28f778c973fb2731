"""The WIDER Attribute data set, fetched from S3."""

import contextlib
import os
import shutil
from pathlib import Path

from kdlib import files, paths
from kdlib.storage import objects, s3
from kdlib.storage.archives import unpack

IMAGES = "wider_attribute_image.tgz"
ANNOTATIONS = ("wider_attribute_trainval.json", "wider_attribute_test.json")
ARCHIVES = ("wider_attribute_annotation.zip", "wider_attribute_annotation.tgz")


def fetch_wider(bucket=None, prefix=None, *, log=print) -> Path:
    """Get WIDER Attribute from S3 into `wider` in the data folder: `Image/<split>/…` and two JSON files.

    What is in place is not fetched again. The bucket holds `wider_attribute_image.tgz`, and the two annotation files or an
    archive of them.

    Parameters
    ----------
    bucket, prefix : str, optional
        As in `s3.connect`.
    log : callable
        Receives what is there in the end.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OSError, ValueError
        As `get` and `unpack` do.
    """
    folder, options = paths.data_folder() / "wider", {"bucket": bucket, "prefix": prefix, "log": log}
    if not folder.exists():
        s3.connect(bucket, prefix)  # no empty folder is left if a setting is missing
    files.make_folder(folder)
    with files.only_process(folder / ".lock"):
        if (folder / "Image").exists():
            log(f"{folder / 'Image'} is there already; remove it to unpack the archive again")
        else:
            archive = objects.get(IMAGES, folder / IMAGES, **options)
            with _unpacked(archive) as content:
                inner = next((path for path in (content, *content.iterdir()) if (path / "train").is_dir()), None)
                if inner is None:
                    raise ValueError(f"{archive} holds no folder Image/train, so it is not WIDER Attribute; remove it")
                os.replace(inner, folder / "Image")
        for name in ANNOTATIONS:
            if (folder / name).exists():
                log(f"{folder / name} is there already")
            else:
                _fetch_annotations(name, folder, options)
    for split in sorted(path for path in (folder / "Image").iterdir() if path.is_dir()):
        log(f"{split.name}: {sum(path.suffix.lower() == '.jpg' for path in split.rglob('*'))} images")
    log(f"annotations: {', '.join(ANNOTATIONS)}; all in {folder}")
    return folder


def _fetch_annotations(name, folder, options):
    """Get an annotation file: itself, or out of an archive in the folder or in the bucket."""
    local = [archive for archive in ARCHIVES if (folder / archive).exists()]
    source = local[0] if local else _first_present((name, *ARCHIVES), options)
    path = objects.get(source, folder / source, **options)
    if source == name:
        return
    with _unpacked(path) as content:
        annotations = next(content.rglob(name), None)
        if annotations is None:
            raise ValueError(f"{path} holds no {name}; remove it, and put {name} into {folder}")
        os.replace(annotations, folder / name)


def _first_present(names, options):
    """The first of these objects in the bucket; OSError if there is none, about the first refusal if there was one."""
    store, refusal = s3.connect(options["bucket"], options["prefix"]), None
    for name in names:
        try:
            with objects.naming("look for", store.where(name)):
                if s3.find(store, name):
                    return name
        except OSError as error:
            if getattr(error.__cause__, "code", None) not in s3.DENIED:
                raise
            refusal = refusal or error
    if refusal:
        raise refusal
    raise FileNotFoundError(
        f"{store.where('')} has neither {names[0]} nor one of {', '.join(names[1:])}, which may hold it"
    )


@contextlib.contextmanager
def _unpacked(archive):
    """Yield an archive's content in a folder beside it, removed when the block ends."""
    folder = archive.with_name(f".{archive.name}.unpacked")
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    try:
        yield unpack(archive, folder, max_bytes=20_000_000_000, max_files=200_000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
