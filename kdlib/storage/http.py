"""Files from elsewhere, by HTTP and S3: downloads that resume, and appear whole or not at all; uploads that are checked.

Where a file comes from is one context manager, as `_http` and `s3.source`: given where to start and what is known of the
object, it yields `(first, total, tag, body)`, and raises `_Failed` or `s3.Trouble`. The rest is the same for both.
(`unpack` is from `archives`.)"""

import contextlib
import functools
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

from kdlib import files, paths
from kdlib.storage import s3
from kdlib.storage.archives import unpack

__all__ = ["download", "exists", "fetch_wider", "get", "get_folder", "put", "put_folder", "unpack"]

CHUNK = 1 << 18  # bytes read at a time
WIDER_IMAGES = "wider_attribute_image.tgz"
WIDER_ANNOTATIONS = ("wider_attribute_trainval.json", "wider_attribute_test.json")
WIDER_ARCHIVES = ("wider_attribute_annotation.zip", "wider_attribute_annotation.tgz")
GET_PART, PUT_PART = 64 << 20, 16 << 20  # bytes of an object in one request
LINE_SECONDS = 10  # between two lines of progress
PASSING = (408, 429, 500, 502, 503, 504)  # answers of a server that may be well again in a moment


class _Failed(Exception):
    """A transfer broke off: why, and what to do: "resume", "restart" or "stop"."""

    def __init__(self, reason, remedy):
        super().__init__(reason)
        self.remedy = remedy


def download(url, path, *, sha256=None, attempts=5, backoff=1.0, timeout=60.0, log=print) -> Path:
    """Download `url` (http or https) to `path`, resuming what an earlier call left in `<path>.part`; return `path`.

    sha256: hexadecimal, of the whole file; attempts: how many in a row may bring nothing new; backoff: seconds before the
    second, doubled before each further one; timeout: seconds without an answer. A file that is there is not downloaded.
    Raises OSError, which says how to do it by hand, where the file cannot be had, and ValueError where its SHA-256 is
    another, or the address is of another kind or holds a user or a password. A query, which may be signed, is not told."""
    shown = _without_secrets(url)
    # two queries are two objects: what is noted tells them apart, and does not tell them
    noted = shown if shown == url else f"{shown} {hashlib.sha256(url.encode()).hexdigest()}"
    open_at = functools.partial(_http, url, timeout)
    return _download(open_at, shown, Path(path), sha256, attempts, backoff, log, noted=noted)


def get(
    key,
    path,
    *,
    bucket=None,
    prefix=None,
    sha256=None,
    part_size=GET_PART,
    attempts=5,
    backoff=1.0,
    timeout=60.0,
    log=print,
) -> Path:
    """Download the object `key` from S3 to `path` as `download` does, in parts of `part_size` bytes; return `path`.

    bucket, prefix: where it is, by default as the settings `KDLIB_S3_BUCKET` and `KDLIB_S3_PREFIX` say. Size and checksum
    are compared with the store's: the SHA-256 that `put` left, SHA-256, SHA-1 or CRC-32 of the whole object, or the MD5 in
    its ETag; a CRC-64 is not. Raises OSError where it cannot be had, saying what to set, ValueError where it is damaged."""
    return _get(
        s3.connect(bucket, prefix, attempts=1, timeout=timeout), key, path, sha256, part_size, attempts, backoff, log
    )


def _get(store, key, path, sha256=None, part_size=GET_PART, attempts=5, backoff=1.0, log=print):
    open_at = functools.partial(s3.source, store, key, part_size)
    return _download(open_at, store.where(key), Path(path), sha256, attempts, backoff, log, s3.check)


def exists(key, *, bucket=None, prefix=None) -> bool:
    """Whether S3 has the object `key`. Raises OSError where that cannot be known, as without the bucket or the right."""
    store = s3.connect(bucket, prefix)
    with _naming("look for", store.where(key)):
        return s3.find(store, key) is not None


def put(path, key, *, bucket=None, prefix=None, part_size=PUT_PART, attempts=5, timeout=60.0, log=print) -> str:
    """Upload the file `path` to S3 as the object `key`, compare what the store then has, and return where that is.

    part_size: bytes, at least 5 MiB; attempts: how often each request is made. An object that has the file's SHA-256 is
    left as it is, another is replaced. Raises OSError where it cannot be done, ValueError where the object is not the file."""
    return _put(s3.connect(bucket, prefix, attempts=attempts, timeout=timeout), Path(path), key, part_size, log)


