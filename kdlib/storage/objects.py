"""Files and folders to and from S3, compared with the store's checksum on both ways."""

import contextlib
import functools
import types
from pathlib import Path, PurePosixPath

from kdlib import files
from kdlib.storage import s3
from kdlib.storage.transfers import Trouble, progress, transfer

PART = 16 << 20  # bytes of a file that are uploaded in one request


def get(key, path, *, bucket=None, prefix=None, sha256=None, attempts=5, backoff=1.0, timeout=60.0, log=print) -> Path:
    """Download the object `key` from S3 to `path`, resuming what an earlier call left.

    The file is compared with the best checksum that the store knows: the SHA-256 that `put` left, SHA-256 or CRC-32 of the
    whole object, or the MD5 in its ETag (not CRC-64).

    Parameters
    ----------
    key : str
    path : path-like
    bucket, prefix : str, optional
        As in `s3.connect`.
    sha256, attempts, backoff, timeout, log
        As in `http.download`.

    Returns
    -------
    Path

    Raises
    ------
    OSError
        If the object cannot be downloaded; the message says what to set.
    ValueError
        If it arrives damaged.
    """
    store = s3.connect(bucket, prefix, attempts=1, timeout=timeout)
    return _get(store, key, path, sha256=sha256, attempts=attempts, backoff=backoff, log=log)


def _get(store, key, path, *, sha256=None, attempts=5, backoff=1.0, log=print):
    open_at = functools.partial(_open, store, key)
    options = {"sha256": sha256, "attempts": attempts, "backoff": backoff, "log": log}
    return transfer(open_at, store.where(key), Path(path), check=s3.check, **options)


@contextlib.contextmanager
def _open(store, key, start, known):
    """The source of `transfers` for an object."""
    total, tag = s3.describe(store, key)
    if not total:
        yield 0, 0, tag, types.SimpleNamespace(read=lambda count: b"")
        return
    first = start if known and (known["tag"], known["total"]) == (tag, total) else 0
    options = {"Range": f"bytes={first}-", "IfMatch": tag["etag"]}
    answer = s3.ask(store.client.get_object, **store.names(key), **options)
    with contextlib.closing(answer["Body"]) as body:
        # Some stores follow Range and ignore If-Match.
        if (answer.get("ETag"), answer.get("ContentRange")) != (tag["etag"], f"bytes {first}-{total - 1}/{total}"):
            raise Trouble("the object changed since the download began", "restart")
        yield first, total, tag, types.SimpleNamespace(read=functools.partial(s3.ask, body.read))


def exists(key, *, bucket=None, prefix=None) -> bool:
    """Whether S3 has the object `key`; OSError if that cannot be known, as without the right to ask."""
    store = s3.connect(bucket, prefix)
    with naming("look for", store.where(key)):
        return s3.find(store, key) is not None


def put(path, key, *, bucket=None, prefix=None, part_size=PART, attempts=5, timeout=60.0, log=print) -> str:
    """Upload a file to S3 as the object `key`, and compare it with what the store then has.

    An object with the file's SHA-256 is left as it is; another one is replaced.

    Parameters
    ----------
    path : path-like
    key : str
    bucket, prefix : str, optional
        As in `s3.connect`.
    part_size : int
        Bytes in one request, at least 5 MiB.
    attempts, timeout
        Of each request.
    log : callable

    Returns
    -------
    str
        Where the object is.

    Raises
    ------
    OSError
        If it cannot be uploaded.
    ValueError
        If the object is not the file.
    """
    return _put(s3.connect(bucket, prefix, attempts=attempts, timeout=timeout), Path(path), key, part_size, log)


def _put(store, path, key, part_size=PART, log=print):
    from boto3.s3.transfer import TransferConfig

    size, digest, where = path.stat().st_size, files.sha256(path), store.where(key)
    config = TransferConfig(part_size, multipart_chunksize=part_size, max_concurrency=4)
    extra = {"Metadata": {s3.OUR_SHA256: digest}}
    with naming("upload to", where):
        present = s3.find(store, key, absent=s3.ABSENT + s3.DENIED)
        if present and (present[0], present[1]["check"]) == (size, ["sha256", digest, 0]):
            log(f"{where} is there already")
            return where
        with progress(path.name, 0, size, log) as advance:
            options = {"ExtraArgs": extra, "Callback": advance, "Config": config}
            s3.ask(store.client.upload_file, str(path), **store.names(key), **options)
        uploaded, tag = s3.describe(store, key, trust_metadata=False)
    if files.sha256(path) != digest:
        raise ValueError(f"{path} changed while it was uploaded as {where}; upload it again")
    if uploaded != size:
        raise ValueError(f"{where} has {uploaded} bytes and {path} has {size}; upload it again")
    s3.check(path, tag, f"what was uploaded as {where}")
    return where


def put_folder(folder, key, *, bucket=None, prefix=None, log=print) -> list:
    """Upload every file below `folder`, such as that of a run, as `key`/….

    Hidden files (locks, unfinished ones) and links are left out. `record.json` goes last: it means that all is there.

    Returns
    -------
    list of str
        Where the objects are.

    Raises
    ------
    OSError, ValueError
        As `put` does; ValueError also for a name that is not UTF-8, before anything is uploaded.
    """
    store, folder = s3.connect(bucket, prefix), Path(folder)
    relative = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = [path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts)]
    if not names:
        raise FileNotFoundError(f"{folder} holds no files to upload")
    for name in names:
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"{folder} holds {name!r}, whose name is not UTF-8 as object names are: rename it")
    return [_put(store, folder / name, f"{key}/{name}", log=log) for name in sorted(names, key=_record_last)]


def get_folder(key, folder, *, bucket=None, prefix=None, log=print) -> list:
    """Download every object `key`/… to `folder`, `record.json` last.

    Files that equal the store's stay. If any is fetched again, so is the `record.json` beside it, last: until then
    nothing says that all is there.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    OSError, ValueError
        As `get` does; ValueError also for an object whose name leads out of the folder.
    """
    store, folder = s3.connect(bucket, prefix), Path(folder)
    base = store.names(key)["Key"] + "/"
    with naming("list", store.where(key)):
        pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=base)
        keys = [entry["Key"] for page in s3.ask(list, pages) for entry in page.get("Contents", [])]
    names = [name.removeprefix(base) for name in keys if not name.endswith("/")]
    if not names:
        raise FileNotFoundError(f"{store.where(key)} holds no objects")
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{store.where(key)} holds {name!r}, which is not within its folder")
    for name in [name for name in names if (folder / name).is_file()]:
        if not _same(store, f"{key}/{name}", folder / name):
            log(f"{folder / name} differs from {store.where(f'{key}/{name}')}; fetching it again")
            (folder / name).unlink()
            (folder / name).with_name("record.json").unlink(missing_ok=True)
    store = s3.connect(bucket, prefix, attempts=1)
    return [_get(store, f"{key}/{name}", folder / name, log=log) for name in sorted(names, key=_record_last)]


def _same(store, key, path) -> bool:
    """Whether a file has the size of the object, and its checksum if the store knows one."""
    if not path.exists():  # a record that was removed with another file
        return True
    with naming("look for", store.where(key)):
        size, tag = s3.describe(store, key)
    with contextlib.suppress(ValueError):
        s3.check(path, tag, path)
        return path.stat().st_size == size
    return False


def _record_last(name):
    return PurePosixPath(name).name == "record.json", name


@contextlib.contextmanager
def naming(action, where):
    """Name the object, the bucket and the address in what fails."""
    try:
        yield
    except Trouble as trouble:
        raise OSError(f"could not {action} {where}: {trouble}") from trouble
