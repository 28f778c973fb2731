"""Pictures decoded once, on all cores, into a memory-mapped array that later runs open at once.

`<name>-<digest>.images.npy` in the data folder holds them, (N, 3, size, size) uint8, in the order train, val, test; the
digest stands for the size and for the pictures' names, lengths and times. `<name>-<digest>.images.json` holds its SHA-256
and a stamp (length, time, a sample of its bytes), so that opening it does not read it all."""

import concurrent.futures
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import stat
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from kdlib import files, paths
from kdlib.data.splits import Split

FORMAT = 1  # raise when the same pictures would be decoded to other pixels
CHUNK = 64  # pictures that a worker decodes at a time
MAX_PIXELS = 50_000_000  # of one picture: more is taken for a decompression bomb
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # Pillow hands others, as EPS, to programs of the system
SAMPLES, SAMPLE_BYTES = 64, 4096  # of the stamp


def split_pictures(name, pictures, columns, parts, size, leave_out):
    """({"train": Split, "val": …, "test": …}, left out) of `pictures`, an ordered {name: path or bytes}.

    columns: {field of Split: array over the pictures}; parts: {"train": indices, …}. What is left out is a tuple of texts,
    `name: reason`. Raises ValueError where more than the share `leave_out` of the pictures cannot be used."""
    names, order = list(pictures), np.concatenate([parts[part] for part in ("train", "val", "test")])
    images, kept, left_out = decoded(name, {names[row]: pictures[names[row]] for row in order}, size, leave_out)
    lengths = [len(parts[part]) for part in ("train", "val", "test")]
    ends = np.searchsorted(kept, np.cumsum([0, *lengths]))
    splits = {}
    for part, start, stop in zip(("train", "val", "test"), ends, ends[1:], strict=False):
        if start == stop:
            raise ValueError(f"{name}: no picture is left for {part}")
        rows = order[kept[start:stop]]
        splits[part] = Split(images[start:stop], **{field: column[rows] for field, column in columns.items()})
    return splits, left_out


def decoded(name, pictures, size, leave_out):
    """(images, kept, left out) of `pictures`, an ordered {name: path or bytes}; decoded only if that was not done before.

    images: uint8 (K, 3, size, size), memory-mapped, colours in RGB, resized (bilinear, as torchvision's Resize does to
    Pillow images) whatever the picture's proportions; kept: int64 (K,), which of the pictures they are. Writing into the
    array changes the copy in memory only. Raises ValueError where more than the share `leave_out` cannot be used."""
    stamps, reasons = _look(pictures)
    refuse(name, [f"{key}: {reasons[key]}" for key in reasons], len(pictures), leave_out)
    content = json.dumps([FORMAT, size, list(stamps.items())])
    stem = f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.images"
    file = files.make_folder(paths.data_folder()) / f"{stem}.npy"
    with files.only_process(file.with_name(f".{stem}.lock")):
        if wrong := problem(file):
            if file.exists():
                print(f"kdlib: {file} {wrong}; decoding it again", file=sys.stderr)
            _create(name, file, pictures, reasons, size, leave_out)
    manifest = json.loads(file.with_suffix(".json").read_text())
    names = list(pictures)
    left_out = {names[int(row)]: reason for row, reason in manifest["left_out"].items()}
    texts = tuple(f"{key}: {reason}" for key, reason in left_out.items())
    refuse(name, texts, len(pictures), leave_out)
    tell(name, texts)
    kept = np.array([row for row, key in enumerate(names) if key not in left_out], dtype=np.int64)
    return open_mapped(file)[: len(kept)], kept, texts


def check_size(size):
    """Raise ValueError unless `size` can be the width of the prepared pictures."""
    if size < 8:
        raise ValueError(f"size is the width in pixels, 8 or more; got {size}")


def open_mapped(file) -> np.memmap:
    """The array in an .npy file, memory-mapped; writing into it changes the copy in memory, never the file."""
    return np.load(file, mmap_mode="c")


def problem(file) -> str | None:
    """What is wrong with a file that `decoded` wrote, or None. All of it is read only where its time has changed."""
    try:
        manifest, status = json.loads(file.with_suffix(".json").read_text()), file.stat()
        if (status.st_size, _sample(file)) != (manifest["bytes"], manifest["sample"]):
            return "does not match its manifest"
        if status.st_mtime_ns != manifest["mtime_ns"]:
            if files.sha256(file) != manifest["sha256"]:
                return "does not match the SHA-256 in its manifest"
            with contextlib.suppress(OSError):  # a read-only folder is as good, only slower to open
                files.write_json(file.with_suffix(".json"), manifest | {"mtime_ns": status.st_mtime_ns})
        return None
    except OSError:
        return "or its manifest is missing"
    except (ValueError, KeyError, TypeError):
        return "has an unreadable manifest"