def _put(store, path, key, part_size=PUT_PART, log=print):
    from boto3.s3.transfer import TransferConfig

    size, digest = path.stat().st_size, files.sha256(path)
    where, names = store.where(key), (store.bucket, store.key(key))
    config = TransferConfig(part_size, multipart_chunksize=part_size, max_concurrency=4)
    extra = {"Metadata": {s3.OUR_SHA256: digest}}
    with _naming("upload to", where):
        there = s3.find(store, key, absent=s3.ABSENT + s3.DENIED)
        if there and (there[0], there[1]["check"]) == (size, ["sha256", digest, 0]):
            log(f"{where} is there already")
            return where
        with _progress(path.name, 0, size, log) as advance:
            s3.ask(store.client.upload_file, str(path), *names, ExtraArgs=extra, Callback=advance, Config=config)
        found, tag = s3.describe(store, key, own=False)
    if files.sha256(path) != digest:
        raise ValueError(f"{path} changed while it was uploaded as {where}; upload it again")
    if found != size:
        raise ValueError(f"{where} has {found} bytes and {path} has {size}; upload it again")
    s3.check(path, tag, f"what was uploaded as {where}")
    return where


def put_folder(folder, key, *, bucket=None, prefix=None, log=print) -> list:
    """Upload every file below `folder`, as that of a run or of reports, as `key`/…; return where they are.

    Hidden files (locks, unfinished ones) and links stay. `record.json` goes last: its existence means that all is there.
    Raises as `put` does, and ValueError for a name that is not in UTF-8, before anything is uploaded."""
    store, folder = s3.connect(bucket, prefix), Path(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = [path.relative_to(folder) for path in files]
    names = [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]
    if not names:
        raise FileNotFoundError(f"{folder} holds no files to upload")
    for name in names:
        if name != name.encode(errors="replace").decode():
            raise ValueError(f"{folder} holds {name!r}, whose name is not in UTF-8, as those of objects are: rename it")
    return [_put(store, folder / name, f"{key}/{name}", log=log) for name in sorted(names, key=_record_last)]


def get_folder(key, folder, *, bucket=None, prefix=None, log=print) -> list:
    """Download every object `key`/… to `folder`, `record.json` last; return the files.

    Files that are there and equal the store's stay, others are fetched again; so is, last, the `record.json` beside them:
    until then nothing says that all is there."""
    store, folder = s3.connect(bucket, prefix), Path(folder)
    base = store.key(key) + "/"
    with _naming("list", store.where(key)):
        pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=base)
        found = [entry["Key"] for page in s3.ask(list, pages) for entry in page.get("Contents", [])]
    names = [name.removeprefix(base) for name in found if not name.endswith("/")]
    if not names:
        raise FileNotFoundError(f"{store.where(key)} holds no objects")
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{store.where(key)} holds {name!r}, which is not within its folder")
    there = [name for name in names if (folder / name).is_file()]
    for name in [name for name in there if not _same(store, f"{key}/{name}", folder / name)]:
        log(f"{folder / name} is another than {store.where(f'{key}/{name}')}; fetching it again")
        (folder / name).unlink(missing_ok=True)
        (folder / name).with_name("record.json").unlink(missing_ok=True)
    store = s3.connect(bucket, prefix, attempts=1)
    return [_get(store, f"{key}/{name}", folder / name, log=log) for name in sorted(names, key=_record_last)]


def _same(store, key, path) -> bool:
    """Whether a file has the size of the object, and its checksum where the store tells one."""
    with _naming("look for", store.where(key)):
        size, tag = s3.describe(store, key)
    try:
        s3.check(path, tag, path)
    except ValueError:
        return False
    return path.stat().st_size == size


def _record_last(name):
    return PurePosixPath(name).name == "record.json", name


@contextlib.contextmanager
def _naming(doing, where):
    """What fails is told with the object, the bucket and the address."""
    try:
        yield
    except s3.Trouble as trouble:
        raise OSError(f"could not {doing} {where}: {trouble}") from trouble


