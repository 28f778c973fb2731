"""Image files decoded once, on all cores, into a memory-mapped array that later runs open at once.

`<name>-<digest>.images.npy` in the data folder holds them, (N, 3, size, size) uint8, in the order train, val, test; the
digest is that of the size and of the files' names, lengths and times. `<name>-<digest>.images.json` holds the SHA-256 and a
stamp (length, time, a sample of the bytes), so that opening the array does not read it all."""

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import stat
import sys
import warnings
from pathlib import Path

import numpy as np

from kdlib import files, paths
from kdlib.data import copies
from kdlib.data.decoding import MAX_PIXELS, most_pixels, one, own_limit
from kdlib.data.splits import Split, blank_splits

FORMAT = 2  # raise when the same files would be decoded to other pixels
CHUNK = 64  # images that a worker decodes at a time
SAMPLES, SAMPLE_BYTES = 64, 4096  # of the stamp


def split_pictures(name, sources, columns, parts, size, leave_out):
    """Decode the images of a data set and divide them into splits.

    Parameters
    ----------
    name : str
        Of the data set, before the names of its files.
    sources : dict
        {image: path or bytes}, N of them, in order.
    columns : dict
        {field of Split: array of N}.
    parts : dict
        {"train": indices, "val": …, "test": …}.
    size : int
        Pixels per side.
    leave_out : float
        Largest share of images that may be unusable.

    Returns
    -------
    splits : dict
        {"train": Split, …}.
    left_out : tuple of str
        "image: reason".

    Raises
    ------
    ValueError
        If more images are unusable, or a split has none.
    """
    if blank := blank_splits(columns, parts, size):
        return blank, ()
    copies.check_apart(name, sources, parts)
    names, order = list(sources), np.concatenate([parts[part] for part in ("train", "val", "test")])
    images, kept, left_out = decoded(name, {names[row]: sources[names[row]] for row in order}, size, leave_out)
    lengths = [len(parts[part]) for part in ("train", "val", "test")]
    ends = np.searchsorted(kept, np.cumsum([0, *lengths]))
    splits = {}
    for part, start, stop in zip(("train", "val", "test"), ends, ends[1:], strict=False):
        if start == stop:
            raise ValueError(f"{name}: no image is left for {part}")
        rows = order[kept[start:stop]]
        splits[part] = Split(images[start:stop], **{field: column[rows] for field, column in columns.items()})
    copies.tell_alike(name, splits)
    return splits, left_out


def decoded(name, sources, size, leave_out):
    """Decode images, unless that was done before, and open the array.

    Writing into the array changes the copy in memory only.

    Parameters
    ----------
    name, sources, size, leave_out
        As in `split_pictures`.

    Returns
    -------
    images : memmap of uint8, (K, 3, size, size)
        RGB, resized (bilinear, as torchvision resizes Pillow images) whatever the proportions.
    kept : ndarray of int64, (K,)
        Which of the images they are.
    left_out : tuple of str
        "image: reason".

    Raises
    ------
    ValueError
        If more than the share `leave_out` is unusable.
    """
    stamps, reasons = _look(sources)
    refuse(name, [f"{key}: {reasons[key]}" for key in reasons], len(sources), leave_out)
    limit = [most] if (most := most_pixels()) != MAX_PIXELS else []
    content = json.dumps([FORMAT, size, list(stamps.items()), *limit])
    stem = f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.images"
    file = files.make_folder(paths.data_folder()) / f"{stem}.npy"
    with files.only_writer(file.parent, stem):
        if wrong := problem(file):
            if file.exists():
                print(f"kdlib: {file} {wrong}; decoding it again", file=sys.stderr)
            _create(name, file, sources, reasons, size, leave_out)
    manifest = files.read_json(file.with_suffix(".json"))
    names = list(sources)
    left_out = {names[int(row)]: reason for row, reason in manifest["left_out"].items()}
    texts = tuple(f"{key}: {reason}" for key, reason in left_out.items())
    refuse(name, texts, len(sources), leave_out)
    tell(name, texts)
    kept = np.array([row for row, key in enumerate(names) if key not in left_out], dtype=np.int64)
    return open_mapped(file)[: len(kept)], kept, texts


def check_size(size):
    """Raise ValueError unless `size` can be the width of the prepared images."""
    if size < 8:
        raise ValueError(f"size is the width in pixels, 8 or more; got {size}")


def open_mapped(file) -> np.memmap:
    """Open the array in an .npy file, memory-mapped; writing into it changes the copy in memory, never the file."""
    return np.load(file, mmap_mode="c")


def problem(file) -> str | None:
    """Return what is wrong with a file that `decoded` wrote, or None; all of it is read only if its time has changed."""
    try:
        manifest, status = files.read_json(file.with_suffix(".json")), file.stat()
        if (status.st_size, _sample(file)) != (manifest["bytes"], manifest["sample"]):
            return "does not match its manifest"
        if status.st_mtime_ns != manifest["mtime_ns"]:
            if files.sha256(file) != manifest["sha256"]:
                return "does not match the SHA-256 in its manifest"
            with contextlib.suppress(OSError):  # a read-only folder works too, but opens more slowly
                files.write_sealed(file.with_suffix(".json"), manifest | {"mtime_ns": status.st_mtime_ns})
        return None
    except OSError:
        return "or its manifest is missing"
    except (ValueError, KeyError, TypeError):
        return "has an unreadable manifest"