def walk(place):
    """An os.DirEntry for each file below the folder `place`: those of a folder by name, then those of the folders in it.

    Hidden folders are left out; links are followed. OSError for a folder that cannot be read, ValueError for a link that
    leads back to a folder above it."""

    def below(folder, above):
        status = os.stat(folder)
        if (here := (status.st_dev, status.st_ino)) in above:
            raise ValueError(f"{folder} is a link that leads back to a folder above it: remove it")
        with os.scandir(folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
        folders = {entry.path for entry in entries if _is_folder(entry)}
        yield from (entry for entry in entries if entry.path not in folders)
        for entry in entries:
            if entry.path in folders and not entry.name.startswith("."):
                yield from below(entry.path, above | {here})

    yield from below(os.fspath(place), frozenset())


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # as of a link to itself: decoding says what is wrong with it
        return False


def stamp(*places) -> str:
    """What changes when one of these files does, or a file below one of these folders: SHA-256 of names, lengths and times."""
    digest = hashlib.sha256()
    for place in map(os.fspath, places):
        entries = walk(place) if os.path.isdir(place) else ()
        for path in (place, *(entry.path for entry in entries)):
            try:
                status = os.stat(path)
                seen = () if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
            except OSError:
                seen = None
            digest.update(os.fsencode(f"{path[len(place) :]}\0{seen}\0"))
    return digest.hexdigest()


def refuse(name, texts, total, leave_out):
    """ValueError where `texts`, what cannot be used of `total` pictures and why, are more than the share `leave_out`."""
    if not 0 <= leave_out < 1:
        raise ValueError(f"leave_out is the largest share of pictures that may be left out, in [0, 1); got {leave_out}")
    if len(texts) > leave_out * total:
        raise ValueError(
            f"{name}: {len(texts)} of {total} pictures cannot be used, more than the share leave_out={leave_out:g}: "
            f"{_some(texts)}. Repair them, or allow more with leave_out"
        )


def tell(name, texts):
    """Say on stderr how many are left out, and the first of them."""
    if texts:
        print(f"kdlib: {name}: {len(texts)} left out: {_some(texts)}", file=sys.stderr)


def _some(texts) -> str:
    first = [text.encode(errors="backslashreplace").decode() for text in texts[:5]]
    return "; ".join(first) + (f"; and {len(texts) - 5} more" if len(texts) > 5 else "")


def mean_std(images):
    """Per channel of (N, C, H, W) uint8, of pixels in [0, 1], to four digits; without a float copy of the images."""
    counts = np.zeros((images.shape[1], 256))
    for start in range(0, len(images), 1024):
        for channel, pixels in enumerate(images[start : start + 1024].swapaxes(0, 1)):
            counts[channel] += np.bincount(pixels.reshape(-1), minlength=256)
    levels, share = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    std = np.sqrt(share @ levels**2 - mean**2)
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 0.0001).round(4).tolist())


def one(source, size) -> np.ndarray:
    """(3, size, size) uint8 of one picture, a path or bytes. Raises whatever is wrong with it."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width} × {image.height} pixels, more than {MAX_PIXELS}: a decompression bomb?")
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"more than 8 bits a channel (Pillow's mode {image.mode}), which would be cut off")
        if image.mode != "RGB":
            image = image.convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(image).transpose(2, 0, 1)


def _look(pictures):
    """({name: what tells it from another version}, {name: why there is none})."""
    stamps, reasons = {}, {}
    for name, source in pictures.items():
        stamps[name] = None
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


def _create(name, file, pictures, reasons, size, leave_out):
    """Decode the pictures into `file`, those that can be used first and in order, and write its manifest."""
    names = list(pictures)
    file.with_suffix(".json").unlink(missing_ok=True)
    with files.replacing(file, ".npy") as temporary, files.writing(file):
        images = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(names), 3, size, size))
        if hasattr(os, "posix_fallocate"):  # a full disk must fail here; in a mapped file it kills the process
            with open(temporary, "r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
        wrong = {row: reasons[key] for row, key in enumerate(names) if key in reasons}
        wrong |= _decode(name, temporary, [row for row in range(len(names)) if row not in wrong], pictures, size)
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
    files.write_json(file.with_suffix(".json"), {"sha256": checksum, **stamp, "left_out": left_out})


def _decode(name, file, rows, pictures, size) -> dict:
    """Decode the pictures `rows` into their rows of `file`; {row: why not} of those that cannot be."""
    sources = list(pictures.values())
    chunks = [[(row, sources[row]) for row in rows[at : at + CHUNK]] for at in range(0, len(rows), CHUNK)]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if len(chunks) == 1 or workers == 1:
        with _progress(name, len(rows)) as advance:
            done = ((_decode_chunk(file, chunk, size), advance(len(chunk)))[0] for chunk in chunks)
            return {row: reason for wrong in done for row, reason in wrong.items()}
    wrong = {}
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd metadata and of sizes that `one` judges itself
        for row, source in chunk:
            try:
                images[row] = one(source, size)
            except Exception as error:  # a damaged picture raises many kinds
                wrong[row] = (str(error) or type(error).__name__).splitlines()[0]
    return wrong


@contextlib.contextmanager
def _progress(name, count):
    """A function to be told of the pictures done: a bar where a person watches, else one line."""
    if paths.interactive():
        from tqdm.auto import tqdm

        with tqdm(total=count, unit="picture", desc=f"{name}: decoding") as bar:
            yield bar.update
        return
    print(f"kdlib: {name}: decoding {count} pictures", file=sys.stderr)
    yield lambda done: None


def _sample(file) -> str:
    """SHA-256 of the length and of evenly spread pieces of a file."""
    length, digest = Path(file).stat().st_size, hashlib.sha256()
    digest.update(str(length).encode())
    with open(file, "rb") as opened:
        for position in np.linspace(0, max(length - SAMPLE_BYTES, 0), SAMPLES).astype(int):
            opened.seek(int(position))
            digest.update(opened.read(SAMPLE_BYTES))
    return digest.hexdigest()