def _without_secrets(url) -> str:
    """Scheme, host and path of a web address; ValueError, which does not repeat it, where it is none or has a user."""
    if not (match := re.fullmatch(r"(https?://[^/@?#\s]+)(/[^?#]*)?([?#].*)?", url, re.IGNORECASE | re.DOTALL)):
        raise ValueError(
            "cannot download this: the address must begin with http:// or https://, and hold no user or password"
        )
    if not re.fullmatch(r"https?://(\[[^]]*\]|[^:]*)(:\d*)?", match[1], re.IGNORECASE):
        raise ValueError("cannot download this: after the host, its address has a port that is no number")
    return match[1] + (match[2] or "")


def _download(open_at, source, path, sha256, attempts, backoff, log, check=None, noted=None):
    noted = noted or source
    files.make_folder(path.parent)
    part, note = path.with_name(f"{path.name}.part"), path.with_name(f".{path.name}.part.json")
    with files.only_process(path.with_name(f".{path.name}.lock")):
        if path.exists():
            _check_sha256(path, sha256, f"{path}, which was there already,")
            log(f"{path} is there already; remove it to download it again")
            return path
        failures, furthest = 0, 0
        while failure := _transfer(open_at, noted, part, note, log):
            size = part.stat().st_size if part.exists() else 0
            failures = 1 if size > furthest else failures + 1
            furthest = max(furthest, size)
            if failure.remedy == "restart":
                part.unlink(missing_ok=True)
            if failure.remedy == "stop" or failures >= attempts:
                raise OSError(
                    f"could not download {source}: {failure}. If you can get the file another way, put it at {path}"
                ) from failure
            log(f"{path.name}: {failure}; trying again")
            time.sleep(backoff * 2 ** (failures - 1))
        try:
            _check_sha256(part, sha256, source)
            if check:
                check(part, _read_note(note, noted)["tag"], source)
        except ValueError:
            part.unlink()
            raise
        os.replace(part, path)
        note.unlink(missing_ok=True)
    return path


def _transfer(open_at, source, part, note, log):
    """Bring `part` to its full size, on from where it is if the object is still the same; None, or the `_Failed`.

    `note` remembers which object the part is of, so that no file is ever a mixture of two."""
    known = _read_note(note, source)
    size = part.stat().st_size if known and part.exists() else 0
    if size and size == known["total"]:
        return None
    try:
        with open_at(size, known) as (first, total, tag, body):
            if first == 0:
                part.unlink(missing_ok=True)
                files.write_json(note, {"source": source, "tag": tag, "total": total})
            with _progress(part.stem, first, total, log) as advance, part.open("ab") as file:
                while block := body.read(CHUNK):
                    with files.writing(part):
                        file.write(block)
                    advance(len(block))
    except (_Failed, s3.Trouble) as failure:
        return failure
    size = part.stat().st_size
    if total is None or size == total:
        return None
    return _Failed(f"got {size} of {total} bytes", "resume" if size < total else "restart")


