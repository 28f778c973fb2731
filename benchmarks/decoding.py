"""Is decoding as fast as Pillow by itself on all cores?  python benchmarks/decoding.py [--pictures 2000] [--repeats 5]

Pillow by itself: as many processes as cores, each decodes and resizes its share and drops the pixels. Ours: all that
`kdlib.data.pictures.decoded` does, with its file, checksum and manifest. Both decode the same JPEGs in turns, made here in the
sizes of the official UTKFace and WIDER Attribute files; medians. Writes `bench/decoding.json` in the reports folder."""

import argparse
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from kdlib import files, paths
from kdlib.data import pictures

KINDS = {
    "utkface": ((200, 200), 64),
    "wider": ((1024, 731), 226),
}  # pixels of a file, and pixels per side of the result
LIMIT = 0.9  # our speed as a part of Pillow's


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pictures", type=int, default=2000, help="number of UTKFace's size; a tenth as many of WIDER's"
    )
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    rows = []
    for kind, (shape, size) in KINDS.items():
        count = chosen.pictures if kind == "utkface" else chosen.pictures // 10
        with tempfile.TemporaryDirectory() as folder:
            row = compare(kind, make(Path(folder), shape, count), size, Path(folder) / "data", chosen.repeats)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    machine = {"device": f"cpu, {platform.machine()}, {cores()} cores", "python": platform.python_version()}
    files.write_json(paths.reports_folder() / "bench" / "decoding.json", machine | {"rows": rows})


def compare(kind, files, size, data, repeats):
    """Return a row of medians; `ratio` is our speed as a part of Pillow's.

    `cpu_ratio` is the same by CPU seconds, which other work on the machine disturbs less."""
    os.environ["KDLIB_DATA"], os.environ["KDLIB_HEADLESS"] = str(data), "1"
    plain, ours = [], []
    for _ in range(repeats + 1):
        plain.append(seconds(alone, files, size))
        ours.append(seconds(pictures.decoded, kind, {file.name: file for file in files}, size, 0.0))
        for file in data.iterdir():
            file.unlink()
    plain, ours = (np.median(times[1:], axis=0) for times in (plain, ours))  # the first warms up
    row = {"kind": kind, "pictures": len(files), "pillow_s": round(plain[0], 3), "ours_s": round(ours[0], 3)}
    ratio, cpu_ratio = (plain / ours).round(3)
    return row | {"ratio": ratio, "cpu_ratio": cpu_ratio, "limit": LIMIT}


def seconds(call, *arguments):
    """Return (seconds, CPU seconds) that the call and its processes take."""
    began, before = time.perf_counter(), os.times()
    call(*arguments)
    return time.perf_counter() - began, sum(os.times()[:4]) - sum(before[:4])


def alone(files, size):
    """Pillow by itself: open, decode, resize, on all cores."""
    with multiprocessing.get_context("fork").Pool(cores()) as pool:
        pool.starmap(one, [(file, size) for file in files], chunksize=pictures.CHUNK)


def one(file, size):
    with Image.open(file) as image:
        np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def cores():
    return len(os.sched_getaffinity(0))


def make(folder, shape, count):
    """Write `count` JPEGs with about the detail of photographs, ten different ones."""
    generator, different = np.random.default_rng(0), []
    for _ in range(10):
        coarse = generator.integers(0, 256, (shape[1] // 8, shape[0] // 8, 3)).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(shape, Image.Resampling.BICUBIC), dtype=float)
        grainy = (smooth + generator.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(folder / "made.jpg", quality=90)
        different.append((folder / "made.jpg").read_bytes())
    files = [folder / f"{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(different[number % 10])
    return files


if __name__ == "__main__":
    main()