def refuse(name, texts, total, leave_out):
    """Raise ValueError if `texts`, the unusable ones of `total` images and why, are more than the share `leave_out`."""
    if not 0 <= leave_out < 1:
        raise ValueError(f"leave_out is the largest share of images that may be left out, in [0, 1); got {leave_out}")
    if len(texts) > leave_out * total:
        raise ValueError(
            f"{name}: {len(texts)} of {total} images cannot be used, more than the share leave_out={leave_out:g}: "
            f"{_some(texts)}. Repair them, or allow more with leave_out"
        )


def tell(name, texts):
    """Print on stderr how many are left out, and the first of them."""
    if texts:
        print(f"kdlib: {name}: {len(texts)} left out: {_some(texts)}", file=sys.stderr)


def _some(texts) -> str:
    first = [text.encode(errors="backslashreplace").decode() for text in texts[:5]]
    return "; ".join(first) + (f"; and {len(texts) - 5} more" if len(texts) > 5 else "")


def _look(sources):
    """({image: what tells it from another version}, {image: why it cannot be read})."""
    stamps: dict[str, object] = dict.fromkeys(sources)
    reasons = {}
    for name, source in sources.items():
        try:
            if isinstance(source, bytes):
                stamps[name] = hashlib.sha256(source).hexdigest()
            elif stat.S_ISREG((status := os.stat(source)).st_mode):
                stamps[name] = (status.st_size, status.st_mtime_ns)
            else:
                reasons[name] = "is no plain file"
        except (OSError, ValueError) as error:
            reasons[name] = "is missing" if isinstance(error, FileNotFoundError) else str(error)
    return stamps, reasons


def _create(name, file, sources, reasons, size, leave_out):
    """Decode the images into `file`, the usable ones first and in order, and write its manifest."""
    names = list(sources)
    file.with_suffix(".json").unlink(missing_ok=True)
    with files.replacing(file, ".npy") as temporary, files.writing(file):
        images = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(names), 3, size, size))
        if hasattr(os, "posix_fallocate"):  # a full disk must fail here; in a mapped file it kills the process
            with open(temporary, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
        wrong = {row: reasons[key] for row, key in enumerate(names) if key in reasons}
        wrong |= _decode(name, temporary, [row for row in range(len(names)) if row not in wrong], sources, size)
        refuse(name, [f"{names[row]}: {wrong[row]}" for row in sorted(wrong)], len(names), leave_out)
        if wrong:
            for target, row in enumerate(row for row in range(len(names)) if row not in wrong):
                if target != row:
                    images[target] = images[row]
            images[len(names) - len(wrong) :] = 0
        images.flush()
        status, checksum = temporary.stat(), files.sha256(temporary)
        stamp = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "sample": _sample(temporary)}
    left_out = {row: wrong[row] for row in sorted(wrong)}
    files.write_sealed(file.with_suffix(".json"), {"sha256": checksum, **stamp, "left_out": left_out})


def _decode(name, file, rows, sources, size) -> dict:
    """Decode the images `rows` into their rows of `file`; return {row: why not} of those that cannot be."""
    numbered = list(sources.values())
    chunks = [[(row, numbered[row]) for row in rows[start : start + CHUNK]] for start in range(0, len(rows), CHUNK)]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wrong = {}
    if len(chunks) == 1 or workers == 1:
        with _progress(name, len(rows)) as advance:
            for chunk in chunks:
                wrong |= _decode_chunk(file, chunk, size)
                advance(len(chunk))
        return wrong
    # forked workers need neither an importable main module nor its guard, and start in milliseconds
    if "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin":
        pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))
    else:
        pool = concurrent.futures.ThreadPoolExecutor(workers)
    with pool, _progress(name, len(rows)) as advance:
        futures = {pool.submit(_decode_chunk, file, chunk, size): len(chunk) for chunk in chunks}
        try:
            for future in concurrent.futures.as_completed(futures):
                wrong |= future.result()
                advance(futures[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return wrong


def _decode_chunk(file, chunk, size) -> dict:
    images, wrong = np.asarray(np.lib.format.open_memmap(file, "r+")), {}
    with warnings.catch_warnings(), own_limit():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata and of sizes that `one` judges itself
        for row, source in chunk:
            try:
                images[row] = one(source, size)
            except Exception as error:  # a damaged image raises many kinds
                wrong[row] = (str(error) or type(error).__name__).splitlines()[0]
    return wrong


@contextlib.contextmanager
def _progress(name, count):
    """Yield a function that counts decoded images: a bar in an interactive session, otherwise one line."""
    if paths.interactive():
        from tqdm.auto import tqdm

        with tqdm(total=count, unit="image", desc=f"{name}: decoding") as bar:
            yield bar.update
        return
    print(f"kdlib: {name}: decoding {count} images", file=sys.stderr)
    yield lambda done: None


def _sample(file) -> str:
    """SHA-256 of a file's length and of evenly spread pieces."""
    length, digest = Path(file).stat().st_size, hashlib.sha256()
    digest.update(str(length).encode())
    with open(file, "rb") as opened:
        for position in np.linspace(0, max(length - SAMPLE_BYTES, 0), SAMPLES).astype(int):
            opened.seek(int(position))
            digest.update(opened.read(SAMPLE_BYTES))
    return digest.hexdigest()