def _read_note(note, source):
    """What is known of the object that the part is of, or None where it cannot be resumed."""
    try:
        known = json.loads(note.read_text())
        return known if known["source"] == source and known["tag"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _http(url, timeout, start, known):
    """The answer to a request for the bytes from `start` on; `first` is 0 where the server sends the whole object."""
    # What urllib says can hold the address, whose query may be signed: a failure has no link to it.
    headers, failure = {"User-Agent": "kdlib"}, None
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": known["tag"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as answer:
            yield (*_http_extent(answer, start, known), answer)
    except urllib.error.HTTPError as error:
        error.close()
        remedy = "restart" if error.code == 416 else "resume" if error.code in PASSING else "stop"
        failure = _Failed(
            f"the server answered {error.code} {http.client.responses.get(error.code, '')}".rstrip(), remedy
        )
    except urllib.error.URLError as error:
        passing = isinstance(error.reason, (ConnectionError, TimeoutError, socket.gaierror))
        failure = _Failed(f"no connection ({error.reason})", "resume" if passing else "stop")
    except (http.client.InvalidURL, UnicodeError):
        failure = _Failed("there can be no such address", "stop")
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        failure = _Failed(f"the connection broke ({type(error).__name__})", "resume")
    if failure:
        raise failure


def _http_extent(answer, start, known):
    """(first, total, tag): the first byte that the server sends, the object's size, and what tells it from others."""
    tag = answer.headers.get("ETag", "")
    if not tag or tag.startswith("W/"):  # a weak tag does not promise equal bytes
        tag = answer.headers.get("Last-Modified")
    if answer.status != 206:
        length = answer.headers.get("Content-Length")
        return 0, int(length) if length else None, tag
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    first, total = map(int, span.groups()) if span else (None, None)
    # Some servers heed Range and ignore If-Range.
    if not known or first != start or tag not in (None, known["tag"]) or known["total"] not in (None, total):
        raise _Failed("the file changed since the download began", "restart")
    return first, total, known["tag"]


def _check_sha256(file, expected, what):
    if expected and (found := files.sha256(file)) != expected.lower():
        raise ValueError(f"{what} is damaged or another file: its SHA-256 is {found}, not {expected.lower()}")


@contextlib.contextmanager
def _progress(name, size, total, log):
    """A function to be told of the bytes that came: a bar where a person watches, else a line now and then."""
    if log is print and paths.interactive():
        from tqdm.auto import tqdm

        with tqdm(total=total, initial=size, unit="B", unit_scale=True, desc=name) as bar:
            yield bar.update
        return
    last = time.monotonic()

    def advance(count):
        nonlocal size, last
        size += count
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            log(f"{name}: {size / 1e6:.1f}" + (f" of {total / 1e6:.1f}" if total else "") + " MB")

    yield advance


def fetch_wider(bucket=None, prefix=None, *, log=print) -> Path:
    """Get the WIDER Attribute data set from S3 where it is not in place, `log` what is there, and return its folder.

    The bucket holds `wider_attribute_image.tgz`, and the two annotation files or an archive of them. They come to `wider` in
    the data folder, as `Image/<split>/…` and two JSON files. Raises OSError and ValueError as `get` and `unpack` do."""
    folder, where = paths.data_folder() / "wider", {"bucket": bucket, "prefix": prefix}
    if not folder.exists():
        s3.connect(**where)  # where a setting is missing, no empty folder is left
    files.make_folder(folder)
    with files.only_process(folder / ".lock"):
        if (folder / "Image").exists():
            log(f"{folder / 'Image'} is there already; remove it to unpack the archive again")
        else:
            archive = get(WIDER_IMAGES, folder / WIDER_IMAGES, **where, log=log)
            with _unpacked(archive) as content:
                inner = next((path for path in (content, *content.iterdir()) if (path / "train").is_dir()), None)
                if inner is None:
                    raise ValueError(f"{archive} holds no folder Image/train, so it is not WIDER Attribute; remove it")
                os.replace(inner, folder / "Image")
        for name in WIDER_ANNOTATIONS:
            if (folder / name).exists():
                log(f"{folder / name} is there already")
            else:
                _annotation(name, folder, where, log)
    for split in sorted(path for path in (folder / "Image").iterdir() if path.is_dir()):
        log(f"{split.name}: {sum(path.suffix.lower() == '.jpg' for path in split.rglob('*'))} images")
    log(f"annotations: {', '.join(WIDER_ANNOTATIONS)}; all in {folder}")
    return folder


def _annotation(name, folder, where, log):
    """Get an annotation file: itself, or out of an archive that is in the folder or in the bucket."""
    here = [archive for archive in WIDER_ARCHIVES if (folder / archive).exists()]
    source = here[0] if here else _first_there(s3.connect(**where), (name, *WIDER_ARCHIVES))
    path = get(source, folder / source, **where, log=log)
    if source == name:
        return
    with _unpacked(path) as content:
        found = next(content.rglob(name), None)
        if found is None:
            raise ValueError(f"{path} holds no {name}; remove it, and put {name} into {folder}")
        os.replace(found, folder / name)


def _first_there(store, names):
    """The first of the objects that the bucket has. Where it has none, OSError: of the first that was refused, if any was."""
    refused = []
    for name in names:
        try:
            with _naming("look for", store.where(name)):
                if s3.find(store, name):
                    return name
        except OSError as error:
            if getattr(error.__cause__, "code", None) not in s3.DENIED:
                raise
            refused.append(error)
    if refused:
        raise refused[0]
    raise FileNotFoundError(
        f"{store.where('')} has neither {names[0]} nor one of {', '.join(names[1:])}, which may hold it"
    )


@contextlib.contextmanager
def _unpacked(archive):
    """An archive's content, in a folder beside it for as long as the block lasts."""
    folder = archive.with_name(f".{archive.name}.unpacked")
    shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
    try:
        yield unpack(archive, folder, max_bytes=20_000_000_000, max_files=200_000)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
